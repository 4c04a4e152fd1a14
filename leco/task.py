"""What is compressed and how: tasks, the names of parameters by patterns, and every check of a task
against a model."""

import difflib
import fnmatch
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from leco.compressions.protocol import Compression
from leco.names import known, named_parameters
from leco.views import View


DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Task:
    """What is compressed and how: parameters, by their qualified names, seen through `view`,
    compressed by `compression`.

    >>> import leco
    >>> leco.Task("fc.weight", leco.Vector(), leco.TopK(0.05)).params
    ('fc.weight',)
    """

    params: Sequence[str]
    view: View
    compression: Compression[Any]

    def __post_init__(self) -> None:
        params = (self.params,) if isinstance(self.params, str) else tuple(self.params)
        if not params:
            raise ValueError("Task: params is empty; name at least one parameter")
        for name, value, methods in (
            ("view", self.view, "forward"),
            ("compression", self.compression, "compress"),
        ):
            if isinstance(value, type) or not hasattr(value, methods):
                raise TypeError(
                    f"Task {params}: {name} = {value!r} is not an instance of a {name}; the order is Task(params, view, compression)"
                )
        object.__setattr__(self, "params", params)


def each(params: Iterable[str], view: View, compression: Compression[Any]) -> dict[str, Task]:
    """A task for each parameter, named after it: codebooks, sparsities or ranks of their own.

    >>> import leco
    >>> list(leco.each(["a.weight", "b.weight"], leco.Rows(), leco.Binary()))
    ['a.weight', 'b.weight']
    """
    return {name: Task(name, view, compression) for name in params}


def resolve(
    model: nn.Module, tasks: Mapping[str, Task]
) -> tuple[dict[str, nn.Parameter], dict[str, tuple[str, ...]]]:
    """The tasks' parameters under their first names, and those names by task, after every check."""
    params: dict[str, nn.Parameter] = {}
    names: dict[str, tuple[str, ...]] = {}
    every = named_parameters(model, ties=True)
    first = {id(p): name for name, p in named_parameters(model).items()}
    owner: dict[str, str] = {}
    for task_name, task in tasks.items():
        own: list[str] = []
        for name in task.params:
            given = known(name, every)
            if given not in every:
                close = difflib.get_close_matches(given, list(every), n=3)
                raise ValueError(
                    f"task {task_name!r}: the model has no parameter {given!r}"
                    + (f" (there are {close})" if close else "")
                )
            name = first[id(every[given])]
            tied = "" if name == given else f" (tied to {name!r})"
            if list(task.params).count(given) > 1:
                raise ValueError(f"task {task_name!r}: parameter {given!r} stands in it twice")
            if owner.get(name, task_name) != task_name:
                raise ValueError(
                    f"task {task_name!r}: parameter {given!r}{tied} is in task {owner[name]!r} already; one task must hold it"
                )
            if name not in owner:  # a tied weight named twice is compressed once
                owner[name], params[name] = task_name, every[given]
                own.append(name)
                _check_parameter(task_name, given, every[given])
        names[task_name] = tuple(own)
        check_shapes(task_name, task, {name: params[name] for name in own})
    return params, names


def check_shapes(name: str, task: Task, own: Mapping[str, nn.Parameter]) -> None:
    """Raise ValueError where the task's view or compression can't take its parameters' shapes."""
    try:
        task.compression.check(task.view.shape([p.shape for p in own.values()]))
    except ValueError as error:
        raise ValueError(
            f"task {name!r}, parameters {', '.join(own)}: {type(task.view).__name__}: {error}"
        ) from error


def _check_parameter(task: str, name: str, p: nn.Parameter) -> None:
    place = f"task {task!r}: parameter {name!r}"
    if isinstance(p, nn.parameter.UninitializedParameter):
        raise ValueError(
            f"{place} has no shape yet (a lazy module); pass a batch through the model first"
        )
    if p.is_meta:
        raise ValueError(
            f"{place} is on the meta device and has no values; load or initialise the model first"
        )
    if p.dtype not in DTYPES:
        raise ValueError(
            f"{place} has dtype {p.dtype}; only weights in {', '.join(map(str, DTYPES))} can be "
            "compressed"
        )
    if p.numel() == 0:
        raise ValueError(f"{place} has shape {tuple(p.shape)}, no entries")
    if not torch.isfinite(p).all():
        raise ValueError(
            f"{place} has {int((~torch.isfinite(p)).sum())} NaN or infinite entries of {p.numel()}"
        )
    if not p.requires_grad:
        warnings.warn(
            f"{place} is frozen (requires_grad = False): it can be compressed directly, but no L step will move it",
            stacklevel=4,
        )


Pattern = str | re.Pattern[str] | type[nn.Module]


def match(model: nn.Module, *patterns: Pattern, exclude: Sequence[Pattern] = ()) -> tuple[str, ...]:
    """Qualified names of parameters, in the model's order; a tied parameter appears once, under its
    first name.

    Args:
        patterns: a string is a glob over the whole name ("layers.*.weight"); a compiled regular
            expression must match the whole name; a module type stands for the `weight` of every
            such module.
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
        raise ValueError(
            f"match: exclude = {list(exclude)} leaves none of the {len(chosen)} parameters that {list(patterns)} match"
        )
    return left


def _matching(model: nn.Module, names: list[str], pattern: Pattern) -> set[str]:
    if isinstance(pattern, str):
        found = {name for name in names if fnmatch.fnmatchcase(name, pattern)}
    elif isinstance(pattern, re.Pattern):
        found = {name for name in names if pattern.fullmatch(name)}
    else:
        weights = [
            getattr(module, "weight", None)
            for module in model.modules()
            if isinstance(module, pattern)
        ]
        found = {
            name
            for name, parameter in model.named_parameters()
            if any(parameter is weight for weight in weights)
        }
    if not found:
        close = difflib.get_close_matches(str(pattern), names, n=3, cutoff=0.3) or names[:3]
        raise ValueError(
            f"match: {pattern!r} matches none of the model's {len(names)} parameters (there are {', '.join(close)}, ...)"
        )
    return found
