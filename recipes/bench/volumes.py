"""Speed and memory of codecs of volumes: a cube of gray values at once, and Full HD video as a stream.

Resizing to as many values takes turns with them: the mean of blocks on the way down, trilinear on the way up. Video is
made as it is needed, by moving over one picture, and never in memory as a whole.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

import walloc_transforms as wt
from recipes.common.tables import markdown_table, number
from recipes.common.timing import in_fresh_process, median_seconds, memory_rise

Call = Literal["encode", "decode", "resize", "enlarge"]
CALLS: tuple[Call, ...] = ("encode", "resize", "decode", "enlarge")
CUBE_LEVELS, CUBE_SMALLER = (3, 3, 3), (4, 4, 4)  # resizing to as many values: a 64th
VIDEO_LEVELS, VIDEO_SMALLER = (2, 3, 3), (2, 4, 4)  # a 32nd
CHUNK = 64  # frames
HEIGHT, WIDTH = 1080, 1920
MEMORY_FRAMES = 2 * CHUNK  # whose memory is measured: more of them take no more


@dataclass(frozen=True)
class VolumeSettings:
    """What the volume part measures."""

    side: int = 512
    """Voxels along each side of a gray cube, a multiple of 8."""
    frames: int = 1800
    """Frames of Full HD video: a minute at 30 per second."""


def check_volume(settings: VolumeSettings) -> None:
    """Refuse settings that cannot be measured.

    Raises:
        ValueError: A side or a number of frames that does not fit.
    """
    if settings.side < 16 or settings.side % 8 or settings.frames < CHUNK:
        raise ValueError(
            f"expected a side that is a multiple of 8, at least 16, and at least {CHUNK} frames, "
            f"got {settings.side} and {settings.frames}"
        )


def volume_codec(levels: tuple[int, ...], colors: int, smaller: tuple[int, ...]) -> wt.Codec:
    """Make a codec of as many values as resizing by ``smaller`` leaves; what it projects to does not matter here."""
    channels = colors * 2 ** sum(levels) // math.prod(smaller)
    return wt.Codec(wt.CodecConfig("volume", "volume", colors, channels, levels))


def shrink(x: Tensor, smaller: tuple[int, ...]) -> Tensor:
    """Average blocks of a volume of bytes."""
    size = [side // step for side, step in zip(x.shape[1:], smaller, strict=True)]
    return F.interpolate(x[None].float() / 255, size, mode="area")[0]


def enlarge(x: Tensor, smaller: tuple[int, ...]) -> Tensor:
    """Undo ``shrink`` by linear interpolation along all axes."""
    size = [side * step for side, step in zip(x.shape[1:], smaller, strict=True)]
    return F.interpolate(x[None], size, mode="trilinear")[0]


def chunks_of_video(frames: int) -> Iterator[Tensor]:
    """Yield ``(3, CHUNK, HEIGHT, WIDTH)``, uint8: a window that moves over a picture, a pixel per frame."""
    random = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, HEIGHT // 8, (WIDTH + frames) // 8, generator=random)
    picture = F.interpolate(coarse, (HEIGHT, WIDTH + frames), mode="bicubic")[0].mul(255).clamp(0, 255).byte()
    for first in range(0, frames, CHUNK):
        places = range(first, min(frames, first + CHUNK))
        yield torch.stack([picture[:, :, place : place + WIDTH] for place in places], 1)


def cube_calls(side: int) -> dict[Call, Callable[[], Tensor]]:
    """What is timed on a cube."""
    codec = volume_codec(CUBE_LEVELS, 1, CUBE_SMALLER)
    cube = torch.randint(0, 256, (1, side, side, side), dtype=torch.uint8)
    latents, small = codec.encode(cube), shrink(cube, CUBE_SMALLER)
    return {
        "encode": partial(codec.encode, cube),
        "resize": partial(shrink, cube, CUBE_SMALLER),
        "decode": partial(codec.decode, latents),
        "enlarge": partial(enlarge, small, CUBE_SMALLER),
    }


def stream_video(frames: int, calls: tuple[Call, ...] = CALLS) -> dict[Call, float]:
    """Seconds of all chunks of a video, by call; the calls take turns, chunk by chunk."""
    codec = volume_codec(VIDEO_LEVELS, 3, VIDEO_SMALLER)
    encoder, decoder = wt.StreamEncoder(codec), wt.StreamDecoder(codec)
    seconds = dict.fromkeys(calls, 0.0)

    def timed(call: Call, function: Callable[[], Tensor]) -> Tensor:
        start = time.perf_counter()
        result = function()
        seconds[call] += time.perf_counter() - start
        return result

    total = -(-frames // CHUNK)
    cells = CHUNK // codec.config.strides[0]
    for chunk in tqdm(chunks_of_video(frames), desc="video", total=total, unit="chunk", disable=len(calls) < 2):
        latents = torch.zeros(codec.config.channels, cells, -(-HEIGHT // 8), WIDTH // 8)  # if nothing is encoded
        if "encode" in calls:
            latents = timed("encode", partial(encoder, chunk))
        if "decode" in calls and latents.shape[1]:
            timed("decode", partial(decoder, latents))
        small = torch.zeros(3, CHUNK // 2, HEIGHT // 4, WIDTH // 4)
        if "resize" in calls and chunk.shape[1] == CHUNK:
            small = timed("resize", partial(shrink, chunk, VIDEO_SMALLER))
        if "enlarge" in calls and chunk.shape[1] == CHUNK:
            timed("enlarge", partial(enlarge, small, VIDEO_SMALLER))
    if "encode" in calls:
        latents = timed("encode", encoder.finish)
        if "decode" in calls:
            timed("decode", partial(decoder, latents))
    if "decode" in calls:
        timed("decode", decoder.finish)
    return seconds


def memory_of_volume(signal: str, call: Call, side: int, threads: int) -> int:
    """Rise of memory during a call in this process, which should be fresh; a small call goes before it."""
    torch.set_num_threads(threads)
    if signal == "video":
        stream_video(CHUNK, (call,))
        return memory_rise(partial(stream_video, MEMORY_FRAMES, (call,)))
    cube_calls(32)[call]()
    return memory_rise(cube_calls(side)[call])


def volume_part(settings: VolumeSettings, threads: int, repeats: int, budget: float) -> list[dict[str, Any]]:
    """Measure; a record per signal and call."""
    torch.set_num_threads(threads)
    stream_video(CHUNK)  # compiles
    cube = median_seconds({**cube_calls(settings.side)}, repeats, budget)
    voxels, pixels = settings.side**3, settings.frames * HEIGHT * WIDTH
    whole = {"resize", "enlarge"}  # of these, a last chunk that is not full was left out
    video = {
        call: seconds * (settings.frames / (settings.frames // CHUNK * CHUNK) if call in whole else 1)
        for call, seconds in stream_video(settings.frames).items()
    }
    records: list[dict[str, Any]] = []
    for signal, seconds, count, values in (
        ("cube", cube, voxels, voxels // math.prod(CUBE_SMALLER)),
        ("video", video, pixels, 3 * pixels // math.prod(VIDEO_SMALLER)),
    ):
        for call in tqdm(CALLS, desc=f"memory, {signal}", unit="call"):
            rise = in_fresh_process(memory_of_volume, signal, call, settings.side, threads)
            own = {"signal": signal, "call": call, "threads": threads, "side": settings.side}
            size = {"frames": settings.frames, "count": count, "values": values}
            records.append({**own, **size, "seconds": seconds[call], "rise_bytes": rise})
    return records


def volume_report(records: list[dict[str, Any]]) -> str:
    """Write the records as a table."""
    first = records[0]
    names = {
        "cube": f"{first['side']}^3, gray",
        "video": f"{first['frames']:,} frames of {WIDTH}x{HEIGHT}, RGB",
    }
    rows = [
        [
            names[r["signal"]],
            r["call"],
            number(r["seconds"]),
            number(r["count"] / r["seconds"] / 1e6),
            number(r["rise_bytes"] / 1e6),
            number(4 * r["values"] / 1e6),
        ]
        for r in records
    ]
    heads = ["signal", "call", "seconds", "million voxels or pixels/s", "rise of memory, MB", "float32 values kept, MB"]
    caption = (
        f"From uint8 to float32; levels {CUBE_LEVELS}, a 64th of the values, and {VIDEO_LEVELS}, a 32nd. Video goes "
        f"through the stream encoder and decoder, {CHUNK} frames at a time; its memory is that of {MEMORY_FRAMES} "
        f"frames, more of which take no more. Threads: {first['threads']}."
    )
    return f"## Volumes and video\n\n{caption}\n\n{markdown_table(heads, rows, text_columns=2)}"
