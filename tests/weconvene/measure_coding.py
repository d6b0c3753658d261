"""Measure the rate and the speed of coding: ``OMP_NUM_THREADS=1 python -m tests.weconvene.measure_coding``.

A million symbols are drawn from known densities. Where CompressAI 1.2.8 is installed, it codes them too.
"""

import importlib
import importlib.util
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from walloc_transforms.weconvene import FactorizedPrior, GaussianConditional, SymbolDecoder, SymbolEncoder, Tables

COUNT = 1_000_000


def make_scales() -> dict[str, Tensor]:
    where = torch.rand(COUNT)
    return {
        "0.11 to 256": 0.11 * (256 / 0.11) ** where,
        "1 to 10": 10**where,
        "0.11 to 1": 0.11 * (1 / 0.11) ** where,
        "log-normal, median 0.25": 0.25 * torch.randn(COUNT).exp(),
        "all 0.11": torch.full((COUNT,), 0.11),
    }


def make_draws() -> dict[str, Tensor]:
    sign = torch.where(torch.rand(COUNT) < 0.5, -1.0, 1.0)
    return {"Gaussian": torch.randn(COUNT), "Laplacian": sign * torch.empty(COUNT).exponential_() / math.sqrt(2)}


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    result, seconds = None, math.inf
    for _ in range(5):
        start = time.perf_counter()
        result = function()
        seconds = min(seconds, time.perf_counter() - start)
    return result, seconds


def ours(symbols: Tensor, indices: np.ndarray, tables: Tables) -> tuple[int, float, float]:
    def encode() -> bytes:
        encoder = SymbolEncoder()
        encoder.put(symbols.int(), indices, tables)
        return encoder.finish()

    def decode() -> np.ndarray:
        decoder = SymbolDecoder(data)
        decoded = decoder.take(indices, tables)
        decoder.finish()
        return decoded

    data, encoding = timed(encode)
    decoded, decoding = timed(decode)
    assert (decoded == symbols.numpy()).all()
    return len(data), encoding, decoding


def compressai(symbols: Tensor, scales: Tensor) -> tuple[int, float, float]:
    conditional = importlib.import_module("compressai.entropy_models").GaussianConditional(None).eval()
    conditional.update_scale_table(importlib.import_module("compressai.models.google").get_scale_table())
    indices = conditional.build_indexes(scales[None])
    (data,), encoding = timed(lambda: conditional.compress(symbols[None], indices))
    decoded, decoding = timed(lambda: conditional.decompress([data], indices))
    assert torch.equal(decoded, symbols[None])
    return len(data), encoding, decoding


def report(name: str, bits: float, length: int, encoding: float, decoding: float) -> None:
    more = 100 * (8 * length / bits - 1)
    speeds = f"{COUNT / encoding / 1e6:6.1f} | {COUNT / decoding / 1e6:6.1f}"
    print(f"| {name:52} | {bits / COUNT:9.6f} | {8 * length / COUNT:9.6f} | {more:+7.3f} | {speeds} |", flush=True)


def main() -> None:
    torch.manual_seed(0)
    print("| symbols | estimated bits | real bits | % more | encode, M/s | decode, M/s |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    conditional = GaussianConditional().eval()
    draws = make_draws()
    for scales_name, scales in make_scales().items():
        indices = conditional.table_of(scales).numpy()
        for draws_name, draw in draws.items():
            symbols, likelihoods = conditional(draw * scales, scales)
            bits = -likelihoods.double().log2().sum().item()
            name = f"{draws_name}, scales {scales_name}"
            report(name, bits, *ours(symbols, indices, conditional.tables()))
            if importlib.util.find_spec("compressai"):
                report(f"{name}: CompressAI", bits, *compressai(symbols, scales))
    prior = FactorizedPrior(200).eval()
    prior.update()
    tables = prior.tables()
    indices, each = np.repeat(np.arange(200), COUNT // 200), COUNT // 200
    generator, drawn = np.random.default_rng(0), []
    for channel in range(200):
        inside = tables[channel][:-1]
        drawn.append(generator.choice(len(inside), each, p=inside / inside.sum()) + tables.offsets[channel])
    symbols = torch.from_numpy(np.concatenate(drawn))
    values = symbols.view(200, -1).t() + prior.medians.detach()
    bits = -prior.likelihood(values).double().log2().sum().item()
    report("a learned density for each of 200 channels", bits, *ours(symbols, indices, tables))


if __name__ == "__main__":
    main()
