"""Asymmetric numeral systems for the residuals of :mod:`walloc_transforms.files.contexts`, by constriction.

A class's residuals are coded by a two-sided geometric distribution of the class's scale, as a table: residuals from
``-half`` to ``half``, then one symbol for all others, which follow as plain numbers. Of wide classes only the upper
bits are coded so, and the lower ones follow as they are. Tables are made of integers that add up to 2**24,
constriction's own precision: as floats they are exact, and it does nothing to them that could round differently on
another machine.

The stream of a channel is its parameters, then constriction's 32-bit words, little endian, less the zero bytes at the
end.
"""

import importlib
import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .contexts import CLASSES, ChannelSymbols, Reconstruction, scale

__all__ = ["decode_channel", "encode_channel", "table"]

_ONE = 2**24
_OUTLIERS = 2**17  # residuals of int16, by which they are moved to be positive


def _stream() -> Any:
    return importlib.import_module("constriction").stream


def _layout(index: int) -> tuple[int, int, int]:
    """Class whose table serves a class, half its width, and the bits that are coded as they are."""
    shift = max(0, index - 11)
    own = index - shift  # a class is an octave
    mean, unit = scale(own)
    return own, min(512, max(8, 1 << (12 * mean // unit).bit_length())), shift


_HALVES = np.array([_layout(index)[1] for index in range(CLASSES)], np.int32)
_SHIFTS = np.array([_layout(index)[2] for index in range(CLASSES)], np.int32)


def table(index: int) -> list[int]:
    """Frequencies of ``-half`` to ``half`` and of the escape for a class, which add up to 2**24; by integers alone."""
    own, half, _ = _layout(index)
    mean, unit = scale(own)
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


@lru_cache(maxsize=CLASSES)
def _model(index: int) -> Any:
    return _stream().model.Categorical(np.array(table(index), np.float64) / _ONE, perfect=False)


def _uniform(count: int) -> Any:
    return _stream().model.Uniform(count)


def encode_channel(channel: ChannelSymbols) -> bytes:
    """Encode what :func:`~walloc_transforms.files.contexts.analyze` says of a channel."""
    residuals, runs = channel.residuals, channel.runs
    classes, counts = np.array(runs, np.int32).T
    half, shift = np.repeat(_HALVES[classes], counts), np.repeat(_SHIFTS[classes], counts)
    symbols = (residuals >> shift) + half
    escaped = (symbols < 0) | (symbols > 2 * half)
    escapes = bool(escaped.any())
    symbols[escaped] = 2 * half[escaped] + 1
    coder = _stream().stack.AnsCoder()
    stop = len(residuals)
    for index, count in reversed(runs):  # what is coded last is decoded first
        start = stop - count
        if escapes and (others := residuals[start:stop][escaped[start:stop]]).size:
            coder.encode_reverse(others + _OUTLIERS // 2, _uniform(_OUTLIERS))
        if bits := int(_SHIFTS[index]):
            lower = residuals[start:stop][~escaped[start:stop]] & ((1 << bits) - 1)
            coder.encode_reverse(lower, _uniform(1 << bits))
        coder.encode_reverse(symbols[start:stop], _model(index))
        stop = start
    return channel.parameters + coder.get_compressed().astype("<u4").tobytes().rstrip(b"\0")


def decode_channel(stream: bytes, reconstruction: Reconstruction) -> NDArray:
    """Decode the next channel.

    Raises:
        ValueError: The stream is damaged.
    """
    begin = reconstruction.parameters(stream)
    words = stream[begin:]
    if words.endswith(b"\0"):
        raise ValueError("damaged: the codes of a channel end in a zero")
    words += b"\0" * (-len(words) % 4)
    coder = _stream().stack.AnsCoder(np.frombuffer(words, "<u4").astype(np.uint32))

    def read(index: int, count: int) -> NDArray[np.int32]:
        half, bits = int(_HALVES[index]), int(_SHIFTS[index])
        symbols = coder.decode(_model(index), count)
        escaped = symbols > 2 * half
        residuals = symbols - half
        if bits:
            kept = ~escaped
            lower = coder.decode(_uniform(1 << bits), int(kept.sum()))
            residuals[kept] = residuals[kept] << bits | lower
        if escaped.any():
            residuals[escaped] = coder.decode(_uniform(_OUTLIERS), int(escaped.sum())) - _OUTLIERS // 2
        return residuals

    codes = reconstruction.channel(stream[:begin], read)
    if not coder.is_empty():
        raise ValueError("damaged: a channel holds more than its codes")
    return codes
