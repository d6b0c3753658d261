"""What `encode` and `decode` do with volumes: a few frames at a time, so that a long video never lies in memory.

A codec wraps a volume round: its end lies beside its beginning. A stream does not know that, so its first cells are
encoded once more behind its end. What comes out is what `Codec.encode` and `Codec.decode` give.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ..codec import Codec, StreamDecoder, StreamEncoder
from ..files import LatentFile, read_volume, rounding_steps, save_latents, write_volume
from ..functional import apply_window
from .work import Report

__all__ = ["decode_volume", "encode_volume", "frames_of", "latents_of", "read_volumes"]

Window = tuple[float, float]

_PIXELS = 2**24  # that are encoded at a time
_CELLS = 8  # along time that are encoded or decoded at a time, at least


def encode_volume(
    source: Path, target: Path, codec: Codec, coder: str, loss: float | None, window: Window | None, report: Report
) -> None:
    """Encode an array or a video file to a `.wlc` file."""
    c = codec.config
    with read_volume(source, c.signal_channels, report.notices) as volume:
        shown = tqdm(volume.frames, total=volume.total, unit="frame", disable=None, leave=False)
        frames = (_in_range(frame, source, window) for frame in shown)
        if loss is None:
            latents, size = latents_of(frames, codec)
            steps = None
        else:
            whole = torch.cat(list(frames), 1)
            steps, size = rounding_steps(whole, codec, loss=loss), tuple(whole.shape[1:])
            latents = codec.encode(whole)
    save_latents(target, latents, codec, size=size, frame_rate=volume.rate, coder=coder, steps=steps)


def _in_range(frame: Tensor, source: Path, window: Window | None) -> Tensor:
    if window is not None:
        return apply_window(frame, *window)
    if frame.dtype in (torch.uint8, torch.uint16) or frame.is_floating_point():
        return frame
    raise ValueError(f"{source.name} holds {frame.dtype}: name the values that mean black and white, --window LOW HIGH")


def read_volumes(
    files: Sequence[Path], report: Report, window: Window | None
) -> Iterator[tuple[Path, Tensor, int | None]]:
    """Read files as :func:`~walloc_transforms.cli.work.read_signals` does, each whole."""
    for file in tqdm(files, unit="file", disable=None):
        with report.noted(file), read_volume(file, None, report.notices) as volume:
            yield file, torch.cat([_in_range(frame, file, window) for frame in volume.frames], 1), None


def latents_of(frames: Iterator[Tensor], codec: Codec) -> tuple[Tensor, tuple[int, ...]]:
    """Encode frames ``(C, 1, H, W)``, and return their rounded latents and the size of the volume."""
    first = next(frames, None)
    if first is None:
        raise ValueError("there are no frames in it")
    stream, stride = StreamEncoder(codec, rounding="round"), codec.config.strides[0]
    edges = sum(stream.edge_frames)
    cells = max(_CELLS, edges, _PIXELS // (first[0].numel() * stride))
    pieces = _pieces(chain([first], frames), cells * stride)
    head = last = next(pieces)
    count = head.shape[1]
    if count < cells * stride:
        return _as_integers(codec.encode(head, rounding="round"), codec), tuple(head.shape[1:])
    done = [_as_integers(stream(head), codec)]
    for piece in pieces:
        last = torch.cat([last, piece], 1)[:, -stride - 1 :]
        count += piece.shape[1]
        done.append(_as_integers(stream(piece), codec))
    missing = -count % stride
    if missing:  # as Codec.encode extends a signal
        done.append(_as_integers(stream(last[:, -missing - 1 : -1].flip(1)), codec))
    done.append(_as_integers(stream(head[:, : edges * stride]), codec))
    before, total = stream.edge_frames[0], (count + missing) // stride
    latents = torch.cat(done, 1)[:, before : before + total].roll(before, 1)
    return latents, (count, *head.shape[2:])


def _pieces(frames: Iterable[Tensor], length: int) -> Iterator[Tensor]:
    rest = iter(frames)
    while several := list(islice(rest, length)):
        yield torch.cat(several, 1)


def _as_integers(latents: Tensor, codec: Codec) -> Tensor:
    return latents.to(torch.int16 if codec.config.latent_bits > 8 else torch.int8)


def decode_volume(stored: LatentFile, target: Path, codec: Codec, decoder: str | None, window: Window | None) -> None:
    """Decode a `.wlc` file to an array or a video file."""
    pieces = frames_of(stored.latents, codec, stored.size, decoder)
    if window is not None and target.suffix.lower() == ".npy":
        low, high = window
        pieces = (piece * (high - low) + low for piece in pieces)
    write_volume(target, pieces, stored.size, codec.config.signal_channels, stored.frame_rate)


def frames_of(latents: Tensor, codec: Codec, size: tuple[int, ...], decoder: str | None = None) -> Iterator[Tensor]:
    """Decode latents ``(D, t, h, w)`` to pieces ``(C, n, H, W)`` of a volume ``(C, T, H, W)``."""
    stream, stride, cells = StreamDecoder(codec, decoder=decoder), codec.config.strides[0], latents.shape[1]
    before, after = stream.edge_frames
    if cells < before + after + _CELLS:
        yield codec.decode(latents, size=size, decoder=decoder)
        return
    latents = latents.as_subclass(Tensor)
    ignored, left = before * stride, size[0]
    for places in (torch.arange(-before, cells + after) % cells).split(_CELLS):
        piece = stream(latents[:, places])[..., : size[1], : size[2]]
        piece, ignored = piece[:, ignored:], max(0, ignored - piece.shape[1])
        piece, left = piece[:, :left], left - min(left, piece.shape[1])
        if piece.shape[1]:
            yield piece
