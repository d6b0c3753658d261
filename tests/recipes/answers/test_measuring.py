"""What an arm costs."""

from pathlib import Path

import torch
from torchvision.transforms.v2.functional import to_pil_image

from recipes.answers.data import Pictures
from recipes.answers.measuring import files_of
from recipes.common.inputs import Pixels, Resized


def test_files_are_of_the_same_images_for_every_arm(tmp_path: Path) -> None:
    """Files are sorted by class: the first ones are of one class."""
    images = torch.arange(96, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 8, 8).contiguous()
    own = [tmp_path / f"own{i}.png" for i in range(96)]
    for image, file in zip(images, own, strict=True):
        to_pil_image(image).save(file)
    photographs = Pictures(images, None, "", own)
    pixels, thumbnails = Pixels("pixels"), Resized("resized_4x", 2)
    assert files_of(pixels, photographs, tmp_path) == own[::2]
    (tmp_path / "made").mkdir()
    made = files_of(thumbnails, photographs, tmp_path / "made")
    assert [int(thumbnails.load(file, 8, 8)[0, 0, 0]) for file in made] == [*range(0, 96, 2)]
    crops = files_of(pixels, Pictures(images, None, ""), tmp_path / "made")  # of photographs in turn
    assert [int(pixels.load(file, 8, 8)[0, 0, 0]) for file in crops] == [*range(48)]
