"""Encode and decode sound and video chunk by chunk: what does not fit in memory, or has not ended yet.

    chunks of a signal --StreamEncoder--> frames of latents --StreamDecoder--> chunks of a signal

A frame of latents depends on a limited stretch of time, and a sample, or frame of video, on a limited stretch of
latents. A stream keeps what the next frames need, and passes windows to ``Codec.encode`` or ``Codec.decode``.

``Codec`` wraps a whole signal round: its end lies beside its beginning. A stream does not know the end. It assumes
silence before and after a waveform, and that a video stands still there: black frames would be a cut, whose ringing
spoils the frames beside it. Some frames at either end differ for this reason: ``edge_frames``.
"""

import torch
from torch import Tensor

from ..signals import to_float
from ..wavelets import analysis_bank, pad_to_multiple, synthesis_bank
from .chunks import Stream
from .codec import Codec
from .companding import Rounding
from .decoders import NetworkDecoder
from .origin import check_latents
from .ranges import all_finite, can_look_at, check_values

__all__ = ["StreamDecoder", "StreamEncoder"]

# Frames to either side that matter to an Oobleck encoder: 3 in the first convolution, 39 in the residual units of each
# block, one at the ends of the blocks together, one in the last convolution.
ENCODER_REACH = 83
_POST_REACH = 64  # samples, of the filter behind some decoders


