"""The space of a search: the groups of layers, and the words that each of them can get."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from leco.command.ranges import ranged
from leco.command.recipe import Recipe
from leco.command.which import kind_of, words_of
from leco.command.words import KEEP
from leco.names import named_parameters
from leco.selection import match

FEW = 12  # layers up to which each has a word of its own


@dataclass(frozen=True)
class Group:
    """Parameters that get the same word.

    Args:
        name: for people, and for the study.
        patterns: that name the parameters in a recipe.
        words: to choose from; a word may be a range.
    """

    name: str
    patterns: tuple[str, ...]
    words: tuple[str, ...]


def groups_of(model: nn.Module, recipe: Recipe) -> list[Group]:
    """Return the groups of a search: one for each pattern of the recipe, if it has patterns. Else
    one for each layer, up to 12, or for each kind of layer: names that differ only in numbers.

    Raises:
        ValueError: patterns that match nothing or the same; nothing that a word for all compresses.
    """
    assert recipe.optimize is not None
    words = recipe.optimize.words
    if isinstance(words, dict):
        every = dict.fromkeys(words, KEEP)
        words_of(model, recipe.model_copy(update={"to": every}))  # checks the patterns
        return [Group(pattern, (pattern,), tuple(some)) for pattern, some in words.items()]
    names, reasons = words_of(model, recipe.model_copy(update={"to": KEEP}))
    if not names:
        whys = "; ".join(list(dict.fromkeys(reasons.values()))[:3])
        raise ValueError(f"optimize: there is nothing to compress; {whys}")
    kinds = dict[str, list[str]]()
    for name in names:
        kinds.setdefault(kind_of(name), []).append(name)
    if len(names) <= FEW or len(kinds) == 1:
        return [Group(name, (name,), tuple(words)) for name in names]
    return [Group(kind, _patterns(model, kind, own), tuple(words)) for kind, own in kinds.items()]


def _patterns(model: nn.Module, kind: str, names: Sequence[str]) -> tuple[str, ...]:
    """Return the kind as one pattern if it matches these names alone, or else the names."""
    shapes = {name: p.dim() for name, p in named_parameters(model).items()}
    found = [name for name in match(model, kind) if shapes[name] > 1]
    return (kind,) if found == list(names) else tuple(names)


def suggested(trial: Any, groups: Sequence[Group]) -> dict[str, str]:
    """Return the word of each group in a trial of optuna, by the group's name."""
    found = dict[str, str]()
    for group in groups:
        word = group.words[0]
        if len(group.words) > 1:
            word = trial.suggest_categorical(group.name, list(group.words))
        span = ranged(word)
        if span is not None:
            name = f"{group.name}: {word}"
            if span.whole:
                value = trial.suggest_int(name, int(span.low), int(span.high), log=span.log)
            else:
                value = trial.suggest_float(name, span.low, span.high, log=span.log)
            word = span.at(value)
        found[group.name] = word
    return found


def recipe_of(recipe: Recipe, groups: Sequence[Group], words: dict[str, str]) -> Recipe:
    """Return the recipe of one choice, which `leco compress` does."""
    to = {pattern: words[group.name] for group in groups for pattern in group.patterns}
    return recipe.model_copy(update={"to": to, "optimize": None})


def plain(groups: Sequence[Group]) -> list[dict[str, str]]:
    """Return the first choices: the first word for all groups, the second one, and so on."""
    most = max(len(group.words) for group in groups)
    return [
        {g.name: g.words[min(i, len(g.words) - 1)] for g in groups if len(g.words) > 1}
        for i in range(most)
    ]


def spoken(words: dict[str, str]) -> str:
    """Return a choice in one line: each word, and its groups. Names lose the parts that all share.

    >>> from leco.command.space import spoken
    >>> spoken({"0.weight": "2bit", "2.weight": "4bit", "4.weight": "2bit"})
    '2bit: 0, 4; 4bit: 2'
    >>> spoken({"h.*.mlp.up.weight": "2bit", "h.*.k.weight": "3bit"})
    '2bit: mlp.up; 3bit: k'
    >>> spoken({"*.up_proj.weight": "2bit", "*.q_proj.weight": "2bit"})
    '2bit for all'
    """
    if len(set(words.values())) == 1:
        return f"{next(iter(words.values()))} for all"
    parts = [name.removesuffix(".weight").split(".") for name in words]
    least = min(map(len, parts)) - 1
    shared = next((i for i in range(least) if len({part[i] for part in parts}) > 1), least)
    owners = dict[str, list[str]]()
    for part, word in zip(parts, words.values(), strict=True):
        owners.setdefault(word, []).append(".".join(part[shared:]))
    return "; ".join(f"{word}: {', '.join(names)}" for word, names in sorted(owners.items()))
