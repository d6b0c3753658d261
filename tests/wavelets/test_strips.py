"""The kernels of images one by one, against those of planes."""

import numpy as np
import pytest

from walloc_transforms.wavelets import kernels
from walloc_transforms.wavelets.strips import LANES, lift


@pytest.mark.parametrize("side", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("cells", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("apart", [LANES, 3 * LANES])
def test_vectors_are_lifted_as_planes_are(side: int, cells: int, apart: int) -> None:
    """But for rounding, which contraction to multiply-adds decides."""
    count = side * cells
    x = np.random.default_rng(0).standard_normal((count, apart)).astype(np.float32)
    ours = np.concatenate([np.full(5, np.nan, np.float32), x.ravel()])
    lift(ours, 5, apart, cells, side)
    result = ours[5:].reshape(count, apart)
    np.testing.assert_array_equal(result[:, LANES:], x[:, LANES:])
    planes = np.full((side, cells + 2, LANES), np.nan, np.float32)
    planes[:, 1:-1] = x[:, :LANES].reshape(cells, side, LANES).transpose(1, 0, 2)
    memory = np.concatenate([np.full(LANES, np.nan, np.float32), planes.ravel(), np.full(LANES, np.nan, np.float32)])
    kernels.lift(kernels.Stack(memory, LANES, planes[0].size, side), 1, cells, LANES, False)
    expected = memory[LANES:-LANES].reshape(planes.shape)[:, 1:-1].transpose(1, 0, 2).reshape(count, LANES)
    np.testing.assert_allclose(result[:, :LANES], expected, rtol=0, atol=2e-5)
