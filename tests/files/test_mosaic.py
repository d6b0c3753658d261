import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import walloc_transforms as wt
from walloc_transforms.functional import latents_to_pil, pil_to_latents, save_mosaic

PLANES = {"L": 1, "RGB": 3, "CMYK": 4}


def codes(*shape: int) -> torch.Tensor:
    return torch.randint(-128, 128, shape, dtype=torch.int8)


@pytest.mark.parametrize("mode", PLANES)
@pytest.mark.parametrize("side", [1, 2, 3])
def test_layout_is_the_references(mode: str, side: int) -> None:
    """Channel p * n**2 + i * n + j is the tile in row i and column j of plane p, stored as code + 128."""
    planes = PLANES[mode]
    latents = codes(2, planes * side**2, 5, 7)
    images = latents_to_pil(latents, mode)
    assert [image.mode for image in images] == [mode, mode]
    for image, own in zip(images, latents, strict=True):
        pixels = np.asarray(image).reshape(side * 5, side * 7, planes)
        for p in range(planes):
            for i in range(side):
                for j in range(side):
                    tile = pixels[i * 5 : (i + 1) * 5, j * 7 : (j + 1) * 7, p]
                    expected = own[p * side**2 + i * side + j].numpy().astype(int) + 128
                    np.testing.assert_array_equal(tile, expected)


@pytest.mark.parametrize(("mode", "format_"), [("L", "PNG"), ("RGB", "PNG"), ("RGB", "WEBP"), ("CMYK", "TIFF")])
@pytest.mark.parametrize("dtype", [torch.int8, torch.float32, torch.int64])
def test_files_round_trip(mode: str, format_: str, dtype: torch.dtype) -> None:
    latents = codes(1, PLANES[mode] * 4, 5, 7).to(dtype)
    file = io.BytesIO()
    latents_to_pil(latents, mode)[0].save(file, format_, **({"lossless": True} if format_ == "WEBP" else {}))
    with Image.open(file) as image:
        back = pil_to_latents([image], latents.shape[1])
    assert back.dtype == torch.int8
    assert torch.equal(back.to(dtype), latents)


def test_one_latent_without_batch() -> None:
    latents = codes(12, 5, 7)
    assert torch.equal(pil_to_latents(latents_to_pil(latents), 12)[0], latents)


