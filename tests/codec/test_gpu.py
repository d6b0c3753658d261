"""What a GPU would be asked to do, seen with fake tensors: they have a device and a shape, but no values."""

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests.helpers import make_codec
from walloc_transforms.codec import Codec
from walloc_transforms.codec.fitting import centered

FREE = ("device", "view", "slice", "permute", "unsqueeze", "as_strided", "expand", "alias", "detach")


class Launches(TorchDispatchMode):
    """Counts operations that start a kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._opname
        if not name.startswith(FREE):
            self.names.append(name)
        return func(*args, **(kwargs or {}))


def on_fake_gpu(codec: Codec) -> Codec:
    """Move a codec that is folded already, which needs values."""
    for module in codec.modules():
        for name, p in module._parameters.items():
            module._parameters[name] = None if p is None else nn.Parameter(fake(p), requires_grad=False)
        for name, b in module._buffers.items():
            module._buffers[name] = None if b is None else fake(b)
    return codec


def fake(t: Tensor) -> Tensor:
    return torch.empty(t.shape, dtype=t.dtype, device="cuda")


def test_signals_are_fitted_where_the_statistics_are() -> None:
    with FakeTensorMode():
        assert centered(torch.empty(3, 16, 16, device="cuda")).device.type == "cpu"


@pytest.mark.parametrize(("channels", "convolutions"), [(12, 2), (48, 3)])
def test_encoding_waits_for_nothing(channels: int, convolutions: int) -> None:
    codec = make_codec(channels)
    codec.decode(codec.encode(torch.rand(3, 16, 16)))
    with FakeTensorMode():
        codec, images = on_fake_gpu(codec), torch.empty(4, 3, 512, 768, dtype=torch.uint8, device="cuda")
        with Launches() as seen:
            latents = codec.encode(images)
        assert latents.device.type == "cuda"
        assert latents.shape == (4, channels, 64, 96)
        assert seen.names.count("convolution") == convolutions
        with pytest.raises(DataDependentOutputException):  # which is how waiting would show
            latents.sum().item()


def test_decoding_waits_for_nothing() -> None:
    codec = make_codec(12)
    codec.decode(codec.encode(torch.rand(3, 16, 16)))
    with FakeTensorMode():
        codec, latents = on_fake_gpu(codec), torch.empty(4, 12, 64, 96, device="cuda")
        with Launches() as seen:
            images = codec.decode(latents, size=(510, 765))
        assert images.device.type == "cuda"
        assert images.shape == (4, 3, 510, 765)
        assert seen.names.count("convolution") == 2
