"""``Latents``: what they carry, what keeps it, and what torchvision's transforms do to them."""

import copy
import gc
import io
import multiprocessing
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from PIL import Image
from skimage import data
from torch import nn
from torch.utils.data import DataLoader, Dataset, default_collate
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

import walloc_transforms as wt
from tests.helpers import STARTS, bounding_boxes, make_codec
from walloc_transforms.codec import check_latents
from walloc_transforms.latents import codec_of, wrap_latents

F: Any = functional  # type checkers do not know its kernels,
wrap: Any = tv_tensors.wrap  # nor its signature
needs_wrap = pytest.mark.skipif(
    not hasattr(tv_tensors.TVTensor, "wrap"), reason="below 0.28, torchvision's wrap forgets what other classes carry"
)
CODECS = ["rgb_16x", "rgb_4x", "rgb_16x_viewing", "rgb_4x_viewing"]


def photograph(height: int = 256, width: int = 384) -> torch.Tensor:
    return torch.from_numpy(data.astronaut())[:height, :width].permute(2, 0, 1)


@pytest.fixture(scope="module")
def latents() -> wt.Latents:
    return wt.WallocEncode("rgb_16x")(photograph(124, 90))


def facts(latents: wt.Latents) -> tuple[Any, ...]:
    return latents.codec, latents.fingerprint, latents.signal_size, latents.normalized, latents.cropped


def saved(latents: wt.Latents) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(latents, file)
    file.seek(0)
    return file


# What they carry


def test_encoding_says_what_it_did() -> None:
    codec = wt.load_codec("rgb_16x")
    for normalize in (False, True):
        latents = wt.functional.encode_image(torch.rand(2, 3, 20, 33), codec, normalize=normalize)
        assert facts(latents) == ("rgb_16x", codec.fingerprint(), (20, 33), normalize, (False, False))
        assert latents.shape == (2, 12, 3, 5)
    music = wt.WallocEncode("stereo_20x")(torch.rand(2, 3000))
    assert (music.codec, music.signal_size, music.cropped) == ("stereo_20x", (3000,), (False,))


def test_built_by_hand() -> None:
    latents = wt.Latents([[[1, 2]]], codec="c", fingerprint="f" * 64, signal_size=[8, 16], dtype=torch.float64)
    assert facts(latents) == ("c", "f" * 64, (8, 16), False, (False, False))
    assert latents.dtype == torch.float64
    assert repr(latents) == (
        "Latents([[[1., 2.]]], dtype=torch.float64, codec='c', fingerprint=ffffffff..., signal_size=(8, 16), "
        "normalized=False, cropped=(False, False))"
    )


