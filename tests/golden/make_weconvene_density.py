"""Make the golden arrays of the densities: ``python -m tests.golden.make_weconvene_density``.

It needs CompressAI 1.2.8, safetensors and nothing of the package.
"""

import importlib
from pathlib import Path

import safetensors.torch
import torch

TABLES = [0, 10, 20, 30, 40]  # the Gaussian ones that are kept


def make_prior() -> dict[str, torch.Tensor]:
    prior = importlib.import_module("compressai.entropy_models").EntropyBottleneck(6)
    with torch.no_grad():
        for parameters in (prior.matrices, prior.biases, prior.factors):
            for parameter in parameters:
                parameter.add_(0.3 * torch.randn_like(parameter))
        prior.quantiles.add_(3 * torch.rand_like(prior.quantiles))
    kept = {name: value.clone() for name, value in prior.named_parameters()}
    x = 6 * torch.randn(2, 6, 5, 4)
    x[0, :, 0, 0], x[1, :, 0, 0] = 300, -300
    kept["x"] = x
    loss = prior.loss()
    loss.backward()
    kept["loss"], kept["loss.quantiles"] = loss, prior.quantiles.grad
    kept["train.x_hat"], kept["train.likelihoods"] = prior(x)
    # of all but the far tails, where float32 gives CompressAI no gradient
    at = kept["train.x_hat"][:, :, 1:].clone().requires_grad_()
    prior.zero_grad()
    mass = prior.likelihood_lower_bound(prior._likelihood(at.transpose(0, 1).reshape(6, 1, -1))[0])
    (-mass.log2().sum()).backward()
    assert at.grad is not None
    kept["gradient.x"] = at.grad
    kept |= {f"gradient.{name}": value.grad for name, value in prior.named_parameters() if value.grad is not None}
    prior.eval()
    kept["eval.x_hat"], kept["eval.likelihoods"] = prior(x)
    optimizer = torch.optim.Adam([prior.quantiles], 1.0)
    for step in range(3000):
        optimizer.param_groups[0]["lr"] = 0.998**step
        optimizer.zero_grad()
        prior.loss().backward()
        optimizer.step()
    kept["fitted.quantiles"] = prior.quantiles
    prior.update()
    kept["medians"] = prior._get_medians()
    kept["cdf"], kept["cdf.length"], kept["cdf.offset"] = prior._quantized_cdf, prior._cdf_length, prior._offset
    return {f"prior.{name}": value for name, value in kept.items()}


def make_gaussian() -> dict[str, torch.Tensor]:
    module = importlib.import_module("compressai.entropy_models")
    table = importlib.import_module("compressai.models.google").get_scale_table()
    conditional = module.GaussianConditional(None)
    conditional.update_scale_table(table)
    scales = torch.exp(torch.empty(400).uniform_(-3, 6)).requires_grad_()
    x, means = torch.randn(400) * scales.detach().clamp(0.5) * 1.5, 5 * torch.randn(400)
    x[:20] += 500
    kept = {"x": x, "scales": scales.detach(), "means": means}
    kept["train.x_hat"], kept["train.likelihoods"] = conditional(x, scales, means)
    at = kept["train.x_hat"].clone().requires_grad_()
    mass = conditional.likelihood_lower_bound(conditional._likelihood(at, scales, means))
    (-mass.log2().sum()).backward()
    assert at.grad is not None and scales.grad is not None
    kept["gradient.x"], kept["gradient.scales"] = at.grad, scales.grad
    conditional.eval()
    kept["eval.x_hat"], kept["eval.likelihoods"] = conditional(x, scales, means)
    kept["table"], kept["indices"] = conditional.scale_table, conditional.build_indexes(scales)
    for i in TABLES:
        kept[f"cdf.{i}"] = conditional._quantized_cdf[i, : int(conditional._cdf_length[i])]
        kept[f"cdf.{i}.offset"] = conditional._offset[i]
    return {f"gaussian.{name}": value for name, value in kept.items()}


def main() -> None:
    torch.manual_seed(20)
    arrays = {name: value.detach().clone().contiguous() for name, value in {**make_prior(), **make_gaussian()}.items()}
    file = Path(__file__).with_name("weconvene_density.safetensors")
    safetensors.torch.save_file(arrays, file)
    print({name: tuple(value.shape) for name, value in arrays.items()}, file.stat().st_size)


if __name__ == "__main__":
    main()
