"""Asymmetric numeral systems for the residuals of :mod:`walloc_transforms.files.contexts`, by constriction.

Every octave has a table: the residuals from ``-half`` to ``half``, distributed geometrically on both sides around zero,
and one escape for all others, which follow as plain numbers. High octaves share the table of octave 11: it codes the
upper bits of their residuals, and the lower bits follow as they are.

Tables are integers that add up to 2**24, which is constriction's own precision. As floats they are exact, so that no
machine rounds them differently.

The stream of a channel is its parameters, then constriction's 32-bit words, little endian, less the zero bytes at the
end.

This coder is worth its length (ans, contexts, prediction, sizes, interlacing) because no other comes near it: its files
are 3 to 7 % smaller than those of JPEG-LS, the next best (docs/coders.md, on Kodak). Only its contexts see the earlier
channels of a cell, without which the rate would be 2 to 5 % higher.
"""

import importlib
import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .contexts import ChannelReader, ChannelSymbols
from .sizes import OCTAVES, mean_size

__all__ = ["decode_channel", "encode_channel", "table"]

_ONE = 2**24
_OUTLIERS = 2**17  # residuals of int16 lie within +-2**16: moved by this half, they are positive


def _stream() -> Any:
    return importlib.import_module("constriction").stream


def _layout(octave: int) -> tuple[int, int, int]:
    """Return the octave whose table serves this one, half its width, and the bits that follow as they are."""
    shift = max(0, octave - 11)
    own = octave - shift
    mean, unit = mean_size(own)
    return own, min(512, max(8, 1 << (12 * mean // unit).bit_length())), shift


_HALVES = np.array([_layout(octave)[1] for octave in range(OCTAVES)], np.int32)
_SHIFTS = np.array([_layout(octave)[2] for octave in range(OCTAVES)], np.int32)


def table(octave: int) -> list[int]:
    """Compute an octave's frequencies of ``-half`` to ``half`` and of the escape, by integers alone."""
    own, half, _ = _layout(octave)
    mean, unit = mean_size(own)
    one = 1 << 40
    # P(r != 0) = q and P(|r| > k) = q ** (2 k + 1) have the mean q / (1 - q**2); q in 1 / one
    q = (math.isqrt((unit * unit + 4 * mean * mean) * one * one) - unit * one) // (2 * mean)
    ratio = q * q >> 40
    power, tail = q * (one - ratio) >> 41, []
    for _ in range(half):
        tail.append(max(power >> 16, 1))
        power = power * ratio >> 40
    escape = 1 << 9
    return [*tail[::-1], _ONE - 2 * sum(tail) - escape, *tail, escape]


@lru_cache(maxsize=OCTAVES)
def _model(octave: int) -> Any:
    return _stream().model.Categorical(np.array(table(octave), np.float64) / _ONE, perfect=False)


def _uniform(count: int) -> Any:
    return _stream().model.Uniform(count)


def encode_channel(channel: ChannelSymbols) -> bytes:
    """Encode a channel as :func:`~walloc_transforms.files.contexts.analyze` describes it."""
    residuals, runs = channel.residuals, channel.runs
    octaves, counts = np.array(runs, np.int32).T
    half, shift = np.repeat(_HALVES[octaves], counts), np.repeat(_SHIFTS[octaves], counts)
    symbols = (residuals >> shift) + half
    escaped = (symbols < 0) | (symbols > 2 * half)
    escapes = bool(escaped.any())
    symbols[escaped] = 2 * half[escaped] + 1
    coder = _stream().stack.AnsCoder()
    stop = len(residuals)
    for octave, count in reversed(runs):  # the decoder gets first what is coded last
        start = stop - count
        if escapes and (others := residuals[start:stop][escaped[start:stop]]).size:
            coder.encode_reverse(others + _OUTLIERS // 2, _uniform(_OUTLIERS))
        if bits := int(_SHIFTS[octave]):
            lower = residuals[start:stop][~escaped[start:stop]] & ((1 << bits) - 1)
            coder.encode_reverse(lower, _uniform(1 << bits))
        coder.encode_reverse(symbols[start:stop], _model(octave))
        stop = start
    return channel.parameters + coder.get_compressed().astype("<u4").tobytes().rstrip(b"\0")


def decode_channel(stream: bytes, reader: ChannelReader) -> NDArray:
    """Decode the next channel.

    Raises:
        ValueError: The stream is damaged.
    """
    begin = reader.parameters_length(stream)
    words = stream[begin:]
    if words.endswith(b"\0"):
        raise ValueError("damaged: the codes of a channel end in a zero")
    words += b"\0" * (-len(words) % 4)
    coder = _stream().stack.AnsCoder(np.frombuffer(words, "<u4").astype(np.uint32))

    def next_residuals(octave: int, count: int) -> NDArray[np.int32]:
        half, bits = int(_HALVES[octave]), int(_SHIFTS[octave])
        symbols = coder.decode(_model(octave), count)
        escaped = symbols > 2 * half
        residuals = symbols
        residuals -= half
        if bits:
            kept = ~escaped
            lower = coder.decode(_uniform(1 << bits), int(kept.sum()))
            residuals[kept] = residuals[kept] << bits | lower
        if escaped.any():
            residuals[escaped] = coder.decode(_uniform(_OUTLIERS), int(escaped.sum())) - _OUTLIERS // 2
        return residuals

    codes = reader.read(stream[:begin], next_residuals)
    if not coder.is_empty():
        raise ValueError("damaged: a channel holds more than its codes")
    return codes