@pytest.mark.parametrize(
    ("shape", "size", "message"),
    [((2, 2), (16, 16), r"\(\.\.\., D, h, w\), got a tensor of shape \(2, 2\)"), ((2, 2), (), "signal_size must be")],
)
def test_metadata_that_makes_no_sense(shape: tuple[int, ...], size: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wt.Latents(torch.zeros(shape), codec="c", fingerprint="f", signal_size=size)


@pytest.mark.parametrize(
    "keep",
    [
        copy.copy,
        copy.deepcopy,
        torch.Tensor.clone,
        torch.Tensor.detach,
        lambda x: x.to(torch.float64).to(torch.float32),
        lambda x: pickle.loads(pickle.dumps(x)),
        lambda x: torch.load(saved(x), weights_only=True),
        pytest.param(lambda x: wrap(torch.Tensor(x), like=x), marks=needs_wrap),
        lambda x: x.requires_grad_(False),
    ],
)
def test_metadata_is_kept(latents: wt.Latents, keep: Callable[[Any], Any]) -> None:
    kept = keep(latents)
    assert type(kept) is wt.Latents
    assert facts(kept) == facts(latents)
    assert torch.equal(kept, latents)


@pytest.mark.parametrize(
    "lose",
    [
        lambda x: x + 1,
        lambda x: x[:3],
        lambda x: x.reshape(-1),
        lambda x: torch.stack([x, x]),
        lambda x: torch.cat([x, x]),
        lambda x: default_collate([x, x]),
        v2.ToPureTensor(),
    ],
)
def test_operations_give_plain_tensors(latents: wt.Latents, lose: Callable[[Any], Any]) -> None:
    assert type(lose(latents)) is torch.Tensor


@needs_wrap
def test_wrap_replaces_what_it_is_told_to(latents: wt.Latents) -> None:
    assert wrap(torch.Tensor(latents), like=latents, signal_size=(128, 96)).signal_size == (128, 96)
    with pytest.raises(TypeError, match=r"Latents carry codec, .*, got size"):
        wrap(torch.Tensor(latents), like=latents, size=(128, 96))


def test_methods_of_tensors_are_not_hidden(latents: wt.Latents) -> None:
    assert latents.size() == latents.shape == (12, 16, 12)


class Photographs(Dataset):
    def __init__(self, transform: Any) -> None:
        self.transform = transform

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(photograph(64 + 8 * index, 64)), index


def first(batch: list[Any]) -> Any:
    return batch[0][0]


@pytest.mark.parametrize("start", STARTS)
def test_workers_flip_and_hand_over(start: str) -> None:
    """The worker has the codec only by its transform; what it hands over keeps its metadata."""
    if start not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this platform cannot start processes by {start}")
    own = make_codec()
    dataset = Photographs(v2.Compose([wt.WallocEncode(own), v2.RandomHorizontalFlip(1)]))
    loader = DataLoader(dataset, num_workers=1, multiprocessing_context=start, collate_fn=first)
    for worker, (main, _) in zip(loader, (dataset[i] for i in range(2)), strict=True):
        assert facts(worker) == facts(main)
        torch.testing.assert_close(torch.Tensor(worker), torch.Tensor(main), atol=1e-3, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_encoding_gives_plain_tensors(backend: str) -> None:
    torch._dynamo.reset()
    encode = wt.WallocEncode("rgb_16x")
    stem = nn.Conv2d(12, 4, 1)
    images = torch.rand(2, 3, 32, 32)
    alone = torch.compile(encode, fullgraph=True, backend=backend)(images)
    assert type(alone) is torch.Tensor
    torch.testing.assert_close(alone, torch.Tensor(encode(images)), atol=1e-3, rtol=0)
    both = torch.compile(lambda x: stem(encode(x)), fullgraph=True, backend=backend)(images)
    torch.testing.assert_close(both, stem(encode(images)), atol=1e-3, rtol=1e-4)


def test_exported_encoding_gives_plain_tensors() -> None:
    encode, images = wt.WallocEncode("rgb_16x"), torch.rand(2, 3, 32, 32)
    encode(images)
    exported = torch.export.export(encode, (images,)).module()
    assert type(exported(images)) is torch.Tensor
    torch.testing.assert_close(exported(images), torch.Tensor(encode(images)), atol=1e-3, rtol=0)


def test_compiled_models_read_latents() -> None:
    torch._dynamo.reset()
    batch, model = wt.WallocEncode("rgb_16x")(torch.rand(2, 3, 32, 32)), nn.Conv2d(12, 4, 1)
    torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="eager")(batch), model(batch))
    decode = torch.compile(wt.WallocDecode("rgb_16x"), fullgraph=True, backend="eager")
    torch.testing.assert_close(decode(batch), wt.WallocDecode("rgb_16x")(batch), atol=1e-4, rtol=0)


# Decoding


