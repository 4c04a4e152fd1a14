"""Channels that go together through a network, and a net that is really smaller: without the
channels that compression has set to 0.

Both need the optional package torch-pruning: pip install leco[structured].
"""

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from leco.layers.channels import ChannelSet, channel_sets, cut_
from leco.layers.flops import multiply_adds
from leco.layers.graph import graph_of
from leco.layers.inputs import Given, Inputs, given
from leco.layers.trial import agree, failures, outputs
from leco.modules import check_copyable
from leco.views import Channels

LAYERS = (nn.Linear, _ConvNd)


@dataclass(frozen=True)
class Coupled:
    """Parameters of which part g, of all together, makes channel (unit, head) g: for
    `leco.Task(group.params, group.view, compression)`.

    `parameters` and `multiply_adds` are what a net without one of its channels saves, in these
    layers and in those that read the channel, at their full widths: costs for
    `leco.GroupL0Penalty`. Multiply-adds are those of the layers, for the example inputs as one
    batch.
    """

    params: tuple[str, ...]
    view: Channels
    parameters: int
    multiply_adds: int


def coupled(
    model: nn.Module, example_inputs: Inputs, heads: Mapping[str, int] | None = None
) -> dict[str, Coupled]:
    """The sets of parameters that must be pruned together, each under the name of its first layer;
    a parameter is in one set at most.

    A set holds what makes its channels: weights, biases, and the batch norms of those channels.
    Where all of that is 0 for a channel, the channel is 0, and what reads it does not matter. Each
    set is tried: a randomly moved float64 copy of the net without one channel that is 0 gives the
    same outputs. `leco.layers.narrow.uncoupled` names the layers that are not in a set, with the
    reasons. These are, among others: the net's outputs, channels that a layer or group norm
    averages over, channels that pass through a function with f(0) not 0, a norm or a depthwise
    convolution of concatenated channels, convolutions in groups, and keys and values that several
    heads share.

    Args:
        model: unchanged. It is traced in evaluation mode.
        example_inputs: a tensor, or the tensors that `model(*example_inputs)` takes,
            or a dict of the arguments by name.
        heads: for attention made of Linear layers, the number of heads by the name of one of its
            layers, {"block.query": 8}: all that belongs to a head is one group. The forward must
            take the number of heads from the width: `unflatten(-1, (-1, head_size))`. Queries, keys
            and values may be one layer (3 E, E), split by `chunk`. torch's MultiheadAttention has
            no removable heads.

    Raises:
        ImportError: torch-pruning is not installed.
        ValueError: `heads` names no set's layer, or a number that does not divide its width.

    >>> import leco, torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> hidden = leco.coupled(net, torch.zeros(1, 5))["0"]
    >>> hidden.params, hidden.view.groups, hidden.parameters
    (('0.weight', '0.bias'), 8, 9)
    """
    return _coupled(model, example_inputs, heads)[0]


def uncoupled(
    model: nn.Module, example_inputs: Inputs, heads: Mapping[str, int] | None = None
) -> dict[str, str]:
    """The Linear layers and convolutions whose channels `coupled` does not offer, each with the
    reason.

    >>> import leco, torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Sigmoid(), torch.nn.Linear(8, 3))
    >>> leco.layers.narrow.uncoupled(net, torch.zeros(1, 5))
    {'0': 'a function with f(0) not 0 stands between it and 2', '2': "makes the net's outputs"}
    """
    return _coupled(model, example_inputs, heads)[1]


def _coupled(
    model: nn.Module, example_inputs: Inputs, heads: Mapping[str, int] | None
) -> tuple[dict[str, Coupled], dict[str, str]]:
    """The sets that `coupled` offers, and the reasons of `uncoupled`."""
    check_copyable("coupled", model)
    inputs = given(example_inputs)
    traced = _copy(model)
    counts = multiply_adds(traced, *([inputs.whole()] if inputs.names else inputs))
    sets, reasons = channel_sets(traced, graph_of(traced, inputs), dict(heads or {}))

    # sets with a view, and the trial
    views = {s.name: s.view() for s in sets}
    failed = {s.name: _unseen(s) for s in sets if views[s.name] is None or s.groups == 1}
    failed |= failures(model, inputs, [s for s in sets if s.name not in failed])

    found = dict[str, Coupled]()
    for s in sets:
        view = views[s.name]
        if s.name in failed:
            reasons |= dict.fromkeys(s.layers, failed[s.name])
        elif view is not None:
            params = tuple(m.param for m in s.made)
            found[s.name] = Coupled(params, view, *s.savings(traced, counts))
    offered = {layer for s in sets if s.name in found for layer in s.layers}
    layers = [name for name, module in model.named_modules() if isinstance(module, LAYERS)]
    other = "its channels are not followed: it is not called, or its outputs have no gradient"
    return found, {name: reasons.get(name, other) for name in layers if name not in offered}


