"""Every recipe leaves the results of other runs alone, even if only its data tell that it cannot run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from recipes import (
    benchmark,
    classification,
    colorization,
    evaluate_codec,
    evaluate_coders,
    learned_codec,
    pretrained,
    reading,
    resolution_scaling,
    source_separation,
    train_codec,
    transfer,
)

TYPO = "typo_here"


@dataclass
class Case:
    """A recipe that cannot run, as it finds out when it opens its data; the benchmark has none but codecs."""

    recipe: Any
    options: dict[str, Any]
    settings: str = "config.yaml"

    @property
    def name(self) -> str:
        return self.recipe.__name__.split(".")[-1]


CASES = [
    Case(classification, {"data": TYPO}),
    Case(colorization, {"data": TYPO, "arms": ("dct_16x",)}),
    Case(source_separation, {"data": TYPO, "arms": ("stft",)}),
    Case(transfer, {"data": TYPO}),
    Case(pretrained, {"data": TYPO}),
    Case(reading, {"data": TYPO, "arms": ("pixels",)}),
    Case(resolution_scaling, {"data": TYPO, "arms": ("resize_16x",)}),
    Case(learned_codec, {"data": TYPO}),
    Case(train_codec, {"data": (TYPO,)}, "training.yaml"),
    Case(evaluate_codec, {"data": TYPO, "codecs": ("rgb_16x",)}),
    Case(evaluate_coders, {"data": TYPO}),
    Case(benchmark, {"codecs": (TYPO,)}),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_results_stay(case: Case, tmp_path: Path) -> None:
    for name in ("result.json", "results.json", "checkpoint.pt", "table.md", "weights.safetensors"):
        (tmp_path / name).write_text("precious")
    for recipe in (case.name, "another recipe"):
        (tmp_path / case.settings).write_text(yaml.safe_dump({"recipe": recipe}))
        before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
        for overwrite in (False, True):
            config = case.recipe.Config(**case.options, output_dir=tmp_path, overwrite=overwrite)
            with pytest.raises((ValueError, OSError), match=r"holds a run of|typo_here"):
                case.recipe.main(config)
            assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_default_folders_are_of_a_run(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert case.recipe.Config().output_dir == Path("runs") / case.name / "TIME"
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, OSError), match=TYPO):
        case.recipe.main(case.recipe.Config(**case.options))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("recipe", "options", "message"),
    [
        (classification, {"epochs": 0}, "epochs must be at least 1, got 0"),
        (classification, {"batch_size": -1}, "batch_size must be at least 1, got -1"),
        (classification, {"demo_crops": (0, 0)}, r"demo_crops must be at least 1, got \(0, 0\)"),
        (classification, {"lr": float("nan")}, "lr must be above 0 and finite, got nan"),
        (classification, {"image_size": 64}, "the demo's crops are 128 pixels, got image_size=64"),
        (resolution_scaling, {"epochs": 0}, "epochs must be at least 1, got 0"),
        (transfer, {"batch_size": 0}, "batch_size must be at least 1, got 0"),
        (colorization, {"workers": -1}, "workers must be at least 0, got -1"),
        (source_separation, {"lr": 0.0}, "lr must be above 0 and finite, got 0"),
        (train_codec, {"channels": 0}, "channels must be at least 1, got 0"),
        (evaluate_coders, {"repeats": 0}, "repeats must be at least 1, got 0"),
        (benchmark, {"threads": (0,)}, r"threads must be at least 1, got \(0,\)"),
    ],
)
def test_settings_out_of_range(recipe: Any, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        recipe.main(recipe.Config(**options, output_dir=tmp_path / "out"))
    assert not (tmp_path / "out").exists()
