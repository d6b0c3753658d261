"""How an arm's answers compare with the labels, and with what the network says of all pixels."""

import math

import torch
from torch import Tensor

from recipes.common.tables import Record

MEASURES = {
    "top1": ("top-1, %", 1),
    "top5": ("top-5, %", 1),
    "agreement": ("agreement, %", 1),
    "divergence": ("divergence, nats", 3),
}
"""Label and digits. Agreement is with the network's own answers on all pixels; the divergence is Kullback and Leibler's
of an arm's probabilities from the network's own."""


def score(logits: Tensor, own: Tensor, labels: Tensor | None) -> Record:
    """Score answers: the mean over images of every measure, and its standard error as ``"MEASURE se"``.

    Args:
        logits: ``(N, classes)``.
        own: Those of the network on all pixels.
        labels: ``(N,)``, if they are known.
    """
    said, own_said = logits.log_softmax(1), own.log_softmax(1)
    measured = {
        "agreement": 100 * (said.argmax(1) == own_said.argmax(1)).double(),
        "divergence": (own_said.exp() * (own_said - said)).sum(1).double(),
    }
    if labels is not None:
        best = said.topk(min(5, said.shape[1]), 1).indices == labels[:, None]
        measured = {"top1": 100 * best[:, 0].double(), "top5": 100 * best.any(1).double(), **measured}
    record: Record = {}
    for name, values in measured.items():
        record[name] = float(values.mean())
        record[f"{name} se"] = float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return record


@torch.no_grad()
def probability(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Take the class that is answered, and its probability."""
    probabilities, classes = logits.softmax(1).max(1)
    return classes, probabilities
