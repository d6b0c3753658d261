"""Models with a WaLLoC stem where users take them: exported, distributed, and fed by timm's loader."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_dataset, create_loader, resolve_model_data_config  # pyright: ignore
from torch import nn

import walloc_transforms as wt
from tests.helpers import PRODUCTS, assert_close_float32, stem_codec
from walloc_transforms.stems import AdapterShape, plan_replacement, put_stem
from walloc_transforms.stems.layers import find_stem

ARGS: dict[str, dict[str, Any]] = {
    "resnet18": {"layers": (1, 1, 1, 1), "channels": (16, 24, 32, 40)},
    "vit_tiny_patch16_224": {"depth": 2, "img_size": 64},
    "resnet18+adapter": {"layers": (1, 1, 1, 1), "channels": (16, 24, 32, 40)},
}
NAMES = list(ARGS)


def make(name: str, **options: Any) -> Any:
    torch.manual_seed(2)
    model, codec = timm.create_model(name.removesuffix("+adapter"), num_classes=7, **ARGS[name]), stem_codec()
    if not name.endswith("+adapter"):
        return wt.replace_stem(model, codec, **options)
    plan = plan_replacement(model, codec, "entry", cut="layer2.0")
    stem = wt.WallocStem(codec, plan.channels, stride=plan.strides, adapter=AdapterShape(16, 2), expand=True)
    return put_stem(model, plan, stem)


def images(batch: int = 2) -> torch.Tensor:
    return torch.rand(batch, 3, 64, 64)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", NAMES)
def test_export(name: str) -> None:
    """A program for any batch size; the model works on, with weights that change later too."""
    model, x = make(name).eval(), images()
    expected = model(x)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)).module()
    torch.testing.assert_close(program(x), expected, atol=1e-4, rtol=1e-4)
    assert program(images(5)).shape == (5, 7)
    assert torch.equal(model(x), expected)
    with torch.no_grad():
        find_stem(model).codec.weight.mul_(0.5)
    assert not torch.allclose(model(x), expected, atol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("called", [True, False])
def test_export_follows_loaded_weights(called: bool) -> None:
    model, other, x = make("resnet18").eval(), make("resnet18").eval(), images()
    with torch.no_grad():
        find_stem(other).codec.weight.mul_(0.5)
    if called:
        model(x)
    model.load_state_dict(other.state_dict())
    program = torch.export.export(model, (x,)).module()
    torch.testing.assert_close(program(x), other(x), atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
def test_onnx(name: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model, x = make(name).eval(), images()
    expected = model(x).detach()
    program: Any = torch.onnx.export(model, (x,), dynamo=True, verbose=False)
    program.save(str(tmp_path / "model.onnx"))
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    np.testing.assert_allclose(logits, expected.numpy(), atol=1e-4, rtol=1e-4)
    assert torch.equal(model(x), expected)  # nothing of the export is left in the model


@pytest.mark.parametrize("kind", ["pixels", "latents"])
def test_distributed_training_has_no_unused_parameters(kind: Any, tmp_path: Path) -> None:
    model = make("resnet18", input=kind)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(model)
        x = images() if kind == "pixels" else find_stem(model).codec.encode(images())
        for _ in range(2):  # the second time it would complain
            wrapped(x).square().mean().backward()
        assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    finally:
        torch.distributed.destroy_process_group()


def test_trainable_codec() -> None:
    codec = stem_codec()
    stem = wt.WallocStem(codec, 5, stride=8, trainable_codec=True)
    stem(images()).square().mean().backward()
    for parameter in (stem.codec.weight, stem.codec.bias):
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in stem.codec.decoder.parameters())
    frozen = wt.WallocStem(codec, 5, stride=8)
    frozen.load_state_dict(stem.state_dict())
    torch.testing.assert_close(frozen(images()[:1] * 0), stem(images()[:1] * 0), atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="trainable_codec needs pixels as input"):
        wt.WallocStem(codec, 5, stride=8, input="latents", trainable_codec=True)


@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC", "NLC"])
def test_strides_below_the_codecs(stride: int, layout: Any) -> None:
    """Every latent becomes a block of cells: channel c * r**2 + i * r + j of the projection is row i, column j."""
    codec = stem_codec()
    stem = wt.WallocStem(codec, 5, stride=stride, output_fmt=layout)
    x, r = images()[:, :, :, :48], 8 // stride
    y = stem(x)
    z = nn.functional.conv2d(codec.normalize(codec.encode(x)), stem.proj.weight, stem.proj.bias)
    expected = z.view(2, 5, r, r, 8, 6).permute(0, 1, 4, 2, 5, 3).reshape(2, 5, 8 * r, 6 * r)
    if layout == "NHWC":
        expected = expected.permute(0, 2, 3, 1)
    elif layout == "NLC":
        expected = expected.flatten(2).transpose(1, 2)
    assert_close_float32(y, expected, terms=PRODUCTS, factor=8)
    assert stem.grid_size((64, 48)) == (64 // stride, 48 // stride)


def test_expansion_makes_a_stem_linear() -> None:
    codec = stem_codec()
    with torch.no_grad():
        codec.weight.mul_(100)
    stem = wt.WallocStem(codec, 5, stride=8, expand=True, neighbors=1)
    a, b = images() * 0.4, images() * 0.4
    middle = stem((a + b) / 2)
    torch.testing.assert_close(middle, (stem(a) + stem(b)) / 2, atol=1e-2, rtol=1e-3)
    companded = wt.WallocStem(codec, 5, stride=8, neighbors=1)
    companded.load_state_dict(stem.state_dict())
    assert (companded((a + b) / 2) - (companded(a) + companded(b)) / 2).abs().max() > 0.05


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # timm leaves its files open
def test_timms_loader(tmp_path: Path) -> None:
    """timm collates uint8 and normalizes on the device, in the codec's range; the model encodes there."""
    for split in ("train", "validation"):
        for label in ("a", "b"):
            (tmp_path / split / label).mkdir(parents=True)
            for i in range(3):
                pixels = np.random.RandomState(i).randint(0, 256, (90, 120, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / label / f"{i}.png")
    model = make("vit_tiny_patch16_224")
    data = resolve_model_data_config(model)
    for training in (True, False):
        dataset: Any = create_dataset("", root=str(tmp_path), split="train" if training else "validation")
        loader = create_loader(
            dataset,
            data["input_size"],
            batch_size=3,
            is_training=training,
            mean=data["mean"],
            std=data["std"],
            num_workers=0,
            device=torch.device("cpu"),
            persistent_workers=False,
        )
        seen = 0
        for x, labels in loader:
            assert x.shape[1:] == (3, 64, 64)
            assert 0 <= float(x.min()) < float(x.max()) <= 1
            loss = nn.functional.cross_entropy(model.train(training)(x), labels)
            assert torch.isfinite(loss)
            seen += len(labels)
        assert seen == 6
