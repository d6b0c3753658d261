"""Bjontegaard's difference of two rate-distortion curves, as a percentage of rate.

G. Bjontegaard, "Calculation of average PSNR differences between RD-curves", VCEG-M33, 2001: the mean, over the range of
qualities that both curves have, of the difference between their logarithmic rates. He fits one cubic to four points.
Here the logarithmic rate is interpolated between points piecewise by cubics that keep it monotone (pchip), as the
later test conditions of the video experts do: it goes through any number of points and does not swing between them.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy.interpolate import PchipInterpolator

Curve = Sequence[tuple[float, float]]
"""Points: bits per pixel, and quality in dB."""


def bd_rate(anchor: Curve, curve: Curve) -> float:
    """Return how much more rate a curve needs than the anchor for the same quality, in percent; negative is better.

    NaN where a curve has fewer than two qualities, or no range of qualities is in both.
    """
    curves = [_unique(points) for points in (anchor, curve)]
    if min(map(len, curves)) < 2:
        return math.nan
    low, high = max(points[0][0] for points in curves), min(points[-1][0] for points in curves)
    if low >= high:
        return math.nan
    areas = [float(PchipInterpolator(*np.array(points).T).integrate(low, high)) for points in curves]
    return 100 * math.expm1((areas[1] - areas[0]) / (high - low))


def _unique(curve: Curve) -> list[tuple[float, float]]:
    """Sort by quality: pairs of quality and logarithmic rate; of one quality the lowest rate is kept."""
    lowest: dict[float, float] = {}
    for rate, quality in curve:
        if math.isfinite(quality):
            lowest[quality] = min(lowest.get(quality, math.inf), math.log(rate))
    return sorted(lowest.items())
