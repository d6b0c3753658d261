"""``WeConvene``: a learned image codec with convolutions and an entropy model in the wavelet domain.

    image -- analysis --> latents y (H/8) -- split_bands --> low, high (H/16) -- hyper analysis --> z (H/64)
    z --> hyper means, hyper scales --> WeChARM --> low, high, decoded -- join_bands --> y -- synthesis --> image

Training runs in floats and adds noise where likelihoods are computed. Streams are coded with exact copies of the
networks that decide how symbols are coded (:mod:`walloc_transforms.weconvene.streams`).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..wavelets import Wavelet, check_wavelet, join_bands, split_bands
from .blocks import Downsample, ResidualBlock, Upsample, subpixel
from .charm import WeChARM
from .density import FactorizedPrior, GaussianConditional
from .streams import EntropyCoder

__all__ = ["PRESETS", "Compressed", "WeConvene"]

PRESETS: dict[str, dict[str, int]] = {
    "tiny": {"n": 32, "m": 48, "slices": 3, "blocks": 0},
    "small": {"n": 64, "m": 96, "slices": 3, "blocks": 1},
    "medium": {"n": 96, "m": 192, "slices": 4},
    "paper": {"n": 128, "m": 320, "slices": 5},
}
_MULTIPLE = 64  # of sides


@dataclass(frozen=True)
class Compressed:
    """An image as streams of symbols.

    Attributes:
        streams: Those of the hyper latents and of each group of WeChARM.
        size: ``(H, W)`` of the image.

    Example:
        >>> import torch, walloc_transforms as wt
        >>> model = wt.weconvene.WeConvene(n=8, m=16, slices=2).eval()
        >>> (compressed,) = model.compress(torch.zeros(1, 3, 40, 50))
        >>> compressed.size, len(compressed.streams)
        ((40, 50), 3)
    """

    streams: tuple[bytes, ...]
    size: tuple[int, int]


class WeConvene(nn.Module):
    """A learned image codec. The defaults are the model of the paper.

    Args:
        n: Channels of the transforms.
        m: Channels of the latents, a multiple of ``slices``.
        slices: Slices of each group of WeChARM.
        wavelet: Of WeConv and of WeChARM.
        weconv: Let blocks that change the resolution convolve in the wavelet domain; otherwise they are plain.
        wecharm: Model the wavelet bands of the latents; otherwise the latents themselves.
        blocks: Residual blocks after each change of resolution.

    Attributes:
        config: The arguments, so that ``WeConvene(**model.config)`` is a model of the same shape.

    Example:
        >>> import torch, walloc_transforms as wt
        >>> model = wt.weconvene.WeConvene(n=8, m=16, slices=2).eval()
        >>> image = torch.rand(1, 3, 48, 80)
        >>> compressed = model.compress(image)
        >>> decoded = model.decompress(compressed)
        >>> decoded[0].shape
        torch.Size([3, 48, 80])
    """

    def __init__(
        self,
        n: int = 128,
        m: int = 320,
        slices: int = 5,
        wavelet: Wavelet = "haar",
        weconv: bool = True,
        wecharm: bool = True,
        blocks: int = 3,
    ) -> None:
        super().__init__()
        for name, value, least in (("n", n, 2), ("m", m, 2), ("slices", slices, 1), ("blocks", blocks, 0)):
            if value < least:
                raise ValueError(f"expected {name} to be at least {least}, got {value}")
        if m % slices:
            raise ValueError(f"expected m to be a multiple of slices={slices}, got {m}")
        check_wavelet(wavelet, "symmetric")
        self.config: dict[str, Any] = {
            "n": n,
            "m": m,
            "slices": slices,
            "wavelet": wavelet,
            "weconv": weconv,
            "wecharm": wecharm,
            "blocks": blocks,
        }
        self.wavelet: Wavelet = wavelet

        def residuals() -> list[nn.Module]:
            return [ResidualBlock(n, n) for _ in range(blocks)]

        def down(channels: int) -> nn.Module:
            return Downsample(channels, n, 2, weconv=weconv, wavelet=wavelet)

        def up(channels: int) -> nn.Module:
            return Upsample(channels, n, 2, weconv=weconv, wavelet=wavelet)

        self.analysis = nn.Sequential(
            Downsample(3, n, 1, weconv=False),
            *residuals(),
            down(n),
            *residuals(),
            down(n),
            *residuals(),
            nn.Conv2d(n, m, 3, stride=2, padding=1),
        )
        self.synthesis = nn.Sequential(
            Upsample(m, n, 1, weconv=False),
            *residuals(),
            up(n),
            *residuals(),
            up(n),
            *residuals(),
            subpixel(n, 3, 2),
        )
        hyper = -(-3 * n // 2)
        self.charm = WeChARM(m, slices, wecharm)
        # without the wavelet transform of the latents, the hyper latents are as small by one more change of resolution
        first, last = ([down(4 * m)], [up(hyper)]) if wecharm else ([down(m), down(n)], [up(hyper), up(n)])
        self.hyper_analysis = nn.Sequential(*first, *residuals(), nn.Conv2d(n, hyper, 3, stride=2, padding=1))
        self.hyper_means = nn.Sequential(*last, *residuals(), subpixel(n, m, 2))
        last = [up(hyper)] if wecharm else [up(hyper), up(n)]
        self.hyper_scales = nn.Sequential(*last, *residuals(), subpixel(n, m, 2))
        self.prior = FactorizedPrior(hyper)
        self.gaussian = GaussianConditional()
        self._exact: tuple[str, EntropyCoder] | None = None

    @classmethod
    def preset(cls, name: str, **changes: Any) -> "WeConvene":
        """Make an untrained model of a named size.

        Args:
            name: ``"tiny"`` (trains on two cores), ``"small"``, ``"medium"`` or ``"paper"``.
            **changes: Arguments of the class, to change some.

        Raises:
            ValueError: There is no such preset.

        Example:
            >>> import walloc_transforms as wt
            >>> wt.weconvene.WeConvene.preset("tiny", weconv=False).config["n"]
            32
        """
        if name not in PRESETS:
            raise ValueError(f"unknown preset {name!r}: expected one of {', '.join(PRESETS)}")
        return cls(**{**PRESETS[name], **changes})

    def forward(self, x: Tensor, exact: bool = False) -> dict[str, Any]:
        """Pass images through the codec without making streams.

        In training, likelihoods are those of latents with noise in the place of rounding, and decoded latents are
        rounded with the gradient of the identity. Sides that are no multiple of 64 are extended by repeating the last
        row and column; the likelihoods are of what is then coded.

        Args:
            x: ``(N, 3, H, W)``, floating, within [0, 1].
            exact: Decode as :meth:`decompress` does, by networks that are exact, on the CPU. Only in evaluation.

        Returns:
            ``x_hat`` as ``x`` is, clamped to [0, 1] in evaluation; ``likelihoods``, by group: ``hyper``, then ``low``
            and ``high``, or ``latent``.
        """
        if exact and self.training:
            raise ValueError("expected exact=False in training: exact networks have no gradients; call eval() first")
        parts, z = self._latents(x)
        likelihoods: dict[str, list[Tensor]] = {"hyper": [self.prior(z)[1]], **{name: [] for name in parts}}

        def decode(name: str, index: int, means: Tensor, scales: Tensor) -> Tensor:
            y = self.charm.slice_of(parts[name], index)
            likelihoods[name].append(self.gaussian(y, scales, means)[1])
            return _round(y - means) + means

        if exact:
            coder = self._coder()
            parts = {name: part.cpu().double() for name, part in parts.items()}
            decoded = coder.run(coder.hyper_symbols(z), decode)
            likelihoods = {name: [v.to(z.device, z.dtype) for v in values] for name, values in likelihoods.items()}
        else:
            medians = self.prior.medians.detach().view(-1, 1, 1)
            z_hat = _round(z - medians) + medians
            decoded = self.charm(self.hyper_means(z_hat), self.hyper_scales(z_hat), decode)
        x_hat = self._image(decoded, (x.shape[-2], x.shape[-1])).to(x.dtype)
        return {"x_hat": x_hat, "likelihoods": {name: torch.cat(values, 1) for name, values in likelihoods.items()}}

    def auxiliary_loss(self) -> Tensor:
        """Compute the loss that fits the quantiles of the hyper latents, for an optimizer of their own."""
        return self.prior.auxiliary_loss()

    @torch.no_grad()
    def compress(self, x: Tensor) -> list[Compressed]:
        """Compress images, each by itself.

        Args:
            x: ``(N, 3, H, W)``, floating, within [0, 1].

        Raises:
            ValueError: Another shape, values out of range, latents that are not finite, or a model in training.
            TypeError: Not floating.
        """
        self._check_mode()
        _check_images(x)
        if x.numel() and not (x.min() >= 0 and x.max() <= 1):
            low, high = x.aminmax()
            raise ValueError(f"expected images within [0, 1], got values from {low:.6g} to {high:.6g}")
        return [self._compress(image[None]) for image in x]

    def _compress(self, x: Tensor) -> Compressed:
        parts, z = self._latents(x)
        if not all(values.isfinite().all() for values in (*parts.values(), z)):
            raise ValueError("the model makes latents that are not finite of this image: its weights are damaged")
        return Compressed(self._coder().encode(parts, z), (x.shape[-2], x.shape[-1]))

    @torch.no_grad()
    def decompress(self, compressed: Sequence[Compressed]) -> list[Tensor]:
        """Decompress images, which may have different sizes.

        Returns:
            Images ``(3, H, W)`` within [0, 1], on the model's device.

        Raises:
            ValueError: The model is in training or has never made the tables of its hyper latents, or a stream is
                damaged or of another model. Some damage, and most other models, give another image instead: what keeps
                streams keeps a checksum and the model's name.
        """
        self._check_mode()
        if compressed and not len(self.prior.lengths):  # made here, they could differ from those that encoded
            raise ValueError("the model has no tables of its hyper latents: load it from where `save` wrote it")
        images = []
        for each in compressed:
            decoded = self._coder().decode(each.streams, [-(-side // _MULTIPLE) for side in each.size])
            image = self._image(decoded, each.size)[0]
            if not image.isfinite().all():
                raise ValueError("damaged: its latents decode to an image of values that are not finite")
            images.append(image)
        return images

    def _check_mode(self) -> None:
        if self.training:  # which drops the tables of the prior
            raise ValueError("expected a model in evaluation, got one in training: call eval() first")

    def _latents(self, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Compute the groups of WeChARM and the hyper latents, not rounded."""
        _check_images(x)
        bottom, right = (-side % _MULTIPLE for side in x.shape[-2:])
        x = x.to(self.prior.quantiles.dtype)
        y = self.analysis(F.pad(x, (0, right, 0, bottom), mode="replicate"))
        if self.config["wecharm"]:
            y = split_bands(y, self.wavelet)
        parts = y.split([*self.charm.sizes.values()], 1)
        return dict(zip(self.charm.sizes, parts, strict=True)), self.hyper_analysis(y)

    def _image(self, decoded: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Make images of decoded groups."""
        parameter = self.prior.quantiles
        y = torch.cat([*decoded], 1).to(parameter.device, parameter.dtype)
        if self.config["wecharm"]:
            y = join_bands(y, (2 * y.shape[-2], 2 * y.shape[-1]), self.wavelet)
        x = self.synthesis(y)[..., : size[0], : size[1]]
        return x if self.training else x.clamp(0, 1)

    def _coder(self) -> EntropyCoder:
        """Return a coder of the weights as they are now."""
        if not len(self.prior.lengths):
            self.prior.update()
        parts = nn.ModuleList([self.hyper_means, self.hyper_scales, self.charm, self.prior])
        digest = hash_tensors(parts.state_dict())  # torch does not notice all that writes to a tensor
        if self._exact is None or self._exact[0] != digest:
            self._exact = digest, EntropyCoder(self.hyper_means, self.hyper_scales, self.charm, self.prior)
        return self._exact[1]


def hash_tensors(state: Mapping[str, Tensor], before: str = "") -> str:
    """Hash a text, and names, dtypes, shapes and values of tensors: SHA-256, in hexadecimal."""
    found = hashlib.sha256(before.encode())
    for name, value in sorted(state.items()):
        value = value.detach().cpu().contiguous()
        found.update(f"\n{name} {value.dtype} {tuple(value.shape)}\n".encode())
        found.update(value.view(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _check_images(x: Tensor) -> None:
    if not x.is_floating_point():
        raise TypeError(f"expected images of a floating dtype, within [0, 1], got {x.dtype}")
    if x.ndim != 4 or x.shape[1] != 3 or min(x.shape[2:]) < 1:
        raise ValueError(f"expected RGB images (N, 3, H, W) with sides of at least 1, got {tuple(x.shape)}")


def _round(x: Tensor) -> Tensor:
    """Round with the gradient of the identity."""
    return x.round().detach() + (x - x.detach())