class StreamEncoder(Stream):
    """Encode sound or video chunk by chunk: call it with chunks of any length, then :meth:`StreamEncoder.finish`.

    The latents of all calls, joined along time, are ``Codec.encode`` of the joined chunks, but for ``edge_frames`` at
    either end. These come out as if silence lay around a waveform, and as if a video stood still before and after. Of
    other volumes, such as scans, the first axis is taken for time. Every call that yields frames encodes some neighbors
    again, 8 with linear codecs and 170 with networks, so longer chunks are faster. Memory does not grow with the stream
    unless gradients are recorded.

    Args:
        codec: A codec of audio or of volumes.
        rounding: As for ``Codec.encode``.

    Raises:
        ValueError: An image codec, or an option out of range.

    Example:
        >>> import torch, walloc_transforms as wt
        >>> stream = wt.StreamEncoder(wt.load_codec("stereo_20x"))
        >>> frames = [stream(chunk) for chunk in torch.zeros(2, 44100).split(4410, 1)] + [stream.finish()]
        >>> torch.cat(frames, 1).shape
        torch.Size([27, 173])
        >>> clips = [torch.rand(3, 16, 64, 64) for _ in range(3)]
        >>> codec = wt.fit_codec(clips, levels=(2, 3, 3), channels=24, progress=False)
        >>> stream = wt.StreamEncoder(codec)
        >>> frames = [stream(frame) for frame in clips[0].split(1, 1)] + [stream.finish()]
        >>> torch.cat(frames, 1).shape
        torch.Size([24, 4, 8, 8])
    """

    def __init__(self, codec: Codec, *, rounding: Rounding = "none") -> None:
        c, stride = _check_modality(codec).config, codec.config.strides[0]
        self.rounding: Rounding = rounding
        network = ENCODER_REACH if codec.encoder is not None else 0
        # A network sees the signal from frames beyond its ends, too; elsewhere those frames are all the same.
        outside, self._edge = (c.pad, 0) if network else (0, c.pad)
        left, right = analysis_bank(c.wavelet, c.axis_levels[0]).reach
        before = max(1, -(-left // stride) + network)  # at least what the reflection at the end needs
        super().__init__(
            codec,
            c.signal_channels,
            torch.zeros(1, 1, device="cpu") if c.modality == "audio" else None,
            form="T" if c.modality == "audio" else "T, H, W",
            what="samples" if c.modality == "audio" else "frames",
            unit=stride,
            before=before,
            after=right + network * stride,
            outside=outside,
            least=stride,
        )
        self.edge_frames = (self.edge_frames[0] + c.pad, self.edge_frames[1] + c.pad)
        self._run(codec.latent_mean.new_zeros(0, c.signal_channels, *c.strides))  # checks the options

    def finish(self) -> Tensor:
        """End the stream.

        Returns:
            The rest of the latents, of ``ceil(T / stride) + 2 * pad`` in all.

        Raises:
            ValueError: The stream had fewer samples, or frames of video, than the codec's stride.
            RuntimeError: The stream is finished.
        """
        self._check_open()
        self._check_length()
        window = torch.cat(self._held, -self._dims)
        return self._close(pad_to_multiple(window, [self._unit, *[1] * (self._dims - 1)]))

    def _own(self, chunk: Tensor) -> Tensor:
        modality = self.codec.config.modality
        if modality == "volume" and chunk.dtype == torch.uint8:
            return chunk.clone()  # a quarter of the memory, and no silence to be joined to it
        own = to_float(chunk, modality)
        own = own.clone() if own is chunk else own
        if chunk.is_floating_point():
            check_values(own, modality, f"codec {self.codec.config.name!r}")
        return own

    def _run(self, window: Tensor) -> Tensor:
        return self.codec.encode(window, rounding=self.rounding)

    def _work(self, window: Tensor, frames: int, last: bool = False) -> Tensor:
        latents = self._run(window)
        own = latents.narrow(-self._dims, self.codec.config.pad + self._before, frames)
        if not self._edge:
            return own.clone()  # a view would keep what was worked out for the window
        edge = latents[..., : self._edge]
        return torch.cat([*[edge] * (self._given == 0), own, *[edge] * last], -1)


class StreamDecoder(Stream):
    """Decode latents chunk by chunk: call it with chunks of any length, then :meth:`StreamDecoder.finish`.

    The signals of all calls, joined along time, are ``Codec.decode`` of the joined chunks, but for ``edge_frames`` at
    either end. These come out as if the latents of silence lay around, and the first and last latents of a video again
    and again. Every call that yields samples decodes some frames of latents again, 7 with linear codecs, 18 more with a
    refiner of 4 blocks, 180 with networks, so longer chunks are faster.

    Args:
        codec: A codec of audio or of volumes.
        decoder: As for ``Codec.decode``.
        clamp: As for ``Codec.decode``.

    Raises:
        ValueError: An image codec, or it has no such decoder.
        ImportError: The decoder is a network, and diffusers is not installed.

    Example:
        >>> import torch, walloc_transforms as wt
        >>> stream = wt.StreamDecoder(wt.load_codec("stereo_20x"))
        >>> chunks = [stream(frames) for frames in torch.zeros(27, 173).split(10, 1)] + [stream.finish(44100)]
        >>> torch.cat(chunks, 1).shape
        torch.Size([2, 44100])
    """

    def __init__(self, codec: Codec, *, decoder: str | None = None, clamp: bool = True) -> None:
        c, stride = _check_modality(codec).config, codec.config.strides[0]
        self.decoder, self.clamp = decoder, clamp
        bank = synthesis_bank(c.wavelet, c.axis_levels[0])
        network = NetworkDecoder.reach if c.decoder != "linear" else 0
        network += codec.load_refiner().reach if c.check_decoder(decoder) == "refiner" else 0
        network += -(-_POST_REACH // stride) if c.post_filter else 0
        left = (bank.filters.shape[1] - 1 + bank.start) // stride + network
        right = (stride - 1 - bank.start) // stride + network
        # At least the last frame must wait for finish(), which may cut it, and those without signal are behind it.
        super().__init__(
            codec,
            c.channels,
            _silent_frame(codec) if c.modality == "audio" else None,
            form="t" if c.modality == "audio" else "t, h, w",
            what="frames of latents",
            unit=1,
            before=max(left, c.pad),
            after=max(right, 1 + c.pad),
            outside=-c.pad,
            least=1 + 2 * c.pad,
        )
        codec.load_decoder()

    def finish(self, size: int | None = None) -> Tensor:
        """End the stream.

        Args:
            size: Number of samples, or frames of video, of the whole stream, to cut off what encoding added along
                time. Default: keep it.

        Returns:
            The rest of the signal. Its height and width are those of whole cells.

        Raises:
            ValueError: There were too few latents, or ``size`` does not belong to them.
            RuntimeError: The stream is finished.
        """
        self._check_open()
        self._check_length()
        most = (self._seen - 2 * self.codec.config.pad) * self._stride
        extra = 0 if size is None else most - size
        if not 0 <= extra < self._stride:
            raise ValueError(
                f"size {size} does not belong to these latents: they hold {most} samples, at most "
                f"{self._stride - 1} of them padding"
            )
        signal = self._close(torch.cat(self._held, -self._dims))
        return signal.narrow(-self._dims, 0, signal.shape[-self._dims] - extra)

    def _own(self, chunk: Tensor) -> Tensor:
        latents, normalized, _ = check_latents(chunk, self.codec)
        own = latents.to(torch.float32, copy=True)
        if chunk.is_floating_point() and can_look_at(own) and not all_finite(own):
            raise ValueError("the latents hold NaN or infinite values: expected finite ones")
        return self.codec.denormalize(own) if normalized else own

    def _run(self, window: Tensor) -> Tensor:
        return self.codec.decode(window, decoder=self.decoder, clamp=self.clamp)

    def _work(self, window: Tensor, frames: int, last: bool = False) -> Tensor:
        ignored = self._around(self.codec.config.pad, window, 0)  # stands where decode expects frames without signal
        signal = self._run(torch.cat([ignored, window, ignored], -self._dims))
        return signal.narrow(-self._dims, self._before * self._stride, frames * self._stride).clone()


def _silent_frame(codec: Codec) -> Tensor:
    """Encode silence: ``(D, 1)``."""
    c, reach = codec.config, ENCODER_REACH if codec.encoder is not None else 0
    zeros = codec.latent_mean.new_zeros(c.signal_channels, (2 * reach + 1) * c.stride)
    with torch.no_grad():
        return codec.encode(zeros)[:, c.pad + reach, None]


def _check_modality(codec: Codec) -> Codec:
    if codec.config.modality == "image":
        raise ValueError(f"streams are for audio and volumes: codec {codec.config.name!r} is for images")
    return codec
