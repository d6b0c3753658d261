"""Stems fitted to the ones they replace: exact where they can be, and the least squares solution elsewhere."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from timm.data.config import resolve_model_data_config
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import walloc_transforms as wt
from tests.helpers import PRODUCTS, assert_close_float32, make_codec, stem_codec
from walloc_transforms.codec import Codec
from walloc_transforms.codec.companding import slope
from walloc_transforms.stems import WallocStem, plan_replacement, replace_stem
from walloc_transforms.stems.fit import Equations, StemFit, Teacher, fit_stem
from walloc_transforms.stems.preparation import prepare_image
from walloc_transforms.stems.saved import load_model, save_model
from walloc_transforms.stems.table import find_family

# name: (timm model, arguments, image side that the model is made for)
MODELS: dict[str, tuple[str, dict[str, Any], int]] = {
    "vit8": ("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8, "depth": 1, "embed_dim": 24, "num_heads": 3}, 0),
    "vit16": ("vit_tiny_patch16_224", {"img_size": 64, "depth": 1, "embed_dim": 24, "num_heads": 3}, 0),
    "swin": (
        "swin_tiny_patch4_window7_224",
        {"img_size": 32, "window_size": 4, "embed_dim": 12, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2)},
        0,
    ),
    "hiera": ("hiera_tiny_224", {"img_size": (64, 64), "embed_dim": 24, "stages": (1, 1, 1, 1)}, 0),
    "resnet": ("resnet18", {"layers": (1, 1, 1, 1), "channels": (8, 12, 16, 20)}, 64),
    "resnet_d": ("resnet18d", {"layers": (1, 1, 1, 1), "channels": (8, 12, 16, 20)}, 64),
    "resnetv2": ("resnetv2_18", {"layers": (1, 1, 1, 1), "channels": (8, 12, 16, 20)}, 64),
    "convnext": ("convnext_atto", {"depths": (1, 1, 1, 1), "dims": (8, 12, 16, 20)}, 64),
    "tiny_vit": ("tiny_vit_5m_224", {"depths": (1, 1, 1, 1)}, 224),
}


def make(name: str) -> Any:
    torch.manual_seed(2)
    timm_name, options, side = MODELS[name]
    if side:
        options = {**options, "pretrained_cfg_overlay": {"input_size": (3, side, side)}}
    model = timm.create_model(timm_name, num_classes=7, **options)
    with torch.no_grad():  # as training would leave them
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.normal_()
                module.bias.normal_()
                module.running_mean.normal_(0, 0.2)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    return model


def noise(count: int, side: int) -> list[Tensor]:
    return list(torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(3)))


def smooth(count: int, side: int) -> list[Tensor]:
    """Pictures with most of their variance in low frequencies."""
    coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(4))
    return list(F.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1))


def stem_of(model: nn.Module) -> WallocStem:
    (stem,) = [m for m in model.modules() if isinstance(m, WallocStem)]
    return stem


def normalized(model: Any, images: Tensor) -> Tensor:
    data = resolve_model_data_config(model)
    return (images - torch.tensor(data["mean"]).view(3, 1, 1)) / torch.tensor(data["std"]).view(3, 1, 1)


@pytest.fixture(scope="module")
def codec() -> Codec:
    return stem_codec()


@pytest.fixture(scope="module")
def lossless() -> Codec:
    """All packets of a wavelet that stays within a cell, so that latents and the pixels of a cell are one to one."""
    torch.manual_seed(5)
    return make_codec(192, wavelet="haar", statistics=True)


# exact


@pytest.mark.parametrize(
    ("name", "side", "match"),
    [
        ("vit8", 32, "grid"),
        ("vit16", 64, "grid"),
        ("vit16", 64, "resolution"),
        ("convnext", 64, "resolution"),
        ("swin", 32, "resolution"),
    ],
)
def test_a_linear_stem_is_reproduced(lossless: Codec, name: str, side: int, match: Any) -> None:
    model = make(name).eval()
    before = copy.deepcopy(model)
    cells = 2 if name == "vit16" else 1
    images = noise(4 + 2 * 192 * cells**4 // (side // 8) ** 2, side)
    fit_stem(model, lossless, images, match=match, neighbors=0, ridge=0, progress=False)
    assert model.walloc_fit.residual < 1e-6
    assert model.walloc_fit.regressors == 192 * cells**2
    assert model.walloc_fit.images == len(images)
    x = torch.rand(2, 3, side, side)
    with torch.no_grad():
        expected, got = before(normalized(before, x)), model(x)
    assert (got - expected).abs().max() < 2e-3 * expected.abs().max()
    assert not torch.allclose(got[0], got[1], atol=1e-3 * float(expected.abs().max()))


@pytest.mark.slow
def test_grid_reads_the_reduced_picture(lossless: Codec) -> None:
    """Away from the border, where reducing is another filter, the stem of a twice as large picture is exact too."""
    model = make("swin").eval()
    before = copy.deepcopy(model)
    fit_stem(model, lossless, smooth(10, 64) + noise(60, 64), progress=False)
    assert model.walloc.pixels_shape == (3, 64, 64)
    assert model.walloc_fit.residual < 0.05
    x = noise(70, 64)[-1][None]
    expected = before.patch_embed.proj(normalized(before, F.interpolate(x, (32, 32), mode="bicubic", antialias=True)))
    got = model.patch_embed.backbone(x)
    inner = (..., slice(1, -1), slice(1, -1))
    assert (got - expected)[inner].square().mean() < 0.01 * expected[inner].var()


# the least squares solution


@pytest.mark.parametrize("ridge", [0.0, 0.1])
@torch.no_grad()
def test_same_as_explicit_least_squares(codec: Codec, ridge: float) -> None:
    model = make("convnext").eval()
    before = copy.deepcopy(model)
    images = noise(3, 128)
    fit_stem(model, codec, images, ridge=ridge, progress=False)
    rows, targets = [], []
    for image in images:
        z = codec.expand(codec.encode(image)) * slope()
        z = (z - codec.latent_mean.view(-1, 1, 1)) / codec.latent_std.view(-1, 1, 1)
        z = F.pad(z, (1, 1, 1, 1)).double()
        small = F.interpolate(image[None], (64, 64), mode="bicubic", antialias=True)
        y = before.stem[0](normalized(before, small))[0].double()
        for i in range(16):
            for j in range(16):
                rows.append(z[:, i : i + 3, j : j + 3].flatten())
                targets.append(y[:, i, j])
    design, target = torch.stack(rows), torch.stack(targets)
    mean = design.mean(0)
    penalty = (ridge * (design - mean).square().sum(0).mean()).sqrt() * torch.eye(108, dtype=torch.float64)
    system = torch.cat([design - mean, penalty])
    wanted = torch.cat([target - target.mean(0), torch.zeros(108, 8, dtype=torch.float64)])
    solution = torch.linalg.lstsq(system, wanted).solution
    proj = stem_of(model).proj
    assert_close_float32(proj.weight.flatten(1), solution.T.float(), terms=PRODUCTS, factor=8)
    assert proj.bias is not None
    assert_close_float32(proj.bias, (target.mean(0) - mean @ solution).float(), terms=PRODUCTS, factor=8)
    missed = (target - target.mean(0) - (design - mean) @ solution).square().sum()
    residual = missed / (target - target.mean(0)).square().sum()
    assert model.walloc_fit == StemFit(pytest.approx(float(residual), abs=1e-6), 3, 768, 108)  # type: ignore[arg-type]


def test_ridge_shrinks_the_weights(codec: Codec) -> None:
    norms, residuals = [], []
    for ridge in (1e-6, 1e-2, 1.0):
        model = fit_stem(make("convnext"), codec, noise(3, 128), ridge=ridge, progress=False)
        norms.append(stem_of(model).proj.weight.norm().item())
        residuals.append(model.walloc_fit.residual)
    assert norms == sorted(norms, reverse=True)
    assert residuals == sorted(residuals)
    assert residuals[2] > 1.01 * residuals[0]


def test_one_pass_over_any_iterable(codec: Codec) -> None:
    images = noise(5, 96)  # not the size of the model

    def stream() -> Iterator[Tensor]:
        yield from images

    one = fit_stem(make("resnet"), codec, stream(), progress=False)
    two = fit_stem(make("resnet"), codec, torch.stack(images), progress=False)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    reverse = fit_stem(make("resnet"), codec, images[::-1], progress=False)
    assert_close_float32(stem_of(reverse).proj.weight, stem_of(one).proj.weight, terms=PRODUCTS, factor=8)


def test_memory_does_not_grow_with_images() -> None:
    equations = Equations()
    sizes = []
    for n in (20, 30):
        equations.add(torch.rand(7, n), torch.rand(3, n))
        sizes.append(sum(t.numel() for t in vars(equations).values() if isinstance(t, Tensor)))
    assert sizes[0] == sizes[1] == 49 + 21 + 7 + 3 + 3
    assert (equations.images, equations.cells) == (2, 50)


# what the trunk sees


@pytest.mark.parametrize(("name", "first"), [("resnet", "conv1"), ("resnetv2", "stem.conv")])
def test_target_is_the_first_convolution(name: str, first: str) -> None:
    """What follows it, poolings among it, stays."""
    model = make(name).eval()
    teacher = Teacher(model, plan_replacement(model, wt.load_codec("rgb_16x"), "grid"))
    x = torch.rand(2, 3, 128, 128)
    small = normalized(model, F.interpolate(x, (64, 64), mode="bicubic", antialias=True))
    assert_close_float32(teacher(x), model.get_submodule(first)(small), terms=PRODUCTS, factor=8)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "match", "most"),
    [
        ("vit16", "grid", 0.5),
        ("swin", "grid", 0.5),
        ("swin", "resolution", 0.5),
        ("swin", "entry", 0.99),
        ("hiera", "grid", 0.5),
        ("resnet", "grid", 0.5),
        ("resnet", "resolution", 0.5),
        ("resnet", "entry", 0.99),
        ("resnet_d", "grid", 0.7),
        ("convnext", "grid", 0.5),
        ("convnext", "entry", 0.99),
        ("tiny_vit", "grid", 0.7),
    ],
)
def test_families_and_matches(name: str, match: Any, most: float) -> None:
    model = make(name)
    side = 128 if name == "vit16" else 64
    images = smooth(20, side)
    fit_stem(model, "rgb_16x", images, match=match, progress=False)
    twin = fit_stem(make(name), "rgb_16x", images, match=match, input="latents", progress=False)
    assert model.walloc_fit.residual < most
    assert twin.walloc_fit == model.walloc_fit
    assert model.walloc.macs > 0
    stem = stem_of(model)
    assert (stem.neighbors, stem.expand, stem.input, stem_of(twin).input) == (1, True, "pixels", "latents")
    assert stem.proj.bias is not None
    x = torch.rand(1, *model.walloc.pixels_shape)
    assert x.shape[1:] == model.walloc.pixels_shape == twin.walloc.pixels_shape
    assert_close_float32(model.eval()(x), twin.eval()(stem.codec.encode(x)), terms=PRODUCTS, factor=8)
    model.train()(torch.cat([x, 1 - x])).square().sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    assert not any(p.requires_grad for p in stem.codec.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit16", "swin", "hiera", "resnet", "convnext"])
@torch.no_grad()
def test_trunk_gives_what_it_gave(name: str) -> None:
    model = make(name).eval()
    before = copy.deepcopy(model)
    images = smooth(40, 128)
    fit_stem(model, "rgb_4x", images[:30], progress=False)
    random = replace_stem(make(name), "rgb_4x").eval()
    x = torch.stack(images[30:])
    x = F.interpolate(x, model.walloc.pixels_shape[1:], mode="bicubic", antialias=True)
    small = F.interpolate(x, find_family(before).look(before).image_size, mode="bicubic", antialias=True)
    expected = before.forward_features(normalized(before, small))
    near, far = ((m.forward_features(x) - expected).square().mean() for m in (model, random))
    assert near < 0.3 * far


# images


def test_images_of_any_kind_and_size(codec: Codec) -> None:
    arrays = [(image * 255).to(torch.uint8) for image in noise(4, 128)]
    pictures = [Image.fromarray(array.permute(1, 2, 0).numpy()) for array in arrays]
    floats = [array / 255 for array in arrays]
    stems = [
        stem_of(fit_stem(make("convnext"), codec, images, progress=False)) for images in (arrays, pictures, floats)
    ]
    assert torch.equal(stems[0].proj.weight, stems[1].proj.weight)
    assert_close_float32(stems[0].proj.weight, stems[2].proj.weight, terms=PRODUCTS, factor=8)


def test_images_cover_the_size_and_are_cut_around_their_center() -> None:
    wide = torch.zeros(3, 128, 200)
    wide[:, :, 36:164] = torch.rand(3, 128, 128)
    assert torch.equal(prepare_image(wide, 3, (128, 128), 0)[0], wide[:, :, 36:164])
    small = prepare_image(torch.full((3, 50, 70), 0.75), 3, (128, 128), 0)
    assert small.shape == (1, 3, 128, 128)
    assert torch.allclose(small, torch.tensor(0.75))
    assert prepare_image(torch.rand(3, 301, 199), 3, (128, 64), 0).shape == (1, 3, 128, 64)


class Largest(TorchDispatchMode):
    """Notes the elements of the largest tensor that is made."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.elements = max(self.elements, out.numel() if isinstance(out, Tensor) else 0)
        return out


