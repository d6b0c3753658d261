"""Colorization: arms, data, network, scores, training that resumes, and the whole recipe made small."""

import csv
import itertools
import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
import yaml
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import rgb_to_grayscale, to_pil_image

import walloc_transforms as wt
from recipes import colorization
from recipes.color.arms import COLOR_ARMS, Cosines, gray, keep_luma, luma, make_color_arm
from recipes.color.network import Colorizer, color, loss_of, macs_per_image, spans
from recipes.color.scores import SCORES, ColorOfBrightness, markdown, score
from recipes.color.sheet import draw_sheet
from recipes.common.arms import ARMS, values_per_token
from recipes.common.crops import Crops, Photograph, load_photographs
from recipes.common.photographs import demo_photographs
from recipes.common.quality import Networks
from recipes.common.ranks import Ranks
from recipes.common.runs import Run
from recipes.common.tables import mean_over_seeds

ROOT = Path(__file__).parents[2]
VIT = "vit_tiny_patch16_224"
SMALL: dict[str, Any] = {"embed_dim": 24, "depth": 1, "num_heads": 2}


def pixels_of(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


@pytest.fixture(scope="module")
def photographs() -> list[Photograph]:
    """Three small ones."""
    sizes = [(0, 64), (1, 80), (2, 96)]
    small = [pixels_of(demo_photographs()[i].resize((side + 10, side))) for i, side in sizes]
    return [Photograph(f"p{i}", lambda: None, pixels) for i, pixels in enumerate(small)]


@pytest.fixture(scope="module")
def images(photographs: list[Photograph]) -> Tensor:
    return Crops(photographs, 64, 5).batch(0, 4)


def build(arm: str, trunk: str = VIT, **options: Any) -> Colorizer:
    torch.manual_seed(0)
    return Colorizer(make_color_arm(arm), trunk, 4, {**SMALL, **options} if trunk == VIT else options)


# arms


@pytest.mark.parametrize("name", COLOR_ARMS)
def test_arms_carry_as_many_values_as_they_say(name: str, images: Tensor) -> None:
    arm = make_color_arm(name)
    assert (arm.values, arm.lossy) == (values_per_token(name), name != "patch")
    values = arm.read(images)
    assert values.shape == (4, arm.values, 8, 8)
    assert arm.features(values).shape == values.shape
    shown = arm.show(values, (64, 64))
    assert shown.shape == images.shape
    assert 0 <= float(shown.min()) < float(shown.max()) <= 1


def test_names_are_those_of_every_recipe() -> None:
    assert tuple(ARMS) == COLOR_ARMS
    with pytest.raises(ValueError, match="unknown arm 'walloc': expected one of resize_16x"):
        make_color_arm("walloc")


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("resize_16x", 19),
        ("resize_4x", 23),
        ("patch", 120),
        ("dct_16x", 18),
        ("dct_4x", 23),
        ("walloc_16x", 20),
        ("walloc_4x", 26),
    ],
)
@pytest.mark.parametrize("size", [(64, 64), (61, 50), (8, 15)])
def test_images_come_back_as_far_as_the_arm_carries_them(
    name: str, least: float, size: tuple[int, int], images: Tensor
) -> None:
    arm = make_color_arm(name)
    cut = images[..., : size[0], : size[1]]
    back = arm.show(arm.read(cut), size)
    assert back.shape == cut.shape
    assert -10 * float((back - cut).square().mean().clamp(min=1e-13).log10()) > least


def test_all_cosines_lose_nothing(images: Tensor) -> None:
    arm = Cosines(192)
    assert torch.allclose(arm.back(arm.read(images), (64, 64)), images, atol=1e-5)
    blocks = images.square().sum()
    assert torch.allclose(arm.read(images).square().sum(), blocks)  # orthonormal
    assert torch.allclose(arm.energies(), torch.ones(192), atol=1e-5)


