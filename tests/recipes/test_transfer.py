"""The recipe that tunes a trained network on another data set, made small."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torchvision.transforms import v2

import walloc_transforms as wt
from recipes import transfer
from recipes.common.inputs import make_input
from recipes.common.photographs import demo_photographs
from recipes.tuning.crops import Crops, central_crops, cut, random_boxes
from recipes.tuning.networks import ARMS, Shown, Starts, macs_of

SMALL: dict[str, Any] = {"epochs": 1, "seeds": 1, "batch_size": 4, "fit_images": 4, "distill_steps": 1}


def save_network(folder: Path, name: str, **options: Any) -> str:
    """Write a network of random weights for 64 pixels, as timm saves one, and name it."""
    model: Any = timm.create_model(name, **options)
    model.pretrained_cfg = {**model.pretrained_cfg, "input_size": (3, 64, 64), "test_input_size": None}
    timm.models.save_for_hf(model, str(folder), model_args=options)
    return f"local-dir:{folder}"


@pytest.fixture
def photos(tmp_path: Path) -> str:
    for name in ("rose", "tulip"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i, image in enumerate((demo_photographs() * 2)[:6]):
            image.resize((90 + i, 80)).save(tmp_path / "photos" / name / f"{i:02}.jpg")
    (tmp_path / "photos" / "rose" / "01.jpg").write_bytes(b"no image")
    return str(tmp_path / "photos")


def test_all_arms(photos: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = save_network(tmp_path / "net", "test_efficientnet")
    adapted: Any = wt.distill_stem(
        Starts(network, None).network, "rgb_16x", [torch.rand(3, 64, 64)] * 3, steps=1, batch_size=2, progress=False
    )
    wt.save_model(adapted, tmp_path / "adapted")
    arms = (*ARMS, "distilled_resolution_rgb_16x")
    out = tmp_path / "out"
    config = transfer.Config(
        data=photos, network=network, arms=arms, distilled=(tmp_path / "adapted",), output_dir=out, **SMALL
    )
    rows = {row["arm"]: row for row in transfer.main(config)}
    assert list(rows) == list(arms)
    for n in (4, 16):
        assert rows[f"small_{n}x"]["macs"] < rows["pixels"]["macs"] == rows[f"resized_{n}x"]["macs"]
        assert rows[f"distilled_rgb_{n}x"]["macs"] < rows["pixels"]["macs"] < rows[f"fitted_rgb_{n}x"]["macs"]
        assert {row["values"] for arm, row in rows.items() if arm.endswith(f"_{n}x")} == {3 * 64 * 64 // n}
    assert all(0 <= row["accuracy"] <= 100 and row["seeds"] == 1 for row in rows.values())
    assert (out / "table.md").read_text("utf-8").count("\n") == len(arms) + 2
    with (out / "table.csv").open() as text:
        assert [row["arm"] for row in csv.DictReader(text)] == list(arms)
    assert (out / "figure.png").is_file()
    losses = [json.loads((out / f"{arm}_seed0" / "result.json").read_text())["train_loss"] for arm in arms]
    assert len(set(losses)) == len(arms)

    monkeypatch.setattr(transfer, "train_classifier", lambda *_: pytest.fail("trained again"))
    config.resume = True
    assert [row["accuracy"] for row in transfer.main(config)] == [row["accuracy"] for row in rows.values()]
    config.fit_images += 1
    with pytest.raises(ValueError, match="holds a run with fit_images"):
        transfer.main(config)


def test_stored_latents(photos: str, tmp_path: Path) -> None:
    network = save_network(tmp_path / "net", "test_efficientnet")
    adapted: Any = wt.distill_stem(
        Starts(network, None).network, "rgb_16x", [torch.rand(3, 64, 64)] * 3, steps=1, batch_size=2, progress=False
    )
    wt.save_model(adapted, tmp_path / "adapted")
    wt.encode_dataset(photos, tmp_path / "stored", "rgb_16x", resize=72, crop=72, progress=False)
    arms = ("rgb_16x", "rgb_16x+refiner", "distilled_rgb_16x")
    options = {"data": str(tmp_path / "stored"), "network": network, "output_dir": tmp_path / "out", **SMALL}
    rows = transfer.main(transfer.Config(arms=arms, distilled=(tmp_path / "adapted",), **options))
    assert [(row["arm"], row["values"]) for row in rows] == [(arm, 12 * 64) for arm in arms]
    assert rows[2]["macs"] < rows[0]["macs"]
    assert len({row["train_loss"] for row in rows}) == len(arms)
    refused = {"pixels": "no pixels", "rgb_4x": "no pixels", "fitted_rgb_16x": "learns its stem from pixels"}
    for arm, message in {**refused, "distilled_rgb_16x": "learns its stem from pixels"}.items():
        with pytest.raises(ValueError, match=message):
            transfer.main(transfer.Config(arms=(arm,), **{**options, "output_dir": tmp_path / "refused"}))
    assert not (tmp_path / "refused").exists()


def test_decoded_as_from_pixels() -> None:
    """Encoded here or before: the network is shown the same."""
    codec = wt.load_codec("rgb_16x")
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    network: Any = timm.create_model("test_efficientnet").eval()
    shown = Shown(network, make_input("rgb_16x"))
    expected = shown(images)
    shown.read_latents()
    assert torch.equal(shown(codec.encode(images, rounding="round").to(torch.int8)), expected)


@pytest.mark.parametrize("arm", ["pixels", "small_4x", "dct_16x", "rgb_16x", "fitted_rgb_16x"])
def test_seeds_share_nothing(arm: str, tmp_path: Path) -> None:
    """Or else the network of one seed would take along what the next one is shown through."""
    starts = Starts(save_network(tmp_path / "net", "test_efficientnet"), None)
    pictures = [torch.rand(3, 64, 64) for _ in range(4)]
    start = starts.make(arm, pictures, fit_images=4, steps=1, device=torch.device("cpu"), show=False)
    first, second = start.model(2), start.model(2)
    assert not {*first.modules()} & {*second.modules()}
    macs = macs_of(first, 64)
    first.to("meta")  # as to a GPU
    assert macs_of(second, 64) == macs_of(start.model(2), 64) == macs


@pytest.mark.slow
def test_demo(tmp_path: Path) -> None:
    config = transfer.Config(
        demo_crops=(16, 8), arms=("pixels", "distilled_rgb_16x"), output_dir=tmp_path / "out", **SMALL
    )
    rows = transfer.main(config)
    assert [(row["arm"], row["values"]) for row in rows] == [("pixels", 49152), ("distilled_rgb_16x", 3072)]


def test_crops_are_those_of_torchvision() -> None:
    random = torch.Generator().manual_seed(0)
    pictures = [
        v2.functional.resize(torch.randint(0, 256, (3, 9, 9), dtype=torch.uint8), [h, w])
        for h, w in [(70, 50), (48, 48), (50, 90)] * 4
    ]
    sizes = torch.tensor([p.shape[1:] for p in pictures])
    boxes = random_boxes(sizes, random)
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= sizes).all()
    flips = torch.arange(12) % 2 == 0
    bicubic = v2.InterpolationMode.BICUBIC
    for got, picture, box, flip in zip(cut(pictures, boxes, 48, flips), pictures, boxes.tolist(), flips, strict=True):
        top, left, height, width = box
        expected = v2.functional.resized_crop(
            picture.float(), top, left, height, width, [48, 48], bicubic, antialias=True
        )
        expected = (expected.flip(-1) if flip else expected).round().clamp(0, 255)
        assert (got.float() - expected).abs().max() <= 1  # where a half is rounded otherwise
    centers = central_crops(pictures, 48)
    assert torch.equal(centers[1], pictures[1])


def test_crops_depend_on_the_epoch_and_on_no_network() -> None:
    crops = Crops([torch.randint(0, 256, (3, 40, 50), dtype=torch.uint8) for _ in range(3)], [0, 1, 0], 32)
    torch.manual_seed(1)
    first = crops[[2, 0]][0]
    torch.rand(7)  # as dropout draws
    assert torch.equal(crops[[2, 0]][0], first)
    torch.manual_seed(2)
    assert not torch.equal(crops[[2, 0]][0], first)


def test_errors(photos: str, tmp_path: Path) -> None:
    network = save_network(tmp_path / "net", "test_efficientnet")
    vit = save_network(tmp_path / "vit", "test_vit", img_size=64)
    uncut = save_network(tmp_path / "mixer", "test_mambaout" if timm.is_model("test_mambaout") else "test_byobnet")
    (tmp_path / "empty").mkdir()
    (tmp_path / "one" / "only").mkdir(parents=True)
    demo_photographs()[0].save(tmp_path / "one" / "only" / "0.jpg")
    wt.save_model(
        wt.replace_stem(Starts(vit, None).network, "rgb_16x"), tmp_path / "other", model_args={"img_size": 64}
    )
    wt.save_model(wt.replace_stem(Starts(network, None).network, "rgb_16x", match="entry"), tmp_path / "same")
    for options, message in [
        ({"data": str(tmp_path / "empty")}, "no image"),
        ({"data": str(tmp_path / "one")}, "one subfolder of images per class, found 1"),
        ({"network": "efficientnet_lite9"}, "no network 'efficientnet_lite9'"),
        ({"arms": ("nearest_4x",)}, "unknown arm 'nearest_4x'"),
        ({"arms": ("fitted_nearest",)}, "nearest"),
        ({"network": vit, "arms": ("small_3x",)}, "unknown arm"),
        ({"network": uncut, "arms": ("distilled_rgb_16x",)}, "supported"),
        ({"distilled": (tmp_path / "other",)}, "holds a test_vit: expected a test_efficientnet"),
        ({"distilled": (tmp_path / "same", tmp_path / "same")}, "same is the second model for rgb_16x by 'entry'"),
        ({"arms": ("fitted_rgb_16x_viewing+refiner",)}, "a stem reads latents, which no refiner has decoded"),
        ({"arms": ()}, "nothing to run"),
        ({"image_size": 16}, "image_size must be at least 32"),
    ]:
        settings: dict[str, Any] = {**SMALL, "data": photos, "network": network, "output_dir": tmp_path / "out"}
        with pytest.raises((ValueError, OSError), match=message):
            transfer.main(transfer.Config(**{**settings, **options}))
    assert not (tmp_path / "out").exists()
