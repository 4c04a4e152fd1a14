"""Which channels of a network go together: sets of channels, and a net without some of them."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from leco.layers.graph import Graph, LostError, Place, walk
from leco.views import Channels


class Member(NamedTuple):
    """A tensor cut along `dim`: position j belongs to channel `number[j]`, -1 for none."""

    param: str
    dim: int
    number: Tensor


class Cut(NamedTuple):
    """What removes positions of the module `name`, or of the parameter `name`: torch-pruning's
    `handler`. `roots` has the channel of each position; `made`: they are outputs."""

    name: str
    parameter: bool
    handler: Any
    dim: int
    made: bool
    roots: dict[int, int]


class ChannelSet(NamedTuple):
    """Channels 0 .. groups * run - 1 of a layer, a group being a run of them: what makes them, what
    reads them, and what removes them from a copy of the net."""

    name: str
    groups: int
    run: int
    layers: tuple[str, ...]
    made: tuple[Member, ...]
    read: tuple[Member, ...]
    cuts: tuple[Cut, ...]

    def view(self) -> Channels | None:
        """The view of `made`, where one fits: each position in a group, in runs of one length."""
        stacked = []
        for member in self.made:
            # the length of the first run
            later = (member.number // self.run != 0).nonzero()
            several = self.groups > 1 and bool((member.number >= self.run).any())
            first, length = int(later[0]) if several else 0, len(member.number)

            # the same runs everywhere
            if not first or length % (first * self.groups):
                return None
            expected = torch.arange(length) // first % self.groups
            if not torch.equal(expected, member.number // self.run):
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
            share = float((member.number >= 0).double().mean()) / self.groups
            parameters += model.get_parameter(member.param).numel() * share
            layer, _, own = member.param.rpartition(".")
            operations += counts.get(layer, 0) * share if own == "weight" else 0.0
        return round(parameters), round(operations)

    def positions(self, cut: Cut, gone: Tensor) -> list[int]:
        """The positions of a cut that belong to the groups where `gone` (groups,) is True."""
        return [at for at, channel in cut.roots.items() if gone[channel // self.run]]


def channel_sets(
    model: nn.Module, graph: Graph, heads: Mapping[str, int]
) -> tuple[list[ChannelSet], dict[str, str]]:
    """All sets of channels but those of the net's outputs, in the model's order; and why the other
    layers make none. `graph` is that of `model`.

    Raises:
        ValueError: `heads` names a layer of no set, or a number that does not divide its width.
    """
    order = {name: place for place, (name, _) in enumerate(model.named_parameters())}
    names = {module: name for name, module in model.named_modules()}
    found, reasons, seen = list[ChannelSet](), dict[str, str](), set[Any]()
    for root in list(graph.dependencies.module2node):
        if isinstance(root, (_ConvNd, nn.Linear)) and root in names and root not in seen:
            try:
                places, channels = _coupled(graph, root)
                made = [place.module for place in places if place.made]
                s = _channel_set(names, graph, places, channels, heads, order)
            except LostError as lost:
                reasons[names[root]] = str(lost)
                continue
            seen.update(made)
            found.append(s)
            for module in made:  # a layer of the set that was a root of its own before
                reasons.pop(names.get(module, ""), None)
    found.sort(key=lambda s: order[s.made[0].param])
    unknown = [name for name in heads if not any(name in s.layers for s in found)]
    if unknown:
        raise ValueError(
            f"heads names {unknown}, which make no inner channels; "
            f"layers that do are {[s.name for s in found]}"
        )
    return found, reasons


def _coupled(graph: Graph, root: nn.Module) -> tuple[list[Place], int]:
    """The places that go with all channels of `root`, and how many channels it has: a third of its
    width where it makes queries, keys and values."""
    copies = len(walk(graph, root, [0])[0].roots)
    channels = graph.dependencies.get_out_channels(root) // copies
    return walk(graph, root, range(channels)), channels


def _channel_set(
    names: Mapping[nn.Module, str],
    graph: Graph,
    places: list[Place],
    channels: int,
    heads: Mapping[str, int],
    order: Mapping[str, int],
) -> ChannelSet:
    """The set of these places. Raises LostError where a place is the net's output, or has
    parameters that no rule covers."""
    made = [place for place in places if place.made]
    if not all(place.inner for place in made):
        raise LostError("makes the net's outputs")
    makers = sorted(_members(names, graph, made), key=lambda member: order[member.param])
    readers = _members(names, graph, [place for place in places if not place.made])
    if not makers:
        raise LostError("makes channels of no parameter")

    # groups of channels
    layers = tuple(names[place.module] for place in made if place.module in names)
    name = makers[0].param.rpartition(".")[0]
    groups = next((heads[layer] for layer in layers if layer in heads), channels)
    if groups < 1 or channels % groups:
        raise ValueError(
            f"heads: {groups} for {name!r} must be at least 1 and divide its width, {channels}"
        )
    cuts = tuple(_cuts(names, graph, places))
    return ChannelSet(name, groups, channels // groups, layers, tuple(makers), readers, cuts)


def _cuts(names: Mapping[nn.Module, str], graph: Graph, places: list[Place]) -> Iterable[Cut]:
    for module, handler, dim, made, _, roots in places:
        if isinstance(module, nn.Parameter):
            yield Cut(graph.dependencies._param_to_name[module], True, handler, dim, made, roots)
        elif module in names:
            yield Cut(names[module], False, handler, dim, made, roots)


def _members(
    names: Mapping[nn.Module, str], graph: Graph, places: list[Place]
) -> tuple[Member, ...]:
    """The parameters of these places, each with its channel dimension. Raises LostError for
    parameters that no rule here covers."""
    found = list[Member]()
    for place in places:
        for name, dim, p in _parameters(names, graph, place):
            if dim is None:
                continue
            if dim < 0 or max(place.roots) >= p.shape[dim]:
                kind = type(place.module).__name__
                raise LostError(f"no rule covers {name}, of a {kind} that its channels go through")
            number = torch.full((p.shape[dim],), -1)
            number[list(place.roots)] = torch.tensor(list(place.roots.values()))
            found.append(Member(name, dim, number))
    return tuple(found)


def _parameters(
    names: Mapping[nn.Module, str], graph: Graph, place: Place
) -> list[tuple[str, int | None, nn.Parameter]]:
    """A place's parameters by name, each with the dimension of the channels."""
    module = place.module
    if isinstance(module, nn.Parameter):
        name = graph.dependencies._param_to_name[module]
        return [(name, place.dim % module.ndim, module)]
    if module not in names or isinstance(module, nn.PReLU):  # a slope at 0 does not matter
        return []
    return [
        (f"{names[module]}.{own}".lstrip("."), _dim(module, own, place.made), p)
        for own, p in module.named_parameters(recurse=False)
    ]


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


def cut_(model: nn.Module, chosen: Iterable[tuple[ChannelSet, Tensor]]) -> None:
    """Remove channels from a copy of the net that the sets are of: of each set the groups where the
    tensor (groups,) is True."""
    # what goes of each place, of all sets together
    gone: dict[tuple[str, Callable[..., Any]], tuple[Cut, set[int]]] = {}
    for s, groups in chosen:
        for cut in s.cuts:
            _, positions = gone.setdefault((cut.name, cut.handler), (cut, set()))
            positions.update(s.positions(cut, groups))

    # torch-pruning's functions
    for cut, positions in gone.values():
        if positions:
            cut.handler.__self__.pruning_dim = cut.dim
            if cut.parameter:
                owner, _, own = cut.name.rpartition(".")
                smaller = cut.handler(model.get_parameter(cut.name), sorted(positions))
                setattr(model.get_submodule(owner), own, smaller)
            else:
                cut.handler(model.get_submodule(cut.name), sorted(positions))