@pytest.mark.parametrize("name", COLOR_ARMS)
def test_values_are_linear(name: str, images: Tensor) -> None:
    """Or else the color's values would not add up with those of the gray image. Large latents are not companded."""
    arm = make_color_arm(name)
    a, b = images[:2], images[2:]
    middle = arm.read((a + b) / 2)
    spread = float(middle.abs().max())
    assert torch.allclose((arm.read(a) + arm.read(b)) / 2, middle, atol=2e-4 * spread)
    va, vb = arm.read(a), arm.read(b)
    assert torch.allclose(
        (arm.back(va, (64, 64)) + arm.back(vb, (64, 64))) / 2, arm.back((va + vb) / 2, (64, 64)), atol=1e-5
    )


@pytest.mark.parametrize("name", ["walloc_16x", "walloc_4x"])
def test_latents_are_those_of_the_codec(name: str, images: Tensor) -> None:
    codec = wt.load_codec(name.replace("walloc", "rgb"))
    arm = make_color_arm(name)
    cut = images[..., :61, :50]
    latents = codec.encode(cut)
    values = arm.read(cut)
    assert torch.allclose(arm.features(values), latents, atol=1e-2)
    expected = codec.decode(latents, size=(61, 50))
    assert torch.allclose(arm.show(values, (61, 50)), expected, atol=1e-4)


@pytest.mark.parametrize("name", ["patch", "dct_16x", "walloc_4x"])
def test_energies_are_those_of_the_image(name: str) -> None:
    """The squared error of an image is the weighted one of its values, where they are uncorrelated."""
    arm = make_color_arm(name)
    errors = torch.randn(1, arm.values, 24, 24) / arm.energies().sqrt()[:, None, None]
    shown = arm.back(errors, (192, 192)) - arm.back(torch.zeros_like(errors), (192, 192))
    assert float(shown.square().sum()) == pytest.approx(arm.values * 24**2, rel=0.05)


def test_thumbnails_are_as_large_as_they_say(images: Tensor) -> None:
    values = make_color_arm("resize_16x").read(images)
    small = torch.nn.functional.interpolate(images, (16, 16), mode="bicubic", antialias=True)
    assert torch.allclose(torch.nn.functional.pixel_shuffle(values, 2), small, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 3, 7, 20), (1, 1, 8, 8), (3, 8, 8)])
def test_arms_refuse(shape: tuple[int, ...]) -> None:
    for name in COLOR_ARMS:
        with pytest.raises(ValueError, match=r"expected color images \(batch, 3, H, W\) of at least 8x8 pixels"):
            make_color_arm(name).read(torch.zeros(shape))


def test_gray_is_pillows() -> None:
    image = torch.randint(0, 256, (3, 40, 40), dtype=torch.uint8)
    ours = (gray(image / 255) * 255).round()
    pillows = torch.from_numpy(np.array(to_pil_image(image).convert("L"))).float()
    assert torch.equal(ours[0], ours[1])
    assert torch.equal(ours[0], ours[2])
    assert float((ours[0] - pillows).abs().max()) <= 1
    assert float((ours[0] != pillows).float().mean()) < 0.01
    assert torch.allclose(luma(image / 255), rgb_to_grayscale(image / 255), atol=1e-3)


def test_kept_luma(images: Tensor) -> None:
    known = gray(images)
    tinted = known * 0.5 + 0.2 + 0.03 * torch.randn(4, 3, 1, 1)
    kept = keep_luma(tinted, known)
    within = ((kept > 0) & (kept < 1)).all(1, keepdim=True)
    assert float(within.float().mean()) > 0.5
    assert torch.allclose(luma(kept)[within], known[:, :1][within], atol=1e-5)
    color = tinted - luma(tinted)
    assert torch.allclose(
        (kept - luma(kept)).masked_select(within), color.expand_as(kept).masked_select(within), atol=1e-5
    )


# data


