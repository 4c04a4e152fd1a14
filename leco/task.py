"""What is compressed and how: tasks, and every check of a task against a model."""

import difflib
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from leco.compressions.codebooks import Codebook
from leco.compressions.protocol import Compression
from leco.compressions.quantization import Binary, FixedCodebook
from leco.compressions.vectors import VectorCodebook
from leco.distributed import local, whole
from leco.modules import linear_like
from leco.names import known, named_parameters
from leco.selection import match as match
from leco.views import Rows, View, blocks

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
                    f"Task {params}: {name} = {value!r} is not an instance of a {name}; "
                    "the order is Task(params, view, compression)"
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
        for wanted in task.params:
            given = known(wanted, every)
            name = _first_name(task_name, task, given, every, first)
            if owner.get(name, task_name) != task_name:
                tied = "" if name == given else f" (tied to {name!r})"
                raise ValueError(
                    f"task {task_name!r}: parameter {given!r}{tied} is in task {owner[name]!r} "
                    "already; one task must hold it"
                )
            if name not in owner:  # a tied weight named twice is compressed once
                owner[name], params[name] = task_name, every[given]
                own.append(name)
                _check_parameter(task_name, given, every[given])
        names[task_name] = tuple(own)
        check_shapes(task_name, task, {name: params[name] for name in own})
        _warn_of_modules(model, task_name, task, {name: params[name] for name in own})
    return params, names


def _first_name(
    task_name: str,
    task: Task,
    given: str,
    every: Mapping[str, nn.Parameter],
    first: Mapping[int, str],
) -> str:
    """The first name of a parameter that a task gives by any of its names."""
    if given not in every:
        close = difflib.get_close_matches(given, list(every), n=3)
        raise ValueError(
            f"task {task_name!r}: the model has no parameter {given!r}"
            + (f" (there are {close})" if close else "")
        )
    if list(task.params).count(given) > 1:
        raise ValueError(f"task {task_name!r}: parameter {given!r} stands in it twice")
    return first[id(every[given])]


def check_shapes(name: str, task: Task, own: Mapping[str, nn.Parameter]) -> None:
    """Raise ValueError where the task's view or compression can't take its parameters' shapes."""
    try:
        task.compression.check(task.view.shape([p.shape for p in own.values()]))
    except ValueError as error:
        view = type(task.view).__name__
        raise ValueError(f"task {name!r}, parameters {', '.join(own)}: {view}: {error}") from error


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
    own = local(p)
    low, high = torch.aminmax(own) if own.numel() else (0, 0)  # one pass, without temporaries
    if not (-math.inf < float(low) and float(high) < math.inf):
        raise ValueError(
            f"{place} has {int((~torch.isfinite(own)).sum())} NaN or infinite entries of "
            f"{own.numel()}"
        )
    if not p.requires_grad:
        warnings.warn(
            f"{place} is frozen (requires_grad = False): it can be compressed directly, "
            "but no L step will move it",
            stacklevel=4,
        )


def _warn_of_modules(
    model: nn.Module, name: str, task: Task, own: Mapping[str, nn.Parameter]
) -> None:
    """Warn where the module that has a parameter makes the task mean something unexpected."""
    for module in model.modules():
        given = [key for key, p in own.items() if module._parameters.get("weight") is p]
        if not given:
            continue
        place = f"task {name!r}: parameter {given[0]!r}"
        if linear_like(module) == 1 and task.view == Rows():
            warnings.warn(
                f"{place} is the weight (in, out) of a {type(module).__name__}: Rows() has a row "
                "for each input; Rows(1) has one for each output",
                stacklevel=4,
            )
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            row = module.padding_idx
            if _moves_zeros(task) and _shared(task, own, given[0], row):
                warnings.warn(
                    f"{place} is of an Embedding with padding_idx = {row}: that row is no longer 0 "
                    f"after {type(task.compression).__name__}, which has no value 0; "
                    "give the task the view Rows(), or a compression that keeps zeros",
                    stacklevel=4,
                )


def _moves_zeros(task: Task) -> bool:
    """Whether the compression has no value 0 that it keeps for zeros."""
    compression = task.compression
    if isinstance(compression, FixedCodebook):
        return 0 not in compression.values
    return isinstance(compression, Binary | Codebook | VectorCodebook)


def _shared(task: Task, own: Mapping[str, nn.Parameter], name: str, row: int) -> bool:
    """Whether the row is all 0, and in one problem of the compression with other weights."""
    if whole(own[name])[row].any():
        return False
    marks = [torch.zeros(p.shape, dtype=torch.bool) for p in own.values()]
    marks[list(own).index(name)][row] = True
    dims = 2 if isinstance(task.compression, VectorCodebook) else 1  # of a problem
    arrays = blocks(task.view.forward(marks))
    problems = [x.reshape(-1, math.prod(x.shape[-dims:])) for x in arrays]
    return any(bool((p.any(-1) & ~p.all(-1)).any()) for p in problems)
