"""What is in a file, found from its description alone: the Thetas with tensors that take no memory
(torch's meta device), checked against each other, against their views' shapes and against the
model. Only what is found sound here is read.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from leco.algorithm.compressed import Compressed
from leco.files.container import Container, Pooled, Stored
from leco.files.limits import DEPTH, UNSEEN, Allowance, check_contents, sizes
from leco.theta import CPFactors, shape_of
from leco.theta.tree import with_leaves

Shapes = dict[str, dict[str, torch.Size]]
State = Mapping[str, Tensor]


class Contents(NamedTuple):
    """Tasks whose Thetas have meta tensors; where their tensors, and all others, are in the file;
    which name shares a tensor with which."""

    tasks: dict[str, Compressed]
    stored: dict[str, list[Stored]]
    rest: dict[str, Stored | Pooled]
    tied: dict[str, str]


def contents(
    file: Container, forms: Sequence[type], views: Sequence[type], state: State | None
) -> Contents:
    """What is in a file, for a model of this state or for none. Raises ValueError with the part
    that is damaged or of another architecture."""
    description = file.description
    shapes = _shapes(description["tasks"])
    with part("the rest"):
        pools = {name: _pool(name, node) for name, node in description["rest"].items()}
    own = [name for group in (*shapes.values(), *pools.values()) for name in group]
    if len(set(own)) < len(own):
        raise ValueError("its description is damaged: a parameter stands twice in it")
    if state is not None:
        _check_names(own, shapes, description["tied"], state)
    found = Contents({}, {}, {}, description["tied"])
    for name, task in description["tasks"].items():
        with part(f"task {name!r}"):
            reader = _Reader(file, name, shapes[name].values(), forms, views)
            found.tasks[name] = Compressed(
                shapes[name], reader.view(task["view"]), reader.theta(task["theta"])
            )
            found.stored[name] = reader.stored
            _check_shape(found.tasks[name])
    with part("the rest"):
        for name, pool in pools.items():
            found.rest.update(_declared(file, name, description["rest"][name], pool))
    file.settle()
    if state is None:
        _check_size(
            [
                *(shape for task in shapes.values() for shape in task.values()),
                *(s.shape for s in found.rest.values()),
            ],
            file.length,
        )
    for name, value in (state or {}).items():
        if name in found.rest:
            _check_tensor(name, found.rest[name], value)
    return found


def decoded(file: Container, found: Contents, name: str) -> Compressed:
    """A task with its Theta read, and what its integers say checked."""
    task = found.tasks[name]
    with part(f"task {name!r}"):
        theta = with_leaves(task.theta, (file.read(stored) for stored in found.stored[name]))
        check_contents(theta)
    return task._replace(theta=theta)


@contextmanager
def part(name: str) -> Iterator[None]:
    """Whatever goes wrong inside, forms and views of a user's own included, is a ValueError that
    says which part of the file it is."""
    try:
        yield
    except Exception as error:
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(f"{name} is damaged: {kind}{str(error)[:500]}") from error


def _shapes(tasks: dict[str, Any]) -> Shapes:
    shapes: Shapes = {}
    for name, task in tasks.items():
        with part(f"task {name!r}"):
            if set(task) != {"params", "view", "compression", "theta"}:
                raise ValueError(
                    f"it must have params, view, compression and theta, not {sorted(task)[:5]}"
                )
            shapes[name] = {n: torch.Size(sizes(shape)) for n, shape in task["params"].items()}
    return shapes


def _pool(name: str, node: dict[str, Any]) -> dict[str, torch.Size | None]:
    """The names of a node of the rest, with their shapes where they are coded as one."""
    if set(node) != {"p"}:
        return {name: None}
    _, members = node["p"]
    if type(members) is not dict or name not in members:
        raise ValueError(f"{name} must be one of several tensors, not {str(members)[:100]}")
    return {member: torch.Size(sizes(shape)) for member, shape in members.items()}


def _declared(
    file: Container, name: str, node: dict[str, Any], pool: dict[str, torch.Size | None]
) -> dict[str, Stored | Pooled]:
    if "t" in node:
        return {name: file.declare("", name, node)}
    whole, start, found = (
        file.declare("", f"{name} with {len(pool) - 1} others", node["p"][0]),
        0,
        {},
    )
    for member, shape in pool.items():
        assert shape is not None
        found[member] = Pooled(whole, member, shape, start)
        start += shape.numel()
    if list(whole.shape) != [start]:
        raise ValueError(
            f"{whole.field} have {start} entries, what they are coded as {list(whole.shape)}"
        )
    return found


def _check_size(shapes: Iterable[torch.Size], file_bytes: int) -> None:
    entries, most = sum(shape.numel() for shape in shapes), UNSEEN + 256 * file_bytes
    if entries > most:
        raise ValueError(
            f"it claims {entries} weights; without a model, a file of {file_bytes} bytes may have {most}"
        )


def _check_names(own: list[str], shapes: Shapes, tied: dict[str, Any], state: State) -> None:
    """Every tensor of the model once, each parameter in a task with the model's shape."""
    # a tied weight stands in the file under one of its names
    filled = {id(state[name]) for name in (*own, *tied) if name in state}
    missing = [name for name, value in state.items() if id(value) not in filled]
    unknown = [name for name in (*own, *tied) if name not in state]
    if missing or unknown:
        raise ValueError(
            f"it is of another architecture: the file lacks {missing[:3]} and has {unknown[:3]} beside what the model has"
        )
    if len({id(state[name]) for name in own}) < len(own):
        raise ValueError(
            "it is of another architecture: it has two tensors for one that the model has tied"
        )
    names, holders = set(own), {id(state[name]): name for name in own}
    for name, first in tied.items():
        if (
            type(first) is not str
            or first not in names
            or state[first].shape != state[name].shape
            or holders.get(id(state[name]), first) != first
        ):
            raise ValueError(
                f"it is of another architecture: {name!r} is tied to {str(first)[:100]!r}"
            )
    for task in shapes.values():
        for name, shape in task.items():
            _same(name, shape, state[name].shape)


