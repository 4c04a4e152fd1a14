"""The names of a model's parameters, by patterns."""

import difflib
import fnmatch
import re
from collections.abc import Sequence

from torch import nn

Pattern = str | re.Pattern[str] | type[nn.Module]


def match(model: nn.Module, *patterns: Pattern, exclude: Sequence[Pattern] = ()) -> tuple[str, ...]:
    """Qualified names of parameters, in the model's order; a tied parameter appears once, under its first name.

    Args:
        patterns: a string is a glob over the whole name ("layers.*.weight"); a compiled regular expression must match the whole name;
            a module type stands for the `weight` of every such module.
        exclude: patterns of the same kinds, taken away afterwards.

    Raises:
        ValueError: a pattern that matches no parameter, or nothing left after `exclude`.

    >>> import leco, torch.nn as nn
    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> leco.match(model, "*.weight")
    ('0.weight', '2.weight')
    >>> leco.match(model, nn.Linear, exclude=["0.*"])
    ('2.weight',)
    """
    if not patterns:
        raise ValueError('match: give at least one pattern, such as "*.weight" or torch.nn.Linear')
    names = [name for name, _ in model.named_parameters()]
    chosen = set[str]().union(*(_matching(model, names, pattern) for pattern in patterns))
    dropped = set[str]().union(*(_matching(model, names, pattern) for pattern in exclude))
    left = tuple(name for name in names if name in chosen - dropped)
    if not left:
        raise ValueError(f"match: exclude = {list(exclude)} leaves none of the {len(chosen)} parameters that {list(patterns)} match")
    return left


def _matching(model: nn.Module, names: list[str], pattern: Pattern) -> set[str]:
    if isinstance(pattern, str):
        found = {name for name in names if fnmatch.fnmatchcase(name, pattern)}
    elif isinstance(pattern, re.Pattern):
        found = {name for name in names if pattern.fullmatch(name)}
    else:
        weights = [getattr(module, "weight", None) for module in model.modules() if isinstance(module, pattern)]
        found = {name for name, parameter in model.named_parameters() if any(parameter is weight for weight in weights)}
    if not found:
        close = difflib.get_close_matches(str(pattern), names, n=3, cutoff=0.3) or names[:3]
        raise ValueError(f"match: {pattern!r} matches none of the model's {len(names)} parameters (there are {', '.join(close)}, ...)")
    return found
