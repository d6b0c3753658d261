"""Make golden arrays of CompressAI's GDN, where its version 1.2.8 is installed: ``python -m tests.golden.make_gdn``."""

import importlib
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

CHANNELS = 6


def main() -> None:
    layers = importlib.import_module("compressai.layers")
    torch.manual_seed(0)
    x = 3 * torch.randn(2, CHANNELS, 3, 4)
    weight = torch.randn_like(x)
    beta = torch.rand(CHANNELS) * 2
    gamma = torch.rand(CHANNELS, CHANNELS) * 0.5
    beta[:2], gamma[0, :3], gamma[4, 4] = torch.tensor([-0.5, 0.0]), torch.tensor([-0.2, 0.0, 1e-6]), -1.0
    arrays: dict[str, Tensor] = {"x": x, "weight": weight, "beta": beta, "gamma": gamma}
    for name, inverse in (("gdn", False), ("igdn", True)):
        module = layers.GDN(CHANNELS, inverse=inverse)
        arrays |= {"first_beta": module.beta.detach().clone(), "first_gamma": module.gamma.detach().clone()}
        module.beta.data, module.gamma.data = beta.clone(), gamma.clone()
        given = x.clone().requires_grad_()
        y = module(given)
        (y * weight).sum().backward()
        grads = {"x": given.grad, "beta": module.beta.grad, "gamma": module.gamma.grad}
        arrays |= {f"{name}.y": y.detach(), **{f"{name}.grad.{key}": grad for key, grad in grads.items()}}
    save_file(arrays, Path(__file__).with_name("gdn.safetensors"))


if __name__ == "__main__":
    main()