def test_decoding_cuts_and_denormalizes_by_itself() -> None:
    image = photograph(124, 90)
    expected = wt.WallocDecode("rgb_16x")(wt.WallocEncode("rgb_16x")(image))
    assert expected.shape == (3, 124, 90)
    normal = wt.WallocEncode("rgb_16x", normalize=True)(image)
    for normalized in (False, True):
        decoded = wt.WallocDecode("rgb_16x", normalized=normalized)(normal)
        torch.testing.assert_close(decoded, expected, atol=1e-4, rtol=0)
    assert wt.WallocDecode("rgb_16x", size=(121, 89))(normal).shape == (3, 121, 89)
    assert wt.WallocDecode("rgb_16x", normalized=True)(torch.Tensor(normal)).shape == (3, 128, 96)
    with pytest.raises(ValueError, match="not normalized: expected normalized ones"):
        wt.WallocDecode("rgb_16x", normalized=True)(wt.WallocEncode("rgb_16x")(image))


def test_another_codecs_latents_are_refused(latents: wt.Latents) -> None:
    prefix = wt.load_codec("rgb_4x", channels=12)
    for other in ("rgb_16x_viewing", prefix, "rgb_4x"):
        with pytest.raises(ValueError, match=r"encoded by codec 'rgb_16x' \(fingerprint [0-9a-f]{8}\), not by 'rgb_"):
            wt.WallocDecode(other)(latents)
    shorter = wt.functional.encode_image(photograph(), prefix)
    assert wt.functional.decode_image(shorter, wt.load_codec("rgb_4x").prefix(12)).shape == (3, 256, 384)
    check_latents(latents, copy.deepcopy(codec_of(latents)))


def test_latents_and_labels_in_one_sample(latents: wt.Latents) -> None:
    label, image = torch.tensor(3), tv_tensors.Image(torch.rand(3, 8, 8))
    out = wt.WallocDecode("rgb_16x")({"label": label, "latents": [latents, latents], "image": image})
    assert out["label"] is label
    assert out["image"] is image
    assert [x.shape for x in out["latents"]] == [(3, 124, 90)] * 2
    with pytest.raises(TypeError, match="nothing to decode: expected latents, got Image, int"):
        wt.WallocDecode("rgb_16x")((image, 3))


def test_gradients_pass() -> None:
    codec = make_codec().requires_grad_(True)
    wt.functional.encode_image(torch.rand(3, 16, 16), codec).square().mean().backward()
    assert codec.weight.grad is not None


# What torchvision's transforms do to them

ALWAYS = """RandomAutocontrast RandomEqualize RandomErasing RandomGrayscale RandomHorizontalFlip RandomInvert
    RandomPerspective RandomPhotometricDistort RandomVerticalFlip RandomZoomOut"""
OURS = "CenterCrop RandomHorizontalFlip RandomVerticalFlip"
REFUSE = """AugMix AutoAugment ElasticTransform FiveCrop Pad RandAugment RandomAffine RandomChannelPermutation
    RandomCrop RandomErasing RandomGrayscale RandomIoUCrop RandomPerspective RandomPhotometricDistort RandomResize
    RandomResizedCrop RandomRotation RandomShortestSize RandomZoomOut Resize SanitizeBoundingBoxes SanitizeKeyPoints
    ScaleJitter TenCrop TrivialAugmentWide"""
# Transforms of several transforms or of batches, policies, and what is no transform. ToPureTensor is the way out.
OTHERS = """AutoAugmentPolicy Compose CutMix InterpolationMode MixUp RandomApply RandomChoice RandomOrder ToPureTensor
    Transform"""

