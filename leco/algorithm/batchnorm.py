"""Batch-norm statistics. They belong to the weights they were measured with: w, not
Delta(Theta)."""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

UNLIKE = 0.15
"""The log of a ratio of variances, rms over a layer's channels, above which inputs are unlike those
of training. On ResNet-20, images that should be augmented give 0.43."""


def _layers(model: nn.Module) -> dict[str, _BatchNorm]:
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    }


def batchnorm_statistics(model: nn.Module) -> dict[str, Tensor]:
    """The running statistics of all batch-norm layers, by buffer name."""
    return {
        f"{name}.{buffer}": value
        for name, module in _layers(model).items()
        for buffer, value in module.named_buffers()
    }


@torch.no_grad()
def recalibrate_(model: nn.Module, batches: Iterable[Any]) -> None:
    """Replace the running mean and variance of each batch-norm layer by averages over `batches`,
    with the weights as they are.

    Only batch-norm layers run in train mode; dropout stays off. Nothing happens in a net without
    batch norm. Where a batch can't be used, or the model raises, the statistics are as before.

    Args:
        batches: inputs, each passed as `model(batch)`, `model(*batch)` for a tuple, or
            `model(**batch)` for a mapping. Some thousand examples in all are enough. Give augmented
            ones where the net was trained on augmented ones: the rest of the net fits their
            statistics (docs/training-loops.md, "Batch norm", has the loss of accuracy otherwise).

    Raises:
        ValueError: no batches.
        TypeError: a list, as a DataLoader of inputs and targets gives.

    >>> import leco, torch
    >>> net = torch.nn.BatchNorm1d(2)
    >>> leco.recalibrate_(net, [torch.tensor([[1.0, 2.0], [3.0, 4.0]])])
    >>> net.running_mean
    tensor([2., 3.])
    """
    layers = _layers(model)
    if not layers:
        return
    momenta = {layer: layer.momentum for layer in layers.values()}
    modes = {module: module.training for module in model.modules()}
    before = {name: value.clone() for name, value in batchnorm_statistics(model).items()}
    try:
        # average over the batches
        model.eval()
        for layer in layers.values():
            layer.reset_running_stats()
            layer.momentum = None
            layer.train()
        if not _pass_through(model, batches):
            raise ValueError("recalibrate_: batches is empty; give at least one batch of inputs")
    except BaseException:
        for name, value in batchnorm_statistics(model).items():
            value.copy_(before[name])
        raise
    finally:
        for layer, momentum in momenta.items():
            layer.momentum = momentum
        for module, training in modes.items():
            module.training = training


def _pass_through(model: nn.Module, batches: Iterable[Any]) -> int:
    """Call the model with each batch. Returns how many there were."""
    count = 0
    for count, batch in enumerate(batches, 1):  # noqa: B007
        if isinstance(batch, list):
            raise TypeError(
                "recalibrate_: batches must give inputs, not lists of inputs and targets; pass "
                "(x for x, y in loader)"
            )
        if isinstance(batch, Mapping):
            model(**batch)
        else:
            model(*batch) if isinstance(batch, tuple) else model(batch)
    return count


@contextmanager
def kept_statistics(model: nn.Module) -> Iterator[None]:
    """Afterwards the statistics are what they were, whatever happened inside."""
    statistics = batchnorm_statistics(model)
    before = {name: value.clone() for name, value in statistics.items()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, value in statistics.items():
                value.copy_(before[name])


@torch.no_grad()
def unlike_training(model: nn.Module, batches: Iterable[Any]) -> str | None:
    """Say what is wrong with `batches` where the variances of a batch-norm layer are further from
    its running ones, those of training, than chance explains; else return None.

    The distance is the root mean square over channels of log((v' + eps) / (v + eps)). Gaussian
    inputs of n examples have a distance of about sqrt(2/n). Layers that never trained are left out.
    The model is left as it was.
    """
    layers = {
        name: layer
        for name, layer in _layers(model).items()
        if layer.num_batches_tracked is None or layer.num_batches_tracked > 0
    }
    if not layers:
        return None
    before, examples = _logarithms(layers.values()), 0

    def count(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal examples
        examples += len(inputs[0])

    # Measure the distances
    with next(iter(layers.values())).register_forward_pre_hook(count), kept_statistics(model):
        recalibrate_(model, batches)
        pairs = zip(_logarithms(layers.values()), before, strict=True)
        distances = [(now - then).square().mean().sqrt() for now, then in pairs]

    # Judge the largest
    distance, name = max(zip(torch.stack(distances).tolist(), layers, strict=True))
    if not distance > UNLIKE + 2 * math.sqrt(2 / max(examples, 1)):
        return None
    return (
        f"in batch norm {name!r} the variances differ from those of training by a factor of "
        f"{math.exp(distance):.2f} (rms over channels); give inputs like those of training, "
        "augmented where training augments them"
    )


def _logarithms(layers: Iterable[_BatchNorm]) -> list[Tensor]:
    return [(layer.running_var.double() + layer.eps).log() for layer in layers]  # pyright: ignore
