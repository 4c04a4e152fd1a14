"""Losses, soft targets, rates and evaluation, on CPU or GPU."""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.data import Data, Split

# share and temperature of a teacher's probabilities (Hinton, Vinyals and Dean, arXiv 1503.02531)
SOFT, TEMPERATURE = 0.7, 3.0


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether it has instructions for it: a processor without them is faster in float32."""
    if device.type != "cpu":
        return True
    features = torch.cpu.get_capabilities()
    return any(features.get(n, False) for n in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))


def logits(
    model: nn.Module, data: Data, images: Tensor, bfloat16: bool = False, batch: int = 500
) -> Tensor:
    """Of stored images, in evaluation mode; in bfloat16 only where the device multiplies it."""
    model.eval()
    device = images.device
    cast = bfloat16 and multiplies_bfloat16(device)
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=cast):
        return torch.cat([model(data.prepare(part)).float() for part in images.split(batch)])


def evaluate(
    model: nn.Module, data: Data, split: Split, bfloat16: bool = False
) -> tuple[float, float]:
    """Mean loss, and error in %."""
    found, labels = logits(model, data, split[0], bfloat16), split[1]
    wrong = (found.argmax(1) != labels).double().mean()
    return float(F.cross_entropy(found, labels)), 100 * float(wrong)


def objective(outputs: Tensor, classes: Tensor, soft: Tensor | None = None) -> Tensor:
    """Cross-entropy; a share of it against a teacher's probabilities where they are given."""
    loss = F.cross_entropy(outputs, classes)
    if soft is None:
        return loss
    logs = F.log_softmax(outputs / TEMPERATURE, 1)
    return (1 - SOFT) * loss + SOFT * TEMPERATURE**2 * F.kl_div(logs, soft, reduction="batchmean")


def soft_targets(model: nn.Module, data: Data) -> Tensor:
    """The model's probabilities for the training images at TEMPERATURE.

    They are means over an image and its mirror image, found once.
    """
    views = [data.train[0], data.train[0].flip(2)] if data.mirror else [data.train[0]]
    outputs = (logits(model, data, view, True) for view in views)
    return torch.stack([F.softmax(found / TEMPERATURE, 1) for found in outputs]).mean(0)


def calibration(data: Data, images: int = 5000, batch: int = 500) -> Iterator[Tensor]:
    """Inputs to recalibrate batch-norm statistics with: augmented, the same in every call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        chosen = data.augment(data.train[0][:images])
    return (data.prepare(part) for part in chosen.split(batch))


def cosine(share: float) -> float:
    """From 1 down to 0."""
    return 0.5 + 0.5 * math.cos(math.pi * min(share, 1.0))


def one_cycle(share: float) -> float:
    """Up to 1 in the first fifth, then down to 0 by a cosine."""
    return share / 0.2 if share < 0.2 else cosine((share - 0.2) / 0.8)


def decayed(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups: weight decay for weights, none for biases and batch norms."""
    weights = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim < 2]
    return [
        {"params": weights, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def sgd(groups: Iterable[Any], lr: float) -> torch.optim.SGD:
    return torch.optim.SGD(groups, lr, momentum=0.9, nesterov=True)