def test_crops_are_repeatable(photographs: list[Photograph]) -> None:
    crops = Crops(photographs, 32, 0)
    assert crops[7].shape == (3, 32, 32)
    assert crops[7].dtype == torch.uint8
    assert torch.equal(crops[7], Crops(photographs, 32, 0)[7])
    assert not torch.equal(crops[7], crops[8])
    assert not torch.equal(crops[7], Crops(photographs, 32, 1)[7])
    assert torch.equal(crops.batch(3, 2)[1], crops[4] / 255)


def test_crops_come_from_anywhere_and_are_mirrored_or_not() -> None:
    rows, columns = torch.meshgrid(torch.arange(10), torch.arange(20), indexing="ij")
    places = torch.stack([rows, columns, rows]).to(torch.uint8)
    crops = [Crops([Photograph("", lambda: None, places)], 8, 0)[i] for i in range(200)]
    assert {int(c[0, 0, 0]) for c in crops} == set(range(3))
    assert {int(c[1].min()) for c in crops} == set(range(13))
    assert {int(c[1, 0, 1]) - int(c[1, 0, 0]) for c in crops} == {-1, 1}


def test_crops_pass_over_what_is_too_small(photographs: list[Photograph]) -> None:
    crops = Crops(photographs, 96, 0)
    large = photographs[2].pixels()
    assert large is not None
    assert {tuple(c.shape) for c in (crops[i] for i in range(6))} == {(3, 96, 96)}
    with pytest.raises(ValueError, match="none of 3 training images is at least 104x104 pixels: set a smaller --crop"):
        Crops(photographs, 104, 0)[0]


