"""Photographs at the size that a network reads, and their labels."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from timm.data.imagenet_info import ImageNetInfo

from recipes.answers.data import cut, scored_pictures, training_photographs, training_pictures
from recipes.answers.scores import score
from recipes.common.photographs import demo_photographs

CLASSES = ImageNetInfo()


def folders(place: Path, *names: str) -> Path:
    for name in names:
        (place / name).mkdir(parents=True)
        for i, photograph in enumerate(demo_photographs()[:3]):
            photograph.resize((90, 70)).save(place / name / f"{i}.jpg")
    return place


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (("n01440764", "n03417042"), {0, 569}),
        (("tench", "garbage_truck"), {0, 569}),
        (("Tinca tinca", "Egyptian cat"), {0, 285}),
    ],
)
def test_labels_by_name_of_folder(names: tuple[str, str], labels: set[int], tmp_path: Path) -> None:
    pictures = scored_pictures(str(folders(tmp_path, *names)), 4, 64, CLASSES, show=False)
    assert pictures.images.shape == (4, 3, 64, 64)
    assert pictures.labels is not None and pictures.files is not None
    assert set(pictures.labels.tolist()) == labels
    for file, image in zip(pictures.files, pictures.images, strict=True):
        with Image.open(file) as opened:
            assert torch.equal(image, cut(opened, 64, ""))


def test_labels_that_are_not_known(tmp_path: Path) -> None:
    flat = scored_pictures(str(folders(tmp_path / "flat", "")), 9, 64, CLASSES, show=False)
    own = scored_pictures(str(folders(tmp_path / "own", "mum", "crane")), 9, 64, CLASSES, show=False)  # bird or machine
    other = scored_pictures(str(folders(tmp_path / "other", "tench")), 9, 64, None, show=False)
    assert flat.labels is own.labels is other.labels is None
    assert "it has no folders of classes" in flat.remark
    assert "'crane' is neither a WordNet id nor a class of ImageNet" in own.remark
    assert "the network's classes are not ImageNet's" in other.remark
    with pytest.raises(ValueError, match=r"1 of 2 folders .* such as 'tensh' \(did you mean tench"):
        scored_pictures(str(folders(tmp_path / "some", "tensh", "goldfish")), 9, 64, CLASSES, show=False)


def test_demo_learns_from_other_photographs_than_it_scores() -> None:
    scored = scored_pictures("demo", 12, 96, None, show=False).images
    photographs = training_photographs("demo", "demo")
    assert isinstance(photographs, list)
    learned_from = {photograph.tobytes() for photograph in photographs}
    whole = [photograph for photograph in demo_photographs() if photograph.tobytes() not in learned_from]
    assert (len(photographs), len(whole)) == (3, 5)
    for photograph, picture in zip(whole, scored, strict=False):
        assert torch.equal(picture, cut(photograph, 96, ""))
    learned = torch.stack(training_pictures(photographs, 6, 96, show=False))
    assert (len(scored), learned.shape) == (12, (6, 3, 96, 96))
    assert torch.equal(scored, scored_pictures("demo", 12, 96, None, show=False).images)
    assert training_photographs("demo", "elsewhere") == demo_photographs()


def test_bad_folders(tmp_path: Path) -> None:
    folder = folders(tmp_path / "photos", "a")
    with pytest.raises(ValueError, match="has 90x70 pixels: expected a shorter side of at least 71"):
        scored_pictures(str(folder), 9, 142, None, show=False)
    with pytest.raises(ValueError, match="3 images are in both"):
        training_photographs(str(folder), str(tmp_path))
    for file in (folder / "a").iterdir():
        file.write_bytes(b"no image")
    with pytest.raises(ValueError, match="none of 2 images in"):
        scored_pictures(str(folder), 2, 32, None, show=False)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="there is no image in"):
        scored_pictures(str(tmp_path / "empty"), 2, 32, None, show=False)


def test_scores() -> None:
    own = torch.eye(6)[:4] * 9
    logits = own[[0, 1, 3, 2]].clone()
    logits[3, 4] = 20
    logits[3, 5] = 19
    logits[3, 0], logits[1, 5] = 5, -1  # the third best, and the worst
    record = score(logits, own, torch.tensor([0, 5, 3, 0]))
    assert record["agreement"] == 50
    assert record["agreement se"] == pytest.approx(100 * (1 / 3) ** 0.5 / 2)
    assert record["top1"] == 50
    assert record["top5"] == pytest.approx(75)
    assert score(own, own, None)["divergence"] == pytest.approx(0)
    by_hand = torch.nn.functional.kl_div(logits.log_softmax(1), own.softmax(1), reduction="batchmean")
    assert record["divergence"] == pytest.approx(float(by_hand), rel=1e-5)
    assert "top1" not in score(own, own, None)
