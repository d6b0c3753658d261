"""The bound by learned densities: causal, a density of integers, and an arm of the recipe."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from recipes import evaluate_coders
from recipes.evaluation.learned_density import LearnedDensity, look, passes


@pytest.fixture(scope="module")
def densities() -> LearnedDensity:
    random = np.random.default_rng(0)
    codes = random.laplace(0, 1, (5, 40, 40)) * np.geomspace(20, 0.5, 5)[:, None, None]
    return LearnedDensity([torch.from_numpy(codes.round().clip(-128, 127).astype(np.int8))], 8)


@pytest.mark.parametrize("channel", [1, 4])
def test_no_cell_sees_itself_or_what_is_coded_later(densities: LearnedDensity, channel: int) -> None:
    codes = np.random.default_rng(1).integers(-20, 20, (1, 5, 13, 18)).astype(np.int8)
    seen, cells = look(codes), np.arange(13 * 18).reshape(13, 18)
    before = [densities.bits_of(seen, channel, own) for own in passes(channel)]
    places = []
    for own in passes(channel):
        level = cells[:: own.step, :: own.step]
        parts = [level[top :: own.stride, left :: own.stride].ravel() for top, left in own.places]
        places.append(np.concatenate(parts))
    assert sorted(np.concatenate(places).tolist()) == [*range(cells.size)]
    for cell in range(cells.size):
        changed = codes.copy()
        changed[0, channel].reshape(-1)[cell] += 9
        changed[0, channel + 1 :] = 3
        seen = look(changed)
        for own, place, old in zip(passes(channel), places, before, strict=True):
            others = place != cell
            np.testing.assert_array_equal(densities.bits_of(seen, channel, own)[others], old[others])
            if not others.all():
                break


def test_chances_add_up_to_one(densities: LearnedDensity) -> None:
    np.testing.assert_allclose((2**-densities.costs).sum(2), 1)


def test_the_recipe_estimates(tmp_path: Path) -> None:
    random = torch.Generator().manual_seed(0)
    for name in ("seen", "held"):
        (tmp_path / name).mkdir()
        small = torch.randint(0, 256, (33, 33, 3), dtype=torch.uint8, generator=random)
        Image.fromarray(small.numpy()).resize((264, 256), Image.Resampling.BICUBIC).save(tmp_path / name / "a.png")
    held, seen = str(tmp_path / "held"), str(tmp_path / "seen")
    config = evaluate_coders.Config(
        data=held,
        codecs=("rgb_16x",),
        coders=("zlib",),
        crop=0,
        repeats=1,
        learn=seen,
        learn_crops=4,
        output_dir=tmp_path / "out",
    )
    results = evaluate_coders.main(config)
    (learned,), (zlib,) = results["learned"], results["summary"]
    assert 0.3 * zlib["bpp"] < learned["bpp"] < zlib["bpp"]
    assert "Learned densities" in (tmp_path / "out/table.md").read_text()
    config.learn, config.overwrite = f"{seen}/../held", True
    with pytest.raises(ValueError, match=r"1 images are in both .* expected others to learn from"):
        evaluate_coders.main(config)
