"""How a codec keeps the folded kernels of ``folded.py`` in step with its weights, also under ``torch.compile``."""

import itertools
import weakref
from typing import Any

import torch
from torch import Tensor, nn

from ..wavelets import FoldedAnalysis, FoldedSynthesis
from .config import CodecConfig
from .decoders import LinearDecoder
from .refiner import Refiner

__all__ = ["Folding"]

_KEYS = itertools.count()
_INSTANCES: "weakref.WeakValueDictionary[int, Folding]" = weakref.WeakValueDictionary()


class Folding(nn.Module):
    """A module whose linear parts, those that are not networks, are folded with the wavelets.

    Call ``_register`` when the module is complete.

    Args:
        config: The geometry.
    """

    latent_mean: Tensor
    weight: nn.Parameter  # None where a network takes its place
    bias: nn.Parameter
    encoder: nn.Module | None
    decoder: Any  # a LinearDecoder, a NetworkDecoder, or None before a network is read
    refiner: Refiner | None  # None before it is read, and where there is none
    _folded_analysis: Any  # None where there is nothing to fold
    _folded_synthesis: Any
    _folded_refiner: Any

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = self.decoder = self.refiner = None

    def _register(self) -> None:
        self._key = next(_KEYS)
        _INSTANCES[self._key] = self
        self.register_load_state_dict_post_hook(_follow)
        self._fold()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._key = next(_KEYS)
        _INSTANCES[self._key] = self

    @torch.inference_mode(False)
    def _fold(self) -> None:
        c, decoder = self.config, self.decoder
        geometry: dict[str, Any] = {"wavelet": c.wavelet, "levels": c.levels, "dims": c.dims}
        self._folded_analysis = self._folded_synthesis = self._folded_refiner = None
        if self.encoder is None:
            self._folded_analysis = FoldedAnalysis(self.weight, self.bias, **geometry).to(self.weight.device)
        if isinstance(decoder, LinearDecoder):
            folded = FoldedSynthesis(decoder.weight, decoder.bias, **geometry)
            self._folded_synthesis = folded.to(decoder.weight.device)
        if self.refiner is not None:  # one matrix over latents and features
            weight = torch.cat([decoder.weight.detach(), self.refiner.weight.detach()], 1)
            self._folded_refiner = FoldedSynthesis(weight, decoder.bias, **geometry).to(weight.device)
        self._folded_from = self._stamp()

    def _linear(self) -> list[Tensor]:
        """What the folded kernels are made of, all parameters; ``self.parameters()`` takes longer than to encode."""
        parts: list[Tensor] = [self.weight, self.bias] if self.encoder is None else []
        return [*parts, self.decoder.weight, self.decoder.bias] if isinstance(self.decoder, LinearDecoder) else parts

    def _stamp(self) -> list[tuple[int, int]]:
        """Change whenever one of the tensors is replaced or written to (inference tensors do not count writes)."""
        last = [] if self.refiner is None else [self.refiner.head, self.refiner.scale]
        return [(id(t), -1 if t.is_inference() else t._version) for t in (*self._linear(), *last)]

    def _use_folded(self) -> bool:
        return not any(p.requires_grad for p in self._linear()) and _refold(self._key)


def _refold(key: int) -> bool:
    """Bring the folded kernels of a module up to date with its weights."""
    module = _INSTANCES[key]
    # While a model is exported, its parameters may stand for values that are not there, and so would what is made of
    # them: the kernels are as up to date then as the last call, or loading of weights, has left them.
    if module._folded_from != module._stamp() and _has_values(*module._linear()):
        module._fold()
    return True


def _follow(module: nn.Module, _: Any) -> None:
    assert isinstance(module, Folding)
    _refold(module._key)


def _has_values(*parameters: Tensor) -> bool:
    return all(type(tensor) in (Tensor, nn.Parameter) for tensor in (*parameters, torch.empty(0)))


# A compiler runs such a function when it traces, instead of tracing it, if its arguments are of simple types: hence the
# key. This is what torch.compiler.assume_constant_result does, without its import of torch._dynamo, which takes a
# second.
vars(_refold)["_dynamo_marked_constant"] = True
