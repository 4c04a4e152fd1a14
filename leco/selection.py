"""Names of a model's parameters, by patterns."""

import difflib
import fnmatch
import re
import warnings
from collections.abc import Callable, Sequence

from torch import nn

from leco.modules import computed, linear_like
from leco.names import named_parameters

Predicate = Callable[[str, nn.Parameter], bool]
Pattern = str | re.Pattern[str] | type[nn.Module] | Predicate


def match(model: nn.Module, *patterns: Pattern, exclude: Sequence[Pattern] = ()) -> tuple[str, ...]:
    """Qualified names of parameters, in the model's order; a tied parameter appears once, under its
    first name.

    A warning names the modules of a type whose weight is no parameter, because weight_norm,
    spectral_norm, pruning or a parametrization computes it, and a type that matches only weights
    that are tied to modules of other types.

    Args:
        patterns: a string is a parameter's exact name, or else a glob over the whole name
            ("layers.*.weight"). A compiled regular expression must match the whole name. A module
            type stands for the `weight` of every such module; nn.Linear stands for transformers'
            Conv1D too, whose weight is (in, out): see `leco.Rows`. A function of name and parameter
            says whether the parameter is wanted.
        exclude: patterns of the same kinds, taken away afterwards.

    Raises:
        ValueError: a pattern that matches no parameter, or nothing left after `exclude`.
        TypeError: a pattern of another kind.

    >>> import leco, torch.nn as nn
    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> leco.match(model, "*.weight")
    ('0.weight', '2.weight')
    >>> leco.match(model, nn.Linear, exclude=["0.*"])
    ('2.weight',)
    >>> leco.match(model, lambda name, p: p.ndim == 2 and p.shape[-1] % 4 == 0)
    ('0.weight',)
    """
    if not patterns:
        raise ValueError('match: give at least one pattern, such as "*.weight" or torch.nn.Linear')
    chosen = set[str]().union(*(_matching(model, pattern) for pattern in patterns))
    for pattern in patterns:
        if isinstance(pattern, type):
            _warn(model, pattern)
    dropped = set[str]().union(*(_matching(model, pattern) for pattern in exclude))
    left = tuple(name for name in named_parameters(model) if name in chosen - dropped)
    if not left:
        raise ValueError(
            f"match: exclude = {list(exclude)} leaves none of the {len(chosen)} parameters "
            f"that {list(patterns)} match"
        )
    return left


def _matching(model: nn.Module, pattern: Pattern) -> set[str]:
    """The first names of the parameters that the pattern matches, at least one."""
    first = {id(p): name for name, p in named_parameters(model).items()}
    exact = {name: first[id(p)] for name, p in named_parameters(model, ties=True).items()}
    names = list(first.values())
    if isinstance(pattern, str):
        globbed = (name for name in names if fnmatch.fnmatchcase(name, pattern))
        found = {exact[pattern]} if pattern in exact else set(globbed)
    elif isinstance(pattern, re.Pattern):
        found = {name for name in names if pattern.fullmatch(name)}
    elif isinstance(pattern, type):
        weights = [module._parameters.get("weight") for _, module in _of_type(model, pattern)]
        found = {first[id(p)] for p in weights if p is not None}
    elif callable(pattern):
        found = {name for name, p in named_parameters(model).items() if pattern(name, p)}
    else:
        raise TypeError(
            f"match: pattern {pattern!r} is a {type(pattern).__name__}, must be a string, "
            "a compiled regular expression, a module type or a function of name and parameter"
        )
    if not found:
        close = difflib.get_close_matches(str(pattern), names, n=3, cutoff=0.3) or names[:3]
        passed = _passed_over(model, pattern) if isinstance(pattern, type) else ""
        raise ValueError(
            f"match: {pattern!r} matches none of the model's {len(names)} parameters "
            f"(there are {', '.join(close)}, ...)" + (f"; {passed}" if passed else "")
        )
    return found


def _of_type(model: nn.Module, kind: type) -> list[tuple[str, nn.Module]]:
    """The modules that a type stands for, by name."""
    return [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, kind) or (kind is nn.Linear and linear_like(module) is not None)
    ]


def _passed_over(model: nn.Module, kind: type) -> str:
    """Which modules of a type have a computed weight, or ""."""
    found = [
        f"{name or 'the model itself'} ({by}; {cure})"
        for name, module in _of_type(model, kind)
        for tensor, by, cure in computed(module)
        if tensor == "weight"
    ]
    return f"the weight is computed, and is no parameter, in {', '.join(found)}" if found else ""


def _warn(model: nn.Module, kind: type) -> None:
    """Warn about what a module type does not stand for."""
    passed = _passed_over(model, kind)
    if passed:
        warnings.warn(f"match: {kind.__name__} passes over modules: {passed}", stacklevel=3)

    # tied to others
    own = _of_type(model, kind)
    inside = {id(module) for _, module in own}
    others = {
        id(p)
        for module in model.modules()
        if id(module) not in inside
        for p in module.parameters(recurse=False)
    }
    weights = [(name, module._parameters.get("weight")) for name, module in own]
    found = [(name, weight) for name, weight in weights if weight is not None]
    if found and all(id(weight) in others for _, weight in found):
        warnings.warn(
            f"match: {kind.__name__} matches only weights that are tied to modules of other types: "
            f"{', '.join(name or 'the model itself' for name, _ in found)}",
            stacklevel=3,
        )
