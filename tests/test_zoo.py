import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch

import walloc_transforms as wt
from walloc_transforms import zoo


def test_embedded_codecs() -> None:
    infos = {info.name: info for info in wt.available_codecs()}
    assert set(infos) == {"rgb_4x", "rgb_16x"}
    assert (infos["rgb_16x"].channels, infos["rgb_16x"].dimensionality_reduction) == (12, 16)
    assert (infos["rgb_4x"].channels, infos["rgb_4x"].dimensionality_reduction) == (48, 4)
    for info in infos.values():
        assert (info.modality, info.signal_channels, info.levels, info.decoder) == ("image", 3, 3, "linear")
        assert info.source


def test_embedded_weights_are_small() -> None:
    assert sum(f.stat().st_size for f in (Path(zoo.__file__).parent / "weights").rglob("*.safetensors")) < 300_000


def test_prefix() -> None:
    image = torch.rand(3, 64, 80)
    whole = wt.functional.encode_image(image, "rgb_4x")
    codec = wt.load_codec("rgb_4x", channels=12)
    prefix = wt.functional.encode_image(image, codec)
    torch.testing.assert_close(prefix, whole[:12], atol=1e-3, rtol=0)
    errors = [(wt.functional.decode_image(whole[:n], wt.load_codec("rgb_4x", channels=n)) - image).square().mean()
              for n in (1, 3, 12, 48)]  # fmt: skip
    assert errors == sorted(errors, reverse=True)


def test_a_codec_is_returned_as_it_is() -> None:
    codec = wt.load_codec("rgb_16x")
    assert wt.load_codec(codec) is codec


@pytest.mark.parametrize("kind", [str, Path])
def test_folder(tmp_path: Path, kind: type) -> None:
    codec = wt.load_codec("rgb_16x")
    codec.save_pretrained(tmp_path / "mine")
    image = torch.rand(3, 17, 33)
    assert torch.equal(wt.load_codec(kind(tmp_path / "mine")).encode(image), codec.encode(image))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rgb_16", "unknown codec 'rgb_16': did you mean 'rgb_16x'"),
        ("RGB_4x", "did you mean 'rgb_4x'"),
        ("nothing like it", r"Embedded codecs are rgb_16x, rgb_4x; a folder or a hub repository"),
    ],
)
def test_unknown_name(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wt.load_codec(name)


def test_missing_and_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"it has no config\.json"):
        wt.load_codec(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        wt.load_codec(tmp_path / "nowhere")


def test_hub_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = wt.load_codec("rgb_16x")
    codec.save_pretrained(tmp_path)
    asked = []

    def download(repo: str, file: str) -> str:
        asked.append((repo, file))
        return str(tmp_path / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert torch.equal(wt.load_codec("owner/name").weight, codec.weight)
    assert asked == [("owner/name", "config.json"), ("owner/name", "weights.safetensors")]


def test_failed_download_names_what_would_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(repo: str, file: str) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(ConnectionError, match=r"'owner/name'.*Without a download there are rgb_16x, rgb_4x"):
        wt.load_codec("owner/name")


def test_import_is_light() -> None:
    heavy = {"timm", "torchaudio", "torchvision", "huggingface_hub", "pytorch_wavelets", "PIL", "torch._dynamo"}
    code = f"import sys, walloc_transforms; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_public_names() -> None:
    for name in wt.__all__:
        assert getattr(wt, name) is not None
        assert name in dir(wt)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = wt.nonsense