@pytest.mark.parametrize(
    ("latents", "mode", "message"),
    [
        (torch.zeros(5, 7), "RGB", r"expected latents of shape .* got \(5, 7\)"),
        (torch.full((12, 5, 7), 0.5), "RGB", "expected rounded latents"),
        (torch.full((12, 5, 7), float("nan")), "RGB", "expected rounded latents"),
        (torch.full((12, 5, 7), 128.0), "RGB", "integers from -128 to 127"),
        (torch.zeros(12, 0, 7), "RGB", r"expected latents of shape .* got \(12, 0, 7\)"),
        (torch.zeros(12, 5, 7), "HSV", "mode must be one of L, RGB, CMYK, got 'HSV'"),
    ],
)
def test_latents_to_pil_refuses(latents: torch.Tensor, mode: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        latents_to_pil(latents, mode)


@pytest.mark.parametrize(
    ("images", "channels", "message"),
    [
        ([], 12, "no images"),
        ([Image.new("RGB", (14, 10))], None, "do not say how many latent channels they hold: give channels"),
        ([Image.new("RGB", (14, 10))], 0, "channels must be positive"),
        ([Image.new("P", (14, 10))], 12, "mode must be one of L, RGB, CMYK, got 'P'"),
        ([Image.new("RGB", (15, 10))], 12, "15x10 pixels does not hold 2x2 tiles"),
        ([Image.new("RGB", (14, 10)), Image.new("RGB", (14, 12))], 12, "one mode and size"),
    ],
)
def test_pil_to_latents_refuses(images: list[Image.Image], channels: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pil_to_latents(images, channels)


FILES = [("L", "a.png"), ("RGB", "a.png"), ("RGB", "a.webp"), ("RGB", "A.WEBP"), ("CMYK", "a.tif"), ("CMYK", "a.tiff")]


@pytest.mark.parametrize(("mode", "name"), FILES)
@pytest.mark.parametrize("channels", [1, 2, 5, 8, 12, 13, 96])
def test_saved_mosaics_know_their_channels(tmp_path: Path, mode: str, name: str, channels: int) -> None:
    latents = codes(1, channels, 5, 7)
    save_mosaic(latents_to_pil(latents, mode)[0], tmp_path / name)
    with Image.open(tmp_path / name) as image:
        assert torch.equal(pil_to_latents([image]), latents)
    assert [file.name for file in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("bits", range(2, 9))
def test_bits(tmp_path: Path, bits: int) -> None:
    latents = codes(1, 3, 5, 7) // 2 ** (8 - bits)
    (image,) = latents_to_pil(latents, "RGB", bits=bits)
    assert np.asarray(image).max() < 2**bits
    save_mosaic(image, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert torch.equal(pil_to_latents([image]), latents)
        with pytest.raises(ValueError, match=f"bits was given as {bits + 1}, the image says that it is {bits}"):
            pil_to_latents([image], bits=bits + 1)


@pytest.mark.parametrize("bits", [1, 9])
def test_wrong_bits(bits: int) -> None:
    with pytest.raises(ValueError, match=f"bits must be from 2 to 8, got {bits}"):
        latents_to_pil(codes(3, 5, 7), bits=bits)


def test_values_that_are_no_codes() -> None:
    with pytest.raises(ValueError, match="hold the value 200: no code of 5 bits"):
        pil_to_latents([Image.new("L", (5, 7), 200)], 1, bits=5)


def test_padding_is_code_zero() -> None:
    pixels = np.asarray(latents_to_pil(codes(10, 5, 7), "RGB")[0])
    assert (pixels[5:, :, 2] == 128).all()  # channels 10 and 11


@pytest.mark.parametrize(
    ("mode", "name"),
    [("L", "a.webp"), ("CMYK", "a.webp"), ("CMYK", "a.png"), ("RGB", "a.jpg"), ("RGB", "a.tiff"), ("RGB", "a")],
)
def test_pairs_that_lose_values(tmp_path: Path, mode: str, name: str) -> None:
    (image,) = latents_to_pil(codes(4, 5, 7), mode)
    with pytest.raises(ValueError, match=f"mode '{mode}' does not stay lossless in '{name}': expected L with .png"):
        save_mosaic(image, tmp_path / name)
    assert not any(tmp_path.iterdir())


def test_converted_mosaic_is_noticed(tmp_path: Path) -> None:
    (image,) = latents_to_pil(codes(4, 5, 7), "L")
    image.save(tmp_path / "a.webp", lossless=True, exif=image.getexif())  # Pillow makes RGB of it
    with Image.open(tmp_path / "a.webp") as image, pytest.raises(ValueError, match="in mode 'L', the image is in mode"):
        pil_to_latents([image], 4)


def test_other_images_are_no_mosaics(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not come from latents_to_pil"):
        save_mosaic(Image.new("RGB", (14, 10)), tmp_path / "a.png")


def test_wrong_number_of_channels() -> None:
    with pytest.raises(ValueError, match="channels was given as 12, the image says that it is 10"):
        pil_to_latents(latents_to_pil(codes(10, 5, 7)), 12)


def test_damaged_exif() -> None:
    [image] = latents_to_pil(torch.zeros(12, 4, 6), "RGB")
    content = io.BytesIO()
    image.save(content, "PNG", exif=b"Exif\0\0MM\0\0\0\0")
    with Image.open(content) as damaged, pytest.raises(ValueError, match="Exif data of the image cannot be read"):
        pil_to_latents([damaged], channels=12)


def test_normalized_latents_are_refused() -> None:
    latents = wt.functional.encode_image(torch.rand(3, 64, 80), "rgb_16x", quantize=True, normalize=True)
    with pytest.raises(ValueError, match="got normalized ones"):
        latents_to_pil(latents)
