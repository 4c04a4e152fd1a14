"""The plan of a job: which parameter is compressed how, what is left and why, and what it costs."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from leco.command.recipe import OTHERS, Recipe
from leco.command.sources import FLOATS, Source
from leco.command.words import FLOAT, NotPossible, Scheme, Search, Weight, fixed, parse
from leco.modules import linear_like
from leco.names import named_parameters
from leco.selection import match
from leco.task import Task
from leco.views import Vector

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
FORWARD = 1e-10  # seconds for each weight and token of a calibration pass, on a core


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


def plan(source: Source, recipe: Recipe, tokens: int = 0) -> Plan:
    """The plan of a recipe, from names and shapes alone.

    Args:
        tokens: of all calibration inputs, for the estimate of time.

    Raises:
        ValueError: a pattern that matches nothing, or a parameter that two patterns match; nothing
            that is compressed; a search without calibration.
    """
    words, reasons = _words(source.model, recipe)
    rest = rest_type(source, recipe)
    rows, tasks, seconds = list[Row](), dict[str, Task](), 0.0
    search, weights, joint = dict[Search, list[str]](), dict[str, Weight](), dict[str, list[str]]()
    outputs = {name: out for name, _, out in _places(source.model)}
    steps = recipe.calibrate.steps if recipe.calibrate else 0
    for name, p in named_parameters(source.model).items():
        weight = Weight(tuple(p.shape), outputs.get(name, 0), p.itemsize)
        before, left = weight.count * source.dtype.itemsize, _left(p, rest)
        scheme, word = parse(words[name]) if name in words else None, words.get(name, "")
        if isinstance(scheme, Search):
            search.setdefault(scheme, []).append(name)
            weights[name] = weight
            seconds += 8e-7 * len(scheme.words) * weight.count
            guess = int(fixed("3bit").bits(weight) / 8 * weight.count)
            rows.append(Row(name, weight.shape, word, "chosen by sensitivity", "", before, guess))
            continue
        made = _made(scheme, weight) if scheme else reasons.get(name, "the recipe keeps it")
        if isinstance(made, str):
            rows.append(Row(name, weight.shape, "", "", made, before, left))
            continue
        assert scheme is not None
        weights[name], how = weight, f"{made[1]} of {made[0]}"
        after = int(scheme.bits(weight) / 8 * weight.count)
        rows.append(Row(name, weight.shape, word, how, "", before, after))
        seconds += scheme.seconds * weight.count * steps / 40
        if recipe.train and not recipe.calibrate and made[0] == Vector():
            joint.setdefault(word, []).append(name)  # one share for all weights, in training
        else:
            tasks[name] = Task(name, *made)
    tasks |= {word: Task(names, *_joint(word, weights[names[0]])) for word, names in joint.items()}
    _check(weights, search, recipe, rows)
    kept = sum(b.nbytes for b in source.model.buffers())
    numbers = sum(w.count for w in weights.values())
    seconds += FORWARD * numbers * tokens * (2 + bool(search) + 3 * _polish(recipe))
    memory = _memory(source.model, numbers, tokens, recipe)
    return Plan(rows, tasks, search, weights, seconds, memory, kept)


def rest_type(source: Source, recipe: Recipe) -> torch.dtype:
    """The float type of what is not compressed."""
    return source.dtype if recipe.rest == "auto" else FLOATS[recipe.rest]


def _polish(recipe: Recipe) -> int:
    return recipe.calibrate.polish if recipe.calibrate else 0


def _left(p: nn.Parameter, rest: torch.dtype) -> int:
    """About how many bytes the file takes of a parameter that is left."""
    size = min(p.itemsize, rest.itemsize) if p.is_floating_point() else p.itemsize
    return math.ceil(p.numel() * size * FLOAT)


def _joint(word: str, weight: Weight) -> Any:
    made = _made(fixed(word), weight)
    assert not isinstance(made, str)
    return made


def _made(scheme: Scheme, weight: Weight) -> Any:
    """The view and the compression of a weight, or why it can't have them."""
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


