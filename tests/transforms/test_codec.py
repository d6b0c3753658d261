import inspect
import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

import walloc_transforms as wt
from tests.helpers import STARTS, bounding_boxes, give_refiner, key_points
from walloc_transforms import functional
from walloc_transforms.functional import decode_image, encode_image


def pil(size: tuple[int, int] = (17, 33), mode: str = "RGB") -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)).convert(mode)


def as_tensor(image: Image.Image) -> torch.Tensor:
    return v2.functional.pil_to_tensor(image)


@pytest.fixture(scope="module")
def encode() -> wt.WallocEncode:
    return wt.WallocEncode("rgb_16x")


@pytest.mark.parametrize(
    "wrap", [as_tensor, lambda i: i, lambda i: tv_tensors.Image(as_tensor(i)), lambda i: as_tensor(i).float() / 255]
)
def test_every_kind_of_image_gives_the_same_latents(encode: wt.WallocEncode, wrap: Any) -> None:
    latents = encode(wrap(pil()))
    assert type(latents) is wt.Latents
    assert latents.shape == (12, 5, 3)
    torch.testing.assert_close(latents, encode_image(as_tensor(pil()), "rgb_16x"), atol=1e-3, rtol=0)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "LA", "RGBA", "YCbCr", "HSV"])
def test_pil_modes(encode: wt.WallocEncode, mode: str) -> None:
    image = pil(mode=mode)
    torch.testing.assert_close(
        encode(image), encode(image.convert("RGBA").convert("RGB") if "A" in mode else image.convert("RGB"))
    )


def test_sixteen_bit_gray(encode: wt.WallocEncode) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (16, 24), np.uint16)
    expected = torch.from_numpy(values / 65535).expand(3, -1, -1)
    torch.testing.assert_close(encode(Image.fromarray(values)), encode_image(expected, "rgb_16x"), atol=1e-3, rtol=0)


@pytest.mark.parametrize("mode", ["I", "F", "LAB"])
def test_modes_without_range_are_refused(encode: wt.WallocEncode, mode: str) -> None:
    with pytest.raises(ValueError, match=mode):
        encode(Image.new(mode, (16, 16)))


@pytest.mark.parametrize("batch", [(), (0,), (5, 0), (2,), (2, 3)])
def test_batches_equal_stacked_singles(encode: wt.WallocEncode, batch: tuple[int, ...]) -> None:
    images = torch.rand(*batch, 3, 17, 33)
    latents = encode(images)
    assert latents.shape == (*batch, 12, 3, 5)
    singles = [encode(image) for image in images.reshape(-1, 3, 17, 33)]
    if singles:
        torch.testing.assert_close(latents.reshape(-1, 12, 3, 5), torch.stack(singles), atol=1e-4, rtol=0)


def test_video(encode: wt.WallocEncode) -> None:
    video = torch.rand(2, 4, 3, 16, 24)
    latents = encode(tv_tensors.Video(video))
    assert type(latents) is wt.Latents
    assert torch.equal(latents, encode(video))


def targets() -> dict[str, Any]:
    return {
        "boxes": bounding_boxes([[3, 5, 9, 12]], format="XYXY", canvas_size=(33, 17)),
        "mask": tv_tensors.Mask(torch.randint(0, 9, (1, 33, 17))),
        "points": key_points([[3, 5]], canvas_size=(33, 17)),
    }


def test_return_type_changes_nothing(encode: wt.WallocEncode) -> None:
    with tv_tensors.set_return_type("TVTensor"):
        assert type(encode(tv_tensors.Image(torch.rand(3, 16, 16)))) is wt.Latents


def test_nested_samples_and_untouched_entries(encode: wt.WallocEncode) -> None:
    """Everything that is not an image comes back as the same object."""
    others = {**targets(), "label": 3, "name": "cat", "none": None, "array": np.zeros(3), "more": torch.rand(3, 16, 16)}
    image = tv_tensors.Image(torch.rand(3, 33, 17))
    out = encode({"images": [pil(), (image,)], **others})
    assert out["images"][0].shape == (12, 5, 3)
    assert torch.equal(out["images"][1][0], encode(image))
    for key, value in others.items():
        assert out[key] is value


def test_first_pure_tensor_only(encode: wt.WallocEncode) -> None:
    image, label = torch.rand(3, 16, 16), torch.tensor(3)
    latents, same = encode(image, label)
    assert latents.shape == (12, 2, 2)
    assert same is label


