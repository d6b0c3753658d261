"""What others report: points of rate and PSNR on the Kodak images, and what wavelets brought WeConvene.

None of it was measured here. WeConvene's points are the table of its README (github.com/fengyurenpingsheng/WeConvene,
2025), those of VTM, the reference encoder of H.266, the file `results/image/kodak/vtm.json` of CompressAI
(github.com/InterDigitalInc/CompressAI, BSD-3-Clause-Clear), rounded. Someone else's run of WeConvene's weights needed
12 % more rate than its README says (github.com/Yiozolm/Learned-Image-Compression).
"""

from collections.abc import Iterable
from pathlib import Path

KODAK = {
    "WeConvene (theirs)": (
        (0.163, 30.07),
        (0.203, 30.88),
        (0.309, 32.53),
        (0.452, 34.29),
        (0.637, 36.04),
        (0.897, 37.96),
    ),
    "VTM (CompressAI's)": (
        (0.04824, 26.145),
        (0.11250, 28.493),
        (0.24582, 31.200),
        (0.49055, 34.262),
        (0.87481, 37.420),
        (1.43085, 40.424),
        (2.32461, 43.506),
        (3.63261, 46.592),
    ),
}
"""Bits per pixel and PSNR in dB, means over the 24 images."""

CLAIMS = {"plain": -0.4, "weconv_haar": -4.7, "both_haar": -8.2}
"""BD-rates against VTM on Kodak in percent, from the abstract of WeConvene's paper (arXiv, later version), by the arms
of ``recipes.learned_codec --mode compare`` that come nearest: theirs are large networks, trained long."""


def are_kodak(names: Iterable[str]) -> bool:
    """Whether images are the 24 of Kodak, by their names: of no others do the published points hold."""
    return {Path(name).stem for name in names} == {f"kodim{i:02}" for i in range(1, 25)}
