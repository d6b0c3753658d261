"""Saved models, and checkpoints of the reference by all of its names."""

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from tests.weconvene.reference import Geometry, reference_state, reference_tensors
from walloc_transforms.sealed import seal
from walloc_transforms.weconvene import WeConvene, fingerprint, load_checkpoint, save
from walloc_transforms.weconvene.translation import TABLES, translate

SMALL = Geometry(n=8, m=16, slices=2, z=12, inner=8, hidden=(16, 8))


def tiny(**changes: Any) -> WeConvene:
    torch.manual_seed(0)
    return WeConvene(**{"n": 4, "m": 4, "slices": 2, "blocks": 1, **changes}).eval()


def same(one: WeConvene, other: WeConvene) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return one.config == other.config and a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("changes", [{}, {"weconv": False}, {"wecharm": False, "wavelet": "bior4.4"}])
def test_there_and_back(changes: dict[str, Any], tmp_path: Path) -> None:
    model = tiny(**changes)
    save(model, tmp_path / "model")
    assert sorted(file.name for file in (tmp_path / "model").iterdir()) == ["config.json", "model.safetensors"]
    again = load_checkpoint(tmp_path / "model")
    assert same(again, model) and not again.training
    assert fingerprint(again) == fingerprint(model)
    assert all(parameter.requires_grad and parameter.device.type == "cpu" for parameter in again.parameters())
    image = torch.rand(1, 3, 20, 33)
    compressed = model.compress(image)
    assert again.compress(image) == compressed
    assert torch.equal(again.decompress(compressed)[0], model.decompress(compressed)[0])


def test_fingerprint_sees_everything() -> None:
    model = tiny()
    before = fingerprint(model)
    assert before == fingerprint(tiny()) and len(before) == 64
    assert before != fingerprint(tiny(wavelet="bior2.2"))
    for value in [*[*model.state_dict().values()][::50], model.prior.offsets]:
        kept = value.flatten()[-1].clone()
        value.view(-1)[-1] += 1
        assert fingerprint(model) != before
        value.view(-1)[-1] = kept
    assert fingerprint(model) == before


def test_fingerprint_stays_what_it_is() -> None:
    """Files that were written name it."""
    model = tiny(slices=1, blocks=0)
    fingerprint(model)  # makes tables, whose values do not matter here
    for value in model.state_dict().values():
        value.fill_(1)
    assert fingerprint(model) == "14393dd6070c11aad593aa5f1045184b30bac07cdc9c99ac862374e8a45bbbe2"