def test_long_strips_take_little_memory() -> None:
    strip = torch.rand(3, 8, 16000)
    with Largest() as largest:
        cut = prepare_image(strip, 3, (128, 128), 0)
    assert largest.elements <= strip.numel()
    assert torch.allclose(cut, prepare_image(strip[:, :, 7976:8024], 3, (128, 128), 0), atol=1e-5)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.rand(1, 128, 128), r"shape \(3, H, W\) to fit a stem to, got \(1, 128, 128\) at image 1"),
        (torch.rand(3, 128), r"got \(3, 128\) at image 1"),
        (torch.rand(3, 0, 128), "got"),
        (torch.full((3, 128, 128), float("nan")), "image 1 holds NaN"),
        (torch.rand(3, 128, 128) * 255, r"must be in \[0, 1\], got values from .* at image 1"),
    ],
)
def test_wrong_images(codec: Codec, image: Tensor, message: str) -> None:
    model = make("convnext")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        fit_stem(model, codec, [torch.rand(3, 128, 128), image], progress=False)
    assert not hasattr(model, "walloc")
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_errors(codec: Codec) -> None:
    model, images = make("convnext"), noise(2, 128)
    with pytest.raises(TypeError, match=r"image 0: .* got tuple: pass signals one at a time"):
        fit_stem(model, codec, [(images[0], 1)], progress=False)  # type: ignore[list-item]
    with pytest.raises(ValueError, match="no images"):
        fit_stem(model, codec, [], progress=False)
    with pytest.raises(ValueError, match="do not determine the 108 weights"):
        fit_stem(model, codec, [(torch.arange(128) > 60).float().expand(3, 128, -1)], ridge=0, progress=False)
    with pytest.raises(ValueError, match="each of the 2 images is of one color"):
        fit_stem(model, codec, [torch.full((3, 128, 128), 0.5), torch.zeros(3, 9, 9)], progress=False)
    with pytest.raises(ValueError, match="one image"):
        fit_stem(model, codec, images[0], progress=False)
    with pytest.raises(ValueError, match="negative, got -1 and"):
        fit_stem(model, codec, images, neighbors=-1)
    with pytest.raises(ValueError, match="negative, got 1 and nan"):
        fit_stem(model, codec, images, ridge=float("nan"))
    with pytest.raises(ValueError, match="match must be one of"):
        fit_stem(model, codec, images, match="size")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not supported"):
        fit_stem(timm.create_model("xcit_nano_12_p16_224"), codec, images)
    with pytest.raises(ValueError, match="of 1 channels, codec 'test' those of 3"):
        fit_stem(timm.create_model("resnet18", in_chans=1, channels=(8, 8, 8, 8)), codec, images)
    assert not hasattr(model, "walloc")
    fit_stem(model, codec, images, progress=False)
    with pytest.raises(ValueError, match="replaced already"):
        fit_stem(model, codec, images)


