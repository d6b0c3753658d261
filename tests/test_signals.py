import numpy as np
import pytest
import torch
from PIL import Image

from walloc_transforms.signals import pil_to_tensor


def photograph(size: tuple[int, int] = (17, 11)) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "HSV", "LA", "RGBA", "PA"])
@pytest.mark.parametrize("channels", [1, 3])
def test_modes_with_one_meaning_equal_pillows_conversion(mode: str, channels: int) -> None:
    image = photograph().convert("P" if mode == "PA" else mode)
    image = image.convert(mode)
    expected = np.asarray(image.convert("RGBA" if "A" in mode else mode).convert("RGB" if channels == 3 else "L"))
    tensor = pil_to_tensor(image, channels)
    assert tensor.dtype == torch.uint8
    assert tensor.shape == (channels, 11, 17)
    np.testing.assert_array_equal(tensor.permute(1, 2, 0).numpy(), expected.reshape(11, 17, channels))


def test_memory_is_laid_out_as_the_image_is() -> None:
    assert pil_to_tensor(photograph())[None].is_contiguous(memory_format=torch.channels_last)


def test_sixteen_bits_are_kept() -> None:
    values = np.arange(11 * 17, dtype=np.uint16).reshape(11, 17) * 350
    tensor = pil_to_tensor(Image.fromarray(values), 3)
    assert tensor.dtype == torch.uint16
    assert tensor.shape == (3, 11, 17)
    for channel in tensor:
        np.testing.assert_array_equal(channel.numpy(), values)


@pytest.mark.parametrize("mode", ["LA", "RGBA", "La", "RGBa"])
def test_transparent_pixels_are_refused(mode: str) -> None:
    image = photograph().convert("RGBA")
    image.putalpha(128)
    image = image.convert("LA") if mode.lower() == "la" else image
    with pytest.raises(ValueError, match=f"mode '{mode}'.*transparent pixels.*alpha_composite"):
        pil_to_tensor(image.convert(mode))


def test_transparent_palette_entry_is_refused() -> None:
    image = photograph().convert("P")
    image.info["transparency"] = image.getpixel((0, 0))
    with pytest.raises(ValueError, match="transparent pixels"):
        pil_to_tensor(image)


@pytest.mark.parametrize("mode", ["I", "F", "LAB"])
def test_modes_without_a_range_are_refused(mode: str) -> None:
    with pytest.raises(ValueError, match=f"mode '{mode}' has no defined range"):
        pil_to_tensor(Image.new(mode, (17, 11)))


def test_other_channel_counts() -> None:
    cmyk = photograph().convert("CMYK")
    np.testing.assert_array_equal(pil_to_tensor(cmyk, 4).permute(1, 2, 0).numpy(), np.asarray(cmyk))
    with pytest.raises(ValueError, match="expected an image of 4 8-bit bands, got mode 'RGB'"):
        pil_to_tensor(photograph(), 4)


@pytest.mark.parametrize(("mode", "channels", "unused"), [("RGB", 3, (1, 2, 3)), ("L", 1, 7)])
def test_a_transparent_color_that_no_pixel_has(mode: str, channels: int, unused: object) -> None:
    image = Image.new(mode, (9, 8), 200 if mode == "L" else (200, 100, 50))
    expected = pil_to_tensor(image, channels)
    image.info["transparency"] = unused
    assert torch.equal(pil_to_tensor(image, channels), expected)
    assert expected.shape == (channels, 8, 9)
