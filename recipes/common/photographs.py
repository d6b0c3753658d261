"""Photographs: files of a folder, and those that scikit-image and scikit-learn install."""

from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from recipes.common.files import files_of, names_of
from walloc_transforms.files import IMAGE_SUFFIXES, open_image


def image_files(folder: str | Path) -> list[Path]:
    """List the image files below a folder, sorted.

    Raises:
        FileNotFoundError: There is no such folder, or no image in it.
    """
    return files_of(folder, IMAGE_SUFFIXES, "image")


def check_apart(learned: str, scored: str) -> None:
    """Refuse two folders that share images, by whatever path: what has been learned from says little when scored.

    Raises:
        FileNotFoundError: There is no such folder, or no image in it.
        ValueError: An image is in both.
    """
    both = {file.resolve() for file in image_files(learned)} & {file.resolve() for file in image_files(scored)}
    if both:
        raise ValueError(
            f"{len(both)} images are in both {learned!r} and {scored!r}, such as {min(both)}: expected others to learn "
            "from than those that are scored"
        )


def read_image(file: str | Path) -> Image.Image | None:
    """Read an image as RGB; name the file and return None if that cannot be done."""
    try:
        with open_image(file) as image:
            if image.mode.startswith(("I", "F")):  # Pillow would clip these to 8 bits
                raise ValueError(f"mode {image.mode} is not of 8 bits")
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        tqdm.write(f"skipped {file}: {error}")
        return None


class ImageFiles:
    """The readable images among some files, read as they are iterated over; ``skipped`` counts the others."""

    def __init__(self, files: list[Path]) -> None:
        self.files, self.skipped = files, 0

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[Image.Image]:
        return (image for _, image in self.named())

    def named(self) -> Iterator[tuple[str, Image.Image]]:
        """Yield the path below what all files have in common, and the image."""
        self.skipped = 0
        for file, name in zip(self.files, names_of(self.files), strict=True):
            image = read_image(file)
            if image is None:
                self.skipped += 1
            else:
                yield name, image


def demo_photographs() -> list[Image.Image]:
    """Return the color photographs that scikit-image and scikit-learn carry in their wheels."""
    import skimage.data
    from sklearn.datasets import load_sample_images

    names = ("astronaut", "chelsea", "coffee", "rocket", "hubble_deep_field")
    arrays = [getattr(skimage.data, name)() for name in names]
    arrays += [skimage.data.stereo_motorcycle()[0], *load_sample_images().images]
    return [Image.fromarray(array) for array in arrays]