def test_sides_that_are_no_whole_cells(codec: Codec) -> None:
    """The error names a size that does."""
    images = [torch.rand(3, 40, 40) for _ in range(2)]

    def fit(side: int, match: Any) -> None:
        model = timm.create_model("test_efficientnet", pretrained_cfg_overlay={"input_size": (3, side, side)})
        wt.fit_stem(model, codec, images, match=match, progress=False)

    with pytest.raises(ValueError, match=r"gives 18x18 cells .* 36x36 pixels, .*{'input_size': \(3, 40, 40\)}"):
        fit(36, "resolution")
    fit(40, "resolution")
    fit(36, "grid")


# the model around it


@pytest.mark.parametrize("training", [False, True])
def test_modes_random_numbers_and_trunk_are_kept(codec: Codec, training: bool) -> None:
    model = make("resnet").train(training)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    torch.manual_seed(9)
    fit_stem(model, codec, noise(2, 128), progress=False)
    drawn = torch.rand(3)
    torch.manual_seed(9)
    assert torch.equal(drawn, torch.rand(3))
    assert all(m.training == training for m in model.modules())
    after = model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items() if not key.startswith("conv1."))
    again = fit_stem(make("resnet").train(not training), codec, noise(2, 128), progress=False)
    assert torch.equal(stem_of(again).proj.weight, stem_of(model).proj.weight)