def _unseen(s: ChannelSet) -> str:
    """Why a set is not tried."""
    if s.groups == 1:
        return "has one channel, which stays"
    return f"its channels are not in runs of one length in {', '.join(m.param for m in s.made)}"


def narrow(
    model: nn.Module,
    example_inputs: Inputs,
    heads: Mapping[str, int] | None = None,
    keep: Collection[str] = (),
) -> nn.Module:
    """A copy of `model` without the channels that are exactly 0: plain dense modules of smaller
    sizes, with the same outputs.

    A channel goes where its weights, its bias and its norm's weight and bias are 0. Of a layer
    whose channels are all 0, the first stays. The outputs on the example inputs are compared in
    float64 at the end. To read a narrow net from a file of leco: `leco.load` into the full
    architecture, then `narrow`; or `torch.save(net)`. Its `state_dict` fits its own sizes only.

    Args:
        model: at w = Delta(Theta), after `lc.project_()` or `leco.load`; unchanged.
        example_inputs: as for `coupled`; the more they show of the net, the better is the
            comparison.
        heads: as for `coupled`: a head goes only as a whole.
        keep: names of layers whose channels stay, whatever they are.

    Raises:
        ImportError: torch-pruning is not installed.
        ValueError: outputs differ without the channels of a layer, which is named: a function with
            f(0) not 0 comes after it, a norm averages over them, or a size is fixed in the model's
            code.

    >>> import leco, torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> with torch.no_grad():
    ...     _ = net[0].weight[2:].zero_(), net[0].bias[2:].zero_()
    >>> leco.narrow(net, torch.zeros(1, 5))
    Sequential(
      (0): Linear(in_features=5, out_features=2, bias=True)
      (1): ReLU()
      (2): Linear(in_features=2, out_features=3, bias=True)
    )
    """
    check_copyable("narrow", model)
    inputs = given(example_inputs)
    unknown = set(keep) - {name for name, _ in model.named_modules()}
    if unknown:
        raise ValueError(f"narrow: keep names {sorted(unknown)}, which are no layers of the model")

    # the channels that are 0
    traced = _copy(model)
    sets, _ = channel_sets(traced, graph_of(traced, inputs), dict(heads or {}))
    zeros = [(s, s.zeros(model)) for s in sets if not set(s.layers) & set(keep)]
    for _, zero in zeros:
        zero[0] &= not zero.all()  # one stays
    zeros = [(s, zero) for s, zero in zeros if zero.any()]

    small = _without(model, zeros)
    if zeros:
        _check_outputs(model, small, inputs, zeros)
    return small


def _check_outputs(
    model: nn.Module,
    small: nn.Module,
    inputs: Given,
    removed: Sequence[tuple[ChannelSet, Tensor]],
) -> None:
    """Raise ValueError, with the layers' names, where the small net has other outputs."""
    expected = outputs(model, inputs)
    if _same(expected, small, inputs):
        return
    names = [s.name for s, _ in removed]
    guilty = [
        s.name for s, zero in removed if not _same(expected, _without(model, [(s, zero)]), inputs)
    ]
    raise ValueError(
        f"narrow: without the channels of {guilty or names} that are 0, the outputs differ on the "
        "example inputs: a function with f(0) not 0 or a norm over the channels follows, or the "
        f"model's code fixes a size; keep = {guilty or names} leaves them"
    )


def _same(expected: Sequence[object], small: nn.Module, inputs: Given) -> bool:
    try:
        return agree(expected, outputs(small, inputs))
    except (RuntimeError, ValueError):  # a size that the model's code fixes
        return False


def _copy(model: nn.Module) -> nn.Module:
    """A copy to trace: in evaluation mode, and with gradients, which the graph is read from."""
    twin = copy.deepcopy(model).eval().requires_grad_(True)
    twin.zero_grad(set_to_none=True)
    return twin


def _without(model: nn.Module, chosen: Sequence[tuple[ChannelSet, Tensor]]) -> nn.Module:
    """A copy of the net without these groups, with gradients and modes as the net has them."""
    small = _copy(model)
    cut_(small, chosen)
    trained = {name: p.requires_grad for name, p in model.named_parameters()}
    training = {name: module.training for name, module in model.named_modules()}
    for name, p in small.named_parameters():
        p.requires_grad_(trained[name])
    for name, module in small.named_modules():
        module.training = training[name]
    return small
