import io

import numpy as np
import pytest
import torch
from PIL import Image

from walloc_transforms.functional import latents_to_pil, pil_to_latents

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
        (torch.zeros(8, 5, 7), "RGB", "8 channels do not fill mode 'RGB'"),
        (torch.zeros(12, 5, 7), "L", "12 channels do not fill mode 'L'"),
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
        ([Image.new("RGB", (14, 10))], 13, "13 channels do not fill"),
        ([Image.new("RGB", (15, 10))], 12, "15x10 pixels does not hold 2x2 tiles"),
        ([Image.new("RGB", (14, 10)), Image.new("RGB", (14, 12))], 12, "one mode and size"),
    ],
)
def test_pil_to_latents_refuses(images: list[Image.Image], channels: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pil_to_latents(images, channels)