def test_targets_on_the_latent_grid() -> None:
    given = targets()
    _, out = wt.WallocEncode("rgb_16x", targets="rescale")(tv_tensors.Image(torch.rand(3, 33, 17)), given)
    assert torch.equal(out["boxes"], torch.tensor([[3, 5, 9, 12]]) / 8)
    assert torch.equal(out["points"], torch.tensor([[3, 5]]) / 8)
    assert out["boxes"].canvas_size == out["points"].canvas_size == (5, 3)
    assert out["boxes"].format == tv_tensors.BoundingBoxFormat.XYXY
    for key in given:
        assert type(out[key]) is type(given[key])
    rows, columns = [4, 12, 20, 28, 32], [4, 12, 16]  # the middle of every cell, or the last pixel
    assert torch.equal(out["mask"], given["mask"][:, rows][..., columns])


def test_angle_of_rotated_boxes_is_kept() -> None:
    boxes = bounding_boxes([[8.0, 16, 24, 32, 45]], format="CXCYWHR", canvas_size=(64, 64))
    _, out = wt.WallocEncode("rgb_16x", targets="rescale")(torch.rand(3, 64, 64), boxes)
    assert torch.equal(out, torch.tensor([[1.0, 2, 3, 4, 45]]))


def test_targets_on_a_grid_of_oblong_cells() -> None:
    encode = wt.WallocEncode(wt.Codec(wt.CodecConfig("oblong", "image", 3, 8, (2, 3))), targets="rescale")
    given = targets()
    _, out = encode(tv_tensors.Image(torch.rand(3, 33, 17)), given)
    assert torch.equal(out["boxes"], torch.tensor([[3 / 8, 5 / 4, 9 / 8, 12 / 4]]))
    assert torch.equal(out["points"], torch.tensor([[3 / 8, 5 / 4]]))
    assert out["boxes"].canvas_size == (9, 3)
    rows, columns = [*range(2, 33, 4), 32], [4, 12, 16]
    assert torch.equal(out["mask"], given["mask"][:, rows][..., columns])
    boxes = bounding_boxes([[8.0, 16, 24, 32, 45]], format="CXCYWHR", canvas_size=(64, 64))
    with pytest.raises(ValueError, match="cells of 4x8 pixels make no box of a rotated one"):
        encode(torch.rand(3, 64, 64), boxes)


def test_options(encode: wt.WallocEncode) -> None:
    image = pil()
    raw = encode(image)
    assert torch.equal(wt.WallocEncode("rgb_16x", quantize=True)(image), raw.round())
    codes = wt.WallocEncode("rgb_16x", quantize=True, dtype=torch.int8)(image)
    assert codes.dtype == torch.int8
    assert torch.equal(codes.float(), raw.round())
    normal = wt.WallocEncode("rgb_16x", normalize=True)(image)
    torch.testing.assert_close(normal, wt.load_codec("rgb_16x").normalize(raw))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": "boxes"}, "targets must be 'keep' or 'rescale', got 'boxes'"),
        ({"targets": "rescale", "codec": "stereo_5x"}, "is for codecs of images, got codec 'stereo_5x', which encodes"),
        ({"dtype": torch.int8}, "quantize=True"),
        ({"codec": "rgb_5x"}, "unknown codec 'rgb_5x'"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wt.WallocEncode(**{"codec": "rgb_16x", **options})


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({"label": 3}, "nothing to encode: expected a PIL image.*, got int$"),
        ((np.zeros((16, 16, 3), np.uint8), 3), r"got int, ndarray; v2.ToImage\(\) makes images of arrays"),
        ([], "got an empty sample"),
        (tv_tensors.Mask(torch.zeros(1, 16, 16)), "got Mask"),
    ],
)
@pytest.mark.parametrize("targets", ["keep", "rescale"])
def test_nothing_to_encode(sample: Any, message: str, targets: Any) -> None:
    with pytest.raises(TypeError, match=message):
        wt.WallocEncode("rgb_16x", targets=targets)(sample)


def test_encoding_twice(encode: wt.WallocEncode) -> None:
    for sample in (pil(), (pil(), torch.tensor(3))):
        with pytest.raises(TypeError, match="holds latents of codec 'rgb_16x' already: encode once"):
            v2.Compose([encode, encode])(sample)


