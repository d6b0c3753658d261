"""Find the setting of a lossy encoder whose file has a given number of bytes."""

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Coded:
    """A signal as a file.

    Attributes:
        content: The file.
        setting: Of the encoder: a quality or a compression level.
        seconds: What encoding took.
    """

    content: bytes
    setting: float
    seconds: float


def nearest_file(
    encode: Callable[[float], Coded],
    smallest: float,
    largest: float,
    size: int,
    *,
    integers: bool = False,
    tries: int = 8,
    tolerance: float = 0.01,
) -> Coded:
    """Find the setting whose file is nearest to ``size`` bytes; out of reach, the end of the range.

    The logarithm of the size is nearly linear in the setting within a short interval, so that a secant takes half as
    many encodings as halving the interval would. Limits keep the interval shrinking where it is not linear.

    Args:
        encode: Encodes with a setting.
        smallest: The setting whose file is smallest.
        largest: The setting whose file is largest.
        size: Bytes.
        integers: Settings are whole numbers.
        tries: Settings tried between the ends, at most.
        tolerance: The share of ``size`` that is near enough.
    """
    small, large = encode(smallest), encode(largest)
    tried = [small, large]
    for _ in range(tries):
        if not len(small.content) < size < len(large.content):
            break
        if integers and abs(large.setting - small.setting) <= 1:
            break
        logs = [math.log(len(coded.content) / size) for coded in (large, small)]
        share = min(0.9, max(0.1, logs[0] / (logs[0] - logs[1])))
        setting = large.setting + share * (small.setting - large.setting)
        if integers:
            low, high = sorted((int(small.setting), int(large.setting)))
            setting = min(high - 1, max(low + 1, round(setting)))
        coded = encode(setting)
        tried.append(coded)
        if len(coded.content) > size:
            large = coded
        else:
            small = coded
        if abs(len(coded.content) - size) <= tolerance * size:
            break
    return min(tried, key=lambda coded: abs(len(coded.content) - size))
