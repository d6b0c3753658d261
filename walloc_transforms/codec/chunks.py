"""``Stream``: what encoding and decoding chunk by chunk share; their own parts are in ``streaming.py``.

A stream holds back what the next cells along its axis need. When some are ready, it passes the window to the codec, and
drops the results that the ends of the window have touched.
"""

import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from .codec import Codec
from .origin import as_plain

__all__ = ["Stream"]


class Stream:
    """What encoder and decoder share: chunks come in, windows go to the codec, finished frames go out.

    Args:
        codec: The codec.
        channels: Channels of the chunks.
        silence: One value per channel that stands for silence before and after the stream, ``(channels or 1, 1)``.
            None: the first and the last frame are repeated.
        form: Of the chunks, for messages: ``"T, H, W"``.
        what: What is counted along the stream, for messages: ``"samples"``.
        unit: Values of a chunk that make one frame.
        before: Frames at the beginning of a window for which it gives no result.
        after: Values at the end of a window for which it gives no result.
        outside: Frames that the results have at either end beyond the chunks; negative if the chunks have more.
        least: Values of the shortest stream.

    Attributes:
        edge_frames: At most this number of frames at the beginning and at the end of the stream, ``(left, right)``,
            differ from those that ``Codec`` makes of the whole signal, unless the signal is silent there.
        latency: Samples, or frames of video, that must be known after a frame of latents before it is given out. What
            came in has passed encoder and decoder when ``stride + encoder.latency + decoder.latency`` are known.
    """

    def __init__(
        self,
        codec: Codec,
        channels: int,
        silence: Tensor | None,
        *,
        form: str,
        what: str,
        unit: int,
        before: int,
        after: int,
        outside: int,
        least: int,
    ) -> None:
        self.codec, self._channels, self._silence = codec, channels, silence
        self._dims, self._stride = codec.config.dims, codec.config.strides[0]
        self._shape, self._what = f"(..., {channels}, {form})", what
        self._unit, self._before, self._after, self._outside, self._least = unit, before, after, outside, least
        self.edge_frames = (before, -(-after // unit))
        self.latency = after * self._stride // unit
        self.reset()

    def reset(self) -> None:
        """Forget everything and begin another stream."""
        self._held: list[Tensor] = []  # not joined before a frame is ready: chunks may be single samples
        self._length = 0  # of what is held
        self._seen = 0  # values that came in
        self._given = 0  # frames that went out
        self._form: tuple[tuple[int, ...], torch.dtype, torch.device] | None = None
        self._nothing = torch.Size()  # shape of a result without frames
        self._finished = False

    @property
    def held(self) -> int:
        """Samples or frames that the stream keeps between calls: a few frames, however long the stream is."""
        return self._length

    def __call__(self, chunk: Tensor) -> Tensor:
        """Take in the next chunk.

        Args:
            chunk: Waveform ``(..., C, T)``, video or volume ``(..., C, T, H, W)``, or their latents, with any leading
                dimensions and any T, also 0, and of a dtype that the codec takes. All chunks of a stream agree but for
                T. A ``tv_tensors.Video`` is ``(..., T, C, H, W)``.

        Returns:
            What is finished, float32: latents ``(..., D, t)`` or ``(..., D, t, h, w)``, or a signal, often of length 0.

        Raises:
            ValueError: Wrong shape, a chunk that differs from those before it, ``wt.Latents`` of another codec, or
                floats that are not finite or far out of range (both are noticed on the CPU only). The chunk is not
                taken in.
            TypeError: Not a tensor, or of another dtype.
            RuntimeError: The stream is finished.
        """
        if isinstance(chunk, Tensor) and _is_video(chunk) and self._dims == 3:
            chunk = as_plain(chunk).transpose(-4, -3)
        own = self._check(chunk)
        added = [own] if own.shape[-self._dims] else []
        if added and not self._held:
            added.insert(0, self._around((self._before + self._outside) * self._unit, own, 0))
        length = self._length + sum(part.shape[-self._dims] for part in added)
        frames = (length - self._after) // self._unit - self._before
        result = own.new_zeros(self._nothing, dtype=torch.float32)
        if frames < 1:
            self._held += added
        else:
            window = torch.cat([*self._held, *added], -self._dims)
            result, taken = self._work(window, frames), frames * self._unit
            self._held = [window.narrow(-self._dims, taken, length - taken).clone()]  # a view would keep all of it
            length, self._given = length - taken, self._given + frames
        self._form = self._form or self._form_of(chunk)
        self._length, self._seen = length, self._seen + own.shape[-self._dims]
        return result

    def _check(self, chunk: Tensor) -> Tensor:
        """Return a copy, because the caller may use the memory again."""
        self._check_open()
        dims, form = self._dims, f"tensor of shape {self._shape}"
        if not isinstance(chunk, Tensor):
            raise TypeError(f"expected a {form}, got {type(chunk).__name__}")
        if chunk.ndim <= dims or chunk.shape[-dims - 1] != self._channels:
            raise ValueError(f"codec {self.codec.config.name!r} expects a {form}, got {tuple(chunk.shape)}")
        if self._form is None:  # look at dtype and sides, and at the form of the result
            made = self._run(chunk.new_zeros(0, self._channels, self._least, *chunk.shape[chunk.ndim + 1 - dims :]))
            self._nothing = torch.Size([*chunk.shape[: -dims - 1], made.shape[1], 0, *made.shape[3:]])
        elif self._form_of(chunk) != self._form:
            new, old = (
                f"({', '.join([*map(str, shape[: 1 - dims or None]), 'T', *map(str, shape[len(shape) + 1 - dims :])])})"
                f" {dtype} on {place}"
                for shape, dtype, place in (self._form_of(chunk), self._form)
            )
            raise ValueError(f"the chunks of a stream must be alike: got {new} after {old}")
        return self._own(chunk)

    def _form_of(self, chunk: Tensor) -> tuple[tuple[int, ...], torch.dtype, torch.device]:
        """Say in what chunks must agree."""
        shape: Sequence[int] = chunk.shape
        return (*shape[: -self._dims], *shape[len(shape) + 1 - self._dims :]), chunk.dtype, chunk.device

    def _check_open(self) -> None:
        if self._finished:
            raise RuntimeError("this stream is finished: reset() begins another")

    def _check_length(self) -> None:
        """Refuse to end a stream that is too short."""
        if self._seen < self._least:
            raise ValueError(
                f"too short: codec {self.codec.config.name!r} needs at least {self._least} {self._what}, got "
                f"{self._seen}"
            )

    def _around(self, length: int, like: Tensor, end: int) -> Tensor:
        """Make what lies around a stream: silence, or the first (``end`` 0) or last (-1) frame again and again."""
        shape = list(like.shape)
        shape[-self._dims] = length
        outer = like.narrow(-self._dims, end, 1) if self._silence is None else self._silence.to(like.device)
        return outer.expand(shape)

    def _close(self, window: Tensor) -> Tensor:
        """Finish the frames that are still held."""
        around = self._around(self._outside * self._unit + self._after, window, -1)
        frames = -(-self._seen // self._unit) + 2 * self._outside - self._given
        result = self._work(torch.cat([window, around], -self._dims), frames, last=True)
        self._held, self._length, self._finished = [], 0, True
        return result

    def _own(self, chunk: Tensor) -> Tensor:
        """Check the values of a chunk and copy it, in float32 unless it is quite as it was."""
        raise NotImplementedError

    def _run(self, window: Tensor) -> Tensor:
        """Encode or decode a window."""
        raise NotImplementedError

    def _work(self, window: Tensor, frames: int, last: bool = False) -> Tensor:
        """Return the next ``frames`` of a window."""
        raise NotImplementedError


def _is_video(x: Tensor) -> bool:
    """Whether a tensor is a ``tv_tensors.Video``: this room does not import torchvision, but its user may have."""
    tv_tensors = sys.modules.get("torchvision.tv_tensors")
    return tv_tensors is not None and isinstance(x, tv_tensors.Video)