SIMPLE: dict[str, Any] = {
    "CenterCrop": partial(v2.CenterCrop, 4),
    "ConvertBoundingBoxFormat": partial(v2.ConvertBoundingBoxFormat, "XYXY"),
    "FiveCrop": partial(v2.FiveCrop, 4),
    "GaussianBlur": partial(v2.GaussianBlur, 3),
    "JPEG": partial(v2.JPEG, 50),
    "Lambda": partial(v2.Lambda, lambda x: x, wt.Latents),
    "LinearTransformation": partial(v2.LinearTransformation, torch.eye(2304), torch.zeros(2304)),
    "Normalize": partial(v2.Normalize, [0.5], [0.5]),
    "Pad": partial(v2.Pad, 1),
    "RandomAdjustSharpness": partial(v2.RandomAdjustSharpness, 2, 1),
    "RandomAffine": partial(v2.RandomAffine, [-10, 10]),
    "RandomCrop": partial(v2.RandomCrop, 4),
    "RandomPosterize": partial(v2.RandomPosterize, 2, 1),
    "RandomResize": partial(v2.RandomResize, 4, 5),
    "RandomResizedCrop": partial(v2.RandomResizedCrop, 4),
    "RandomRotation": partial(v2.RandomRotation, [-10, 10]),
    "RandomShortestSize": partial(v2.RandomShortestSize, 4),
    "RandomSolarize": partial(v2.RandomSolarize, 0.5, 1),
    "Resize": partial(v2.Resize, 4),
    "ScaleJitter": partial(v2.ScaleJitter, (4, 4)),
    "SetClampingMode": partial(v2.SetClampingMode, "soft"),
    "TenCrop": partial(v2.TenCrop, 4),
    "ToDtype": partial(v2.ToDtype, torch.float64, scale=True),
    "UniformTemporalSubsample": partial(v2.UniformTemporalSubsample, 1),
    **{name: partial(getattr(v2, name), p=1) for name in dir(v2) if name in ALWAYS.split()},
}
TRANSFORMS = sorted(n for n in dir(v2) if isinstance(getattr(v2, n), type) and n not in OTHERS.split())


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.filterwarnings("ignore")
def test_every_transform_leaves_latents_alone_or_refuses_them(name: str) -> None:
    """Or has a kernel of ours; a new transform of torchvision is found by this test."""
    codec = wt.load_codec("rgb_16x")
    latents = wt.functional.encode_image(photograph(128, 96), codec)
    before = torch.Tensor(latents).clone()
    transform = SIMPLE.get(name, getattr(v2, name))()
    if name in REFUSE.split():
        with pytest.raises((TypeError, ValueError)):
            transform(latents)
        return
    out = transform(latents)
    if name in OURS.split():
        assert type(out) is wt.Latents
        assert not torch.equal(out, before) if out.shape == before.shape else out.shape == (12, 4, 4)
    else:
        assert out is latents
    assert torch.equal(latents, before)


def test_functions_of_torchvision_refuse_latents(latents: wt.Latents) -> None:
    with pytest.raises(TypeError, match="resize changes the geometry, which latents cannot follow"):
        F.resize(latents, [4, 4])
    with pytest.raises(TypeError, match="supports inputs of type"):
        F.gaussian_blur(latents, [3, 3])


@pytest.mark.parametrize(
    "transform",
    [
        v2.Resize(64),
        v2.RandomResizedCrop(64),
        v2.Pad(8),
        v2.RandomRotation([9, 10]),
        v2.RandomAffine([9, 10]),
        v2.RandomPerspective(p=1),
        v2.ElasticTransform(),
        v2.RandomZoomOut(p=1),
        v2.ScaleJitter((64, 64)),
        v2.RandomShortestSize(64),
    ],
)
@pytest.mark.parametrize("targets", ["keep", "rescale"])
def test_targets_do_not_move_alone(transform: Any, targets: Any) -> None:
    mask = tv_tensors.Mask(torch.zeros(1, 256, 256))
    sample = wt.WallocEncode("rgb_16x", targets=targets)((photograph(256, 256), mask))
    with pytest.raises(TypeError, match="changes the geometry"):
        transform(sample)


def test_mixing_batches(latents: wt.Latents) -> None:
    """Collated latents mix as plain tensors do; CutMix cannot find the size of others."""
    labels = torch.tensor([0, 1])
    batch = default_collate([latents, latents])
    for mix in (v2.MixUp(num_classes=2), v2.CutMix(num_classes=2)):
        mixed, _ = mix(batch, labels)
        assert mixed.shape == batch.shape
    with pytest.raises(TypeError, match="at least two dimensions"):
        v2.CutMix(num_classes=2)(wt.WallocEncode("rgb_16x")(torch.rand(2, 3, 64, 64)), labels)


