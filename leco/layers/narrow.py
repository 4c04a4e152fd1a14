"""Channels that go together through a network, and a net that is really smaller: without the
channels that compression has set to 0.

Both need the optional package torch-pruning: pip install leco[structured].
"""

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from leco.layers.channels import ChannelSet, channel_sets, coupled_items, graph_of
from leco.layers.flops import multiply_adds
from leco.views import Channels

Inputs = Tensor | Sequence[Tensor]


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
    Where all of that is 0 for a channel, so is
    the channel, and what reads it does not matter. Each set was tried: a randomly moved float64
    copy of the net without one channel that is 0 gives the same outputs. Not offered, since they
    fail this, are the net's outputs, channels that a layer or group norm averages over, channels
    that pass through a function with f(0) not 0, and a norm or a depthwise convolution of
    concatenated channels.

    Args:
        model: unchanged. It is traced in evaluation mode.
        example_inputs: a tensor, or the tensors that `model(*example_inputs)` takes.
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
    >>> leco.coupled(net, torch.zeros(1, 5))
    {'0': Coupled(params=('0.weight', '0.bias'), view=Channels(groups=8, dims=(0, 0), stacked=(1, 1)), parameters=9, multiply_adds=8)}
    """
    inputs, heads = _inputs(example_inputs), dict(heads or {})
    traced = _copy(model)
    counts = multiply_adds(traced, *inputs)
    sets = channel_sets(traced, graph_of(traced, inputs), heads)
    moved = _moved(model)
    found = {}
    for s in sets:
        view = s.view()
        if view is not None and _removable(moved, inputs, heads, s):
            found[s.name] = Coupled(
                tuple(m.param for m in s.made), view, *s.savings(traced, counts)
            )
    return found


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
    inputs, heads = _inputs(example_inputs), dict(heads or {})
    unknown = set(keep) - {name for name, _ in model.named_modules()}
    if unknown:
        raise ValueError(f"narrow: keep names {sorted(unknown)}, which are no layers of the model")
    small, removed = _without_zeros(model, inputs, heads, lambda s: not set(s.layers) & set(keep))
    if removed and not _agree(model, small, inputs):
        alone = {
            name: _without_zeros(model, inputs, heads, lambda s, name=name: s.name == name)[0]
            for name in removed
        }
        guilty = [name for name in removed if not _agree(model, alone[name], inputs)] or removed
        raise ValueError(
            f"narrow: without the channels of {guilty} that are 0, the outputs differ on the example inputs: a function with f(0) not 0 or a "
            f"norm over the channels follows, or the model's code fixes a size; keep = {guilty} leaves them"
        )
    return small


def _inputs(example_inputs: Inputs) -> tuple[Tensor, ...]:
    return (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)


def _copy(model: nn.Module) -> nn.Module:
    """A copy to trace: in evaluation mode, and with gradients, which the graph is read from."""
    twin = copy.deepcopy(model).eval().requires_grad_(True)
    twin.zero_grad(set_to_none=True)
    return twin


def _without_zeros(
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    heads: Mapping[str, int],
    wanted: Callable[[ChannelSet], bool],
) -> tuple[nn.Module, list[str]]:
    """A copy without those groups of the wanted sets that are 0, and the names of the sets that
    lost some."""
    small, removed = _copy(model), list[str]()
    graph = graph_of(small, inputs)
    sets = [s for s in channel_sets(small, graph, heads) if wanted(s)]
    for s, zero in [(s, s.zeros(small)) for s in sets]:
        zero[0] &= not zero.all()  # one stays
        if zero.any():
            coupled_items(
                graph,
                s.root,
                [g * s.run + j for g in zero.nonzero().squeeze(1).tolist() for j in range(s.run)],
            ).prune()
            removed.append(s.name)
    trained, training = (
        {n: p.requires_grad for n, p in model.named_parameters()},
        {n: m.training for n, m in model.named_modules()},
    )
    for name, p in small.named_parameters():
        p.requires_grad_(trained[name])
    for name, module in small.named_modules():
        module.training = training[name]
    return small, removed


def _moved(model: nn.Module) -> nn.Module:
    """A float64 copy with all parameters and running means moved at random, so that nothing is 0 by
    initialization."""
    generator = torch.Generator().manual_seed(0)
    twin = copy.deepcopy(model).double()
    with torch.no_grad():
        for name, value in twin.state_dict(keep_vars=True).items():
            if value.is_floating_point() and not name.endswith("running_var"):
                value += 0.05 * torch.randn(
                    value.shape, generator=generator, dtype=torch.float64
                ).to(value.device)
    return twin


def _removable(
    moved: nn.Module, inputs: tuple[Tensor, ...], heads: Mapping[str, int], s: ChannelSet
) -> bool:
    """Whether a net whose first group of the set is 0 gives the same outputs without it."""
    tried = copy.deepcopy(moved)
    inputs = tuple(_double(t) for t in inputs)
    with torch.no_grad():
        for member in s.made:
            chosen = (member.number // s.run == 0).nonzero().squeeze(1)
            p = tried.get_parameter(member.param)
            p.index_fill_(member.dim, chosen.to(p.device), 0.0)
    try:
        small, removed = _without_zeros(tried, inputs, heads, lambda other: other.name == s.name)
        return bool(removed) and _agree(tried, small, inputs)
    except Exception:  # whatever a model's code says to a size that it does not expect
        return False


def _double(t: Tensor) -> Tensor:
    return t.double() if t.is_floating_point() else t


@torch.no_grad()
def _agree(one: nn.Module, other: nn.Module, inputs: tuple[Tensor, ...]) -> bool:
    """Whether both give the same outputs in evaluation mode and float64."""
    outputs = []
    for model in (one, other):
        try:
            outputs.append(
                tree_leaves(copy.deepcopy(model).double().eval()(*(_double(t) for t in inputs)))
            )
        except (RuntimeError, ValueError):  # a size that the model's code fixes
            return False
    return len(outputs[0]) == len(outputs[1]) and all(
        a.shape == b.shape
        and torch.allclose(a.double(), b.double(), rtol=0, atol=1e-9 * (1 + float(a.abs().max())))
        if isinstance(a, Tensor)
        else a == b
        for a, b in zip(*outputs, strict=True)
    )
