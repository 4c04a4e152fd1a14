"""Whether a net without some channels that are 0 has the same outputs: tried on a randomly moved
float64 copy."""

import copy
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils._pytree import tree_leaves

from leco.layers.channels import ChannelSet, Cut, cut_
from leco.layers.inputs import Inputs, call, given

NORMS = (nn.LayerNorm, nn.GroupNorm)
AVERAGED = "averages over its channels, or the model's code fixes their number"


def failures(model: nn.Module, inputs: Inputs, sets: Sequence[ChannelSet]) -> dict[str, str]:
    """Of those sets whose first group can't go where it is 0, the names with the reasons.

    The first groups of all sets are set to 0 in one copy of the net, and removed from another. Only
    where the outputs differ, each half of the sets is tried by itself, and so on.
    """
    masked = moved(model)
    first = [(s, _first(s)) for s in sets]
    _zero_(masked, first)

    # what can be said without a trial
    reasons = _averaged(model, sets)
    left = [(s, groups) for s, groups in first if s.name not in reasons]
    reasons |= _filled(masked, inputs, left)
    left = [(s, groups) for s, groups in left if s.name not in reasons]

    expected = outputs(masked, inputs)
    return reasons | _different(masked, inputs, expected, left)


def moved(model: nn.Module) -> nn.Module:
    """A float64 copy with all parameters and running means moved at random, so that nothing is 0 by
    initialization."""
    generator = torch.Generator().manual_seed(0)
    twin = copy.deepcopy(model).double()
    with torch.no_grad():
        for name, value in twin.state_dict(keep_vars=True).items():
            if value.is_floating_point() and not name.endswith("running_var"):
                step = torch.randn(value.shape, generator=generator, dtype=torch.float64)
                value += 0.05 * step.to(value.device)
    return twin


@torch.no_grad()
def outputs(model: nn.Module, inputs: Inputs) -> list[Any]:
    """The leaves of the model's outputs, in evaluation mode and float64."""
    twin = copy.deepcopy(model).double().eval()
    return tree_leaves(
        call(twin, given(inputs).mapped(lambda t: t.double() if t.is_floating_point() else t))
    )


def agree(expected: Sequence[Any], found: Sequence[Any]) -> bool:
    """Whether these leaves are equal, tensors to float64 rounding."""
    return len(expected) == len(found) and all(
        _close(a, b) if isinstance(a, Tensor) else a == b
        for a, b in zip(expected, found, strict=True)
    )


def _close(a: Tensor, b: Any) -> bool:
    if not isinstance(b, Tensor) or a.shape != b.shape:
        return False
    bound = 1e-9 * (1 + float(a.abs().max())) if a.numel() else 0.0
    return torch.allclose(a.double(), b.double(), rtol=0, atol=bound)


def _first(s: ChannelSet) -> Tensor:
    return torch.arange(s.groups) == 0


@torch.no_grad()
def _zero_(model: nn.Module, chosen: Sequence[tuple[ChannelSet, Tensor]]) -> None:
    """Set to 0 what makes these groups."""
    for s, groups in chosen:
        for member in s.made:
            inside = (member.number >= 0) & groups[member.number // s.run]
            p = model.get_parameter(member.param)
            p.index_fill_(member.dim, inside.nonzero().squeeze(1).to(p.device), 0.0)


def _averaged(model: nn.Module, sets: Sequence[ChannelSet]) -> dict[str, str]:
    """The sets with a layer or group norm."""
    kinds = {name: type(m).__name__ for name, m in model.named_modules() if isinstance(m, NORMS)}
    norms = {s.name: next((name for name in s.layers if name in kinds), None) for s in sets}
    return {
        name: f"{norm}, a {kinds[norm]}, averages over its channels"
        for name, norm in norms.items()
        if norm is not None
    }


def _filled(
    masked: nn.Module, inputs: Inputs, chosen: Sequence[tuple[ChannelSet, Tensor]]
) -> dict[str, str]:
    """The sets of which a layer reads other values than 0 where all that makes them is 0."""
    found: dict[str, str] = {}

    def watch(s: ChannelSet, cut: Cut, positions: list[int]) -> Any:
        def look(layer: nn.Module, args: tuple[Any, ...]) -> None:
            x = args[0] if args else None
            dim = -(layer.weight.ndim - 1) if isinstance(layer, _ConvNd) else -1
            if isinstance(x, Tensor) and max(positions) < x.shape[dim]:
                at = torch.tensor(positions, device=x.device)
                if bool(x.index_select(dim, at).any()):
                    reason = f"a function with f(0) not 0 stands between it and {cut.name}"
                    found.setdefault(s.name, reason)

        return look

    twin = copy.deepcopy(masked).eval()
    with ExitStack() as stack:
        for s, groups in chosen:
            for cut in s.cuts:
                layer = None if cut.parameter else twin.get_submodule(cut.name)
                positions = s.positions(cut, groups)
                if isinstance(layer, (nn.Linear, _ConvNd)) and not cut.made and positions:
                    hook = watch(s, cut, positions)
                    stack.callback(layer.register_forward_pre_hook(hook).remove)
        outputs(twin, inputs)
    return found


def _different(
    masked: nn.Module,
    inputs: Inputs,
    expected: Sequence[Any],
    chosen: Sequence[tuple[ChannelSet, Tensor]],
) -> dict[str, str]:
    """The sets without whose first group the outputs are others, each with the reason."""
    if not chosen:
        return {}
    small = copy.deepcopy(masked)
    try:
        cut_(small, chosen)
        if agree(expected, outputs(small, inputs)):
            return {}
        reason = f"outputs differ without a channel that is 0: the net {AVERAGED}"
    except Exception as error:  # whatever a model's code says to a size that it does not expect
        text = " ".join(str(error).split())[:200]
        reason = f"the model's code fixes its number of channels: {type(error).__name__}: {text}"
    if len(chosen) == 1:
        return {chosen[0][0].name: reason}
    half = len(chosen) // 2
    return {
        name: why
        for part in (chosen[:half], chosen[half:])
        for name, why in _different(masked, inputs, expected, part).items()
    }