def _memory(model: nn.Module, numbers: int, tokens: int, recipe: Recipe) -> int:
    """The net, Delta(Theta), multipliers and a copy in training, hidden states of two widths."""
    net = sum(p.nbytes for p in model.parameters())
    width = max((min(p.shape) for p in model.parameters() if p.dim() >= 2), default=0)
    copies = 1 + 3 * bool(recipe.train)
    return net + 4 * numbers * copies + 4 * tokens * width * (2 + 2 * bool(_polish(recipe)))


# --- which word each parameter has


def _words(model: nn.Module, recipe: Recipe) -> tuple[dict[str, str], dict[str, str]]:
    """The word of each parameter that has one; and why the others have none."""
    usual, reasons = _usual(model, recipe.smallest)
    if isinstance(recipe.to, str):
        return dict.fromkeys(usual, recipe.to), reasons
    words, owner = dict[str, str](), dict[str, str]()
    shapes = {name: tuple(p.shape) for name, p in named_parameters(model).items()}
    for pattern, word in recipe.to.items():
        if pattern == OTHERS:
            continue
        try:
            found = [name for name in match(model, pattern) if len(shapes[name]) > 1]
        except ValueError as error:
            raise ValueError(f"to: {str(error).removeprefix('match: ')}") from None
        if not found:
            raise ValueError(f"to: {pattern!r} matches only norms and biases")
        for name in found:
            if name in owner:
                raise ValueError(
                    f"to: {name!r} matches {owner[name]!r} and {pattern!r}; make one of them "
                    "narrower"
                )
            owner[name], words[name] = pattern, word
    if OTHERS in recipe.to:
        words |= {name: recipe.to[OTHERS] for name in usual if name not in owner}
    else:
        reasons |= {name: "no pattern names it" for name in usual if name not in owner}
    return words, reasons


def _usual(model: nn.Module, smallest: int) -> tuple[list[str], dict[str, str]]:
    """The weights that a word for all stands for, and why each other parameter is left."""
    kinds = {name: kind for name, kind, _ in _places(model)}
    head = _head(model)
    found, reasons = list[str](), dict[str, str]()
    for name, p in named_parameters(model).items():
        kind = kinds.get(name, "")
        if p.dim() < 2:
            reasons[name] = "a norm or bias"
        elif kind == "embedding":
            reasons[name] = "an embedding; a pattern of the recipe can name it"
        elif p is head:
            reasons[name] = "the output layer; a pattern of the recipe can name it"
        elif kind != "layer":
            reasons[name] = "no weight of a linear or convolutional layer"
        elif p.numel() < smallest:
            reasons[name] = f"only {p.numel()} weights"
        else:
            found.append(name)
    return found, reasons


def _head(model: nn.Module) -> Any:
    """The weight of a transformers model's output layer, or None."""
    get = getattr(model, "get_output_embeddings", None)
    layer = get() if callable(get) else None
    return getattr(layer, "weight", None)


def _places(model: nn.Module) -> Iterator[tuple[str, str, int]]:
    """Of each weight of a layer or embedding: its name, "layer" or "embedding", and the dimension
    of its outputs."""
    first = {id(p): name for name, p in named_parameters(model).items()}
    seen = set[str]()
    for module in model.modules():
        for own, kind, outputs in _kinds(module):
            p = module._parameters.get(own)
            if p is None or (first[id(p)] in seen and kind == "layer"):
                continue  # a tied weight is an embedding where one of its modules is
            seen.add(first[id(p)])
            yield first[id(p)], kind, outputs


def _kinds(module: nn.Module) -> Iterator[tuple[str, str, int]]:
    outputs = linear_like(module)
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        yield "weight", "embedding", 0
    elif isinstance(module, nn.MultiheadAttention):
        for own in ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"):
            yield own, "layer", 0
    elif outputs is not None:
        yield "weight", "layer", outputs
    elif isinstance(module, TRANSPOSED):
        yield "weight", "layer", 1
    elif isinstance(module, CONVOLUTIONS):
        yield "weight", "layer", 0
