"""The work of encoding a latent data set: which records a sample gives, whoever asks for them.

What a record is depends on the source, the codec, the options and the number of the sample, and on nothing else: not on
the process, the order, or the random numbers of the program around it. So does a shard.
"""

import contextlib
import copy
import errno
import hashlib
import random
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from ..codec import Codec, as_plain, check_sample_rate, check_values
from ..signals import as_tensor, to_float
from ..zoo import CodecLike, load_codec
from .plan import Plan
from .records import Record, integers
from .shards import pack_shard
from .sources import Sample, open_source

__all__ = ["Unreadable", "Work"]

# The machine's troubles, not the file's: a run that went on would leave out what can be read tomorrow.
_TROUBLES = (
    *(errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT),
    *(errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.EINTR),
)
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_FORMS = {1: "T", 2: "H, W", 3: "T, H, W"}
_BICUBIC = v2.InterpolationMode.BICUBIC


class Unreadable(ValueError):
    """A sample that cannot be encoded.

    Attributes:
        key: What names it.
        reason: Why.
    """

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(key, reason)
        self.key, self.reason = key, reason

    def __str__(self) -> str:
        return f"{self.key}: {self.reason}"


class Work:
    """A source, a codec and options, checked; it can be pickled for other processes.

    Args:
        source: See :func:`~walloc_transforms.data.sources.open_source`.
        codec: The codec, which is copied.
        resize: Pixels of the shorter side, of height and width.
        crop: ``S`` or ``(H, W)`` in pixels, cut from the middle.
        transform: Applied to a signal before it is resized.
        views: Records per image or volume.
        window: Frames of latents of a record of sound or video.
        shard_size: Samples per shard.
        seed: Of random transforms.

    Attributes:
        source: The opened source.
        codec: The work's own codec, on the CPU.
        plan: What the data set is to hold.

    Raises:
        ValueError: Options that contradict each other, or the codec.
    """

    def __init__(
        self,
        source: Any,
        codec: CodecLike,
        *,
        resize: int | None = None,
        crop: int | Sequence[int] | None = None,
        transform: Callable[[Any], Any] | None = None,
        views: int = 1,
        window: int | None = None,
        shard_size: int = 1024,
        seed: int = 0,
    ) -> None:
        self.codec = (copy.deepcopy(codec) if isinstance(codec, Codec) else load_codec(codec)).cpu()
        self.codec.requires_grad_(False)
        self._config = self.codec.config
        self._crop = (crop, crop) if isinstance(crop, int) else None if crop is None else tuple(crop)
        self._resize, self._transform, self._views, self._window, self._seed = resize, transform, views, window, seed
        self._check()
        self._cut: Callable[[Tensor], Tensor] | None = None
        if views > 1 and transform is None and self._crop is not None:
            cut = v2.RandomResizedCrop(self._crop, interpolation=_BICUBIC, antialias=True)
            self._cut = v2.Compose([cut, v2.RandomHorizontalFlip()])
        self.source = open_source(source, self._config)
        self.plan = Plan(
            codec=self._config,
            fingerprint=self.codec.fingerprint(),
            samples=len(self.source),
            shard_size=shard_size,
            classes=self.source.classes,
            settings={
                **self.source.settings(),
                "resize": resize,
                "crop": None if self._crop is None else list(self._crop),
                "transform": None if transform is None else _ADDRESS.sub("", repr(transform)),
                "views": views,
                "window": window,
                "seed": seed,
            },
        )

    def _check(self) -> None:
        """Refuse options that make no sense, before any file is looked for."""
        c = self._config
        whole = {"resize": self._resize, "views": self._views, "window": self._window}
        for name, value in whole.items():
            if value is not None and (type(value) is not int or value < 1):
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        if type(self._seed) is not int:
            raise ValueError(f"seed must be a whole number, got {self._seed!r}")
        other = {"audio": {"resize": self._resize, "crop": self._crop}, "image": {"window": self._window}}
        for name, value in other.get(c.modality, {}).items():
            if value is not None:
                raise ValueError(f"{name} is not for codec {c.name!r}, which encodes {c.modality}")
        if self._crop is not None and (
            len(self._crop) != 2
            or not all(
                type(side) is int and side >= least for side, least in zip(self._crop, c.strides[-2:], strict=True)
            )
        ):
            least = "x".join(map(str, c.strides[-2:]))
            raise ValueError(f"crop must be S or (H, W) of at least {least} pixels, a cell, got {self._crop}")
        if self._views > 1 and self._transform is None:
            if self._crop is None:
                what = "transform=" if c.modality == "audio" else "crop=, the size of random crops"
                raise ValueError(f"views={self._views} needs {what}: without it they would all be the same")
            if self._resize is not None:
                raise ValueError("views are cut at random from the whole image: expected no resize, or a transform")

    def records(self, number: int) -> list[Record]:
        """Encode a sample.

        Args:
            number: Of the sample.

        Returns:
            A record for each view, or for each window.

        Raises:
            Unreadable: It cannot be read, or not be encoded.
            OSError: The machine is in trouble, not the file.
            TypeError: The source gives something else than signals and labels.
        """
        key = self.source.keys[number]
        try:
            with contextlib.nullcontext() if self.source.reads_files else self._seeded(number, "source"):
                sample = self.source.load(number)
            check_sample_rate(self._config, sample.sample_rate)
            signals = [signal for view in range(self._views) for signal in self._signals(sample, number, view)]
            encoded = [(self._encode(signal), tuple(signal.shape[1:])) for signal in signals]
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno in _TROUBLES:
                raise OSError(error.errno, f"{key}: {error.strerror}") from error
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
            raise Unreadable(key, reason) from error
        except TypeError as error:
            raise TypeError(f"{key}: {error}") from error
        return [Record(latents, size, key, sample.label, part) for part, (latents, size) in enumerate(encoded)]

    def shard(self, number: int) -> bytes:
        """Encode a shard, one sample after the other, in this process."""
        return self.pack(number, map(self.attempt, self.plan.range(number)))

    def attempt(self, number: int) -> "list[Record] | Unreadable":
        """Encode a sample, or return why it cannot be encoded."""
        try:
            return self.records(number)
        except Unreadable as error:
            return error

    def pack(self, number: int, results: "Iterator[list[Record] | Unreadable] | Sequence[Any]") -> bytes:
        """Lay out the content of a shard.

        Args:
            number: Of the shard.
            results: What :meth:`attempt` returned for each of its samples, in order.
        """
        records: list[Record] = []
        unreadable: list[tuple[str, str]] = []
        for result in results:
            if isinstance(result, Unreadable):
                unreadable.append((result.key, result.reason))
            else:
                records += result
        return pack_shard(records, plan=self.plan, number=number, unreadable=unreadable)

    def _signals(self, sample: Sample, number: int, view: int) -> Iterator[Tensor]:
        """Make the signals of a view that are encoded: one, or those of all windows."""
        signal = sample.signal
        with self._seeded(number, view) if self._transform or self._cut else contextlib.nullcontext():
            if self._transform is not None:
                signal = self._transform(self._as_readers_give(signal) if sample.of_file else signal)
            x = as_tensor(signal, self._config.signal_channels)
            if isinstance(x, tv_tensors.Video) or (self._transform and sample.of_file and x.ndim == 4):
                x = x.transpose(-4, -3)  # plain tensors are what became of a tv_tensors.Video
            x = as_plain(x)
            if x.ndim != self._config.dims + 1 or len(x) != self._config.signal_channels:
                raise ValueError(
                    f"codec {self._config.name!r} reads ({self._config.signal_channels}, {_FORMS[self._config.dims]}), "
                    f"got {tuple(x.shape)}"
                )
            yield from self._windows(x.cpu() if self._config.modality == "audio" else self._shape(x.cpu()))

    def _as_readers_give(self, signal: Tensor) -> Any:
        """Make of the content of a file what the readers of torchvision would give: images of 8 bits, or video."""
        if self._config.modality == "volume":
            return tv_tensors.Video(signal.transpose(0, 1))
        if self._config.modality == "audio" or signal.dtype != torch.uint8 or len(signal) not in (1, 3):
            return signal
        pixels = signal.permute(1, 2, 0).contiguous().numpy()
        return Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[..., 0])

    def _shape(self, x: Tensor) -> Tensor:
        """Resize and crop an image ``(C, H, W)``, or all frames of a volume ``(C, T, H, W)``."""
        modality, resizes = self._config.modality, self._resize is not None and min(x.shape[-2:]) != self._resize
        if (resizes or self._cut) and x.dtype != torch.uint8:
            check_values(x, modality, f"codec {self._config.name!r}")  # clamping would hide it
            x = to_float(x, modality)
        if self._cut is not None:
            x = self._cut(x)
        elif resizes:
            x = F.resize(x, [self._resize or 0], interpolation=_BICUBIC, antialias=True)
        if x.is_floating_point() and (resizes or self._cut):
            x = x.clamp(0, 1)  # which resizing overshoots
        if self._crop is not None and self._cut is None:
            if any(side < least for side, least in zip(x.shape[-2:], self._crop, strict=True)):
                raise ValueError(f"{x.shape[-2]}x{x.shape[-1]} pixels are too few for a crop of {self._crop}")
            x = F.center_crop(x, list(self._crop))
        return x

    def _windows(self, x: Tensor) -> Sequence[Tensor]:
        """Cut a signal ``(C, T, ...)`` into windows of time; a rest that does not fill a frame is left out."""
        stride = self._config.strides[0]
        if self._window is None or x.shape[1] < stride:
            return [x]
        return [part for part in x.split(self._window * stride, 1) if part.shape[1] >= stride]

    def _encode(self, signal: Tensor) -> np.ndarray:
        with torch.no_grad():
            latents = self.codec.encode(signal, rounding="round")
        return latents.numpy().astype(integers(self._config.latent_bits))

    @contextlib.contextmanager
    def _seeded(self, number: int, what: int | str) -> Iterator[None]:
        """Seed the random numbers of torch, numpy and Python, and give them back as they were."""
        digest = hashlib.sha256(f"{self._seed}/{number}/{what}".encode()).digest()
        python, legacy, state = random.getstate(), np.random.get_state(), torch.get_rng_state()
        # torch.manual_seed would note for every GPU where it was called from, which takes as long as encoding.
        torch.default_generator.manual_seed(int.from_bytes(digest[:8], "little"))
        np.random.seed(int.from_bytes(digest[8:12], "little"))
        random.seed(digest)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)
            torch.set_rng_state(state)
