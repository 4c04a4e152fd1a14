"""The plan of a job: how each parameter is compressed or why it is left, bytes, time, memory."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from leco.command.recipe import Recipe
from leco.command.schemes import NotPossible, Scheme, Weight, coded
from leco.command.sources import FLOATS, Source
from leco.command.which import places_of, words_of
from leco.command.words import Search, fixed, parse
from leco.names import named_parameters
from leco.task import Task
from leco.views import Vector

FORWARD = 6e-11  # seconds for each weight and token of a pass, on a core
EIGEN = 3e-10  # seconds for each cube of a layer's inputs: the decomposition of their moments


@dataclass(frozen=True)
class Row:
    """A parameter in a plan: its scheme, or the reason why it is left."""

    name: str
    shape: tuple[int, ...]
    word: str
    how: str
    why: str
    before: int
    after: int


@dataclass(frozen=True)
class Plan:
    """What a job will do.

    Args:
        rows: of all parameters.
        tasks: of the LC; those of `search` are not among them.
        search: names of the weights whose scheme is chosen, for each search.
        weights: by name, of all that is compressed.
        seconds: about how long it takes.
        memory: about how many bytes it needs.
        kept: bytes of buffers.
    """

    rows: list[Row]
    tasks: dict[str, Task]
    search: dict[Search, list[str]]
    weights: dict[str, Weight]
    seconds: float
    memory: int
    kept: int

    @property
    def before(self) -> int:
        return sum(row.before for row in self.rows) + self.kept

    @property
    def after(self) -> int:
        return sum(row.after for row in self.rows) + self.kept


def plan(
    source: Source, recipe: Recipe, tokens: int = 0, judged: int = 0, effects: int = 0
) -> Plan:
    """Plan a recipe, from names and shapes alone.

    Args:
        tokens, judged, effects: of all calibration inputs, of the text that judges, and of the
            inputs that measure the effect of each weight in a search, for the estimate of time.

    Raises:
        ValueError: a pattern that matches nothing, or a parameter that two patterns match; nothing
            that is compressed; a search without calibration.
    """
    words, reasons = words_of(source.model, recipe)
    rest = rest_type(source, recipe)
    steps = recipe.calibrate.steps if recipe.calibrate else 0
    outputs = {name: out for name, _, out in places_of(source.model)}
    rows, tasks, seconds = list[Row](), dict[str, Task](), 0.0
    search, weights, joint = dict[Search, list[str]](), dict[str, Weight](), dict[str, list[str]]()
    for name, p in named_parameters(source.model).items():
        # what its word makes of it
        weight = Weight(tuple(p.shape), outputs.get(name, 0), _kept(p, rest))
        scheme, word = parse(words[name]) if name in words else None, words.get(name, "")
        made = _made(scheme, weight) if scheme else reasons.get(name, "the recipe keeps it")
        rows.append(_row(name, weight, word, scheme, made, source.dtype.itemsize))
        if scheme is None or isinstance(made, str):
            continue
        # its task, or its place in a search
        weights[name] = weight
        seconds += EIGEN * weight.row**3 * bool(steps) + _seconds(scheme, weight, steps)
        if isinstance(scheme, Search):
            search.setdefault(scheme, []).append(name)
        elif recipe.train and not recipe.calibrate and made[0] == Vector():
            joint.setdefault(word, []).append(name)  # one share for all weights, in training
        else:
            tasks[name] = Task(name, *made)
    tasks |= {word: Task(names, *_joint(word, weights[names[0]])) for word, names in joint.items()}
    _check(weights, search, recipe, rows)
    passes = tokens * (2 + bool(search) + 3 * _epochs(recipe, "polish")) + 2 * judged
    passes += 4 * tokens * _epochs(recipe, "distill")
    passes += effects * sum(map(len, search.values())) / 2  # of each weight, half of the net
    seconds += FORWARD * passes * sum(p.numel() for p in source.model.parameters())
    memory = _memory(source.model, weights, tokens, recipe)
    kept = sum(b.nbytes for b in source.model.buffers())
    return Plan(rows, tasks, search, weights, seconds, memory, kept)


def _row(
    name: str, weight: Weight, word: str, scheme: Scheme | Search | None, made: Any, itemsize: int
) -> Row:
    """Return the row of a parameter, which has `itemsize` bytes a number before."""
    before = weight.count * itemsize
    if isinstance(made, str):
        left = math.ceil(weight.count * coded(weight.dtype) / 8)
        return Row(name, weight.shape, "", "", made, before, left)
    if isinstance(scheme, Search):  # about the size of 3bit
        scheme, how = fixed("3bit"), "chosen by sensitivity"
    else:
        how = f"{made[1]} of {made[0]}"
    assert scheme is not None
    after = int(scheme.bits(weight) / 8 * weight.count)
    return Row(name, weight.shape, word, how, "", before, after)


def _seconds(scheme: Scheme | Search, weight: Weight, steps: int) -> float:
    """Return about how many seconds the C steps of a weight take."""
    if isinstance(scheme, Search):
        return 8e-7 * len(scheme.words) * weight.count
    return scheme.seconds * weight.count * steps / 40


def rest_type(source: Source, recipe: Recipe) -> torch.dtype:
    """Return the float type of parameters that are not compressed."""
    return source.dtype if recipe.rest == "auto" else FLOATS[recipe.rest]


def _epochs(recipe: Recipe, of: str) -> int:
    return getattr(recipe.calibrate, of) if recipe.calibrate else 0


def _kept(p: nn.Parameter, rest: torch.dtype) -> torch.dtype:
    """Return the type in which the file keeps a parameter's numbers."""
    return rest if p.is_floating_point() and rest.itemsize < p.itemsize else p.dtype


def _joint(word: str, weight: Weight) -> Any:
    made = _made(fixed(word), weight)
    assert not isinstance(made, str)
    return made


def _made(scheme: Scheme | Search, weight: Weight) -> Any:
    """Return the view and the compression of a weight, None for a search, or why it can't have
    them."""
    if isinstance(scheme, Search):
        return None
    try:
        return scheme.make(weight)
    except NotPossible as reason:
        return f"{scheme.word}: {reason}"


def _check(
    weights: Mapping[str, Weight], search: Mapping[Search, Any], recipe: Recipe, rows: list[Row]
) -> None:
    if not weights:
        whys = dict.fromkeys(row.why for row in rows)
        raise ValueError(f"to: {recipe.to!r} compresses nothing; {'; '.join(list(whys)[:3])}")
    if search and recipe.calibrate is None:
        word = next(iter(search)).word
        raise ValueError(f"to: {word!r} chooses by the data; give --calibrate")
    if len(search) > 1:
        words = " and ".join(repr(found.word) for found in search)
        raise ValueError(f"to: {words} are two budgets; give one for all of their weights")


def _memory(model: nn.Module, weights: Mapping[str, Weight], tokens: int, recipe: Recipe) -> int:
    """Return the bytes of the net, a copy that teaches it, Delta(Theta), multipliers and a copy in
    training, and hidden states."""
    net, numbers = sum(p.nbytes for p in model.parameters()), sum(w.count for w in weights.values())
    width = max((min(p.shape) for p in model.parameters() if p.dim() >= 2), default=0)
    copies = 1 + 3 * bool(recipe.train)
    hidden = 4 * tokens * width * (2 + 2 * bool(_epochs(recipe, "polish")))
    nets = 2 if _epochs(recipe, "distill") else 1
    return nets * net + 4 * numbers * copies + hidden
