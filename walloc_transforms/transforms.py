"""``WallocEncode`` and ``WallocDecode``: the codec as torchvision v2 transforms.

    v2.Compose([v2.RandomResizedCrop(256), v2.RandomHorizontalFlip(), wt.WallocEncode("rgb_16x")])

Encode last: latents are plain tensors, which a later transform would take for an image.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import get_worker_info
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from .codec import Codec, Network, check_sample_rate
from .functional import check_options, decode_image, decode_waveform, encode_image, encode_waveform
from .signals import pil_to_tensor
from .zoo import CodecLike, load_codec

__all__ = ["WallocDecode", "WallocEncode"]

Targets = Literal["pass", "latent"]


class WallocEncode(v2.Transform):
    """Encode images or waveforms to latents, where ``v2.Resize`` stood.

    In a sample of any structure, PIL images, ``tv_tensors.Image`` and ``Video`` and otherwise the first pure tensor are
    encoded; by an audio codec the first pure tensor, whatever else there is. Labels and everything else pass through as
    the same objects. PIL images of every mode with one meaning are converted to the codec's channels. Works in workers
    of any start method, and on batches on any device.

    Args:
        codec: A codec, the name of an embedded one, a folder, or a hub repository.
        quantize: Round the latents to integers.
        normalize: Zero mean and unit variance per channel, by the statistics kept with the codec: for networks that do
            not normalize their input themselves.
        dtype: Of the latents; ``torch.int8`` needs ``quantize=True``. Default: float32.
        targets: What happens to bounding boxes, key points and masks: ``"pass"`` leaves them in pixels; ``"latent"``
            brings them to the latent grid: coordinates are divided by the codec's stride, in float, and a mask keeps
            the pixel in the middle of every cell.
        sample_rate: Of the waveforms in Hz, checked against the codec's. Default: not checked.

    Attributes:
        codec: The codec, loaded.

    Shapes:
        ``(..., C, H, W)`` to ``(..., D, ceil(H / stride), ceil(W / stride))``; ``(..., C, T)`` to
        ``(..., D, ceil(T / stride))``, two more for published codecs.

    Raises:
        ValueError: Unknown codec, another sample rate than the codec's, options that exclude each other, or
            ``normalize`` with a codec that came without statistics. On call: see ``functional.encode_image``.
    """

    def __init__(
        self,
        codec: CodecLike,
        *,
        quantize: bool = False,
        normalize: bool = False,
        dtype: torch.dtype | None = None,
        targets: Targets = "pass",
        sample_rate: int | None = None,
    ) -> None:
        super().__init__()
        check_options(quantize, normalize, dtype)
        if targets not in ("pass", "latent"):
            raise ValueError(f"targets must be 'pass' or 'latent', got {targets!r}")
        self.codec = load_codec(codec)
        check_sample_rate(self.codec.config, sample_rate)
        if normalize:
            self.codec.check_statistics()
        self.quantize, self.normalize, self.dtype, self.targets = quantize, normalize, dtype, targets
        kinds: tuple[Any, ...] = (F.is_pure_tensor,)
        if self.codec.config.modality == "image":
            kinds = (F.is_pure_tensor, tv_tensors.Image, tv_tensors.Video, Image.Image)
            if targets == "latent":
                kinds += (tv_tensors.BoundingBoxes, tv_tensors.KeyPoints, tv_tensors.Mask)
        self._transformed_types = kinds

    def _needs_transform_list(self, flat_inputs: list[Any]) -> list[bool]:
        """Take the first pure tensor for the waveform also where there are images, which torchvision does not."""
        if self.codec.config.modality == "image":
            return super()._needs_transform_list(flat_inputs)
        first = next((i for i, inpt in enumerate(flat_inputs) if F.is_pure_tensor(inpt)), None)
        return [i == first for i in range(len(flat_inputs))]

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Encode one entry of a sample; called by torchvision."""
        if isinstance(inpt, (tv_tensors.BoundingBoxes, tv_tensors.KeyPoints, tv_tensors.Mask)):
            return _to_grid(inpt, self.codec.config.stride)
        c = self.codec.config
        if isinstance(inpt, Image.Image):
            inpt = pil_to_tensor(inpt, c.signal_channels)
        if isinstance(inpt, tv_tensors.TVTensor):  # the compiler does not know as_subclass
            inpt = inpt[...] if torch.compiler.is_compiling() else inpt.as_subclass(Tensor)
        device = self.codec.latent_mean.device
        if inpt.device != device:
            where = "in a DataLoader worker " if get_worker_info() is not None else ""
            raise ValueError(
                f"{where}the codec is on {device} and its input on {inpt.device}: move the transform with .to(device)"
            )
        encode = encode_image if c.modality == "image" else encode_waveform
        with torch.no_grad():
            return encode(inpt, self.codec, quantize=self.quantize, normalize=self.normalize, dtype=self.dtype)

    def extra_repr(self) -> str:
        """Show codec, channels, stride and the options in ``repr``."""
        return f"{_describe(self.codec)}, quantize={self.quantize}, normalize={self.normalize}, " + (
            f"dtype={self.dtype or torch.float32}, targets={self.targets!r}"
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"


class WallocDecode(v2.Transform):
    """Decode latents to float images in [0, 1] or waveforms in [-1, 1].

    Args:
        codec: The codec that encoded the latents.
        decoder: Which of the codec's decoders: ``"linear"``, ``"refiner"``, or that of a published codec. Default: the
            codec's own, ``codec.config.decoder``.
        size: ``(H, W)``, or ``T`` of a waveform, to cut off what encoding added. Default: keep it.
        normalized: Whether the latents are normalized.
        tile: Decode in tiles of so many pixels where the decoder is a network; see ``Codec.decode``.

    Shapes:
        ``(..., D, h, w)`` to ``(..., C, h * stride, w * stride)``, or to ``(..., C, *size)``; audio likewise.

    Raises:
        ValueError: Unknown codec or decoder. On call: see ``functional.decode_image``.
    """

    _transformed_types = (F.is_pure_tensor,)

    def __init__(
        self,
        codec: CodecLike,
        *,
        decoder: Network | Literal["refiner"] | None = None,
        size: Sequence[int] | int | None = None,
        normalized: bool = False,
        tile: int | None = None,
    ) -> None:
        super().__init__()
        self.codec = load_codec(codec)
        self.decoder = self.codec.config.check_decoder(decoder)
        self.codec.config.check_tile(tile, decoder)
        self.size, self.tile, self.normalized = self.codec.config.check_size(size), tile, normalized
        if normalized:
            self.codec.check_statistics()

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Decode one entry of a sample; called by torchvision."""
        decode = decode_image if self.codec.config.modality == "image" else decode_waveform
        options: dict[str, Any] = {"normalized": self.normalized, "decoder": self.decoder, "tile": self.tile}
        return decode(inpt, self.codec, size=self.size, **options)

    def extra_repr(self) -> str:
        """Show codec, channels, stride and the options in ``repr``."""
        return f"{_describe(self.codec)}, decoder={self.decoder!r}, size={self.size}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"


def _describe(codec: Codec) -> str:
    return f"{codec.config.name!r}, channels={codec.config.channels}, stride={codec.config.stride}"


def _to_grid(target: Any, stride: int) -> Any:
    """Bring a target from pixels to cells of ``stride`` pixels."""
    wrap: Any = tv_tensors.wrap  # its decorator hides the signature from type checkers
    plain = target.as_subclass(Tensor)
    if isinstance(target, tv_tensors.Mask):
        middles = [
            torch.arange(stride // 2, n + stride // 2, stride, device=plain.device).clamp(max=n - 1)
            for n in plain.shape[-2:]
        ]
        return wrap(plain[..., middles[0], :][..., middles[1]], like=target)
    plain = plain if plain.is_floating_point() else plain.float()
    cells = tuple(-(-n // stride) for n in target.canvas_size)
    scale = torch.full(plain.shape[-1:], 1 / stride, dtype=plain.dtype, device=plain.device)
    if isinstance(target, tv_tensors.BoundingBoxes) and target.format in _WITH_ANGLE:
        scale[-1] = 1
    return wrap(plain * scale, like=target, canvas_size=cells)


_WITH_ANGLE = (tv_tensors.BoundingBoxFormat.XYWHR, tv_tensors.BoundingBoxFormat.CXCYWHR)
