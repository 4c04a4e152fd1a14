"""Decoders that wait for symbols, so that the streams of several tensors are decoded side by side.

Each symbol of a stream waits for the one before it. A processor works on several streams at once,
one in each of its threads or two in one. A decoder is a generator: it yields the streams that it
needs, is sent their symbols, and returns what they make.
"""

from collections.abc import Generator, Iterable
from typing import Any, TypeAlias, TypeVar

import numpy as np

from leco.coding.symbols import decoded
from leco.native.symbols import Coded

T = TypeVar("T")
Found = list[np.ndarray | None]
Steps: TypeAlias = Generator[list[Coded], Found, T]
"""A decoder of a T. It is sent None for a stream whose words hold more symbols, or fewer."""


def finished(steps: Steps[T]) -> T:
    """What a decoder returns."""
    found: Any = None
    while True:
        try:
            wanted = steps.send(found)
        except StopIteration as end:
            return end.value
        found = decoded(wanted)


def side_by_side(every: Iterable[Steps[T]]) -> Steps[list[T]]:
    """What several decoders return, as one decoder. The first error ends all of them."""
    waiting: list[tuple[int, Steps[T], Any]] = [(i, own, None) for i, own in enumerate(every)]
    ends: dict[int, T] = {}
    while waiting:
        # what each of them needs next
        asked: list[tuple[int, Steps[T], list[Coded]]] = []
        for place, own, found in waiting:
            try:
                asked.append((place, own, own.send(found)))
            except StopIteration as end:
                ends[place] = end.value
        # all streams at once
        found = (yield [coded for *_, wanted in asked for coded in wanted]) if asked else []
        rest = iter(found)
        waiting = [(place, own, [next(rest) for _ in wanted]) for place, own, wanted in asked]
    return [ends[place] for place in sorted(ends)]