def test_half_precision(codec: Codec) -> None:
    images = noise(4, 128)
    wanted = stem_of(fit_stem(make("convnext"), codec, images, progress=False))
    model = fit_stem(make("convnext").to(torch.bfloat16), codec, images, progress=False)
    stem = stem_of(model)
    assert stem.proj.weight.dtype == torch.bfloat16
    assert stem.codec.weight.dtype == torch.float32
    error = (stem.proj.weight.float() - wanted.proj.weight).abs().max()
    assert error < 0.02 * wanted.proj.weight.abs().max()
    assert model(torch.rand(1, 3, 128, 128)).dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        under = stem_of(fit_stem(make("convnext"), codec, images, progress=False))
    assert torch.equal(under.proj.weight, wanted.proj.weight)


@pytest.mark.parametrize("name", ["vit16", "hiera", "resnet"])
def test_state_dict_round_trip(codec: Codec, name: str) -> None:
    one = fit_stem(make(name), codec, noise(8, 128), progress=False).eval()
    two = fit_stem(make(name), codec, smooth(8, 128), progress=False).eval()
    x = torch.rand(1, *one.walloc.pixels_shape)
    wanted = one.forward_features(x)
    assert not torch.allclose(wanted, two.forward_features(x), atol=1e-4)
    two.load_state_dict(one.state_dict())
    assert torch.equal(wanted, two.forward_features(x))
    three = copy.deepcopy(one)
    assert torch.equal(wanted, three.forward_features(x))
    assert three.walloc_fit == one.walloc_fit


def test_compute_is_counted_with_the_neighbors(codec: Codec) -> None:
    plain = replace_stem(make("convnext"), codec)
    fitted = fit_stem(make("convnext"), codec, noise(2, 128), progress=False)
    assert fitted.walloc.macs - plain.walloc.macs == 16 * 16 * 12 * 8 * (9 - 1)


def test_saved_and_loaded(codec: Codec, tmp_path: Path) -> None:
    torch.manual_seed(2)
    model = timm.create_model("resnet10t", channels=(8, 8, 8, 8), num_classes=7)
    fit_stem(model, codec, noise(2, 352), progress=False).eval()
    save_model(model, tmp_path, model_args={"channels": (8, 8, 8, 8)})
    loaded = load_model(tmp_path)
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(loaded(x), model(x))
    assert stem_of(loaded).neighbors == 1
