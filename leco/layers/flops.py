"""Multiply-adds of a model's modules, counted."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def multiply_adds(model: nn.Module, *inputs: Tensor) -> dict[str, int]:
    """Multiply-adds of each module that has a weight, for the given inputs as one batch
    (torch.utils.flop_counter, whose flops are twice that).

    Divided by the batch and by the weight's entries this is the number of positions:
    `MultiplyAdds(count // weight.numel())` for one input.

    >>> import leco, torch
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1))
    >>> leco.multiply_adds(net, torch.zeros(1, 3, 10, 10))
    {'0': 21600}
    """
    counts = module_multiply_adds(model, *inputs)
    weighted = {
        name
        for name, module in model.named_modules()
        if isinstance(getattr(module, "weight", None), Tensor)
    }
    return {name: count for name, count in counts.items() if name in weighted and count}


def module_multiply_adds(model: nn.Module, *inputs: Tensor) -> dict[str, int]:
    """Multiply-adds of each module that is called, those of its children included; "" is the whole
    model."""
    counter = FlopCounterMode(display=False)
    with evaluating(model), torch.no_grad(), _unfused(), counter:
        model(*inputs)
    root, found = type(model).__name__, counter.get_flop_counts()
    return {
        name.removeprefix(root).removeprefix("."): sum(flops.values()) // 2
        for name, flops in found.items()
        if name != "Global"
    }


@contextmanager
def _unfused() -> Iterator[None]:
    """Inside, attention runs as matrix products, which are counted; its fused operations are not,
    on every device."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Inside, the models are in evaluation mode; afterwards each module is in its own mode
    again."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    try:
        for model in models:
            model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training