@pytest.mark.parametrize(
    ("transform", "functions"),
    [
        (wt.WallocEncode, (functional.encode_image, functional.encode_waveform, functional.encode_volume)),
        (wt.WallocDecode, (functional.decode_image, functional.decode_waveform, functional.decode_volume)),
    ],
)
def test_options_are_those_of_the_functions(transform: type, functions: tuple[Any, ...]) -> None:
    """Names and defaults, but for what has no meaning on one side."""
    own = dict(inspect.signature(transform).parameters)
    own.pop("targets", None)
    theirs = {name: p for function in functions for name, p in inspect.signature(function).parameters.items()}
    for name in ("image", "waveform", "volume", "latents", "progress"):
        theirs.pop(name, None)
    assert own.keys() == theirs.keys()
    for name, parameter in own.items():
        assert (parameter.kind, parameter.default) == (theirs[name].kind, theirs[name].default), name


def test_input_on_another_device(encode: wt.WallocEncode) -> None:
    with pytest.raises(ValueError, match=r"the codec is on cpu and its input on meta: move the transform"):
        encode(torch.empty(3, 16, 16, device="meta"))


def test_repr() -> None:
    text = repr(wt.WallocEncode("rgb_4x", quantize=True))
    assert text.startswith("WallocEncode('rgb_4x', channels=48, stride=8, quantize=True, normalize=False")
    assert repr(wt.WallocDecode("rgb_4x")) == (
        "WallocDecode('rgb_4x', channels=48, stride=8, decoder='linear', size=None, normalized=False)"
    )


def test_pickle_is_small_and_whole(encode: wt.WallocEncode) -> None:
    data = pickle.dumps(encode)
    assert len(data) < 300_000
    image = pil()
    assert torch.equal(pickle.loads(data)(image), encode(image))


def test_deterministic_and_mode_free(encode: wt.WallocEncode) -> None:
    image = pil()
    first = encode(image)
    assert torch.equal(encode.train()(image), first)
    assert torch.equal(encode.eval()(image), first)
    assert not first.requires_grad


