"""distill_stem: what is trained and what is not, resuming, and what it refuses."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import IterableDataset

import walloc_transforms as wt
from walloc_transforms.stems import imitation
from walloc_transforms.stems.pictures import Crops, Pictures

SIDE = 64
SMALL = {"input_size": (3, SIDE, SIDE), "test_input_size": None}


def pictures(count: int = 12, side: int = 80) -> list[Tensor]:
    """Draw smooth random pictures."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 10, 10, generator=generator)
    return list(nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1))


def teacher(name: str = "resnet18", **options: Any) -> Any:
    """Make a small network with random weights, always the same."""
    torch.manual_seed(1)
    return timm.create_model(name, pretrained_cfg_overlay=SMALL, **{"num_classes": 5, **options}).eval()


def distilled(name: str = "resnet18", **options: Any) -> Any:
    """Distill it for a few steps."""
    return wt.distill_stem(teacher(name), "rgb_16x", pictures(), **{**QUICK, **options})


QUICK: dict[str, Any] = {"steps": 4, "batch_size": 4, "progress": False}
NETWORKS = {
    "resnet18": {"channels": (16, 24, 32, 40)},
    "convnext_atto": {"depths": (1, 2, 1, 1)},
    "tf_efficientnet_lite0": {},
    "mobilenetv3_small_050": {},
    "regnetx_002": {},
    "swin_tiny_patch4_window7_224": {"img_size": SIDE, "window_size": 2, "embed_dim": 24, "depths": (1, 1, 1, 1)},
    "vit_tiny_patch16_224": {"img_size": SIDE, "depth": 2},
}


@pytest.mark.slow
@pytest.mark.parametrize("match", ["entry", "resolution"])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_distilled_saved_and_loaded(name: str, match: Any, tmp_path: Path) -> None:
    model = teacher(name, **NETWORKS[name])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    wt.distill_stem(model, "rgb_16x", pictures(), match=match, input="latents", **QUICK)
    report = model.walloc_distillation
    assert (report.steps, report.images, report.held_back) == (4, 10, 2)
    assert model.walloc.agreement == report.agreement
    kept = [name for name in model.state_dict() if name.startswith(("head", "fc", "classifier", "layer4"))]
    assert kept and all(torch.equal(model.state_dict()[name], before[name]) for name in kept if name in before)
    wt.save_model(model, tmp_path / "model", model_args=NETWORKS[name])
    latents = wt.load_codec("rgb_16x").encode(torch.rand(2, 3, SIDE, SIDE))
    same = wt.load_model(tmp_path / "model")
    torch.testing.assert_close(same(latents), model(latents), rtol=1e-3, atol=1e-4)  # weights lie otherwise in memory
    info: Any = getattr(same, "walloc", None)
    assert (info.match, info.cut, info.agreement) == (match, model.walloc.cut, report.agreement)


@pytest.mark.parametrize(("match", "lr"), [("entry", 5e-3), ("resolution", 1e-3)])
def test_training_helps(match: Any, lr: float) -> None:
    """More steps imitate better, on pictures that were held back."""
    few, many = (distilled(match=match, steps=steps, lr=lr).walloc_distillation for steps in (1, 60))
    assert many.missed < 0.95 * few.missed


@pytest.mark.parametrize("options", [{}, {"match": "resolution"}, {"trunk": "tuned"}])
def test_interrupted_training_goes_on(options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imitation, "CHECKPOINT_EVERY", 0.0)
    whole = distilled(**options).state_dict()
    file = tmp_path / "checkpoint.safetensors"

    class Stopping(list[Tensor]):
        """Pictures that fail after a while."""

        left = 0

        def __getitem__(self, index: Any) -> Any:
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1
            return super().__getitem__(index)

    few = Stopping(pictures())
    few.left = 2 + 4 * 2 + (10 if "match" in options else 0)  # held back, two steps, those that a stem is fitted to
    with pytest.raises(KeyboardInterrupt):
        wt.distill_stem(teacher(), "rgb_16x", few, checkpoint=file, **{**QUICK, **options})
    assert file.is_file()
    resumed = distilled(checkpoint=file, **options).state_dict()
    assert all(torch.equal(whole[name], value) for name, value in resumed.items())
    with pytest.raises(ValueError, match=r"other settings.*batch_size"):
        distilled(checkpoint=file, **{**options, "batch_size": 2})


_SHARED = """
import torch, torch.distributed
import walloc_transforms as wt
from tests.stems.test_distill import QUICK, pictures, teacher
torch.distributed.init_process_group("gloo")
model = wt.distill_stem(teacher(), "rgb_16x", pictures(), **QUICK)
own = torch.cat([value.double().flatten() for value in model.state_dict().values()])
first = own.clone()
torch.distributed.broadcast(first, 0)
assert torch.equal(own, first), f"{(own != first).sum()} values differ between processes"
print(f"done {model.walloc.agreement}")
"""