def test_what_torchvision_does_not_ask(latents: wt.Latents) -> None:
    """Two mistakes that nobody can refuse; docs/latents.md warns of them. May torchvision mend them one day."""
    batch = wt.WallocEncode("rgb_16x")(torch.rand(2, 3, 64, 64))
    mixed, labels = v2.MixUp(num_classes=2)(batch, torch.tensor([0, 1]))
    assert mixed is batch
    assert torch.equal(labels[0], labels[1].flip(0))
    whole = F.crop(latents, 0, 0, 15, 11)
    _, one_hot = v2.RandomHorizontalFlip(1)((whole, torch.tensor([0, 1])))
    assert one_hot.tolist() == [1, 0]


# Crops


def test_crops_count_cells(latents: wt.Latents) -> None:
    part = F.crop(latents, 2, 3, 5, 6)
    assert torch.equal(part, latents[..., 2:7, 3:9])
    assert facts(part) == ("rgb_16x", latents.fingerprint, (40, 48), False, (True, True))
    assert F.crop(latents, 10, 8, 6, 4).signal_size == (44, 26)
    assert F.crop(latents, 0, 0, 16, 4).cropped == (False, True)
    assert wt.WallocDecode("rgb_16x")(part).shape == (3, 40, 48)
    middle = v2.CenterCrop((4, 6))(latents)
    assert torch.equal(middle, latents[..., 6:10, 3:9])
    assert torch.equal(v2.CenterCrop(4)(latents), latents[..., 6:10, 4:8])
    assert F.get_size(latents) == [16, 12]


@pytest.mark.parametrize("box", [(-1, 0, 4, 4), (0, 0, 17, 4), (0, 9, 4, 4), (0, 0, 0, 4), (100, 0, 224, 224)])
def test_crops_beyond_the_grid(latents: wt.Latents, box: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="counts cells and lies within their grid, here of 16 x 12 cells: got top="):
        F.crop(latents, *box)


def test_random_crop_follows_a_target_on_the_grid() -> None:
    """Alone, ``v2.RandomCrop`` does not know latents, and says that it finds no image."""
    mask = tv_tensors.Mask(torch.arange(16 * 12).view(1, 16, 12).repeat_interleave(8, 1).repeat_interleave(8, 2))
    transform = v2.Compose([wt.WallocEncode("rgb_16x", targets="rescale"), v2.RandomCrop((4, 6))])
    part, where = transform(tv_tensors.Image(photograph(128, 96)), mask)
    whole = wt.functional.encode_image(photograph(128, 96), "rgb_16x")
    assert torch.equal(part.flatten(1), whole.flatten(1)[:, where.flatten()])
    with pytest.raises(TypeError, match="No image"):
        v2.RandomCrop(4)(whole)


# Flips


def missed(got: torch.Tensor, expected: torch.Tensor) -> float:
    """Share of the latents' variance."""
    return float((got - expected).square().mean() / torch.Tensor(expected).var((-2, -1), correction=0).mean())


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize(("flip", "axis"), [(v2.RandomHorizontalFlip(1), -1), (v2.RandomVerticalFlip(1), -2)])
def test_flips_are_those_of_the_image(name: str, flip: Any, axis: int) -> None:
    image = photograph()
    latents, expected = (wt.functional.encode_image(x, name) for x in (image, image.flip(axis)))
    flipped = flip(latents)
    assert facts(flipped) == facts(latents)
    assert missed(flipped, expected) < 0.01
    assert missed(torch.Tensor(latents).flip(axis), expected) > 0.2  # as an image
    assert missed(flip(flipped), latents) < 0.005


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"wavelet": "haar"},
        {"wavelet": "bior1.3"},
        {"companding": "clip"},
        {"decoder": "autoencoder_kl", "decoder_width": 32},
        {"latent_bits": 12},
    ],
)
def test_flips_of_codecs_of_ones_own(options: dict[str, Any]) -> None:
    """With all channels nothing is lost but what lies beyond the taps. A decoder that is a network is not asked."""
    codec = make_codec(channels=192, gain=40.0, **options)
    image = photograph(64, 96)
    latents, expected = (wt.functional.encode_image(x, codec) for x in (image, image.flip(-1)))
    assert missed(F.horizontal_flip(latents), expected) < 1e-4