def _check_tensor(name: str, stored: Stored | Pooled, own: Tensor) -> None:
    _same(name, stored.shape, own.shape)
    if stored.dtype != own.dtype and not (
        stored.dtype.is_floating_point and own.dtype.is_floating_point
    ):
        raise ValueError(
            f"it is of another architecture: {name!r} is {stored.dtype} in the file and {own.dtype} in the model"
        )


def _same(name: str, shape: torch.Size, own: torch.Size) -> None:
    if shape != own:
        raise ValueError(
            f"it is of another architecture: {name!r} is {tuple(shape)} in the file and {tuple(own)} in the model"
        )


def _check_shape(task: Compressed) -> None:
    expected = task.view.shape(list(task.shapes.values()))
    if _knows_its_shape(task.theta) and task.theta.shape() != expected:  # pyright: ignore[reportAttributeAccessIssue]
        raise ValueError(
            f"theta is of shape {task.theta.shape()}, its parameters are of {expected}"
        )  # pyright: ignore[reportAttributeAccessIssue]


def _knows_its_shape(field: Any) -> bool:
    """Whether a Theta, and all in it, has `shape()`, as the library's have."""
    return not isinstance(field, tuple) or (
        (hasattr(field, "shape") or not hasattr(field, "_fields"))
        and all(map(_knows_its_shape, field))
    )


class _Reader:
    """Fields of one task from nodes, on the meta device. `stored` lists their tensors in order."""

    def __init__(
        self,
        file: Container,
        task: str,
        shapes: Iterable[torch.Size],
        forms: Sequence[type],
        views: Sequence[type],
    ):
        self._file, self._task, self._allowance = (
            file,
            task,
            Allowance(sum(shape.numel() for shape in shapes)),
        )
        self._forms, self._views = (
            {found.__name__: found for found in known} for known in (forms, views)
        )
        self.stored: list[Stored] = []

    def theta(self, node: Any) -> Any:
        field = self._field(node, "theta", 0)
        if not hasattr(field, "decompress"):
            raise ValueError(f"theta must be a form, not {str(node)[:100]}")
        return field

    def _field(self, node: Any, name: str, depth: int) -> Any:
        if depth > DEPTH:
            raise ValueError(f"{name[:100]}...: forms may be nested {DEPTH} deep")
        if type(node) is list:
            return tuple(
                self._field(member, f"{name}.{index}", depth + 1)
                for index, member in enumerate(node)
            )
        if type(node) in (int, float):
            return node
        if type(node) is not dict or len(node) != 1:
            raise ValueError(
                f"{name} must be a tensor, a form, a view, a number or a list of these, not {str(node)[:100]}"
            )
        ((kind, value),) = node.items()
        if kind == "t":
            return self._tensor(node, name)
        return self.view(value) if kind == "v" else self._form(kind, value, name, depth)

    def _form(self, kind: str, members: Any, name: str, depth: int) -> Any:
        if kind not in self._forms:
            raise ValueError(
                f"unknown form of Theta {kind!r}; known are {sorted(self._forms)} (see `forms`)"
            )
        form: Any = self._forms[kind]
        if type(members) is not list or len(members) != len(form._fields):
            raise ValueError(f"{name} needs the fields {', '.join(form._fields)} of {kind}")
        theta = form(
            *(
                self._field(member, f"{name}.{own}", depth + 1)
                for own, member in zip(form._fields, members, strict=True)
            )
        )
        if _knows_its_shape(theta):
            shape = theta.shape()
            shapes = shape if shape and isinstance(shape[0], tuple) else (shape,)
            if max(map(len, shapes), default=0) > 64:
                raise ValueError(f"{name} has more than 64 dimensions")
            self._allowance.make(sum(map(math.prod, shapes)))
            if isinstance(theta, CPFactors):
                sides = (
                    math.prod(shape_of(factor)[0] for factor in half) for half in theta.halves()
                )
                self._allowance.make(shape_of(theta.factors[0])[1] * sum(sides))
        return theta

    def view(self, node: Any) -> Any:
        name, options = node
        if name not in self._views:
            raise ValueError(
                f"unknown view {name!r}; known are {sorted(self._views)} (see `views`)"
            )
        return self._views[name](**{option: _tuples(value) for option, value in options.items()})

    def _tensor(self, node: dict[str, Any], name: str) -> Tensor:
        stored = self._file.declare(self._task, name, node)
        self._allowance.claim(stored.shape, stored.dtype.itemsize, stored.length)
        self.stored.append(stored)
        return torch.empty(stored.shape, dtype=stored.dtype, device="meta")


def _tuples(value: Any) -> Any:
    return tuple(_tuples(member) for member in value) if isinstance(value, list) else value
