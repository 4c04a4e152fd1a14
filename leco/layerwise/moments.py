"""Second moments of the inputs of compressed weights, summed while the net runs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

import leco.distributed as distributed
from leco.compressions.checks import full_dtype
from leco.layerwise.layouts import Layout, Plain, Transposed
from leco.layerwise.uses import Use, uses

ROWS = 2**14  # samples that one product of matrices takes


@dataclass
class Part:
    """What is known of a parameter, or of a part of it: layout, sums of X X' (G, in, in) or counts
    (G, in), and the number of samples."""

    layout: Layout
    sums: Tensor
    floats: bool  # whether the inputs are numbers, no indices
    samples: int = 0

    def bare(self) -> "Part":
        """The same without the sums."""
        return replace(self, sums=torch.empty_like(self.sums, device="meta"))


@dataclass
class Seen:
    """The parts of a parameter by their first entry and number of entries."""

    parts: dict[tuple[int, int], Part] = field(default_factory=dict)
    problem: str = ""  # why the parameter can't be treated

    def same_kinds(self, other: "Seen") -> bool:
        """Whether its parts are used, and in the same way as those of `other`."""
        own = {at: part.layout for at, part in self.parts.items()}
        return bool(own) and own == {at: part.layout for at, part in other.parts.items()}


class Recorder(TorchFunctionMode):
    """Inside, calls of torch's functions add the second moments of what parameters are multiplied
    with.

    Args:
        params: the parameters by name.
        sums: False to see only how the parameters are used.
    """

    def __init__(self, params: Mapping[str, Tensor], sums: bool = True):
        super().__init__()
        self._sums = sums
        self.seen = {name: Seen() for name in params}
        self._params = dict(params)
        self._names: dict[int, list[str]] = {}  # several parameters may be in one storage
        for name, p in params.items():
            self._names.setdefault(p.untyped_storage().data_ptr(), []).append(name)
        self._last: tuple[Tensor, Tensor, int] | None = None

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        for use in uses(func, args, kwargs):
            if isinstance(use.weight, Tensor):
                self._add(use)
        return func(*args, **kwargs)

    def __exit__(self, *error: Any) -> None:
        self._last = None
        super().__exit__(*error)

    def merge_(self) -> None:
        """Add up what all ranks have seen; a part that a rank has not seen counts as 0 there."""
        if distributed.ranks() == 1:
            return
        bare = {n: {at: part.bare() for at, part in s.parts.items()} for n, s in self.seen.items()}
        every = distributed.gathered((bare, {n: s.problem for n, s in self.seen.items()}))
        for name, own in self.seen.items():
            parts: dict[tuple[int, int], Part] = {}
            for others, problems in every:
                own.problem = own.problem or problems[name]
                for at, part in others[name].items():
                    known = parts.setdefault(at, part)
                    known.samples += part.samples if known is not part else 0
                    if (known.layout, known.floats) != (part.layout, part.floats):
                        own.problem = own.problem or "the ranks use it in different ways"
            if own.problem:
                continue

            # The sums, in an order that all ranks have
            device = self._params[name].device
            for at in sorted(parts):
                held = own.parts.get(at)
                zeros = torch.zeros_like(parts[at].sums, device=device)
                parts[at].sums = distributed.sum_(zeros if held is None else held.sums)
            own.parts = parts

    @torch.no_grad()
    def _add(self, use: Use) -> None:
        size, own = use.weight.numel(), None
        for name in self._names.get(use.weight.untyped_storage().data_ptr(), ()):
            first = int(use.weight.storage_offset() - self._params[name].storage_offset())
            if 0 <= first <= self._params[name].numel() - size:
                own = name, first
        if own is None:
            return
        (name, first), p, seen = own, self._params[own[0]], self.seen[own[0]]
        alike = use.weight.shape == p.shape and use.weight.stride() == p.stride()
        if not alike and not (use.weight.is_contiguous() and p.is_contiguous()):
            seen.problem = "a part of it is used that is no run of its entries"
            return

        # a tied embedding: the linear layer's inputs count
        part = seen.parts.get((first, size))
        counts = not use.inputs.is_floating_point()
        if part is not None and part.layout != use.layout:
            if counts:
                return
            if part.floats:
                seen.problem = f"it is used both as {part.layout} and as {use.layout}"
                return
            part = None
        if part is None:
            zeros = self._zeros(p, use, counts) if self._sums else torch.zeros(0)
            seen.parts[first, size] = part = Part(use.layout, zeros, not counts)

        # the sums
        if not self._sums:
            return
        if counts:
            indices = use.samples()
            part.sums[0].index_add_(0, indices, part.sums.new_ones(1).expand(len(indices)))
            part.samples += len(indices)
            return
        if (
            self._last is None
            or self._last[0] is not use.inputs
            or self._last[1].shape != part.sums.shape
        ):
            self._last = use.inputs, *_products(use.samples(), part.sums)
        part.sums += self._last[1]
        part.samples += self._last[2]

    def _zeros(self, p: Tensor, use: Use, counts: bool) -> Tensor:
        inputs = len(use.weight) if counts else use.layout.matrices(use.weight).shape[-1]
        groups = 1 if counts else use.layout.matrices(use.weight).shape[0]
        shape = (groups, inputs) if counts else (groups, inputs, inputs)
        return torch.zeros(shape, dtype=full_dtype(p.dtype), device=p.device)


def _products(x: Tensor, like: Tensor) -> tuple[Tensor, int]:
    """X X' (G, in, in) of samples (G, n, in), and n."""
    total = torch.zeros_like(like)
    for rows in x.split(ROWS, 1):
        rows = rows.to(total.dtype)
        total.baddbmm_(rows.mT, rows)
    return total, x.shape[1]


