"""What an encoder can give for signals in range: no less than its bounds promise, and no more."""

import pytest
import torch
from skimage import data
from torch import Tensor

import walloc_transforms as wt
from tests.wavelets.cases import CASES, projection
from walloc_transforms.wavelets import FoldedAnalysis, WaveletPacketAnalysis, analysis_bank, conv1x1


@pytest.mark.parametrize(("latents", "levels", "signals", "size"), CASES)
@pytest.mark.parametrize("wavelet", ["bior4.4", "haar", "db2"])
def test_bounds_are_attained_and_never_passed(
    latents: int, levels: int, signals: int, size: tuple[int, ...], wavelet: str
) -> None:
    dims = len(size)
    weight, bias = projection(latents, levels, signals, dims)
    fast = FoldedAnalysis(weight, bias, wavelet=wavelet, levels=(levels,) * dims)
    lo, hi = fast.projection_bounds()
    assert lo.shape == hi.shape == (latents,)
    assert lo.dtype == hi.dtype == torch.float32
    assert torch.equal(fast.projection_bounds(2)[1], hi[:2])
    # The sign pattern of a channel's own taps is the worst signal there is. It is found without the bound's
    # arithmetic: as the gradient of a latent in the middle of a signal that is longer than the filters.
    reach = analysis_bank(wavelet, levels).reach
    cells = max(-(-side // 2**levels) for side in reach)
    middle = (0, slice(None), *[cells] * dims)
    x = torch.zeros(1, signals, *[(2 * cells + 1) * 2**levels] * dims, dtype=torch.float64, requires_grad=True)
    z = conv1x1(WaveletPacketAnalysis(wavelet, levels, dims)(x), weight.double(), bias.double())[middle]
    for channel in {0, latents // 2, latents - 1}:
        (taps,) = torch.autograd.grad(z[channel], x, retain_graph=True)
        worst = (0.5 * taps.sign()).float()
        for signal, bound in ((worst, hi), (-worst, lo)):
            latent = fast(signal)[middle][channel]
            assert lo[channel] <= latent <= hi[channel]
            assert (latent - bound[channel]).abs() <= 1e-3 * (hi - lo)[channel]
    for signal in (torch.rand(2, signals, *size) - 0.5, torch.randint(0, 2, (2, signals, *size)) - 0.5):
        z = fast(signal).movedim(1, -1)
        assert (z >= lo).all()
        assert (z <= hi).all()


@pytest.mark.parametrize("name", ["rgb_16x", "rgb_4x"])
def test_bounds_of_codecs_tell_wrong_ranges(name: str) -> None:
    codec = wt.load_codec(name)
    c = codec.config
    analysis = FoldedAnalysis(codec.weight, codec.bias, wavelet=c.wavelet, levels=c.axis_levels)
    lo, hi = (bound.view(-1, 1, 1) for bound in analysis.projection_bounds())
    image = torch.from_numpy(data.astronaut()).movedim(-1, 0)[None].float() / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normalized = (image - mean.view(3, 1, 1)) / std.view(3, 1, 1)

    def outside(x: Tensor) -> bool:
        z = analysis(x, 1.0, -0.5)
        return bool(((z < lo) | (z > hi)).any())

    assert not outside(image)
    assert not outside(1 - image)
    assert not outside((image > 0.5).float())
    assert outside(image * 255)
    assert outside(normalized)
