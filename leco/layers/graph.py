"""The dependency graph of torch-pruning (Fang et al., CVPR 2023), an optional package, and a walk
through it that always ends.

Residual sums, concatenations, depthwise convolutions and flattened maps couple the channels of
several layers. The graph says which position of one layer goes with which position of the next.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from leco.layers.inputs import Given
from leco.optional import optional

VISITS = 1000
"""A walk comes to one place at most so often with new channels. Graphs in which channels go round
in a circle, shifted at each turn, would keep it busy for ever."""


class LostError(ValueError):
    """Channels that torch-pruning can't follow; the text says where."""


class Graph(NamedTuple):
    """torch-pruning's graph of a model, and its nodes whose channels have no known order."""

    dependencies: Any
    unmapped: frozenset[Any]


class Index(NamedTuple):
    """A position, and the channel of the root that it belongs to: what torch-pruning's mappings
    take."""

    idx: int
    root_idx: int


class Place(NamedTuple):
    """A module or parameter whose positions belong to channels of a root.

    `handler` is torch-pruning's function that removes positions, along `dim` where the place is a
    parameter. `made`: the positions are outputs. `inner`: something follows it in the net. `roots`
    has the root's channel of each position.
    """

    module: Any
    handler: Any
    dim: int
    made: bool
    inner: bool
    roots: dict[int, int]


def graph_of(model: nn.Module, inputs: Given) -> Graph:
    """The graph of a model whose parameters all need gradients. It runs the model in evaluation
    mode."""
    torch_pruning = optional("torch_pruning", "coupled and narrow", "torch-pruning", "structured")
    graph = torch_pruning.DependencyGraph()
    with warnings.catch_warnings(), torch.enable_grad():
        # on parameters outside of torch's layers, which are handled
        warnings.filterwarnings("ignore", module=r"torch_pruning\.")
        try:
            graph.build_dependency(model, example_inputs=inputs.whole(), verbose=False)
        except (TypeError, ValueError, IndexError, ZeroDivisionError):
            # raised for one node, and the nodes after it are left without a mapping
            if not vars(graph).get("module2node"):
                raise
            return Graph(graph, _mapped_one_by_one(graph))
    return Graph(graph, frozenset())


def _mapped_one_by_one(graph: Any) -> frozenset[Any]:
    """Map the positions at each node by itself; returns the nodes where that fails."""
    name = "torch_pruning.dependency.index_mapping"
    mapping = optional(name, "coupled and narrow", "torch-pruning", "structured")
    nodes, failed = graph.module2node, set()
    for module, node in nodes.items():
        graph.module2node = {module: node}
        try:
            mapping.update_index_mapping(graph)
        except (TypeError, ValueError, IndexError, ZeroDivisionError):
            failed.add(node)
    graph.module2node = nodes
    return frozenset(failed)


def walk(graph: Graph, root: nn.Module, channels: Sequence[int]) -> list[Place]:
    """All places that go with these output channels of the layer `root`.

    Raises:
        LostError: a place that torch-pruning can't map, or maps to positions that do not exist or
            to two channels at once.
    """
    node, start = _start(graph, root)
    found: dict[tuple[Any, Any], dict[int, int]] = {}
    visits: dict[tuple[Any, Any], int] = {}
    todo = [(node, start, {c: c for c in channels})]
    while todo:
        node, handler, arriving = todo.pop()

        # what is new here
        known = found.setdefault((node, handler), {})
        new = {at: channel for at, channel in arriving.items() if known.get(at) != channel}
        if not new:
            continue
        _check(graph, node, handler, new, known)
        known |= new

        # a walk that goes round
        visits[node, handler] = visits.get((node, handler), 0) + 1
        if visits[node, handler] > VISITS:
            raise LostError(f"torch-pruning follows its channels round in circles at {_name(node)}")

        todo += _next(node, handler, new)
    outputs = graph.dependencies.is_out_channel_pruning_fn
    return [
        Place(node.module, handler, node.pruning_dim, outputs(handler), bool(node.outputs), roots)
        for (node, handler), roots in found.items()
    ]


def _start(graph: Graph, root: nn.Module) -> tuple[Any, Any]:
    pruner = graph.dependencies.get_pruner_of_module(root)
    return graph.dependencies.module2node[root], pruner.prune_out_channels


def _next(node: Any, handler: Any, new: Mapping[int, int]) -> list[tuple[Any, Any, dict[int, int]]]:
    """Where these channels go from a node, and to which positions there."""
    found = []
    for dependency in node.dependencies:
        if dependency.is_triggered_by(handler):
            indices = [Index(at, channel) for at, channel in new.items()]
            for mapping in dependency.index_mapping:
                try:
                    indices = indices if mapping is None else mapping(indices)
                except (IndexError, TypeError) as error:
                    raise LostError(_lost(dependency.target)) from error
            if indices:
                positions = {i.idx: i.root_idx for i in indices}
                found.append((dependency.target, dependency.handler, positions))
    return found


def _check(
    graph: Graph, node: Any, handler: Any, new: Mapping[int, int], known: Mapping[int, int]
) -> None:
    """Raise LostError where these positions can't be right."""
    if node in graph.unmapped:
        raise LostError(_lost(node))
    if None in new.values():
        raise LostError(f"its channels are repeated for groups of heads at {_name(node)}")
    if any(at in known for at in new):
        raise LostError(f"two of its channels share a position at {_name(node)}")

    # positions in a layer
    module, dependencies = node.module, graph.dependencies
    out = dependencies.is_out_channel_pruning_fn(handler)
    width = (dependencies.get_out_channels if out else dependencies.get_in_channels)(node)
    if width is not None and max(new) >= width:
        where = f"channel {max(new)} of {_name(node)}, which has {width}"
        raise LostError(f"torch-pruning maps its channels to {where}")
    grouped = isinstance(module, _ConvNd) and module.groups > 1
    if grouped and not module.groups == module.in_channels == module.out_channels:
        raise LostError(
            f"its channels meet {_name(node)}, a convolution in {module.groups} groups, "
            "from which single channels can't go"
        )


def _lost(node: Any) -> str:
    return f"torch-pruning can't follow its channels through {_name(node)}"


def _name(node: Any) -> str:
    return str(node.name).split(" (")[0].split("(")[0]