def test_demo_parts_are_apart() -> None:
    train, test = load_photographs("demo", Path(), show=False)
    for left, right, whole in zip(train, test, demo_photographs(), strict=True):
        halves = [left.pixels(), right.pixels()]
        assert torch.equal(torch.cat([h for h in halves if h is not None], -1), pixels_of(whole))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eleven color images, a gray one, a tiny one and a broken one; first, sixth and eleventh in order are tests."""
    random = np.random.default_rng(0)
    for i in range(12):
        pixels = random.integers(0, 256, (24, 20 + i, 3), np.uint8)
        place = tmp_path / "photos" / ("a" if i < 6 else "b/c")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels if i != 5 else pixels[..., :1].repeat(3, 2)).save(place / f"{i:02}.png")
    (tmp_path / "photos" / "b" / "c" / "10.png").write_bytes(b"broken")
    return tmp_path / "photos"


def test_every_fifth_file_is_for_testing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, test = load_photographs(str(folder), Path(), show=False)
    assert [p.name for p in test] == ["a/00.png"]  # 05 is gray, 10 broken
    assert [Path(p.name).stem for p in train] == [f"{i:02}" for i in range(12) if i % 5]
    assert "10.png" in capsys.readouterr().out
    assert all(p.kept is not None for p in train)
    read_later, _ = load_photographs(str(folder), Path(), memory=0, show=False)
    assert all(p.kept is None for p in read_later)
    assert torch.equal(Crops(read_later, 16, 0)[3], Crops(train, 16, 0)[3])


@pytest.mark.parametrize("name", ["test", "val"])
def test_folders_of_their_own(folder: Path, name: str) -> None:
    (folder / "a").rename(folder / "train")
    (folder / "b").rename(folder / name)
    train, test = load_photographs(str(folder), Path(), show=False)
    assert (len(train), len(test)) == (6, 5)
    assert {p.name.split("/")[0] for p in test} == {name}
    train, test = load_photographs(str(folder / name), Path(), test=str(folder / "train"), show=False)
    assert (len(train), len(test)) == (6, 5)
    with pytest.raises(ValueError, match="expected a folder of training photographs, got 'demo'"):
        load_photographs("demo", Path(), test=str(folder), show=False)


def test_bad_data(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no folder"):
        load_photographs(str(tmp_path / "none"), Path(), show=False)
    with pytest.raises(ValueError, match="neither 'demo', nor a folder, nor a dataset of torchvision"):
        load_photographs("Photos", tmp_path, show=False)
    for file in (folder / "b").rglob("*.png"):
        file.unlink()
    (folder / "a" / "00.png").write_bytes((folder / "a" / "05.png").read_bytes())
    with pytest.raises(ValueError, match="4 training images and 0 test images with color: at least one of each"):
        load_photographs(str(folder), Path(), show=False)


def test_torchvision_datasets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Painted(torchvision.datasets.VisionDataset):
        def __init__(self, root: Path, train: bool = True, download: bool = False) -> None:
            super().__init__(root)
            self.color = (255, 0, 0) if train else (0, 0, 255)

        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> tuple[Image.Image, int]:
            return Image.new("RGB", (16 + index, 16), self.color), index

    monkeypatch.setattr(torchvision.datasets, "Painted", Painted, raising=False)
    train, test = load_photographs("Painted", tmp_path, show=False)
    assert [p.name for p in test] == ["0", "1", "2"]
    for part, channel in ((train, 0), (test, 2)):
        pixels = part[2].pixels()
        assert pixels is not None
        assert pixels.shape == (3, 16, 18)
        assert int(pixels.flatten(1).sum(1).argmax()) == channel


# network


@pytest.mark.parametrize("arm", COLOR_ARMS)
def test_untrained_network_gives_the_gray_image(arm: str, images: Tensor) -> None:
    model = build(arm)
    model.measure(images)
    for image in (images[0], images[0, :, :41, :58]):
        known = gray(image)
        expected = model.arm.show(model.arm.read(known[None]), known.shape[-2:])[0]
        assert torch.equal(color(model, image, 32), expected)


def test_only_the_gray_image_is_looked_at(images: Tensor) -> None:
    model = build("walloc_4x")
    model.measure(images)
    torch.nn.init.normal_(model.head.weight)
    colored = color(model, images[0], 32)
    assert torch.equal(color(model, gray(images[0]), 32), colored)
    assert not torch.allclose(colored[0], colored[2], atol=0.01)


@pytest.mark.parametrize("kind", ["values", "pixels"])
@pytest.mark.parametrize("arm", COLOR_ARMS)
def test_gradients_reach_every_trained_parameter_and_no_codec(arm: str, kind: str, images: Tensor) -> None:
    model = build(arm)
    model.measure(images)
    torch.nn.init.normal_(model.head.weight, std=0.1)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert not any(name.startswith("arm.") for name in trained)
    loss_of(model, model, images, kind).backward()
    # A bias of the keys shifts all scores of a query alike.
    assert [name for name, p in trained.items() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("arm", COLOR_ARMS)
def test_statistics_bring_every_arm_to_one_scale(arm: str, images: Tensor) -> None:
    model = build(arm)
    model.measure(images)
    values = model.arm.read(gray(images))
    features = (model.arm.features(values) - model.mean) / model.scale
    assert float(features.mean((0, 2, 3)).abs().max()) < 1e-2
    assert float(features.std((0, 2, 3)).max()) == pytest.approx(1, abs=1e-2)
    color = (model.arm.read(images) - values) / model.color_scale
    assert float(color.square().mean((0, 2, 3)).median()) == pytest.approx(1, abs=1e-2)
    flat = build(arm)
    flat.measure(torch.full((1, 3, 32, 32), 0.5))
    assert all(bool(torch.isfinite(b).all()) for b in flat.buffers())
    assert bool(torch.isfinite(flat(values)).all())


@pytest.mark.parametrize("arm", COLOR_ARMS)
def test_losses_by_hand(arm: str, images: Tensor) -> None:
    """Both are in units of the image: for a network that changes nothing, what the gray image lacks."""
    model = build(arm)
    model.measure(images)
    pixels, values = (loss_of(model, model, images, kind).item() for kind in ("pixels", "values"))
    shown = model.arm.back(model.arm.read(gray(images)), images.shape[-2:])
    assert pixels == pytest.approx(float((shown - images).square().mean()), rel=1e-4)
    carried = model.arm.back(model.arm.read(images), images.shape[-2:])
    assert values == pytest.approx(float((shown - carried).square().mean()), rel=1e-3)
    if arm == "patch":
        assert values == pytest.approx(pixels, rel=1e-3)


def test_windows() -> None:
    for length, window in ((5, 8), (8, 8), (9, 8), (33, 8), (3, 1)):
        pieces = list(spans(length, window))
        assert {s for piece in pieces for s in range(piece.start, piece.stop)} == set(range(length))
        assert {piece.stop - piece.start for piece in pieces} == {min(length, window)}
        assert all(a.stop - b.start >= window // 4 for a, b in itertools.pairwise(pieces))


def test_windows_are_blended(images: Tensor) -> None:
    """A network that looks at single tokens gives the same in windows as in the whole, away from their edges too."""
    model = build("dct_4x")
    model.measure(images)
    values = model.arm.read(gray(images))[:2, :, :7]
    with torch.no_grad():
        model.forward = lambda x: 3 * x  # type: ignore[method-assign]
        assert torch.allclose(model.color_values(values, 3), 3 * values, rtol=1e-5, atol=1e-6)
        seen: list[tuple[int, ...]] = []
        model.forward = lambda x: seen.append(tuple(x.shape)) or x  # type: ignore[method-assign]
        model.color_values(values, 4)
        assert seen == [(12, 48, 4, 4)]  # two by three windows of two images
        seen.clear()
        model.color_values(values, 8)
        assert seen == [(2, 48, 7, 8)]


def test_macs() -> None:
    counts = {arm: macs_per_image(build(arm), 64) for arm in COLOR_ARMS}
    tokens, width = 64, 24
    block = tokens * 12 * width**2 + tokens * width  # and a class token
    for arm, (trunk, total) in counts.items():
        embedding = tokens * values_per_token(arm) * width
        attention = 2 * 65**2 * width
        assert trunk == pytest.approx(block * 65 / 64 + embedding + attention, rel=0.02)
        assert total >= trunk + embedding  # the head has as many
    assert counts["patch"][1] == counts["patch"][0] + tokens * 192 * width


def test_other_trunks() -> None:
    model = build("walloc_16x", "eva02_tiny_patch14_224", embed_dim=24, depth=1, num_heads=2)
    assert model(torch.zeros(1, 12, 5, 7)).shape == (1, 12, 5, 7)
    with pytest.raises(ValueError, match="timm's 'resnet18' cannot be the trunk, which must keep the token grid"):
        build("walloc_16x", "resnet18")
    with pytest.raises(ValueError, match="'swin_tiny_patch4_window7_224' cannot be the trunk"):
        build("walloc_16x", "swin_tiny_patch4_window7_224")
    with pytest.raises(ValueError, match="timm has no model 'vit_teeny'"):
        build("walloc_16x", "vit_teeny")


# scores


def test_scores_by_hand() -> None:
    truth = torch.rand(3, 180, 176, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.25
    near = score(truth + 0.02, truth, Networks())
    assert near["psnr"] == pytest.approx(-20 * math.log10(0.02), abs=0.05)
    assert near["psnr_kept"] > 45  # a shift of brightness alone
    assert 0.9 < near["ms_ssim"] < near["ms_ssim_kept"] <= 1
    assert math.isnan(near["lpips_db"])
    tinted = score(truth + torch.tensor([0.05, 0, -0.05])[:, None, None], truth, Networks())
    assert tinted["psnr_kept"] == pytest.approx(tinted["psnr"], abs=1)
    small = score(truth[:, :100], truth[:, :100], Networks())
    assert math.isnan(small["ms_ssim"])
    assert small["psnr"] == math.inf


def test_lpips_is_asked_of_the_image_itself() -> None:
    networks = Networks({"lpips": lambda a, b: (a - b).abs().mean()[None]})
    truth = torch.full((3, 40, 40), 0.2)
    assert score(truth + 0.1, truth, networks)["lpips_db"] == pytest.approx(10, abs=0.1)
    assert score(truth, truth, networks)["lpips_db"] == pytest.approx(60)
    assert math.isnan(score(truth[:, :20], truth[:, :20], networks)["lpips_db"])


def test_color_of_brightness() -> None:
    """Dark pixels are blue, bright ones red."""
    dark, bright = torch.tensor([0.1, 0.1, 0.4]), torch.tensor([0.9, 0.6, 0.5])
    image = torch.stack([dark, bright], 1)[:, None].repeat(1, 5, 4)[None]
    known = gray(image[0])
    assert torch.allclose(ColorOfBrightness(image)(known), image[0], atol=3e-3)
    tint = ColorOfBrightness(image, 1)(known) - known
    mean = ((dark + bright) / 2 - luma(((dark + bright) / 2)[:, None, None])[0, 0, 0])[:, None, None]
    within = (known + mean >= 0) & (known + mean <= 1)
    assert torch.allclose(tint[within], mean.expand_as(tint)[within], atol=1e-5)


def test_table_averages_over_images_then_seeds() -> None:
    names = ("psnr", "psnr_kept", "ms_ssim", "ms_ssim_kept")
    rows = [
        {"arm": "a", "seed": seed, "lpips_db": math.nan, **dict.fromkeys(names, v)}
        for seed, values in ((0, (1.0, 3.0)), (1, (5.0, 7.0, math.nan)))
        for v in values
    ]
    rows += [{"arm": "gray", "seed": "", "lpips_db": 4.0, **dict.fromkeys(names, 0.5)}]
    learned, plain = mean_over_seeds(rows, SCORES)
    assert (learned["seeds"], learned["psnr"]) == (2, 4)
    assert learned["psnr sd"] == pytest.approx(8**0.5)
    assert math.isnan(plain["psnr sd"])
    learned |= {"values": 48, "trunk_macs": 2e6, "macs": 3e6, "step_rate": 4.0}
    lines = markdown([plain, learned], 64, "no weights").splitlines()
    assert "per 64² px" in lines[0]
    assert lines[2] == "| gray | - | - | - | - | - | 0.50 | 0.50 | 0.5000 | 0.5000 | 4.00 |"
    assert lines[3] == (
        "| a | 48 | 2 | 3 | 4.0 | 2 | 4.00 ± 2.83 | 4.00 ± 2.83 | 4.0000 ± 2.8284 | 4.0000 ± 2.8284 | no weights |"
    )


def test_sheet(tmp_path: Path) -> None:
    rows = [(str(i), {"gray": torch.zeros(3, 20 + i, 30), "truth": torch.ones(3, 20 + i, 30)}) for i in range(2)]
    draw_sheet(rows, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as picture:
        assert min(picture.size) > 300
        assert picture.convert("L").getpixel((picture.width // 4, picture.height // 3)) == 0


# training


def fit(arm: str, crops: Crops, folder: Path, resume: bool = False, **options: Any) -> tuple[Colorizer, dict[str, Any]]:
    model = build(arm, proj_drop_rate=0.1)
    model.measure(crops.batch(0, 4))
    folder.mkdir(exist_ok=True)
    config = colorization.Config(**{"steps": 5, "batch_size": 2, "lr": 3e-3, "checkpoint_every": 2, **options})
    record = colorization.train(config, model, crops, Run(folder, Ranks(0, 1, torch.device("cpu")), resume))
    return model, record


@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step")
@pytest.mark.parametrize("arm", ["patch", "walloc_16x"])
def test_resumed_training_is_bit_equal(arm: str, photographs: list[Photograph], tmp_path: Path) -> None:
    crops = Crops(photographs, 32, 0)
    whole, record = fit(arm, crops, tmp_path / "a")

    class Interrupted(Crops):
        def __getitem__(self, index: int) -> Tensor:
            if index == 6:
                raise KeyboardInterrupt
            return super().__getitem__(index)

    with pytest.raises(KeyboardInterrupt):
        fit(arm, Interrupted(photographs, 32, 0), tmp_path / "b")
    assert json.loads((tmp_path / "b" / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 2
    resumed, again = fit(arm, crops, tmp_path / "b", resume=True)
    assert again["loss"] == record["loss"]
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert not list(tmp_path.rglob("*.partial"))
    untouched, _ = fit(arm, crops, tmp_path / "b", resume=True)  # nothing is left to do
    assert torch.equal(untouched.head.weight, whole.head.weight)


@pytest.mark.slow
@pytest.mark.parametrize(("arm", "loss"), [*((arm, "values") for arm in COLOR_ARMS), ("walloc_16x", "pixels")])
def test_training_colors(arm: str, loss: str, tmp_path: Path) -> None:
    """A world where bright is orange and dark is blue is learned at once."""
    known = 40 + 175 * (torch.linspace(-1, 1, 32).abs()).expand(3, 32, 32)
    tint = (known[0] - 128) / 4
    world = torch.stack([known[0] + tint, known[0], known[0] - tint]).round().to(torch.uint8)
    crops = Crops([Photograph("", lambda: None, world)], 32, 0)
    model, record = fit(arm, crops, tmp_path, steps=60, loss=loss, checkpoint_every=10)
    log = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in log] == [10, 20, 30, 40, 50, 60]
    assert record["loss"] < 0.5 * log[0]["loss"]
    truth = world / 255
    untrained = model.arm.show(model.arm.read(gray(truth)[None]), (32, 32))[0]
    before, after = (float((x - truth).square().mean()) for x in (untrained, color(model, truth, 32)))
    assert after < 0.5 * before


# recipe


def tiny(folder: Path, **options: Any) -> colorization.Config:
    return colorization.Config(
        **{
            "steps": 2,
            "batch_size": 2,
            "crop": 16,
            "width": 24,
            "depth": 1,
            "heads": 2,
            "output_dir": folder,
            **options,
        }
    )


@pytest.fixture
def photos(photographs: list[Photograph], tmp_path: Path) -> Path:
    """Two training and two test images, none with sides in multiples of 8."""
    for i, p in enumerate([*photographs, photographs[0]]):
        place = tmp_path / "photos" / ("train" if i < 2 else "test")
        place.mkdir(parents=True, exist_ok=True)
        assert p.kept is not None
        to_pil_image(p.kept[:, 3:, : 37 + i]).save(place / f"{i}.png")
    return tmp_path / "photos"


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "images.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_recipe(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []

    def watched(parallel: Any, model: Colorizer, images: Tensor, kind: str) -> Tensor:
        seen.append(images)
        return loss_of(parallel, model, images, kind)

    monkeypatch.setattr(colorization, "loss_of", watched)
    out = tmp_path / "out"
    config = tiny(out, data=str(photos), seeds=2)
    table = colorization.main(config)
    trivial = ["gray itself", "gray, mean color", "gray, mean color of its brightness"]
    through = [f"color through {arm}" for arm in COLOR_ARMS if arm != "patch"]
    assert [r["arm"] for r in table] == [*trivial, *through, *COLOR_ARMS]

    runs = [torch.stack(seen[i : i + 2]) for i in range(0, len(seen), 2)]  # of two steps each
    assert len(runs) == 2 * len(COLOR_ARMS)
    for seed, first in ((0, runs[0]), (1, runs[len(COLOR_ARMS)])):
        own = runs[seed * len(COLOR_ARMS) : (seed + 1) * len(COLOR_ARMS)]
        assert all(torch.equal(crops, first) for crops in own)
    assert not torch.equal(runs[0], runs[-1])
    assert not torch.equal(runs[0][0], runs[0][1])

    rows = rows_of(out)
    assert len(rows) == 2 * (len(trivial) + len(through) + 2 * len(COLOR_ARMS))
    assert {r["image"] for r in rows} == {"test/2.png", "test/3.png"}
    mean = [float(r["psnr"]) for r in rows if r["arm"] == "walloc_4x"]
    row = next(r for r in table if r["arm"] == "walloc_4x")
    assert row["psnr"] == pytest.approx(sum(mean) / len(mean))
    assert (row["values"], row["seeds"]) == (48, 2)
    assert float(next(r for r in table if r["arm"] == through[0])["psnr_kept"]) > table[0]["psnr"] + 3

    text = (out / "table.md").read_text()
    assert "2 training images; 2 steps of 2 crops of 16x16 pixels" in text
    assert text.count("\n| ") == 2 + len(table)
    assert len((out / "table.csv").read_text().splitlines()) == 1 + len(table)
    with Image.open(out / "sheet.png") as picture:
        assert min(picture.size) > 300
    assert yaml.safe_load((out / "config.yaml").read_text())["width"] == 24
    folder = out / "walloc_4x_seed1"
    assert {f.name for f in folder.iterdir()} == {"metrics.jsonl", "checkpoint.pt", "result.json"}

    before = (out / "images.csv").read_bytes()
    (folder / "result.json").unlink()  # scored again, from the checkpoint
    config.resume = True
    monkeypatch.setattr(colorization, "loss_of", None)  # but not trained
    colorization.main(config)
    assert (out / "images.csv").read_bytes() == before
    config.steps += 1
    with pytest.raises(ValueError, match="out holds a run with steps "):
        colorization.main(config)


@pytest.mark.slow
def test_recipe_without_weights_for_lpips(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(colorization, "load_networks", lambda: Networks(missing={"lpips": "no connection"}))
    config = tiny(tmp_path / "out", data=str(photos), networks=True, arms=("dct_16x",), test_images=1, loss="pixels")
    colorization.main(config)
    text = (tmp_path / "out" / "table.md").read_text()
    assert text.count("| no weights |") == 5
    assert "over 1 test images" in text


@pytest.mark.slow
def test_two_processes(photos: Path, tmp_path: Path) -> None:
    """Both score their share, and training is that of one process."""
    arguments = [
        "-m",
        "recipes.colorization",
        "--data",
        str(photos),
        "--arms",
        "walloc_16x",
        "--steps",
        "2",
        "--batch-size",
        "2",
        "--crop",
        "16",
        "--width",
        "24",
        "--depth",
        "1",
        "--heads",
        "2",
        "--output-dir",
        str(tmp_path / "two"),
    ]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port)]
    done = subprocess.run([*command, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    two = rows_of(tmp_path / "two")
    colorization.main(tiny(tmp_path / "one", data=str(photos), arms=("walloc_16x",)))
    one = rows_of(tmp_path / "one")
    assert [(r["arm"], r["image"]) for r in two] == [(r["arm"], r["image"]) for r in one]
    assert [float(r["psnr"]) for r in two] == pytest.approx([float(r["psnr"]) for r in one], abs=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arms": ()}, "nothing to run"),
        ({"seeds": 0}, "nothing to run"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"crop": 20}, "crop must be a multiple of 8 from 16 on, got 20"),
        ({"crop": 8}, "from 16 on, got 8"),
        ({"arms": ("gabor",)}, "unknown arm 'gabor'"),
        ({"trunk": "resnet18"}, "'resnet18' cannot be the trunk"),
        ({"width": 25}, "cannot be the trunk.*dim"),
        ({"test_images": 0}, "test_images must be at least 1"),
        ({"data": "/nowhere"}, "no folder"),
        ({"crop": 1024, "arms": ("patch",)}, "training images is at least 1024x1024 pixels: set a smaller --crop"),
    ],
)
def test_recipe_refuses_at_once(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        colorization.main(tiny(tmp_path / "out", **options))
    assert not (tmp_path / "out").exists()
