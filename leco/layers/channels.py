"""Which channels of a network go together, read from the dependency graph of torch-pruning (Fang et
al., CVPR 2023), an optional package.

Residual sums, concatenations, depthwise convolutions and flattened maps couple channels of several
layers: a channel is removed from all.
"""

import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from leco.views import Channels


def graph_of(model: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    """torch-pruning's DependencyGraph of a model in evaluation mode whose parameters all need
    gradients. `model` keeps its state."""
    try:
        import torch_pruning
    except ImportError as error:
        raise ImportError(
            "coupled and narrow need the package torch-pruning: pip install leco[structured]"
        ) from error
    with warnings.catch_warnings(), torch.enable_grad():
        # on parameters outside of torch's layers, which are handled
        warnings.filterwarnings("ignore", module=r"torch_pruning\.")
        return torch_pruning.DependencyGraph().build_dependency(
            model, example_inputs=inputs, verbose=False
        )


class Member(NamedTuple):
    """A tensor cut along `dim`: position j belongs to channel `number[j]`, -1 for none."""

    param: str
    dim: int
    number: Tensor


class ChannelSet(NamedTuple):
    """Channels 0 .. groups * run - 1 of the layer `root`, a group being a run of them: what makes
    them, and what reads them."""

    name: str
    root: nn.Module
    groups: int
    run: int
    layers: tuple[str, ...]
    made: tuple[Member, ...]
    read: tuple[Member, ...]

    def view(self) -> Channels | None:
        """The view of `made`, where one fits: each position in a group, in runs of one length."""
        stacked = []
        for member in self.made:
            first = (
                int((member.number // self.run != 0).nonzero()[0])
                if self.groups > 1 and bool((member.number >= self.run).any())
                else 0
            )
            length = len(member.number)
            if not first or length % (first * self.groups):
                return None
            if not torch.equal(
                torch.arange(length) // first % self.groups, member.number // self.run
            ):
                return None
            stacked.append(length // (first * self.groups))
        return Channels(self.groups, tuple(m.dim for m in self.made), tuple(stacked))

    def zeros(self, model: nn.Module) -> Tensor:
        """(groups,): which of them are 0 in all that makes them."""
        zero = torch.ones(self.groups, dtype=torch.bool)
        for member in self.made:
            parts = model.get_parameter(member.param).detach().movedim(member.dim, 0)
            left = (parts != 0).flatten(1).any(1) if parts.ndim > 1 else parts != 0
            used = member.number[left.cpu() & (member.number >= 0)]
            zero[used // self.run] = False
        return zero

    def savings(self, model: nn.Module, counts: Mapping[str, int]) -> tuple[int, int]:
        """Parameters and multiply-adds of one group, in what makes it and in what reads it."""
        parameters = operations = 0.0
        for member in (*self.made, *self.read):
            entries = model.get_parameter(member.param).numel()
            share = float((member.number >= 0).double().mean()) / self.groups
            parameters += entries * share
            operations += (
                counts.get(member.param.removesuffix(".weight"), 0) * share
                if member.param.endswith(".weight")
                else 0.0
            )
        return round(parameters), round(operations)


def channel_sets(model: nn.Module, graph: Any, heads: Mapping[str, int]) -> list[ChannelSet]:
    """All sets of channels but those of the net's outputs, in the model's order; `graph` is that of
    `model`."""
    order = {name: place for place, (name, _) in enumerate(model.named_parameters())}
    names = {module: name for name, module in model.named_modules()}
    found, seen = list[ChannelSet](), set[Any]()
    for root in list(graph.module2node):
        if isinstance(root, (_ConvNd, nn.Linear)) and root not in seen:
            try:
                # 3 where queries, keys and values are one layer
                copies = len(coupled_items(graph, root, [0])[0].idxs)
                channels = graph.get_out_channels(root) // copies
                items = coupled_items(graph, root, list(range(channels)))
            except IndexError:  # torch-pruning can't follow channels through a recurrent layer
                continue
            made = [item for item in items if graph.is_out_channel_pruning_fn(item.dep.handler)]
            read = [item for item in items if not graph.is_out_channel_pruning_fn(item.dep.handler)]
            seen.update(item.dep.target.module for item in made)
            makers, readers = (
                _members(names, graph, made, True),
                _members(names, graph, read, False),
            )
            if makers and all(item.dep.target.outputs for item in made):
                layers = tuple(
                    names[item.dep.target.module]
                    for item in made
                    if item.dep.target.module in names
                )
                makers = tuple(sorted(makers, key=lambda member: order[member.param]))
                name = makers[0].param.rpartition(".")[0]
                groups = next((heads[layer] for layer in layers if layer in heads), channels)
                if groups < 1 or channels % groups:
                    raise ValueError(
                        f"heads: {groups} for {name!r} must be at least 1 and divide its width, {channels}"
                    )
                found.append(
                    ChannelSet(name, root, groups, channels // groups, layers, makers, readers)
                )
    found.sort(key=lambda s: order[s.made[0].param])
    unknown = [name for name in heads if not any(name in s.layers for s in found)]
    if unknown:
        raise ValueError(
            f"heads names {unknown}, which make no inner channels; layers that do are {[s.name for s in found]}"
        )
    return found


def coupled_items(graph: Any, root: nn.Module, channels: list[int]) -> Any:
    """What goes with these channels of the layer `root`: torch-pruning's list, which its `prune()`
    removes from the model."""
    return graph.get_pruning_group(
        root, graph.get_pruner_of_module(root).prune_out_channels, channels
    )


def _members(
    names: Mapping[nn.Module, str], graph: Any, items: list[Any], output: bool
) -> tuple[Member, ...]:
    """The parameters of these layers, each with its channel dimension; none where a layer has
    parameters that no rule here covers."""
    found = list[Member]()
    for item in items:
        module = item.dep.target.module
        if isinstance(module, nn.Parameter):
            tensors = [
                (graph._param_to_name[module], item.dep.target.pruning_dim % module.ndim, module)
            ]
        elif module in names and not isinstance(module, nn.PReLU):  # a slope at 0 does not matter
            tensors = [
                (f"{names[module]}.{n}".lstrip("."), _dim(module, n, output), p)
                for n, p in module.named_parameters(recurse=False)
            ]
        else:
            tensors = []
        for name, dim, p in tensors:
            if dim is None:
                continue
            if dim < 0 or max(item.idxs) >= p.shape[dim]:
                return ()
            number = torch.full((p.shape[dim],), -1)
            number[item.idxs] = torch.tensor(item.root_idxs)
            found.append(Member(name, dim, number))
    return tuple(found)


def _dim(module: nn.Module, name: str, output: bool) -> int | None:
    """The dimension of a layer's parameter that its output (or input) channels run over: None for
    no dimension, -1 for no rule."""
    if name == "bias":
        return 0 if output else None
    if name != "weight":
        return -1
    if isinstance(module, (_ConvNd, nn.Linear, nn.Embedding)):
        return int(output == isinstance(module, (_ConvTransposeNd, nn.Embedding)))
    return 0
