"""Stems of torchvision's video models: by axis, exact where they can be, and refusing what does not fit."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.models.video import MViT, SwinTransformer3d, resnet

import walloc_transforms as wt
from walloc_transforms.codec import Codec, CodecConfig
from walloc_transforms.stems.layers import find_stem, pack, unpack

SIZE = (8, 32, 32)  # frames, rows and columns that the models are made for
ARGS: dict[str, Any] = {
    "r3d": (resnet.Conv3DSimple, resnet.BasicStem),
    "r2plus1d": (resnet.Conv2Plus1D, resnet.R2Plus1dStem),
    "swin": None,
}
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def make(name: str) -> Any:
    torch.manual_seed(2)
    if name == "swin":
        model: Any = SwinTransformer3d([2, 4, 4], 24, [1, 1], [1, 2], [8, 7, 7], num_classes=5)
    else:
        maker, stem = ARGS[name]
        model = resnet.VideoResNet(resnet.BasicBlock, [maker] * 4, [1, 1, 1, 1], stem, num_classes=5)
    model.pretrained_cfg = {"input_size": (3, *SIZE), "mean": MEAN, "std": STD}
    return model.eval()


def make_codec(levels: Any, channels: int, **options: Any) -> Codec:
    """A codec of volumes whose latents for uniform noise use the 8 bits."""
    torch.manual_seed(1)
    codec = Codec(CodecConfig("clips", "volume", 3, channels, levels, **options))
    with torch.no_grad():
        codec.weight.mul_(150)
        codec.latent_mean.normal_(0, 5)
        codec.latent_std.uniform_(1, 50)
    return codec


@pytest.fixture(scope="module")
def codec() -> Codec:
    return make_codec((2, 3, 3), 24)


def clips(count: int, size: tuple[int, ...]) -> list[Tensor]:
    return list(torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(3)))


def normalized(x: Tensor) -> Tensor:
    return (x - torch.tensor(MEAN).view(3, 1, 1, 1)) / torch.tensor(STD).view(3, 1, 1, 1)


def test_cells_to_channels_and_back() -> None:
    images, x = torch.rand(2, 3, 8, 12), torch.rand(2, 3, 4, 6, 8)
    assert torch.equal(pack(images, (4, 4)), nn.functional.pixel_unshuffle(images, 4))
    assert torch.equal(unpack(pack(images, (4, 4)), (4, 4)), images)
    packed = pack(x, (2, 3, 1))
    assert torch.equal(packed[1, 6:12, 0, 1, 5], x[1, 1, 0:2, 3:6, 5].flatten())  # the second channel of a cell
    assert torch.equal(unpack(packed, (2, 3, 1)), x)


@pytest.mark.parametrize("stride", [(4, 8, 8), (8, 8, 16), (1, 2, 16), 8])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC", "NLC"])
def test_stem_of_volumes(codec: Codec, stride: Any, layout: Any) -> None:
    """It is a linear map of each cell's own latents, whatever lies elsewhere."""
    stem = wt.WallocStem(codec, 5, stride=stride, input="latents", output_fmt=layout)
    steps = (8, 8, 8) if stride == 8 else stride
    latents = codec.encode(torch.rand(2, 3, 16, 32, 32))
    cells = tuple(side // step for side, step in zip((16, 32, 32), steps, strict=True))
    assert stem.grid_size(stem.input_size((16, 32, 32))) == cells
    shape = {"NCHW": (2, 5, *cells), "NHWC": (2, *cells, 5), "NLC": (2, cells[0] * cells[1] * cells[2], 5)}
    out = stem(latents)
    assert out.shape == shape[layout]
    changed = latents.clone()
    changed[:, :, -1, -1, -1] += 9
    other = stem(changed)
    grids = [(x.movedim(1, -1) if layout == "NCHW" else x).reshape(2, *cells, 5) for x in (out, other)]
    differs = (grids[0] != grids[1]).any(-1).any(0)
    inside = [max(1, step // own) for own, step in zip(steps, (4, 8, 8), strict=True)]
    assert differs.sum() == inside[0] * inside[1] * inside[2]
    assert differs[-inside[0] :, -inside[1] :, -inside[2] :].all()


@pytest.mark.parametrize(
    ("name", "match", "cut", "pixels", "strides"),
    [
        pytest.param("r3d", "grid", "stem.0", (32, 128, 128), (4, 8, 8), marks=pytest.mark.slow),
        pytest.param("r3d", "entry", "layer3.0", SIZE, (4, 8, 8), marks=pytest.mark.slow),
        pytest.param("r3d", "resolution", "stem.0", SIZE, (1, 2, 2), marks=pytest.mark.slow),
        pytest.param("r2plus1d", "resolution", "stem.0", SIZE, (1, 2, 2), marks=pytest.mark.slow),
        ("swin", "grid", "patch_embed", (16, 64, 64), (4, 8, 8)),
        ("swin", "resolution", "patch_embed", SIZE, (2, 4, 4)),
    ],
)
def test_replace_stem(codec: Codec, name: str, match: Any, cut: str, pixels: tuple[int, ...], strides: Any) -> None:
    original = make(name)
    model = wt.replace_stem(copy.deepcopy(original), codec, input="latents", match=match)
    info, stem = model.walloc, find_stem(model)
    assert (info.cut, info.pixels_shape, stem.strides) == (cut, (3, *pixels), strides)
    assert info.latents_shape == info.input_shape == (24, pixels[0] // 4, pixels[1] // 8, pixels[2] // 8)
    assert 0 < info.macs < info.macs_before
    assert model.pretrained_cfg == {"input_size": (3, *pixels), "mean": (0.0,) * 3, "std": (1.0,) * 3}

    x = torch.rand(2, 3, *pixels)
    latents = codec.encode(x)
    assert model(latents).shape == (2, 5)
    other = wt.replace_stem(copy.deepcopy(original), codec, match=match).eval()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x), model(latents))

    # The trunk has kept its weights, and what is trained gets a gradient.
    before, state = original.state_dict(), wt.replace_stem(copy.deepcopy(original), codec, match=match).state_dict()
    kept = [key for key in state if key in before and before[key].shape == state[key].shape]
    assert all(torch.equal(state[key], before[key]) for key in kept)
    assert all(".codec." in key or ".proj." in key for key in state.keys() - set(kept))
    nn.functional.cross_entropy(model.train()(latents), torch.tensor([1, 2])).backward()
    assert all((p.grad is None) == (".codec." in key) for key, p in model.named_parameters())


def test_entry_where_strides_differ_along_an_axis() -> None:
    """Two cells of latents in time make one of the layer that is entered."""
    model = wt.replace_stem(make("r3d"), make_codec((1, 3, 3), 12), match="entry")
    assert (model.walloc.cut, find_stem(model).strides) == ("layer3.0", (4, 8, 8))
    assert model(torch.rand(2, 3, *SIZE)).shape == (2, 5)


def test_sizes_of_torchvisions_weights() -> None:
    model: Any = make("swin")
    del model.pretrained_cfg
    assert wt.replace_stem(model, make_codec((1, 2, 2), 24), input="latents").walloc.pixels_shape == (3, 32, 224, 224)


@pytest.mark.parametrize(
    ("name", "match", "levels", "channels"),
    [("swin", "resolution", (1, 2, 2), 96), ("swin", "entry", (1, 2, 2), 96), ("swin", "resolution", (0, 3, 2), 96)],
)
def test_a_linear_stem_is_reproduced(name: str, match: Any, levels: Any, channels: int) -> None:
    """With all packets of a wavelet that stays within a cell, the model answers as before."""
    codec = make_codec(levels, channels, wavelet="haar")
    model = make(name)
    before = copy.deepcopy(model)
    wt.fit_stem(model, codec, clips(8, SIZE), match=match, neighbors=0, ridge=0, progress=False)
    assert model.walloc_fit.residual < 1e-6
    x = torch.stack(clips(2, SIZE))
    with torch.no_grad():
        expected, got = before(normalized(x)), model(x)
    assert (got - expected).abs().max() < 2e-3 * expected.abs().max()
    assert not torch.allclose(got[0], got[1], atol=1e-3 * float(expected.abs().max()))


@pytest.mark.slow
def test_a_convolution_is_fitted_with_neighbors(codec: Codec) -> None:
    """The first convolution alone is replaced; clips of other forms are brought to the model's."""
    smooth = [nn.functional.interpolate(x[None, :, ::4, ::8, ::8], (12, 40, 36))[0] for x in clips(12, (12, 40, 36))]
    video = tv_tensors.Video(smooth[0].transpose(0, 1))
    residuals = []
    for neighbors in (0, 1):
        model = wt.fit_stem(
            make("r3d"), codec, [video, *smooth[1:]], match="resolution", neighbors=neighbors, progress=False
        )
        residuals.append(model.walloc_fit.residual)
        assert (model.walloc_fit.images, model.walloc_fit.regressors) == (12, 24 * (1 + 2 * neighbors) ** 3)
    assert residuals[1] < residuals[0] < 1
    again = wt.fit_stem(make("r3d"), codec, smooth, match="resolution", neighbors=0, progress=False)
    assert again.walloc_fit.residual == pytest.approx(residuals[0], abs=1e-6)


def test_grid_averages_frames(codec: Codec) -> None:
    """A clip of slow motion, of twice the frames and sides, is shown to the old stem at its size."""
    small = make_codec((2, 3, 3), 768, wavelet="haar")
    model = make("swin")
    wt.fit_stem(model, small, clips(16, (16, 64, 64)), ridge=0, neighbors=0, progress=False)
    assert model.walloc.pixels_shape == (3, 16, 64, 64)
    assert model.walloc_fit.residual < 0.2  # bicubic reducing reads a little beyond a cell


def test_the_frames_in_the_middle_are_taken(codec: Codec) -> None:
    long = clips(6, (13, 32, 32))
    fitted = [
        wt.fit_stem(make("swin"), codec, given, match="resolution", neighbors=0, progress=False)
        for given in (long, [clip[:, 2:10] for clip in long])
    ]
    assert torch.equal(*(find_stem(model).proj.weight for model in fitted))


LONG = (8, 40, 40)


def nan_clip() -> Tensor:
    clip = torch.rand(3, *SIZE)
    clip[0, 1, 2, 3] = torch.nan
    return clip


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (
            lambda: torch.rand(2, *LONG),
            ValueError,
            r"expected clips of shape \(3, T, H, W\) .* got \(2, 8, 40, 40\) at",
        ),
        (lambda: torch.rand(3, 40, 40), ValueError, r"expected clips of shape \(3, T, H, W\)"),
        (lambda: torch.rand(3, 5, 40, 40), ValueError, "clip 0 has 5 frames, the model reads 8"),
        (nan_clip, ValueError, "clip 0 holds NaN or infinite values"),
        (lambda: torch.rand(3, *LONG) * 255, ValueError, r"float clips must be in \[0, 1\]"),
        (lambda: torch.ones(3, *LONG), ValueError, "each of the 1 clips is of one color"),
        (lambda: torch.zeros(3, *LONG, dtype=torch.int64), TypeError, "clip 0: expected a volume of dtype uint8"),
        (lambda: "clip.mp4", TypeError, "clip 0: expected a tensor of shape"),
    ],
)
def test_bad_clips(codec: Codec, given: Callable[[], Any], error: type[Exception], message: str) -> None:
    model = make("swin")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(error, match=message):
        wt.fit_stem(model, codec, [given()], match="resolution", progress=False)
    assert not hasattr(model, "walloc")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_what_does_not_fit(codec: Codec) -> None:
    with pytest.raises(ValueError, match="SwinTransformer3d reads clips: expected a codec of volumes, codec 'rgb_16x'"):
        wt.replace_stem(make("swin"), "rgb_16x")
    with pytest.raises(ValueError, match="ResNet reads images: expected a codec of images, codec 'clips' is for volum"):
        wt.replace_stem(timm.create_model("resnet18"), codec)
    with pytest.raises(ValueError, match=r"divisor of the codec's, \(4, 8, 8\): this SwinTransformer3d's is \(3, 4, 4"):
        model: Any = SwinTransformer3d([3, 4, 4], 24, [1, 1], [1, 2], [8, 7, 7])
        wt.replace_stem(model, codec, match="resolution")
    with pytest.raises(ValueError, match=r"stride must be a multiple or a divisor of \(4, 8, 8\).*got \(4, 12, 8\)"):
        wt.WallocStem(codec, 5, stride=(4, 12, 8))
    with pytest.raises(ValueError, match="distill_stem is for models of images, codec 'clips' for volumes"):
        wt.distill_stem(make("swin"), codec, clips(2, SIZE), steps=1, progress=False)
    with pytest.raises(ValueError, match="models of class MViT are not supported: its positions are for the one grid"):
        wt.replace_stem(MViT.__new__(MViT), codec)
    with pytest.raises(ValueError, match=r"must have input_size=\(3, T, H, W\)"):
        model = make("r3d")
        model.pretrained_cfg["input_size"] = (3, 64, 64)
        wt.replace_stem(model, codec)
    gray = Codec(CodecConfig("gray", "volume", 1, 8, 2))
    with pytest.raises(ValueError, match="the model reads clips of 3 channels, codec 'gray' those of 1"):
        wt.fit_stem(make("swin"), gray, clips(2, SIZE), match="resolution", progress=False)
    with pytest.raises(ValueError, match="a patch embedding reads images, codec 'clips' is for volumes"):
        wt.WallocPatchEmbed(64, 16, codec=codec)
    with pytest.raises(ValueError, match="an adapter is for images, codec 'clips' for volumes"):
        wt.WallocStem(codec, 5, stride=8, adapter=wt.AdapterShape(16, 2))


