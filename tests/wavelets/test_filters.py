import itertools

import numpy as np
import pytest
import pywt

from walloc_transforms.wavelets import filters
from walloc_transforms.wavelets.filters import (
    FilterBank,
    analysis_bank,
    analysis_taps,
    band_frequencies,
    band_positions,
    check_filters,
    synthesis_bank,
    synthesis_taps,
)

WAVELETS = ["haar", "db2", "bior4.4", "bior2.2", "sym4"]
# The table of the reference (CDF 9/7): low-pass around sample 2k, high-pass around 2k + 1.
CDF_LOW = [
    0.037828455507,
    -0.023849465020,
    -0.110624404418,
    0.377402855613,
    0.852698679009,
    0.377402855613,
    -0.110624404418,
    -0.023849465020,
    0.037828455507,
]
CDF_HIGH = [
    -0.064538882629,
    0.040689417609,
    0.418092273222,
    -0.788485616406,
    0.418092273222,
    0.040689417609,
    -0.064538882629,
]


def by_position(taps: np.ndarray, start: int) -> dict[int, float]:
    return {start + i: float(tap) for i, tap in enumerate(taps) if tap != 0}


def pywt_split(x: np.ndarray, wavelet: str, levels: int) -> np.ndarray:
    """``(..., n)`` to ``(..., bands, n / 2**levels)``, one level after the other."""
    bands = [x]
    for _ in range(levels):
        bands = [half for band in bands for half in pywt.dwt(band, wavelet, mode="periodization", axis=-1)]
    return np.stack(bands, -2)


def pywt_merge(packets: np.ndarray, wavelet: str, levels: int) -> np.ndarray:
    bands = list(np.moveaxis(packets, -2, 0))
    for _ in range(levels):
        pairs = zip(bands[::2], bands[1::2], strict=True)
        bands = [pywt.idwt(low, high, wavelet, mode="periodization", axis=-1) for low, high in pairs]
    return bands[0]


def as_matrix(bank: FilterBank, cells: int) -> np.ndarray:
    """Entry ``(b, k, i)``: weight of sample i of a periodic signal of ``cells * stride`` samples in ``c[b, k]``."""
    matrix = np.zeros((len(bank.filters), cells, cells * bank.stride))
    for k, t in itertools.product(range(cells), range(bank.filters.shape[1])):
        matrix[:, k, (k * bank.stride + bank.start + t) % matrix.shape[-1]] += bank.filters[:, t]
    return matrix


@pytest.mark.parametrize("wavelet", WAVELETS)
def test_taps_are_those_of_pywavelets(wavelet: str) -> None:
    library = pywt.Wavelet(wavelet)  # pyright: ignore[reportAttributeAccessIssue]
    half = library.dec_len // 2
    for row, (dec, rec) in enumerate([(library.dec_lo, library.rec_lo), (library.dec_hi, library.rec_hi)]):
        taps = analysis_taps(wavelet)
        assert by_position(taps.values[row], taps.start) == {half - m: v for m, v in enumerate(dec) if v != 0}
        taps = synthesis_taps(wavelet)
        assert by_position(taps.values[row], taps.start) == {m - half + 1: v for m, v in enumerate(rec) if v != 0}


def test_default_wavelet_has_the_taps_of_the_reference() -> None:
    taps = analysis_taps("bior4.4")
    low, high = (by_position(row, taps.start) for row in taps.values)
    assert sorted(low) == list(range(-4, 5))
    assert sorted(high) == list(range(-2, 5))
    np.testing.assert_allclose([low[t] for t in sorted(low)], CDF_LOW, atol=1e-11)
    np.testing.assert_allclose([high[t] for t in sorted(high)], CDF_HIGH, atol=1e-11)


@pytest.mark.parametrize("wavelet", WAVELETS)
@pytest.mark.parametrize("taps", [analysis_taps, synthesis_taps])
def test_taps_are_trimmed_float64(wavelet: str, taps) -> None:
    values = taps(wavelet).values
    assert values.dtype == np.float64
    assert values.shape[0] == 2
    assert values[:, 0].any()
    assert values[:, -1].any()


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
@pytest.mark.parametrize("wavelet", WAVELETS)
def test_banks_equal_pywavelets_on_every_impulse(wavelet: str, levels: int) -> None:
    cells = 10  # of 2**levels samples: more than any of these filters, so that taps do not overlap themselves
    impulses = np.eye(cells * 2**levels)
    analysis, synthesis = (as_matrix(bank(wavelet, levels), cells) for bank in (analysis_bank, synthesis_bank))
    np.testing.assert_allclose(np.moveaxis(analysis, -1, 0), pywt_split(impulses, wavelet, levels), atol=1e-10)
    packets = np.eye(analysis[..., 0].size).reshape(-1, 2**levels, cells)
    np.testing.assert_allclose(synthesis.reshape(len(packets), -1), pywt_merge(packets, wavelet, levels), atol=1e-10)


