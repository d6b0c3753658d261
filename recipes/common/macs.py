"""Multiply-adds of a network, counted while it runs."""

from collections.abc import Callable

from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def count_macs(model: nn.Module, call: Callable[[], object]) -> int:
    """Count the multiply-adds of all convolutions and matrix products in a call, the model in evaluation mode.

    Args:
        model: Its mode is put back afterwards.
        call: Runs the model, or more than that. Gradients must be on: the fast path that a transformer takes without
            them is not counted.
    """
    training = model.training
    model.eval()
    try:
        # Nor is the fused attention of a CPU counted.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            call()
    finally:
        model.train(training)
    return counter.get_total_flops() // 2