def test_bad_input(codec: Codec) -> None:
    model = wt.replace_stem(make("swin"), codec, match="resolution")
    with pytest.raises(ValueError, match=r"reads pixels with 3 channels .* a batch of five dimensions; got shape"):
        model(torch.rand(3, *SIZE))
    with pytest.raises(ValueError, match="got 24 channels: latents"):
        model(torch.rand(1, 24, 2, 4, 4))
    with pytest.raises(ValueError, match="NaN"):
        model(nan_clip()[None])
    with pytest.raises(ValueError, match="too small: got 8x4x32 samples, expected at least 4x8x8"):
        model(torch.rand(1, 3, 8, 4, 32))
    latents = wt.replace_stem(make("swin"), codec, match="resolution", input="latents")
    with pytest.raises(ValueError, match="encoded by codec 'other'"):
        other = Codec(CodecConfig("other", "volume", 3, 24, (2, 3, 3)))
        latents(wt.functional.encode_volume(torch.rand(1, 3, *SIZE), other))


def test_save_model_is_for_timms(codec: Codec, tmp_path: Any) -> None:
    with pytest.raises(
        ValueError, match=r"only models of timm .* this SwinTransformer3d is a video model: save its state_dict"
    ):
        wt.save_model(wt.replace_stem(make("swin"), codec), tmp_path)