class Inputs(NamedTuple):
    """Of a parameter the layout, H of its inputs, a mean over samples, and the number of these."""

    layout: Layout
    h: Tensor
    samples: int


def why_not(p: Tensor, seen: Seen) -> str:
    """Why there are no `Inputs` of a parameter; empty where there are."""
    if seen.problem:
        return seen.problem
    if not seen.parts:
        return "no calibration input reaches it"
    if list(seen.parts) == [(0, p.numel())]:
        return ""

    # parts of one kind, that together are the parameter
    layout, step = _first(seen)
    if any(part.layout != layout for part in seen.parts.values()) or not isinstance(
        layout, Plain | Transposed
    ):
        return "its parts are used in different ways"
    if any(first % step or size % step for first, size in seen.parts) or p.numel() % step:
        return "its parts do not divide it"
    return ""


def whole(p: Tensor, seen: Seen) -> Inputs | str:
    """What is known of a parameter, put together from its parts; or why there is nothing."""
    if why := why_not(p, seen):
        return why
    if list(seen.parts) == [(0, p.numel())]:
        (part,) = seen.parts.values()
        return Inputs(part.layout, part.sums / part.samples, part.samples)
    parts = sorted(seen.parts.items())
    layout, step = _first(seen)
    sums = parts[0][1].sums.new_zeros(p.numel() // step, *parts[0][1].sums.shape[1:])
    for (first, size), part in parts:
        sums[first // step : (first + size) // step] += part.sums
    samples = max(part.samples for _, part in parts)
    return Inputs(type(layout)(len(sums), layout.inputs), sums / samples, samples)


def _first(seen: Seen) -> tuple[Any, int]:
    """The layout of the first part, and the size of the smallest."""
    return seen.parts[min(seen.parts)].layout, min(size for _, size in seen.parts)


def all_finite(found: Iterable[tuple[str, Seen]]) -> None:
    """Raise ValueError, naming the parameter, where a sum is NaN or infinite."""
    for name, seen in found:
        for part in seen.parts.values():
            if not bool(torch.isfinite(part.sums).all()):
                raise ValueError(
                    f"calibrate: the inputs of {name!r} hold NaN or infinite entries (or their "
                    "squares do); nothing is changed"
                )
