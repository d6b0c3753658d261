"""Trained networks by name."""

import re
import time
from pathlib import Path
from unittest.mock import Mock

import huggingface_hub
import pytest
import safetensors.torch
import timm
import torch
from PIL import Image
from timm.data.config import resolve_model_data_config
from timm.data.imagenet_info import ImageNetInfo
from torchvision.transforms import v2

from recipes.common.networks import load_network
from recipes.common.photographs import demo_photographs


def test_weights_of_the_wheel_know_a_cat_and_a_coffee() -> None:
    model = load_network("lite0")
    names = ImageNetInfo()
    said = []
    for photograph in demo_photographs()[1:3]:
        image = photograph.resize((224, 224), Image.Resampling.BICUBIC)
        with torch.no_grad():
            logits = model(v2.functional.pil_to_tensor(image)[None] / 127.5 - 1)
        said.append(names.index_to_description(int(logits.argmax())))
    assert "cat" in said[0]
    assert "espresso" in said[1]
    assert not model.training


def test_another_size() -> None:
    model = load_network("tf_efficientnet_lite0", image_size=64)
    assert resolve_model_data_config(model)["input_size"] == (3, 64, 64)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lite7", "there is no network 'lite7': did you mean lite"),
        ("resnet18.foo", "no weights 'resnet18.foo'; of resnet18 there are those with tags a1_in1k"),
        ("test_vit4", "of test_vit4 there are none"),
        ("local-dir:/missing", "timm makes no trained network of 'local-dir:/missing'"),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        load_network(name)


def test_weights_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("offline\nand more")

    monkeypatch.setattr(huggingface_hub, "get_session", Mock())  # answers
    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(ConnectionError, match=r"\(OSError: offline\)\. Without a download there are lite0, lite1"):
        load_network("resnet18")


def test_without_a_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's cache is read; what is not there fails without being tried again, which the hub does for a minute."""

    def waited(_: float) -> None:
        raise AssertionError("tried again")

    constants = huggingface_hub.constants
    monkeypatch.setattr(time, "sleep", waited)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    offline = constants.HF_HUB_OFFLINE
    with pytest.raises(ConnectionError, match=r"127\.0\.0\.1:9 cannot be reached: .*Without a download"):
        load_network("test_vit")

    folder = tmp_path / "models--timm--test_vit.r160_in1k"
    for name in ("refs", f"snapshots/{'0' * 40}"):
        (folder / name).mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    weights = timm.create_model("test_vit").state_dict()
    safetensors.torch.save_file(weights, folder / "snapshots" / ("0" * 40) / "model.safetensors")
    assert torch.equal(load_network("test_vit").state_dict()["head.weight"], weights["head.weight"])
    assert offline == constants.HF_HUB_OFFLINE
