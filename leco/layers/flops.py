"""Multiply-adds of a model's modules, counted."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from leco.layers.inputs import Inputs, call, given


def multiply_adds(model: nn.Module, *inputs: Tensor | Mapping[str, Any]) -> dict[str, int]:
    """Multiply-adds of each module that has a weight, for the given inputs as one batch
    (torch.utils.flop_counter, whose flops are twice that).

    The inputs are the tensors that `model(*inputs)` takes, or one dict of arguments by name.
    Recurrent layers count their matrix products, attention those of its projections and of its
    scores.

    Divided by the batch and by the weight's entries this is the number of positions:
    `MultiplyAdds(count // weight.numel())` for one input.

    >>> import leco, torch
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1))
    >>> leco.multiply_adds(net, torch.zeros(1, 3, 10, 10))
    {'0': 21600}
    """
    own: Any = inputs[0] if len(inputs) == 1 and isinstance(inputs[0], Mapping) else inputs
    counts = module_multiply_adds(model, given(own))
    weighted = {name for name, module in model.named_modules() if _has_weights(module)}
    return {name: count for name, count in counts.items() if name in weighted and count}


def _has_weights(module: nn.Module) -> bool:
    """Whether a module has a weight, or several under other names: recurrent layers, attention."""
    several = isinstance(module, nn.RNNBase | nn.RNNCellBase | nn.MultiheadAttention)
    return several or isinstance(getattr(module, "weight", None), Tensor)


def module_multiply_adds(model: nn.Module, inputs: Inputs) -> dict[str, int]:
    """Multiply-adds of each module that is called, those of its children included; "" is the whole
    model."""
    counter = FlopCounterMode(display=False)
    with evaluating(model), torch.no_grad(), _unfused(), counter:
        call(model, inputs)
    root, found = type(model).__name__, counter.get_flop_counts()
    return {
        name.removeprefix(root).removeprefix("."): sum(flops.values()) // 2
        for name, flops in found.items()
        if name != "Global"
    }


@contextmanager
def _unfused() -> Iterator[None]:
    """Inside, attention and recurrent layers run as matrix products, which are counted; their fused
    operations are not, on every device."""
    fast = torch.backends.mha.get_fastpath_enabled()
    fused: tuple[Any, ...] = (torch.backends.mkldnn, torch.backends.cudnn)
    before = [backend.enabled for backend in fused]
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        for backend in fused:
            backend.enabled = False
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for backend, enabled in zip(fused, before, strict=True):
            backend.enabled = enabled


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