@pytest.mark.slow
def test_processes_end_with_the_same_model(tmp_path: Path) -> None:
    """Parameters, and statistics of batch norms, which each process takes over its share of the batches."""
    script = tmp_path / "shared.py"
    script.write_text(_SHARED)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.count("done") == 2


def test_infinite_loss_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    model = teacher()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(FloatingPointError, match="lower learning rate"):
        wt.distill_stem(model, "rgb_16x", pictures(), **{**QUICK, "steps": 20, "lr": 1e30})
    assert not hasattr(model, "walloc")
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_model_without_classes_is_distilled_by_its_features() -> None:
    model = wt.distill_stem(teacher(num_classes=0), "rgb_16x", pictures(), **QUICK)
    assert model.walloc.agreement is None and model.walloc_distillation.divergence > 0


def test_images_of_a_folder_are_found_at_any_depth(tmp_path: Path) -> None:
    for i, picture in enumerate(pictures(3)):
        (tmp_path / f"{i}").mkdir()
        Image.fromarray((picture * 255).byte().permute(1, 2, 0).numpy()).save(tmp_path / f"{i}" / "a.png")
    model = wt.distill_stem(teacher(), "rgb_16x", tmp_path, **QUICK)
    assert model.walloc_distillation.images == 2


def test_crops_depend_on_seed_and_number_alone() -> None:
    def crops(seed: int) -> Crops:
        return Crops(Pictures(pictures(), 3), range(12), (32, 32), 8, seed)

    first, again, other = crops(0), crops(0), crops(1)
    state = torch.get_rng_state()
    assert torch.equal(first[5], again[5]) and not torch.equal(first[5], other[5])
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(first[5], first[6])
    assert crops(2**64 + 1)[5].shape == (3, 32, 32)


def test_crops_leave_the_random_numbers_of_gpus_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(seed: int) -> None:
        raise AssertionError(seed)

    monkeypatch.setattr(torch.cuda, "manual_seed_all", fail)
    assert Crops(Pictures(pictures(), 3), range(12), (32, 32), 8, 0)[5].shape == (3, 32, 32)


def test_images_that_are_only_iterated_are_kept() -> None:
    class Stream(IterableDataset[Tensor]):
        def __iter__(self) -> Iterator[Tensor]:
            return iter(pictures())

        def __len__(self) -> int:
            return 12

    assert torch.equal(Pictures(Stream(), 3)[3], pictures()[3])


@pytest.mark.parametrize("match", ["entry", "resolution"])
def test_another_number_of_channels(match: Any) -> None:
    model = teacher(in_chans=1)
    with pytest.raises(ValueError, match="reads images of 1 channels, codec 'rgb_16x' those of 3"):
        wt.distill_stem(model, "rgb_16x", pictures(), match=match, **QUICK)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"steps": 3, "minutes": 1}, ValueError, "steps or minutes"),
        ({"steps": 0}, ValueError, "steps must be at least 1, got 0"),
        ({"lr": -1.0}, ValueError, "lr must be above 0"),
        ({"lr": 0.0}, ValueError, "lr must be above 0"),
        ({"match": "resolution", "adapter": wt.AdapterShape(16, 1)}, ValueError, "are for match='entry'"),
        ({"match": "resolution", "budget": 0.8}, ValueError, "adapter and budget are for match='entry'"),
        ({"adapter": wt.AdapterShape(16, 1), "budget": 0.8}, ValueError, "an adapter or a budget for one, got both"),
        ({"match": "other"}, ValueError, "match must be one of"),
        ({"trunk": "melted"}, ValueError, "trunk must be one of"),
        ({"cut": "layer9"}, ValueError, "layer2.1"),
        ({"budget": 0.01}, ValueError, "budget of at least"),
        ({"images": "nowhere"}, FileNotFoundError, "no folder 'nowhere'"),
        ({"images": []}, ValueError, "at least two images"),
        ({"images": torch.rand(3, 80, 80)}, ValueError, "one image"),
        ({"images": pictures(3, side=20)}, ValueError, "too few for crops"),
        ({"images": [torch.rand(1, 80, 80)] * 3}, ValueError, r"image 0: expected shape \(3, H, W\)"),
        ({"images": [torch.full((3, 80, 80), 0.5)] * 3}, ValueError, "one color"),
        (
            {"images": [pictures(1)[0], *[x * 255 for x in pictures(2)]]},
            ValueError,
            r"in \[0, 1\], got .* at image [12]",
        ),
        ({"images": [1, 2, 3]}, TypeError, "tensor or a PIL image"),
    ],
)
def test_errors(options: dict[str, Any], error: type[Exception], message: str) -> None:
    images = options.pop("images", pictures())
    model = teacher()
    with pytest.raises(error, match=message):
        wt.distill_stem(model, "rgb_16x", images, **{**QUICK, **options})
    assert not hasattr(model, "walloc")