@pytest.mark.parametrize("kind", ["tensor", "image", "batch"])
def test_compiles_whole(encode: wt.WallocEncode, kind: str) -> None:
    torch._dynamo.reset()
    images = torch.rand(4, 3, 32, 40)
    x = {"tensor": images[0], "image": tv_tensors.Image(images[0]), "batch": images}[kind]
    backend = "eager" if kind == "image" else "aot_eager"  # which does not take tensor subclasses; inductor does
    compiled = torch.compile(encode, fullgraph=True, backend=backend)
    torch.testing.assert_close(compiled(x), encode(x), atol=1e-3, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(encode: wt.WallocEncode, dtype: torch.dtype) -> None:
    images = torch.rand(2, 3, 32, 40)
    with torch.autocast("cpu", dtype):
        assert torch.equal(encode(images), encode_image(images, "rgb_16x"))


def test_no_gradients_leave_the_transform() -> None:
    """Or collating in workers would fail, even with a codec in training."""
    codec = wt.load_codec("rgb_16x").requires_grad_(True)
    assert not wt.WallocEncode(codec)(torch.rand(3, 16, 16, requires_grad=True)).requires_grad


class Photographs(Dataset):
    def __init__(self, transform: Any) -> None:
        self.transform = transform

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(pil((33, 17 + 0 * index)).rotate(index)), index


@pytest.mark.parametrize("start", STARTS)
def test_workers_give_what_the_main_process_gives(start: str) -> None:
    if start not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this platform cannot start processes by {start}")
    dataset = Photographs(v2.Compose([v2.ToImage(), v2.CenterCrop(16), wt.WallocEncode("rgb_16x")]))
    loader = DataLoader(dataset, batch_size=3, num_workers=1, multiprocessing_context=start)
    latents = torch.cat([x for x, _ in loader])
    assert torch.equal(latents, torch.stack([x for x, _ in (dataset[i] for i in range(6))]))
    (latents.requires_grad_() * 2).sum().backward()  # ordinary tensors, no inference tensors


def test_decode_inverts() -> None:
    image = v2.functional.gaussian_blur(torch.rand(2, 3, 40, 56), [9, 9])
    latents = wt.WallocEncode("rgb_4x")(image)
    decoded = wt.WallocDecode("rgb_4x", size=(40, 56))(latents)
    assert decoded.shape == image.shape
    assert (decoded - image).square().mean() < 0.001
    sample = wt.WallocDecode("rgb_4x")({"latent": latents, "label": 3})
    assert sample["latent"].shape == (2, 3, 40, 56)
    assert sample["label"] == 3


def test_decode_refuses() -> None:
    with pytest.raises(ValueError, match="decoder of codec 'rgb_4x' must be 'linear' or 'refiner', got 'magic'"):
        wt.WallocDecode("rgb_4x", decoder="magic")  # type: ignore
    with pytest.raises(ValueError, match="expects latents"):
        wt.WallocDecode("rgb_4x")(torch.zeros(12, 4, 4))


@pytest.fixture(scope="module")
def refine() -> wt.WallocDecode:
    return wt.WallocDecode(give_refiner(wt.load_codec("rgb_16x")), decoder="refiner", size=(17, 30))


def test_decode_with_a_refiner(refine: wt.WallocDecode) -> None:
    latents = torch.randint(-99, 99, (2, 12, 3, 4)).float()
    images = refine(latents)
    assert torch.equal(images, decode_image(latents, refine.codec, size=(17, 30), decoder="refiner"))
    assert not torch.allclose(images, wt.WallocDecode(refine.codec, size=(17, 30))(latents), atol=0.1)
    sample = refine({"latent": latents, "label": 3})
    assert torch.equal(sample["latent"], images)
    assert sample["label"] == 3
    expected = "WallocDecode('rgb_16x', channels=12, stride=8, decoder='refiner', size=(17, 30), normalized=False)"
    assert repr(refine) == expected
    for other in (pickle.loads(pickle.dumps(refine)), refine.to(torch.bfloat16), refine.to("cpu").eval()):
        assert repr(other) == expected
        assert torch.equal(other(latents), images)


def test_refiner_is_read_with_the_first_sample(tmp_path: Path) -> None:
    give_refiner(wt.load_codec("rgb_16x")).save_pretrained(tmp_path)
    decode, linear = wt.WallocDecode(tmp_path, decoder="refiner"), wt.WallocDecode(tmp_path)
    for transform in (decode, linear):
        transform(torch.zeros(12, 2, 2))
    assert decode.codec.refiner is not None
    assert linear.codec.refiner is None


def test_refiners_refuse(refine: wt.WallocDecode) -> None:
    with pytest.raises(ValueError, match="decoder of codec 'rgb_16x' must be 'linear' or 'refiner', got 'magic'"):
        wt.WallocDecode(refine.codec, decoder="magic")  # type: ignore
    with pytest.raises(ValueError, match=r"decoder of codec 'stereo_20x' must be 'linear'.*, got 'oobleck'"):
        wt.WallocDecode("stereo_20x", decoder="oobleck")
    with pytest.raises(ValueError, match=r"tile=64 is for decoders that are networks.*'linear'"):
        wt.WallocDecode(refine.codec, tile=64)
    with pytest.raises(ValueError, match="tile must be a multiple of 8 samples"):
        wt.WallocDecode(refine.codec, decoder="refiner", tile=9)
    with pytest.raises(ValueError, match=r"size must be \(H, W\) for codec 'rgb_16x', got 64"):
        wt.WallocDecode("rgb_16x", size=64)
    with pytest.raises(ValueError, match="expects latents"):
        refine(torch.zeros(48, 3, 4))


class Latents(Dataset):
    def __init__(self, transform: Any) -> None:
        self.transform = transform

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.transform(torch.full((12, 3, 4), 20.0 * index))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="the others take long to start")
@pytest.mark.parametrize("read", [False, True])
def test_workers_refine(read: bool, tmp_path: Path) -> None:
    """The refiner is read in the worker, or comes with the transform."""
    give_refiner(wt.load_codec("rgb_16x")).save_pretrained(tmp_path)
    dataset = Latents(wt.WallocDecode(tmp_path, decoder="refiner"))
    if read:
        dataset[0]
    loader = DataLoader(dataset, batch_size=2, num_workers=1, multiprocessing_context="fork")
    images = torch.cat(list(loader))
    assert (dataset.transform.codec.refiner is not None) is read
    assert torch.equal(images, torch.stack([dataset[i] for i in range(4)]))


def test_waveforms() -> None:
    codec = wt.Codec(wt.CodecConfig("sound", "audio", 2, 16, 4))
    latents = wt.WallocEncode(codec)(torch.rand(3, 2, 100) * 2 - 1)
    assert latents.shape == (3, 16, 7)
    assert wt.WallocDecode(codec, size=(100,))(latents).shape == (3, 2, 100)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_batch_equals_cpu() -> None:
    images = torch.randint(0, 256, (4, 3, 64, 80), dtype=torch.uint8)
    encode = wt.WallocEncode("rgb_4x")
    expected = encode(images)
    torch.backends.cudnn.allow_tf32 = False
    torch.testing.assert_close(encode.to("cuda")(images.cuda()).cpu(), expected, atol=1e-3, rtol=0)
