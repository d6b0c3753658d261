"""Make the golden streams of WeConvene: ``python -m tests.golden.make_weconvene``.

Streams that were made once must decode to the same latents for ever, on every machine. The weights of the model are
integers times powers of two, computed by integers from the names of the tensors. The tables of its prior are stored.
"""

import zlib

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.reference import GOLDEN
from walloc_transforms.wavelets import Wavelet
from walloc_transforms.weconvene import Compressed, WeConvene

FILE = GOLDEN / "weconvene.safetensors"
WAVELETS: list[Wavelet] = ["haar", "bior4.4"]
SIZE = (100, 70)
TABLES = ("frequencies", "lengths", "offsets")


def make_values(name: str, shape: tuple[int, ...]) -> Tensor:
    """Integers from -2**15 to 2**15 that no library makes."""
    count = int(np.prod(shape))
    mixed = (np.arange(count, dtype=np.uint64) + np.uint64(zlib.crc32(name.encode()))) * np.uint64(2654435761)
    mixed = (mixed ^ (mixed >> np.uint64(15))) * np.uint64(2246822519) & np.uint64(2**32 - 1)
    return torch.from_numpy((mixed >> np.uint64(16)).astype(np.int64) - 2**15).view(shape)


def make_model(wavelet: Wavelet) -> WeConvene:
    """A model whose means, scales and residuals all depend on what is decoded before."""
    model = WeConvene(n=8, m=16, slices=2, blocks=1, wavelet=wavelet).eval()
    with torch.no_grad():
        for name, values in model.named_parameters():
            integers = make_values(name, tuple(values.shape)).to(values.dtype)
            if name.startswith("prior."):
                values.copy_(values if "quantiles" not in name else torch.tensor([-12.0, 0.25, 12.0]).expand_as(values))
            elif name.endswith("beta"):
                values.copy_(1 + integers.abs() / 2**16)
            elif name.endswith("gamma"):
                values.copy_(integers.abs() / 2**17)
            elif values.ndim == 1:
                values.copy_(integers / 2**18 + (2 if ".scale.4." in name else 0))
            else:
                fan_in = values[0].numel()
                values.copy_(integers / 2.0 ** (14 + (fan_in.bit_length() + 1) // 2))
        for name, gain in (("analysis", 16), ("hyper_analysis", 4)):
            [*model.get_submodule(name).parameters()][-2].mul_(gain)
    return model


def decode(model: WeConvene, compressed: Compressed) -> Tensor:
    """Decode the latents, which the synthesis makes an image of."""
    found: list[Tensor] = []
    with model.synthesis.register_forward_pre_hook(lambda module, inputs: found.append(inputs[0].clone())):
        model.decompress([compressed])
    return found[0]


def main() -> None:
    height, width = SIZE
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    image = torch.stack([(37 * rows + 11 * columns * (c + 1) + rows * columns) % 256 for c in range(3)])[None] / 255
    kept = {}
    for wavelet in WAVELETS:
        model = make_model(wavelet)
        (compressed,) = model.compress(image)
        kept[f"{wavelet}.latents"] = decode(model, compressed)
        for index, stream in enumerate(compressed.streams):
            kept[f"{wavelet}.stream{index}"] = torch.frombuffer(bytearray(stream), dtype=torch.uint8)
        kept.update({f"{wavelet}.{name}": getattr(model.prior, name) for name in TABLES})
        print(wavelet, [len(stream) for stream in compressed.streams], kept[f"{wavelet}.latents"].std())
    save_file(kept, FILE)


if __name__ == "__main__":
    main()