@pytest.mark.parametrize("wavelet", WAVELETS)
@pytest.mark.parametrize(("levels", "cells"), [(1, 1), (3, 1), (3, 2), (4, 1), (5, 3), (8, 1)])
def test_banks_reconstruct_random_signals_shorter_than_the_filters(wavelet: str, levels: int, cells: int) -> None:
    x = np.random.default_rng(0).standard_normal(cells * 2**levels)
    packets = np.einsum("bki,i->bk", as_matrix(analysis_bank(wavelet, levels), cells), x)
    back = np.einsum("bki,bk->i", as_matrix(synthesis_bank(wavelet, levels), cells), packets)
    np.testing.assert_allclose(packets, pywt_split(x, wavelet, levels), atol=1e-10)
    np.testing.assert_allclose(back, x, atol=1e-9)


@pytest.mark.parametrize(
    ("wavelet", "levels", "taps", "start"),
    [("bior4.4", 1, 9, -4), ("bior4.4", 3, 57, -28), ("bior4.4", 4, 121, -60), ("haar", 3, 8, 0), ("haar", 1, 2, 0)],
)
def test_size_of_analysis_banks(wavelet: str, levels: int, taps: int, start: int) -> None:
    bank = analysis_bank(wavelet, levels)
    assert bank.filters.shape == (2**levels, taps)
    assert bank.filters.dtype == np.float64
    assert (bank.start, bank.stride) == (start, 2**levels)
    assert bank.reach == (-start, start + taps - 2**levels)


def test_every_band_but_the_first_rejects_a_constant() -> None:
    sums = analysis_bank("bior4.4", 3).filters.sum(1)
    np.testing.assert_allclose(sums, [8**0.5, *[0] * 7], atol=1e-10)


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_band_positions_in_two_dimensions(levels: int) -> None:
    positions = band_positions((levels, levels))
    assert positions.shape == (2, 4**levels)
    for digits in itertools.product(range(4), repeat=levels):
        channel = sum(f * 4 ** (levels - j) for j, f in enumerate(digits, start=1))
        along_height = sum(f % 2 * 2 ** (levels - j) for j, f in enumerate(digits, start=1))
        along_width = sum(f // 2 * 2 ** (levels - j) for j, f in enumerate(digits, start=1))
        assert tuple(positions[:, channel]) == (along_height, along_width)


@pytest.mark.parametrize("levels", [1, 3, 8])
def test_band_positions_in_one_dimension(levels: int) -> None:
    np.testing.assert_array_equal(band_positions((levels,)), np.arange(2**levels)[None])


@pytest.mark.parametrize("wavelet", ["nope", "", "morl", "bior4.5"])
@pytest.mark.parametrize("function", [analysis_taps, synthesis_taps])
def test_unknown_wavelet(wavelet: str, function) -> None:
    with pytest.raises(ValueError, match=f"unknown wavelet '{wavelet}'.*'bior4.4'"):
        function(wavelet)


@pytest.mark.parametrize("function", [analysis_bank, synthesis_bank])
def test_levels_below_one(function) -> None:
    assert (function("bior4.4", 0).filters.tolist(), function("bior4.4", 0).stride) == ([[1.0]], 1)
    with pytest.raises(ValueError, match="at least 0, got -1"):
        function("bior4.4", -1)


@pytest.mark.parametrize(
    ("wavelet", "levels", "dims", "signals"), [("bior4.4", 10, 1, 1), ("db38", 9, 1, 1), ("bior4.4", 8, 2, 3)]
)
def test_filters_that_would_be_too_large(wavelet: str, levels: int, dims: int, signals: int) -> None:
    check_filters(wavelet, [levels - 1] * dims, signals)
    with pytest.raises(ValueError, match=rf"{levels} levels of '{wavelet}'.* taps.*at most 8,388,608 .*MAX_TAPS"):
        check_filters(wavelet, [levels] * dims, signals)


def test_limit_may_be_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="MAX_TAPS"):
        analysis_bank("haar", 12)
    monkeypatch.setattr(filters, "MAX_TAPS", 1 << 24)
    assert analysis_bank("haar", 12).filters.shape == (4096, 4096)


@pytest.mark.parametrize("levels", [1, 3, 5])
def test_band_frequencies(levels: int) -> None:
    """PyWavelets lists the nodes of a packet tree in order of frequency, by their paths."""
    tree = pywt.WaveletPacket(np.zeros(2**levels * 20), "bior4.4", "periodization", levels)
    paths = [node.path for node in tree.get_level(levels, "freq")]
    natural = [int(path.replace("a", "0").replace("d", "1"), 2) for path in paths]
    assert band_frequencies((levels,))[0, natural].tolist() == list(range(2**levels))
    along_height, along_width = band_positions((levels, levels))
    expected = band_frequencies((levels,))[0]
    assert np.array_equal(band_frequencies((levels, levels)), [expected[along_height], expected[along_width]])