def test_a_model_in_training_is_not_saved(tmp_path: Path) -> None:
    for use in (fingerprint, lambda model: save(model, tmp_path / "model")):
        with pytest.raises(ValueError, match=r"being trained: call eval\(\)"):
            use(tiny().train())
    model = tiny()
    with torch.no_grad():
        model.get_parameter("analysis.0.conv.bias")[0] = math.nan
    with pytest.raises(ValueError, match=r"NaN or infinite values in \['analysis.0.conv.bias'\]"):
        save(model, tmp_path / "model")
    with pytest.raises(ValueError, match=r"call float\(\) first: got torch.float16 in \['analysis"):
        save(tiny().half(), tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    save(tiny(), folder)
    return folder


def edit(source: Path, folder: Path, change: Callable[[dict[str, Any], dict[str, Tensor]], object]) -> Path:
    """Copy a folder with another config or other tensors, and mend its hashes."""
    fields = json.loads((source / "config.json").read_text())
    tensors = safetensors.torch.load((source / "model.safetensors").read_bytes())
    change(fields, tensors)
    content = safetensors.torch.save(tensors)
    (folder / "model.safetensors").write_bytes(content)
    (folder / "config.json").write_text(json.dumps(seal({**fields, "sha256": hashlib.sha256(content).hexdigest()})))
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda fields, tensors: fields.update(n=8), r"analysis\.0\.conv\.weight has shape \(4, 3, 3, 3\), not \(8, "),
        (lambda fields, tensors: fields.update(slices=1), r"unexpected \['charm\.groups\.high\.slices\.1"),
        (lambda fields, tensors: fields.update(slices=3), "multiple of slices=3, got 4"),
        (lambda fields, tensors: fields.update(weconv=False), "missing tensors"),
        (lambda fields, tensors: fields.update(n=10**9), "n must be at most 4096, got 1000000000"),
        (lambda fields, tensors: fields.update(blocks=10**9), "blocks must be at most 16, got 1000000000"),
        (lambda fields, tensors: fields.update(n=0), "n to be at least"),
        (lambda fields, tensors: fields.update(n=4.0), r"expected the fields n \(int\), m \(int\)"),
        (lambda fields, tensors: fields.update(weconv=1), r"weconv \(bool\)"),
        (lambda fields, tensors: fields.update(preset="tiny"), "got .*'preset'"),
        (lambda fields, tensors: fields.pop("m"), r"expected the fields n \(int\), m \(int\)"),
        (lambda fields, tensors: fields.update(wavelet="db2"), "unknown wavelet 'db2'"),
        (lambda fields, tensors: fields.update(version=2), "version 2: this release reads version 1"),
        (lambda fields, tensors: fields.update(format="x"), "does not describe a WeConvene model"),
        (lambda fields, tensors: tensors.pop("prior.offsets"), r"prior\.offsets must be a row of int32"),
        (lambda fields, tensors: tensors["prior.offsets"].resize_(3), "tables of the hyper latents are damaged"),
        (lambda fields, tensors: tensors["prior.frequencies"].add_(1), "tables of the hyper latents are damaged"),
        (lambda fields, tensors: tensors.update({"prior.lengths": torch.ones(4)}), r"prior\.lengths must be a row"),
        (lambda fields, tensors: tensors["prior.quantiles"].fill_(math.nan), "quantiles must hold finite float32"),
        (lambda fields, tensors: tensors.update({"\x1b[31m": torch.ones(1)}), r"unexpected \['\\x1b\[31m'\]"),
    ],
)
def test_edited_folder(
    change: Callable[[dict[str, Any], dict[str, Tensor]], object], message: str, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        load_checkpoint(edit(folder, tmp_path, change))
    assert str(tmp_path) in str(error.value)


def test_damaged_folder(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        load_checkpoint(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        load_checkpoint(tmp_path)
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(FileNotFoundError, match=r"has no model\.safetensors"):
        load_checkpoint(tmp_path)
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="damaged or belongs to another config"):
        load_checkpoint(tmp_path)
    with pytest.raises(ValueError, match="part of a folder: give the folder"):
        load_checkpoint(folder / "model.safetensors")


def test_names_of_the_paper() -> None:
    """The reference has 1419 parameter tensors and 123 buffers, of which ours keeps all but 6 and none."""
    with torch.device("meta"):
        model = WeConvene.preset("paper")
    namings: list[Literal["older", "newer"]] = ["older", "newer"]
    for naming in namings:
        tensors = reference_tensors(Geometry(), naming)
        parameters = {name: shape for name, (shape, is_parameter) in tensors.items() if is_parameter}
        assert (len(tensors), len(parameters), sum(map(math.prod, parameters.values()))) == (1542, 1419, 107_147_148)
        state = reference_state(SMALL, naming) | {
            name: torch.empty(shape, device="meta") for name, shape in parameters.items()
        }
        translated = translate(state, model)
        assert len(translated) == 1413
        assert translated.keys() == model.state_dict().keys() - set(TABLES)
        assert sum(value.numel() for value in translated.values()) == 106_704_396


def load(state: dict[str, Tensor], file: Path, **more: Any) -> WeConvene:
    torch.save({"epoch": 3, "state_dict": state, "loss": torch.tensor(0.5), **more}, file)
    return load_checkpoint(file)


def test_both_namings(tmp_path: Path) -> None:
    state = reference_state(SMALL)
    model = load(state, tmp_path / "newer.pth")
    assert model.config == WeConvene(n=8, m=16, slices=2).config and not model.training
    assert same(load(reference_state(SMALL, prefix="module."), tmp_path / "x.pth"), model)
    assert same(load(reference_state(SMALL, "older"), tmp_path / "x.pth"), model)
    bare = tmp_path / "bare.pth"
    torch.save(state, bare)
    assert same(load_checkpoint(bare), model)
    safetensors.torch.save_file(state, tmp_path / "x.safetensors")
    assert same(load_checkpoint(tmp_path / "x.safetensors"), model)
    save(model, tmp_path / "model")
    assert same(load_checkpoint(tmp_path / "model"), model)


def test_equals_the_reference(tmp_path: Path) -> None:
    """As CompressAI 1.2.8 computes with these weights: a network of its layers loaded them strictly by their names."""
    image = torch.from_numpy(np.random.RandomState(1).uniform(size=(1, 3, 64, 128))).float()
    with torch.no_grad():
        result = load(reference_state(SMALL), tmp_path / "x.pth")(image)
    bits = [-float(values.log2().sum()) for values in result["likelihoods"].values()]
    assert bits == pytest.approx([31.2973, 1978.4162, 38.3209], rel=1e-5)
    expected = [
        [0.7971, 0.8417, 1.4601, 0.9436, 0.5519, 0.8046, 0.9660, 1.2135],
        [-0.2448, -0.2208, -0.2650, -0.5348, -0.4510, -0.0344, 0.0236, -0.1614],
        [-0.2729, -0.1132, -0.2870, 0.0215, -0.6883, -0.6903, -0.5783, -0.8831],
    ]
    found = result["x_hat"][0, :, 5::32, 7::32].flatten(1)
    assert torch.allclose(found, torch.tensor(expected).clamp(0, 1), atol=1e-4)


def test_state_of_a_training(tmp_path: Path) -> None:
    """As the reference's training script saves it, with tables that were made for coding."""
    state = reference_state(SMALL)
    model = load(state, tmp_path / "x.pth")
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [130, 180])
    for density in ("entropy_bottleneck", "gaussian_conditional_real", "gaussian_conditional_imag"):
        for name in ("_offset", "_quantized_cdf", "_cdf_length"):
            state[f"{density}.{name}"] = torch.ones(12, dtype=torch.int32)
        if density != "entropy_bottleneck":
            state[f"{density}.scale_table"] = torch.linspace(math.log(0.11), math.log(256), 64).exp()
    more = {"optimizer": optimizer.state_dict(), "lr_scheduler": schedule.state_dict()}
    assert same(load(state, tmp_path / "y.pth", **more), model)


@functools.cache
def state_of_one_slice() -> dict[str, Tensor]:
    return reference_state(dataclasses.replace(SMALL, slices=1))


def replaced(name: str, value: Tensor | None) -> Callable[[dict[str, Tensor]], object]:
    return lambda state: state.pop(name) if value is None else state.update({name: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replaced("g_a.12.weight", None), "no checkpoint of WeConvene: expected a tensor g_a.12.weight"),
        (replaced("g_a.4.conv2.bias", None), r"missing tensors \['g_a\.4\.conv2\.bias'\]"),
        (replaced("g_a.4.dwt.w_hh", None), r"missing tensors \['g_a\.4\.dwt\.w_hh'\]"),
        (replaced("g_a.99.weight", torch.ones(1)), r"unexpected \['g_a\.99\.weight'\]"),
        (replaced("g_s.3.conv1.bias", torch.ones(9)), r"g_s\.3\.conv1\.bias has shape \(9,\), not \(8,\)"),
        (replaced("h_a.4.weight", torch.ones(192, 8, 3, 3)), r"h_a\.4\.weight has shape \(192, .*, not \(12,"),
        (replaced("g_a.4.conv2.bias", torch.ones(9)), r"g_a\.4\.conv2\.bias has shape \(9,\), not \(8,\)"),
        (
            replaced("g_s.3.conv1.bias", torch.ones(8).half()),
            r"g_s\.3\.conv1\.bias must be of float32, got torch.float16",
        ),
        (replaced("g_s.3.conv1.bias", torch.full((8,), math.inf)), "must hold finite float32"),
        (replaced("dwt.w_lh", torch.full((1, 1, 2, 2), 0.5)), r"dwt\.w_lh must be \[0.5, 0.5, -0.5, -0.5\]"),
        (replaced("g_s.4.idwt.filters", torch.ones(4, 1, 2, 2)), r"g_s\.4\.idwt\.filters must be \[0.5"),
        (replaced("g_a.0.gdn.beta_reparam.pedestal", torch.ones(1)), r"pedestal must be \[1.4"),
        (replaced("entropy_bottleneck.target", torch.ones(3)), r"target must be \[-21.4"),
        (replaced("gaussian_conditional_real.scale_bound", torch.ones(1)), "scale_bound must be"),
        (replaced("gaussian_conditional_imag.scale_table", torch.ones(64)), "scale_table must be"),
        (replaced("gaussian_conditional_imag.scale_table", torch.ones(3)), "scale_table must be"),
        (replaced("entropy_bottleneck._offset", torch.ones(3)), r"_offset must be of int32, got torch\.float32"),
        (replaced("entropy_bottleneck._matrix0", torch.ones(3)), "'entropy_bottleneck.matrices.0' twice"),
    ],
)
def test_other_state(change: Callable[[dict[str, Tensor]], object], message: str, tmp_path: Path) -> None:
    state = dict(state_of_one_slice())
    change(state)
    with pytest.raises(ValueError, match=message) as error:
        load(state, tmp_path / "x.pth")
    assert "x.pth" in str(error.value) and len(str(error.value)) < 1000


def test_other_files(tmp_path: Path) -> None:
    file = tmp_path / "x.pth"
    for content, message in [
        ({"state_dict": [1]}, "holds no state_dict of tensors"),
        ({"a": 1}, "holds no state_dict of tensors"),
        ({"state_dict": {1: torch.ones(1)}}, "holds no state_dict of tensors"),
        ({"a": torch.ones(1)}, "no checkpoint of WeConvene"),
        ({}, "no checkpoint of WeConvene"),
    ]:
        torch.save(content, file)
        with pytest.raises(ValueError, match=message):
            load_checkpoint(file)
    shared = torch.ones(1000)
    torch.save({f"k{i}": shared for i in range(100)}, file)
    with pytest.raises(ValueError, match="they overlap"):
        load_checkpoint(file)
    file.write_bytes(b"\x80\x02}q\0.")
    with pytest.raises(ValueError, match="no zip archive"):
        load_checkpoint(file)
    (tmp_path / "x.safetensors").write_bytes(b"\xff" * 30)
    with pytest.raises(ValueError, match="no safetensors file"):
        load_checkpoint(tmp_path / "x.safetensors")