def test_codecs_that_flip_exactly() -> None:
    """Fitted to images and their flips, with symmetric filters of an even number of taps: channels may change sign."""
    photos = [photograph(256, 256).flip(axes) for axes in ((), (-1,), (-2,), (-2, -1))]
    codec = wt.fit_codec(photos, levels=3, channels=12, wavelet="bior3.5", progress=False)
    image = torch.from_numpy(data.coffee())[:400, :600].permute(2, 0, 1)
    latents, expected = (wt.functional.encode_image(x, codec) for x in (image, image.flip(-1)))
    torch.testing.assert_close(F.horizontal_flip(latents)[...], expected[...], atol=5e-3, rtol=0)
    torch.testing.assert_close(latents.flip(-1).abs(), expected.abs(), atol=5e-3, rtol=0)


def test_flips_of_every_form() -> None:
    image = photograph(64, 96)
    raw = F.horizontal_flip(wt.functional.encode_image(image, "rgb_4x"))
    normal = F.horizontal_flip(wt.functional.encode_image(image, "rgb_4x", normalize=True))
    torch.testing.assert_close(
        torch.Tensor(normal), wt.load_codec("rgb_4x").normalize(torch.Tensor(raw)), atol=1e-3, rtol=0
    )
    rounded = wt.functional.encode_image(image, "rgb_4x", quantize=True, dtype=torch.int8)
    assert F.horizontal_flip(rounded).dtype == torch.int8
    assert missed(F.horizontal_flip(rounded).float(), raw) < 0.002
    half = wt.functional.encode_image(image, "rgb_4x", dtype=torch.float16)
    assert F.horizontal_flip(half).dtype == torch.float16
    batch = wt.functional.encode_image(image.expand(2, 1, -1, -1, -1), "rgb_4x")
    torch.testing.assert_close(
        torch.Tensor(F.horizontal_flip(batch)), raw.expand(2, 1, -1, -1, -1)[...], atol=1e-3, rtol=0
    )
    one = wt.functional.encode_image(image[:, :8, :8], "rgb_4x")
    assert F.horizontal_flip(one).shape == (48, 1, 1)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(F.horizontal_flip(wt.functional.encode_image(image, "rgb_4x")), raw)


def test_flips_of_prefixes() -> None:
    prefix = wt.load_codec("rgb_4x", channels=20)
    latents, expected = (wt.functional.encode_image(x, prefix) for x in (photograph(), photograph().flip(-1)))
    assert missed(F.horizontal_flip(latents), expected) < 0.01
    stored = pickle.dumps(latents)
    del prefix
    gc.collect()
    assert codec_of(pickle.loads(stored)).config.channels == 20


def test_flips_of_crops() -> None:
    """A crop has no neighbors at its border, so that flips repeat its outer cells."""
    latents, expected = (wt.functional.encode_image(x, "rgb_16x") for x in (photograph(), photograph().flip(-1)))
    part = F.crop(latents, 0, 4, 32, 20)
    assert missed(F.horizontal_flip(part), torch.Tensor(expected)[..., 24:44]) < 0.05
    assert missed(F.vertical_flip(part), part.flip(-2)) > 0.2


def test_sides_that_end_within_a_cell(latents: wt.Latents) -> None:
    for flip, side in ((F.horizontal_flip, "width 90"), (F.vertical_flip, "height 124")):
        with pytest.raises(ValueError, match=f"an image of {side} would begin with what encoding added"):
            flip(latents)
    assert F.horizontal_flip(F.crop(latents, 0, 0, 16, 11)).signal_size == (124, 88)


