"""Encode and decode audio chunk by chunk: signals that do not fit in memory, or that have not ended yet.

    chunks of a waveform --StreamEncoder--> frames of latents --StreamDecoder--> chunks of a waveform

A frame of latents depends on a limited stretch of the waveform, and a sample on a limited stretch of latents. A stream
keeps what the next frames need, and passes windows to ``Codec.encode`` or ``Codec.decode``. Then it drops the frames
that the ends of the window have touched.

``Codec`` wraps a whole signal round: its end lies beside its beginning. A stream does not know the end and assumes
silence before and after the signal. Some frames at either end differ for this reason: ``edge_frames``.
"""

import torch
from torch import Tensor

from ..signals import to_float
from ..wavelets import analysis_bank, check_size, pad_to_multiple, synthesis_bank
from .codec import Codec
from .companding import Rounding
from .decoders import NetworkDecoder
from .origin import check_latents
from .ranges import check_values

__all__ = ["StreamDecoder", "StreamEncoder"]

# Frames to either side that matter to an Oobleck encoder: 3 in the first convolution, 39 in the residual units of each
# block, one at the ends of the blocks together, one in the last convolution.
ENCODER_REACH = 83
_POST_REACH = 64  # samples, of the filter behind some decoders


class _Stream:
    """What encoder and decoder share: chunks come in, windows go to the codec, finished frames go out.

    Args:
        codec: The codec.
        channels: Channels of the chunks, and of the results.
        silence: One value per channel that stands for silence before and after the stream, ``(channels or 1, 1)``.
        unit: Values of a chunk that make one frame.
        before: Frames at the beginning of a window for which it gives no result.
        after: Values at the end of a window for which it gives no result.
        outside: Frames that the results have at either end beyond the chunks; negative if the chunks have more.
        least: Values of the shortest stream.

    Attributes:
        edge_frames: At most this number of frames at the beginning and at the end of the stream, ``(left, right)``,
            differ from those that ``Codec`` makes of the whole signal, unless the signal is silent there.
        latency: Samples that must be known after a frame of ``stride`` samples before the frame is given out. A sample
            has passed encoder and decoder when ``stride + encoder.latency + decoder.latency`` samples are known.
    """

    def __init__(
        self,
        codec: Codec,
        channels: tuple[int, int],
        silence: Tensor,
        *,
        unit: int,
        before: int,
        after: int,
        outside: int,
        least: int,
    ) -> None:
        self.codec, self._channels, self._silence = codec, channels, silence
        self._unit, self._before, self._after, self._outside, self._least = unit, before, after, outside, least
        self.edge_frames = (before, -(-after // unit))
        self.latency = after * codec.config.stride // unit
        self.reset()

    def reset(self) -> None:
        """Forget everything and begin another stream."""
        self._held: list[Tensor] = []  # not joined before a frame is ready: chunks may be single samples
        self._length = 0  # of what is held
        self._seen = 0  # values that came in
        self._given = 0  # frames that went out
        self._form: tuple[tuple[int, ...], torch.dtype, torch.device] | None = None
        self._finished = False

    @property
    def held(self) -> int:
        """Samples or frames that the stream keeps between calls: a few frames, however long the stream is."""
        return self._length

    def __call__(self, chunk: Tensor) -> Tensor:
        """Take in the next chunk.

        Args:
            chunk: Waveform ``(..., C, T)`` or latents ``(..., D, t)``, with any leading dimensions and any length, also
                0, and of a dtype that the codec takes. All chunks of a stream agree but for their length.

        Returns:
            What is finished, float32: latents ``(..., D, t)`` or waveform ``(..., C, T)``, often of length 0.

        Raises:
            ValueError: Wrong shape, a chunk that differs from those before it, ``wt.Latents`` of another codec, or a
                float waveform that is not finite or goes beyond twice full scale (both are noticed on the CPU only).
                The chunk is not taken in.
            TypeError: Not a tensor, or of another dtype.
            RuntimeError: The stream is finished.
        """
        own = self._check(chunk)
        if self._form is None:
            self._form = _form(chunk)
            self._held = [self._silent((self._before + self._outside) * self._unit, own)]
        if own.shape[-1]:
            self._held.append(own)
        self._seen += own.shape[-1]
        self._length = self._seen - (self._given - self._before - self._outside) * self._unit
        frames = (self._length - self._after) // self._unit - self._before
        if frames < 1:
            return own.new_zeros(*own.shape[:-2], self._channels[1], 0)
        window = torch.cat(self._held, -1)
        result = self._work(window, frames)
        self._held = [window[..., frames * self._unit :].clone()]  # a view would keep all of it
        self._length, self._given = self._length - frames * self._unit, self._given + frames
        return result

    def _check(self, chunk: Tensor) -> Tensor:
        """Return a copy in float32, because the caller may use the memory again."""
        self._check_open()
        form = f"tensor of shape (..., {self._channels[0]}, T)"
        if not isinstance(chunk, Tensor):
            raise TypeError(f"expected a {form}, got {type(chunk).__name__}")
        if chunk.ndim < 2 or chunk.shape[-2] != self._channels[0]:
            raise ValueError(f"codec {self.codec.config.name!r} expects a {form}, got {tuple(chunk.shape)}")
        if self._form is None:
            self._run(chunk.new_zeros(0, self._channels[0], self._least))  # checks the dtype
        elif _form(chunk) != self._form:
            new, old = (f"({', '.join(map(str, s))}, T) {d} on {place}" for s, d, place in (_form(chunk), self._form))
            raise ValueError(f"the chunks of a stream must be alike: got {new} after {old}")
        return self._own(chunk)

    def _own(self, chunk: Tensor) -> Tensor:
        return chunk.to(torch.float32, copy=True)

    def _check_open(self) -> None:
        if self._finished:
            raise RuntimeError("this stream is finished: reset() begins another")

    def _silent(self, length: int, like: Tensor) -> Tensor:
        return self._silence.to(like.device).expand(*like.shape[:-1], length)

    def _close(self, window: Tensor) -> Tensor:
        """Finish the frames that are still held."""
        window = torch.cat([window, self._silent(self._outside * self._unit + self._after, window)], -1)
        frames = -(-self._seen // self._unit) + 2 * self._outside - self._given
        result = self._work(window, frames, last=True)
        self._held, self._length, self._finished = [], 0, True
        return result

    def _run(self, window: Tensor) -> Tensor:
        """Encode or decode a window."""
        raise NotImplementedError

    def _work(self, window: Tensor, frames: int, last: bool = False) -> Tensor:
        """Return the next ``frames`` of a window."""
        raise NotImplementedError


class StreamEncoder(_Stream):
    """Encode a waveform chunk by chunk: call it with chunks of any length, then :meth:`StreamEncoder.finish`.

    The latents of all calls, joined, are ``Codec.encode`` of the joined chunks, but for ``edge_frames`` at either end,
    which come out as if silence lay around the signal. Every call that yields frames encodes some neighbors again, 8
    with linear codecs and 170 with networks, so longer chunks are faster. Memory does not grow with the stream unless
    gradients are recorded.

    Args:
        codec: An audio codec.
        rounding: As for ``Codec.encode``.

    Raises:
        ValueError: An image codec, or an option out of range.

    Example:
        >>> import torch, walloc_transforms as wt
        >>> stream = wt.StreamEncoder(wt.load_codec("stereo_20x"))
        >>> frames = [stream(chunk) for chunk in torch.zeros(2, 44100).split(4410, 1)] + [stream.finish()]
        >>> torch.cat(frames, 1).shape
        torch.Size([27, 173])
    """

    def __init__(self, codec: Codec, *, rounding: Rounding = "none") -> None:
        c = _check_audio(codec).config
        self.rounding: Rounding = rounding
        network = ENCODER_REACH if codec.encoder is not None else 0
        # A network sees the signal from frames beyond its ends, too; elsewhere those frames are all the same.
        outside, self._edge = (c.pad, 0) if network else (0, c.pad)
        left, right = analysis_bank(c.wavelet, *c.axis_levels).reach
        before = max(1, -(-left // c.stride) + network)  # at least what the reflection at the end needs
        super().__init__(
            codec,
            (c.signal_channels, c.channels),
            torch.zeros(1, 1, device="cpu"),
            unit=c.stride,
            before=before,
            after=right + network * c.stride,
            outside=outside,
            least=c.stride,
        )
        self.edge_frames = (self.edge_frames[0] + c.pad, self.edge_frames[1] + c.pad)
        self._run(codec.latent_mean.new_zeros(0, c.signal_channels, c.stride))  # checks the options

    def finish(self) -> Tensor:
        """End the stream.

        Returns:
            The rest of the latents, of ``ceil(T / stride) + 2 * pad`` in all.

        Raises:
            ValueError: The stream had fewer samples than the codec's stride.
            RuntimeError: The stream is finished.
        """
        self._check_open()
        check_size([self._seen], [self._least])
        return self._close(pad_to_multiple(torch.cat(self._held, -1), [self._unit]))

    def _own(self, chunk: Tensor) -> Tensor:
        own = to_float(chunk, "audio")
        own = own.clone() if own is chunk else own
        if chunk.is_floating_point():
            check_values(own, "audio", f"codec {self.codec.config.name!r}")
        return own

    def _run(self, window: Tensor) -> Tensor:
        return self.codec.encode(window, rounding=self.rounding)

    def _work(self, window: Tensor, frames: int, last: bool = False) -> Tensor:
        latents = self._run(window)
        edge, own = latents[..., : self._edge], latents.narrow(-1, self.codec.config.pad + self._before, frames)
        return torch.cat([*[edge] * (self._given == 0), own, *[edge] * last], -1)


class StreamDecoder(_Stream):
    """Decode latents chunk by chunk: call it with chunks of any length, then :meth:`StreamDecoder.finish`.

    The samples of all calls, joined, are ``Codec.decode`` of the joined chunks, but for ``edge_frames`` at either end,
    which come out as if the latents of silence lay around. Every call that yields samples decodes some frames again, 7
    with linear codecs, 18 more with a refiner of 4 blocks, 180 with networks, so longer chunks are faster.

    Args:
        codec: An audio codec.
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
        c = _check_audio(codec).config
        self.decoder, self.clamp = decoder, clamp
        bank = synthesis_bank(c.wavelet, *c.axis_levels)
        network = NetworkDecoder.reach if c.decoder != "linear" else 0
        network += codec.load_refiner().reach if c.check_decoder(decoder) == "refiner" else 0
        network += -(-_POST_REACH // c.stride) if c.post_filter else 0
        left = (bank.filters.shape[1] - 1 + bank.start) // c.stride + network
        right = (c.stride - 1 - bank.start) // c.stride + network
        reach = ENCODER_REACH if codec.encoder is not None else 0
        zeros = codec.latent_mean.new_zeros(c.signal_channels, (2 * reach + 1) * c.stride)
        with torch.no_grad():
            silence = codec.encode(zeros)[:, c.pad + reach, None]
        # At least the last frame must wait for finish(), which may cut it, and those without signal are behind it.
        super().__init__(
            codec,
            (c.channels, c.signal_channels),
            silence,
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
            size: Number of samples of the whole stream, to cut off what encoding added. Default: keep it.

        Returns:
            The rest of the waveform.

        Raises:
            ValueError: There were too few latents, or ``size`` does not belong to them.
            RuntimeError: The stream is finished.
        """
        self._check_open()
        c = self.codec.config
        if self._seen < self._least:
            raise ValueError(f"too short: codec {c.name!r} needs at least {self._least} latents, got {self._seen}")
        most = (self._seen - 2 * c.pad) * c.stride
        extra = 0 if size is None else most - size
        if not 0 <= extra < c.stride:
            raise ValueError(
                f"size {size} does not belong to these latents: they hold {most} samples, at most "
                f"{c.stride - 1} of them padding"
            )
        samples = self._close(torch.cat(self._held, -1))
        return samples[..., : samples.shape[-1] - extra]

    def _own(self, chunk: Tensor) -> Tensor:
        latents, normalized, _ = check_latents(chunk, self.codec)
        own = latents.to(torch.float32, copy=True)
        return self.codec.denormalize(own) if normalized else own

    def _run(self, window: Tensor) -> Tensor:
        return self.codec.decode(window, decoder=self.decoder, clamp=self.clamp)

    def _work(self, window: Tensor, frames: int, last: bool = False) -> Tensor:
        c = self.codec.config
        ignored = self._silent(c.pad, window)  # stands where decode expects frames without signal
        samples = self._run(torch.cat([ignored, window, ignored], -1))
        return samples.narrow(-1, self._before * c.stride, frames * c.stride)


def _form(chunk: Tensor) -> tuple[tuple[int, ...], torch.dtype, torch.device]:
    return tuple(chunk.shape[:-1]), chunk.dtype, chunk.device


def _check_audio(codec: Codec) -> Codec:
    if codec.config.modality != "audio":
        raise ValueError(f"streams are for audio: codec {codec.config.name!r} is for {codec.config.modality}s")
    return codec
