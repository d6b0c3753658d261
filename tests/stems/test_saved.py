"""Saving and loading models; test_stem_families.py does it for every family."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import safetensors.torch
import timm
import torch
from timm.data.config import resolve_model_data_config
from torch import nn

import walloc_transforms as wt
from tests.helpers import make_codec, stem_codec
from walloc_transforms import sealed
from walloc_transforms.stems import plan_replacement, put_stem
from walloc_transforms.stems.layers import find_stem

ARGS: dict[str, Any] = {"layers": (1, 1, 1, 1), "channels": (16, 24, 32, 40)}


def make(**options: Any) -> Any:
    torch.manual_seed(2)
    return wt.replace_stem(timm.create_model("resnet18", num_classes=7, **ARGS), stem_codec(), **options).eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    wt.save_model(make(), tmp_path / "model", model_args=ARGS)
    return tmp_path / "model"


@pytest.mark.parametrize("kind", ["pixels", "latents"])
@pytest.mark.parametrize("match", ["grid", "entry", "resolution"])
def test_there_and_back(tmp_path: Path, kind: Any, match: Any) -> None:
    model = make(input=kind, match=match)
    x = torch.rand(2, *model.walloc.input_shape)
    wt.save_model(model, tmp_path, model_args=ARGS)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    random = torch.get_rng_state()
    again: Any = wt.load_model(tmp_path)
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(again(x), model(x))
    assert again.walloc == model.walloc
    assert not again.training
    trained = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    assert {key for key, parameter in again.named_parameters() if parameter.requires_grad} == trained


def test_options_of_the_stem(tmp_path: Path) -> None:
    model: Any = timm.create_model("resnet18", **ARGS).eval()
    codec = stem_codec()
    plan = plan_replacement(model, codec, "resolution")
    options: dict[str, Any] = {"stride": plan.strides, "input": "latents", "neighbors": 1, "expand": True}
    put_stem(model, plan, wt.WallocStem(codec, plan.channels, **options))
    wt.save_model(model, tmp_path, model_args=ARGS)
    again: Any = wt.load_model(tmp_path)
    x = torch.randn(1, *model.walloc.input_shape) * 20
    assert torch.equal(again(x), model(x))
    assert find_stem(again).proj.kernel_size == (3, 3)


@pytest.mark.parametrize("version", [3, 4])
def test_folders_of_older_versions(version: int, folder: Path) -> None:
    """They knew no sizes, or no adapters and no cuts either; their hashes of themselves still hold."""

    def downgrade(fields: dict[str, Any]) -> None:
        fields["version"] = version
        del fields["pixels_before"], fields["pretrained_cfg"]
        if version == 3:
            del fields["cut"], fields["agreement"], fields["stem"]["adapter"]

    edit(folder, downgrade)
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(wt.load_model(folder)(x), make()(x))
    file = folder / "config.json"
    file.write_text(file.read_text().replace('"match": "grid"', '"match": "entry"'))
    with pytest.raises(ValueError, match="was edited after"):
        wt.load_model(folder)


def test_size_of_a_tag_and_of_an_overlay(tmp_path: Path) -> None:
    cases: list[tuple[str, dict[str, Any], int]] = [
        ("mobilenetv4_conv_small.e3600_r256_in1k", {}, 256),  # others of this architecture were made for 224
        ("resnet18", {"pretrained_cfg_overlay": {"input_size": (3, 96, 96), "crop_pct": 0.9}}, 96),
        ("vit_tiny_patch16_224", {"img_size": 128, "depth": 1}, 128),
    ]
    for name, options, side in cases:
        model: Any = wt.replace_stem(
            timm.create_model(name, num_classes=7, **options), stem_codec(), match="resolution"
        )
        arguments = {} if "pretrained_cfg_overlay" in options else options
        wt.save_model(model, tmp_path / name, model_args=arguments)
        again: Any = wt.load_model(tmp_path / name)
        assert again.walloc == model.walloc and again.walloc.pixels_shape == (3, side, side)
        assert resolve_model_data_config(again) == resolve_model_data_config(model)
        for key in ("test_input_size", "test_crop_pct"):
            assert again.pretrained_cfg.get(key) == model.pretrained_cfg.get(key)


def test_preparation_that_is_not_set(tmp_path: Path) -> None:
    model = make()
    model.pretrained_cfg = {**model.pretrained_cfg, "test_input_size": None, "test_crop_pct": None}
    wt.save_model(model, tmp_path, model_args=ARGS)
    again: Any = wt.load_model(tmp_path)
    assert resolve_model_data_config(again) == resolve_model_data_config(model)


def test_agreement_is_kept(tmp_path: Path) -> None:
    model = make(match="entry")
    model.walloc = dataclasses.replace(model.walloc, agreement=0.75)
    wt.save_model(model, tmp_path, model_args=ARGS)
    assert wt.load_model(tmp_path).walloc == model.walloc


def test_half_precision(tmp_path: Path) -> None:
    model = make().to(torch.bfloat16)
    wt.save_model(model, tmp_path, model_args=ARGS)
    again: Any = wt.load_model(tmp_path)
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(again(x), model(x))
    assert again.fc.weight.dtype == torch.bfloat16
    assert find_stem(again).codec.weight.dtype == torch.float32


@pytest.mark.slow
def test_codec_with_a_network_decoder(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    codec = make_codec(12, decoder="autoencoder_kl", decoder_width=32)
    codec.load_decoder()
    model = wt.replace_stem(timm.create_model("resnet18", **ARGS), codec).eval()
    assert find_stem(model).codec.decoder is None  # the model does not carry it along
    wt.save_model(model, tmp_path, model_args=ARGS)
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(wt.load_model(tmp_path)(x), model(x))


def test_repository(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(repo: str, file: str, revision: str | None = None) -> str:
        asked.append((repo, file, revision))
        return str(folder / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda url: SimpleNamespace(size=1000))
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(wt.load_model("owner/name", revision="v1")(x), wt.load_model(folder)(x))
    assert asked == [("owner/name", "config.json", "v1"), ("owner/name", "model.safetensors", "v1")]


@pytest.mark.parametrize(
    ("model_args", "match"),
    [
        ({}, r"model_args=\{\} makes another model: missing tensors \['layer1.1"),
        ({**ARGS, "channels": (16, 24, 32, 48)}, r"makes another model: .* has shape"),
        ({**ARGS, "act_layer": nn.GELU}, "model_args must be plain values"),
    ],
)
def test_wrong_arguments(tmp_path: Path, model_args: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        wt.save_model(make(), tmp_path, model_args=model_args)
    assert not any(tmp_path.iterdir())


def test_other_models(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has 0 WaLLoC stems, expected one"):
        wt.save_model(timm.create_model("resnet18"), tmp_path)
    with pytest.raises(ValueError, match=r"was not made by timm\.create_model and replace_stem"):
        wt.save_model(nn.Sequential(wt.WallocStem("rgb_16x", 4, stride=8)), tmp_path)


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    fields = json.loads((folder / "config.json").read_text())
    change(fields)
    sealed.write_config(folder / "config.json", fields)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda f: f.update(format="x"), "does not describe a model"),
        (lambda f: f.update(version=6), "of version 6: this release reads versions 1 and 2 and 3 and 4 and 5"),
        (lambda f: f.pop("codec"), "expected the fields"),
        (lambda f: f.update(more=1), "expected the fields"),
        (lambda f: f.update(sha256="0" * 64), "is damaged or belongs to another config"),
        (lambda f: f.update(architecture="hf-hub:owner/evil"), "timm has no model 'hf-hub:owner/evil'"),
        (lambda f: f.update(architecture=5), "architecture must be of type str, got 5"),
        (lambda f: f["model_args"].update(checkpoint_path="/etc/passwd"), r"other weights .*\['checkpoint_path'\]"),
        (lambda f: f["model_args"].update(pretrained=True), "other weights"),
        (lambda f: f["model_args"].update(device="cpu"), r"or a device: \['device'\]"),
        (lambda f: f["model_args"].update(nonsense=1), "no such model can be built: TypeError"),
        (lambda f: f["model_args"].update(act_layer="os.system"), "no such model can be built: KeyError: 'os.system'"),
        (lambda f: f["model_args"].update(pruned=True), "no such model can be built: FileNotFoundError"),
        (lambda f: f["model_args"].update(channels=[9000] * 4), "the model takes 21,409 MB, its weights 0 MB"),
        (lambda f: f["model_args"].update(num_classes=10**6), "the model takes 164 MB"),
        (lambda f: f["model_args"].update(num_classes=10**7), r"must add up to at most 4,194,304 .*, got 1e\+07"),
        (lambda f: f["model_args"].update(window_size=[64]), "must add up to"),
        (lambda f: f["model_args"].update(layers=[500] * 4), "far more modules than its .* tensors need"),
        (lambda f: f["model_args"].update(num_classes=8), "makes another model: fc.weight has shape"),
        (lambda f: f["codec"].update(channels=11), "does not fit its config: weight has shape"),
        (lambda f: f["codec"].pop("levels"), "the codec must have the fields"),
        (lambda f: f["stem"].update(neighbors=1), "makes another model: conv1.proj.weight"),
        (lambda f: f["stem"].update(neighbors=1000), "the model takes .* MB"),
        (lambda f: f["stem"].update(bias=1), "unknown options of the stem"),
        (lambda f: f["stem"].update(other=1), "unknown options of the stem"),
        (lambda f: f.update(input="sound"), "input must be one of"),
        (lambda f: f.update(match="size"), "match must be one of"),
        (lambda f: f.pop("cut"), "expected the fields"),
        (lambda f: f.update(cut=1), r"cut must be of type str \| None, got 1"),
        (lambda f: f.update(cut="layer2.0"), "only match='entry' takes a cut"),
        (lambda f: f.update(match="entry", cut="fc"), "cannot enter this ResNet after cut='fc'"),
        (lambda f: f.update(agreement=1.5), r"agreement must be from 0 to 1, got 1\.5"),
        (lambda f: f.update(pixels_before=[3, 64]), r"must be \[C, H, W\], got \[3, 64\]"),
        (lambda f: f.update(pixels_before=[3, 10**7, 64]), "must add up to"),
        (lambda f: f["pretrained_cfg"].update(input_size=[3, True, 64]), r"must be \[C, H, W\]"),
        (lambda f: f["pretrained_cfg"].update(url="x"), "unknown entry of pretrained_cfg: 'url' = 'x'"),
        (lambda f: f["pretrained_cfg"].update(crop_pct="x"), "unknown entry of pretrained_cfg: 'crop_pct' = 'x'"),
        (lambda f: f["stem"].pop("adapter"), "unknown options of the stem"),
        (lambda f: f["stem"].update(adapter=[16, 2]), "unknown options of the stem"),
        (lambda f: f["stem"].update(adapter={"width": 16}), "no such model can be built: TypeError"),
        (lambda f: f["stem"].update(adapter={"width": 16, "blocks": 2}), "makes another model: missing tensors"),
        (lambda f: f["stem"].update(adapter={"width": 10**9, "blocks": 2}), "width of an adapter must be an integer"),
        (lambda f: f["stem"].update(adapter={"width": 1024, "blocks": 32, "expansion": 16}), "the model takes .* MB"),
    ],
)
def test_damaged_config(folder: Path, change: Callable[[dict[str, Any]], Any], match: str) -> None:
    edit(folder, change)
    with pytest.raises(ValueError, match=match):
        wt.load_model(folder)


def test_decoders_of_the_codec_stay_behind(tmp_path: Path) -> None:
    codec = wt.load_codec("rgb_16x")
    codec.load_refiner()
    model: Any = wt.replace_stem(timm.create_model("resnet18", **ARGS), codec).eval()
    wt.save_model(model, tmp_path, model_args=ARGS)
    again = find_stem(wt.load_model(tmp_path)).codec
    latents = codec.encode(torch.rand(3, 64, 64))
    assert torch.equal(again.decode(latents), codec.decode(latents))
    with pytest.raises(ValueError, match="a saved model holds no decoder network or refiner"):
        again.decode(latents, decoder="refiner")


def test_config_edited_by_hand(folder: Path) -> None:
    file = folder / "config.json"
    fields = json.loads(file.read_text())
    fields["codec"]["latent_bits"] = 4
    file.write_text(json.dumps(fields))
    with pytest.raises(ValueError, match="was edited after a model with a WaLLoC stem was saved"):
        wt.load_model(folder)


@pytest.mark.parametrize(
    ("name", "dtype", "match"),
    [
        ("fc.weight", torch.int64, "fc.weight is of torch.int64, not torch.float32"),
        ("fc.weight", torch.float8_e4m3fn, "fc.weight is of torch.float8"),
        ("conv1.codec.weight", torch.float16, "weight must hold finite float32 values"),
    ],
)
def test_other_types(folder: Path, name: str, dtype: torch.dtype, match: str) -> None:
    state = safetensors.torch.load_file(folder / "model.safetensors")
    state[name] = state[name].to(dtype)
    edit(folder, lambda f: f.update(sha256=sealed.write_tensors(folder / "model.safetensors", state)))
    with pytest.raises(ValueError, match=match):
        wt.load_model(folder)


def test_damaged_files(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no folder of a model: it has no config\.json"):
        wt.load_model(tmp_path)
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1])
    with pytest.raises(ValueError, match="is damaged"):
        wt.load_model(folder)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"it has no model\.safetensors"):
        wt.load_model(folder)
    (folder / "config.json").write_text("{")
    weights.write_bytes(safetensors.torch.save({}))
    with pytest.raises(ValueError, match="is no JSON file"):
        wt.load_model(folder)


def test_folders_of_version_1() -> None:
    """Version 1 read pixels in [-0.5, 0.5] and spelled an option ``neighbours``; it wrote the folder and the logits."""
    folder = Path(__file__).parents[1] / "golden/model_v1"
    assert "neighbours" in json.loads((folder / "config.json").read_text())["stem"]
    model = wt.load_model(folder)
    levels = (torch.arange(3 * 64 * 64).view(1, 3, 64, 64) * 37 % 256).to(torch.uint8)
    expected = torch.tensor([[-0.2068555, 0.1527384, 0.3092616]])
    with torch.no_grad():
        for x in (levels, levels / 255):
            torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