def test_codecs_that_cannot_be_flipped() -> None:
    with pytest.raises(ValueError, match="only images and volumes are flipped: codec 'stereo_20x' is for audio"):
        F.horizontal_flip(wt.WallocEncode("stereo_20x")(torch.rand(2, 3000)))
    staged = make_codec(stages=2)
    with pytest.raises(ValueError, match="its encoder is not one linear projection"):
        F.horizontal_flip(wt.functional.encode_image(photograph(64, 64), staged))
    with pytest.raises(ValueError, match="latents of codec 'stereo_20x' are of waveforms"):
        F.crop(wt.WallocEncode("stereo_20x")(torch.rand(2, 3000)), 0, 0, 1, 1)
    unknown = wt.Latents(torch.zeros(12, 2, 2), codec="mine", fingerprint="0" * 64, signal_size=(16, 16))
    with pytest.raises(ValueError, match=r"codec 'mine' \(fingerprint 00000000\) is not embedded"):
        F.horizontal_flip(unknown)


def test_codecs_that_are_gone_or_changed() -> None:
    codec = make_codec()
    latents = wrap_latents(codec.encode(torch.rand(3, 16, 16)), codec, (16, 16))
    F.horizontal_flip(latents)
    with torch.no_grad():
        codec.weight.mul_(2)
    with pytest.raises(ValueError, match="has not encoded anything in this process"):
        F.horizontal_flip(latents)
    latents = wrap_latents(codec.encode(torch.rand(3, 16, 16)), codec, (16, 16))
    F.horizontal_flip(latents)
    del codec
    gc.collect()
    with pytest.raises(ValueError, match="has not encoded anything in this process"):
        F.horizontal_flip(latents)


def test_transforms_of_normalized_latents_take_the_statistics_that_normalized_them() -> None:
    first = wt.load_codec("rgb_16x")
    second = wt.fit_statistics(first, [photograph(64, 64) // 5], progress=False)
    latents = wt.functional.encode_image(photograph(64, 96), first, normalize=True)
    others = wt.functional.encode_image(photograph(64, 96), second, normalize=True)
    raw = F.horizontal_flip(wt.functional.encode_image(photograph(64, 96), second))[...]
    torch.testing.assert_close(F.horizontal_flip(latents)[...], first.normalize(raw), atol=1e-4, rtol=0)
    torch.testing.assert_close(F.horizontal_flip(others)[...], second.normalize(raw), atol=1e-4, rtol=0)
    del second
    gc.collect()
    with pytest.raises(ValueError, match="were normalized by statistics that no codec has"):
        F.horizontal_flip(others)
    unknown = wt.Latents(
        latents[...], codec="rgb_16x", fingerprint=latents.fingerprint, signal_size=(64, 96), normalized=True
    )
    assert torch.equal(F.horizontal_flip(unknown), F.horizontal_flip(latents))


def test_normalized_latents_on_another_device_than_the_codec() -> None:
    latents = wt.functional.encode_image(photograph(64, 64), "rgb_16x", normalize=True).to("meta")
    assert F.horizontal_flip(latents).device.type == "meta"


def test_images_beside_latents_are_flipped_too() -> None:
    image = Image.fromarray(data.astronaut()[:64, :64])
    boxes = bounding_boxes([[8, 8, 16, 16]], format="XYXY", canvas_size=(64, 64))
    latents, flipped = v2.Compose([wt.WallocEncode("rgb_16x"), v2.RandomHorizontalFlip(1)])(image, boxes)
    assert type(latents) is wt.Latents
    assert torch.equal(flipped, torch.tensor([[48, 8, 56, 16]]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_flips_equal_cpu_flips() -> None:
    images = torch.randint(0, 256, (2, 3, 64, 80), dtype=torch.uint8)
    latents = wt.WallocEncode("rgb_4x")(images)
    torch.backends.cudnn.allow_tf32 = False
    torch.testing.assert_close(
        F.horizontal_flip(latents.cuda()).cpu()[...], F.horizontal_flip(latents)[...], atol=1e-2, rtol=0
    )
