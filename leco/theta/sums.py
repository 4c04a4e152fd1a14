"""Sums of Thetas, each seen through a view of its own: additive combinations, and several blocks in
one task."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from leco.theta.protocol import Array, Theta, is_count, require, shape_of, times
from leco.views import View


class Term(NamedTuple):
    """One term of a `Sum`: a Theta seen through a view, divided by a weight.

    Args:
        theta: its Delta is the array that `view` makes of the blocks.
        view: over the blocks `at`.
        at: numbers of blocks; the `Sum` lists their shapes.
        candidate: which candidate of a `leco.Choice` it is.
        weight: Delta is divided by it.
    """

    theta: Theta
    view: View
    at: tuple[int, ...]
    candidate: int = 0
    weight: float = 1.0

    def shape(self) -> Any:
        return shape_of(self.theta)

    def decompress(self) -> Any:
        return self.theta.decompress()

    def scaled(self, c: float) -> "Term":
        return self._replace(theta=times(self.theta, c))

    def free(self) -> tuple[str, ...]:
        return ("theta",)


class Sum(NamedTuple):
    """Block b is the sum of the terms that have b among their blocks, and 0 where none has.

    Args:
        terms: the terms.
        shapes: of the blocks.
        single: 1 for one tensor, 0 for a tuple of blocks.
    """

    terms: tuple[Term, ...]
    shapes: tuple[tuple[int, ...], ...]
    single: int

    def shape(self) -> Any:
        shapes = tuple(torch.Size(shape) for shape in self.shapes)
        require(
            any(term.at for term in self.terms)
            and self.single in (0, 1)
            and (len(shapes) == 1 or not self.single),
            "a sum of no blocks",
        )
        for t, term in enumerate(self.terms):
            places = all(is_count(b) and b < len(shapes) for b in term.at) and len(
                set(term.at)
            ) == len(term.at)
            require(
                places and 0 < term.weight < math.inf,
                f"term {t} is at {term.at} of {len(shapes)} blocks, with weight {term.weight}",
            )
            expected, got = term.view.shape([shapes[b] for b in term.at]), term.shape()
            require(expected == got, f"term {t} needs the shape {expected} and has {got}")
        return shapes[0] if self.single else shapes

    def blocks(self) -> tuple[Tensor, ...]:
        found: dict[int, Tensor] = {}
        for term in self.terms:
            parts = term.view.backward(
                term.decompress(), [torch.Size(self.shapes[b]) for b in term.at]
            )
            for b, part in zip(term.at, parts, strict=True):
                part = part if term.weight == 1 else part / term.weight
                found[b] = found[b] + part if b in found else part
        like = next(iter(found.values()))
        return tuple(
            found[b] if b in found else like.new_zeros(shape) for b, shape in enumerate(self.shapes)
        )

    def decompress(self) -> Array:
        blocks = self.blocks()
        return blocks[0] if self.single else blocks

    def scaled(self, c: float) -> "Sum":
        return self._replace(terms=tuple(term.scaled(c) for term in self.terms))

    def free(self) -> tuple[str, ...]:
        return ("terms",)
