"""Learned codecs: what is minimized and measured, resuming, reports worked out by hand, and the recipe made small."""

import csv
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import walloc_transforms as wt
from recipes import learned_codec
from recipes.common.crops import Crops, Photograph
from recipes.common.ranks import Ranks
from recipes.common.runs import Run
from recipes.learned_codec import Config
from recipes.learning import comparison
from recipes.learning.measuring import measure
from recipes.learning.training import BothAdams, Objective, Training, scale_latents, train
from recipes.learning.variants import ARMS, build, options_of

ALONE = Ranks(0, 1, torch.device("cpu"))
MINUTE = {"n": 4, "m": 8, "slices": 2, "blocks": 0}


@pytest.fixture(autouse=True)
def minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let there be a preset that is trained in no time."""
    monkeypatch.setitem(wt.weconvene.PRESETS, "minute", MINUTE)


def picture(seed: int, height: int = 80, width: int = 96) -> Tensor:
    """Smooth colors, uint8."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
    return torch.from_numpy(smooth.copy()).permute(2, 0, 1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six photographs; the first and the last are tests."""
    (tmp_path / "photos").mkdir()
    for i in range(6):
        Image.fromarray(picture(i).permute(1, 2, 0).numpy()).save(tmp_path / "photos" / f"{i}.png")
    return tmp_path / "photos"


def settings(**changes: Any) -> Training:
    return Training(**{"steps": 2, "batch_size": 2, "crop": 64, "checkpoint_every": 1, **changes})


# what is minimized


def test_the_objective_is_rate_and_distortion() -> None:
    model = build("minute", {}, 0).eval()  # whose likelihoods have no noise
    image = picture(0, 64, 64)[None]
    main, auxiliary = Objective(model, 0.01)(image)
    with torch.no_grad():
        given = model(image / 255)
    bits = -sum(float(likelihood.double().log2().sum()) for likelihood in given["likelihoods"].values())
    error = float((given["x_hat"] * 255 - image).double().square().mean())
    assert float(main.detach()) == pytest.approx(bits / 64**2 + 0.01 * error, rel=1e-4)
    assert float(auxiliary.detach()) == pytest.approx(float(model.auxiliary_loss().detach()))


def test_quantiles_have_an_optimizer_of_their_own() -> None:
    """Their large gradients do not shrink the steps of the others, whose own are clipped together."""
    model = build("minute", {}, 0)
    optimizer = BothAdams(model, 1e-3, 1e-2, clip=1.0)
    main, quantiles = (group["params"] for group in optimizer.param_groups)
    assert [p.shape for p in quantiles] == [model.prior.quantiles.shape]
    assert len(main) + 1 == len([*model.parameters()])
    for parameter in main:
        parameter.grad = torch.full_like(parameter, 3.0)
    quantiles[0].grad = torch.full_like(quantiles[0], 1000.0)
    before = quantiles[0].detach().clone()
    optimizer.step()
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in main if p.grad is not None))
    assert norm == pytest.approx(1, rel=1e-3)
    assert float(quantiles[0].grad.mean()) == 1000
    assert torch.allclose(before - quantiles[0].detach(), torch.tensor(1e-2), rtol=1e-3)


@torch.no_grad()
def test_latents_are_scaled_and_decoded_as_before() -> None:
    model, crops = build("minute", {}, 0), Crops([Photograph("a", lambda: None, picture(0))], 64, 0)
    x = torch.stack([crops[i] for i in range(8)]) / 255
    before = model.synthesis(model.analysis(x))
    scale_latents(model, crops)
    assert float(model.analysis(x).std()) == pytest.approx(2, rel=1e-4)
    assert torch.allclose(model.synthesis(model.analysis(x)), before, rtol=1e-3, atol=1e-5)


def test_an_interrupted_training_ends_the_same(tmp_path: Path) -> None:
    crops = Crops([Photograph("a", lambda: None, picture(0))], 64, 0)

    def trained(name: str, stop: int, resume: bool) -> dict[str, Tensor]:
        (tmp_path / name).mkdir(exist_ok=True)
        model = build("minute", {}, 0)
        measured: list[int] = []

        def validate(_: object) -> dict[str, float]:
            measured.append(0)
            if len(measured) == stop:
                raise KeyboardInterrupt
            return {}

        train(model, 0.01, crops, settings(steps=3, schedule="steps"), Run(tmp_path / name, ALONE, resume), validate)
        return dict(model.named_parameters())

    whole = trained("whole", 0, False)
    with pytest.raises(KeyboardInterrupt):
        trained("parts", 2, False)
    again = trained("parts", 0, True)
    assert all(torch.equal(again[name], whole[name]) for name in whole)
    state = torch.load(tmp_path / "whole" / "checkpoint.pt", weights_only=True)
    rates = [group["lr"] for group in state["optimizer"]["param_groups"]]
    assert rates == pytest.approx([1e-5, 1e-4])  # a hundredth
    assert (tmp_path / "parts" / "metrics.jsonl").read_text().count("\n") == 3


# what is measured


def test_padding_is_counted_by_the_pixels_of_the_image() -> None:
    """Of 70x50 pixels 128x64 are coded."""
    model = build("minute", {}, 0).eval()
    image = picture(0, 70, 50)
    record, decoded = measure(model, image, real=True)
    given = model(image[None] / 255)
    bits = -sum(float(likelihood.detach().double().log2().sum()) for likelihood in given["likelihoods"].values())
    assert given["likelihoods"]["hyper"].shape[-2:] == (2, 1)
    assert record["bpp_estimated"] == pytest.approx(bits / (70 * 50), rel=1e-4)
    whole = sum(len(stream) for stream in model.compress(image[None] / 255)[0].streams) * 8 / (70 * 50)
    assert whole < record["bpp"] < whole + 100 * 8 / (70 * 50)  # the header
    assert decoded.shape == image.shape
    assert record["psnr_file"] == pytest.approx(record["psnr"], abs=0.3)
    assert "bpp" not in measure(model, image, real=False)[0]


def test_reports_worked_out_by_hand() -> None:
    """An arm that takes 10 % less with one seed and 30 % less with the other takes 20 % less, give or take 14."""
    points = [(0.1, 28.0), (0.2, 30.0), (0.4, 32.0)]
    runs = [
        {"arm": arm, "seed": seed, "lmbda": i, "bpp_estimated": rate * share, "psnr": quality, "parameters": 7}
        for seed, shares in enumerate(((1, 0.9), (1, 0.7)))
        for arm, share in zip(("plain", "both_haar"), shares, strict=True)
        for i, (rate, quality) in enumerate(points)
    ]
    plain, both = comparison.summarize(runs, "plain")
    assert plain["bd_rate"] == pytest.approx(0)
    assert (both["bd_rate"], both["bd_rate sd"]) == pytest.approx((-20, 200**0.5))
    assert (both["seeds"], both["parameters"], both["claim"]) == (2, 7, -8.2)
    assert math.isnan(comparison.summarize(runs, "none")[0]["bd_rate"])


# the recipe


def small(tmp_path: Path, folder: Path, **changes: Any) -> Config:
    given = {"data": str(folder), "preset": "minute", "training": settings(), "formats": ("JPEG",), "sheet_images": 1}
    return Config(**{**given, "output_dir": tmp_path / "run", **changes})


@pytest.mark.slow
def test_train_and_evaluate(tmp_path: Path, folder: Path) -> None:
    rows = learned_codec.main(small(tmp_path, folder))
    run = tmp_path / "run"
    assert (rows[0]["images"], rows[0]["files"]) == (2, 1)
    for name in ("table.md", "table.csv", "images.csv", "rates.csv", "rd.png", "sheet.png", "config.yaml"):
        assert (run / name).stat().st_size > 0
    log = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in log] == [1, 2]
    assert log[-1]["psnr"] == pytest.approx(rows[0]["psnr"])
    resumed = learned_codec.main(small(tmp_path, folder, resume=True))
    assert resumed[0]["bpp_estimated"] == pytest.approx(rows[0]["bpp_estimated"])
    evaluated = learned_codec.main(
        small(
            tmp_path,
            folder,
            mode="evaluate",
            real=True,
            checkpoint=(run / "model",),
            test=str(folder),
            output_dir=tmp_path / "evaluated",
        )
    )
    assert (evaluated[0]["checkpoint"], evaluated[0]["images"], evaluated[0]["files"]) == ("run", 6, 6)
    assert evaluated[0]["rate"] == evaluated[0]["bpp"]


def test_names_of_checkpoints_leave_out_what_all_share(tmp_path: Path) -> None:
    runs = [tmp_path / f"both_haar_lambda{value}_seed0" / "model" for value in (0.1, 0.2)]
    wt.weconvene.save(build("tiny", options_of("both_haar"), 0).eval(), runs[0])
    shutil.copytree(runs[0], runs[1])
    assert [*learned_codec.load_models(runs)] == ["lambda0.1", "lambda0.2"]
    assert [*learned_codec.load_models(runs[:1])] == ["both_haar_lambda0.1_seed0"]


@pytest.mark.slow
def test_compare(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {
        "mode": "compare",
        "arms": ("plain", "both_bior2.2"),
        "lambdas": (0.01, 0.02),
        "seeds": 1,
        "shared_steps": 1,
        "repeats": 1,
        "training": settings(steps=1),
    }
    table = learned_codec.main(small(tmp_path, folder, **options))
    assert [row["arm"] for row in table] == ["plain", "both_bior2.2"]
    assert table[1]["kmacs"] > 0
    assert table[1]["encode_mps"] > 0
    run = tmp_path / "run"
    assert (run / "figure.png").stat().st_size > 0
    with (run / "runs.csv").open() as file:
        rows = [*csv.DictReader(file)]
    assert [(row["arm"], row["lmbda"]) for row in rows] == [(a, b) for b in ("0.01", "0.02") for a in options["arms"]]
    assert sorted(p.name for p in run.glob("plain_*")) == [
        "plain_begun_seed0",
        "plain_lambda0.01_seed0",
        "plain_lambda0.02_seed0",
    ]
    monkeypatch.setattr(learned_codec, "train", None)  # nothing is trained again
    again = learned_codec.main(small(tmp_path, folder, **options, resume=True))
    assert [row["bd_rate"] for row in again] == pytest.approx([row["bd_rate"] for row in table], nan_ok=True)
    assert "| `both_bior2.2` | 1 |" in (run / "table.md").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preset": "huge"}, "huge"),
        ({"mode": "evaluate"}, "--mode evaluate needs a --checkpoint"),
        ({"checkpoint": (Path("a"),)}, "no other mode takes one"),
        ({"training": settings(crop=100)}, "crop must be a multiple of 64 from 64 on, got 100"),
        ({"training": settings(crop=128)}, "none of 4 training images is at least 128x128"),
        ({"mode": "compare", "arms": ("plain", "fourier_haar")}, "unknown arm 'fourier_haar'"),
        ({"mode": "compare", "lambdas": (0.0,)}, "lambdas must be above 0"),
        ({"formats": ("GIF",)}, "unknown format 'GIF'"),
    ],
)
def test_what_cannot_be_run(changes: dict[str, Any], message: str, tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ValueError, match=message):
        learned_codec.main(small(tmp_path, folder, **changes))
    assert not (tmp_path / "run").exists()


def test_arms() -> None:
    made = {arm: build("minute", options_of(arm), 0) for arm in ARMS}
    assert len({(m.config["weconv"], m.config["wecharm"], m.config["wavelet"]) for m in made.values()}) == 6
    assert made["plain"].config | {"weconv": True, "wecharm": True} == made["both_haar"].config
