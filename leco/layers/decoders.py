"""Decoders of sparse weights, of sums and of other orders, by tensor operations that compile and
export.

    Floats       a tensor as it is
    Scattered    0 but for some entries, or groups of them
    Patterned    n of each m
    Summed       a sum of decoders
    Viewed       a decoder whose order is another one than the weight's

Each is a module whose buffers are what it takes in memory, and whose `forward()` is Delta,
flattened.
"""

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, pad

from leco.layers.integers import Integers, select
from leco.theta import patterns
from leco.views import View


class Floats(nn.Module):
    """A tensor of floats, as it is."""

    values: Tensor

    def __init__(self, values: Tensor):
        super().__init__()
        self.register_buffer("values", values.detach().clone())

    def forward(self) -> Tensor:
        return self.values


class Scattered(nn.Module):
    """0 but for some groups of entries.

    Args:
        mask: (groups,) bool, True for the groups that are not 0.
        values: gives their rows in order, (number of True, size).
    """

    def __init__(self, mask: Tensor, values: nn.Module):
        super().__init__()
        self.groups, self.values = mask.numel(), values
        # by the gaps between the True entries, or by bits: what is shorter
        ones, first = mask.reshape(-1).nonzero().squeeze(1), torch.full((1,), -1)
        gaps = Integers(ones.diff(prepend=first.to(mask.device)) - 1)
        bits = Integers(mask.reshape(-1), 2)
        shorter = gaps.codes.nbytes < bits.codes.nbytes
        self.gaps: Any = gaps if shorter else None
        self.mask: Any = None if shorter else bits

    def forward(self) -> Tensor:
        values = self.values()
        values = values.reshape(-1, values.shape[-1] if values.ndim > 1 else 1)
        if self.mask is not None:
            return select(pad(values, (0, 0, 1, 0)), self._places()).view(-1)
        gaps = self.gaps()
        at = gaps.cumsum(0, dtype=torch.int64) + torch.arange(len(gaps), device=gaps.device)
        if values.shape[1] == 1:
            return values.new_zeros(self.groups).scatter_(0, at, values.view(-1))
        return values.new_zeros(self.groups, values.shape[1]).index_copy_(0, at, values).view(-1)

    def _places(self) -> Tensor:
        """For each group its place among those that are kept, from 1; 0 for the others. This goes
        byte by byte: a masked_scatter takes several times longer."""
        digits, codes = self.mask.digits(), self.mask.codes.int()
        ranks = torch.where(digits > 0, digits.cumsum(1, dtype=torch.int32), -(2**30))
        counts = digits.sum(1, dtype=torch.int32).index_select(0, codes)
        before = counts.cumsum(0, dtype=torch.int32) - counts
        return (
            embedding(codes, ranks).add_(before.unsqueeze(1)).clamp_(min=0).view(-1)[: self.groups]
        )


class Patterned(nn.Module):
    """n weights of each m, at the places of the block's pattern, 0 elsewhere."""

    places: Tensor

    def __init__(self, pattern: Tensor, values: nn.Module, n: int, m: int):
        super().__init__()
        places, _ = patterns(n, m, pattern.device)
        self.m, self.values, self.pattern = m, values, Integers(pattern.reshape(-1), len(places))
        self.register_buffer("places", places.to(torch.uint8))

    def forward(self) -> Tensor:
        places = self.pattern.lookup(self.places.long())
        at = places + self.m * torch.arange(len(places), device=places.device).unsqueeze(1)
        values = self.values()
        return values.new_zeros(len(places) * self.m).scatter_(0, at.view(-1), values.reshape(-1))


class Summed(nn.Module):
    """A sum of parts, each divided by its weight."""

    def __init__(self, parts: list[nn.Module], weights: list[float]):
        super().__init__()
        self.parts, self.weights = nn.ModuleList(parts), weights

    def forward(self) -> Tensor:
        found = [
            part().reshape(-1) if weight == 1 else part().reshape(-1) / weight
            for part, weight in zip(self.parts, self.weights, strict=True)
        ]
        return functools.reduce(torch.add, found)


class Viewed(nn.Module):
    """The tensor of a view's array, flattened."""

    def __init__(self, array: nn.Module, view: View, shape: torch.Size):
        super().__init__()
        self.array, self.view, self.shape, self.inner = array, view, shape, view.shape([shape])

    def forward(self) -> Tensor:
        return self.view.backward(self.array().view(self.inner), [self.shape])[0].reshape(-1)
