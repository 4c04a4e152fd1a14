"""What is in a file, found from its description alone.

The Thetas have tensors that take no memory (torch's meta device). They are checked against each
other, against the shapes of their views and against the model. A tensor is read only after that.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from leco.algorithm.compressed import Compressed
from leco.coding.steps import Steps, finished, side_by_side
from leco.files.container import Pooled, Stored
from leco.files.fields import Fields, check_contents, check_shape
from leco.files.limits import UNSEEN, sizes
from leco.files.reader import Container
from leco.files.target import Target
from leco.theta.tree import with_leaves

AHEAD = 2**26
"""Bytes of the tensors of Thetas that are read at once."""
Shapes = dict[str, dict[str, torch.Size]]
Pool = dict[str, torch.Size | None]
"""Names of the rest under one node, with their shapes where they are coded as one."""


class Contents(NamedTuple):
    """Tasks whose Thetas have meta tensors; where their tensors, and all others, are in the file;
    which name shares a tensor with which."""

    tasks: dict[str, Compressed]
    stored: dict[str, list[Stored]]
    rest: dict[str, Stored | Pooled]
    tied: dict[str, str]


def contents(
    file: Container, forms: Sequence[type], views: Sequence[type], target: Target | None = None
) -> Contents:
    """What is in a file, for a model or for none. Raises ValueError with the part that is damaged
    or of another architecture."""
    description = file.description
    # the names, before anything else
    shapes = _shapes(description["tasks"])
    with damage_named("the rest"):
        pools = {name: _pool(name, node) for name, node in description["rest"].items()}
    rest = [name for pool in pools.values() for name in pool]
    own = [*(name for task in shapes.values() for name in task), *rest]
    if len(set(own)) < len(own):
        raise ValueError("its description is damaged: a parameter stands twice in it")
    if target is not None:
        target.match(shapes, rest, description["tied"])
    # the tensors, in order
    found = Contents({}, {}, {}, description["tied"])
    for name, own_shapes in shapes.items():
        fields = Fields(file, name, own_shapes.values(), forms, views)
        _declare_task(file, found, fields, name, own_shapes)
    with damage_named("the rest"):
        for name, pool in pools.items():
            found.rest.update(_declared(file, name, description["rest"][name], pool))
    file.settle()
    # their sizes
    if target is None or not target.strict:
        _check_size(found, file.length)
    if target is not None:
        for name, stored in found.rest.items():
            target.takes(name, stored)
    return found


def decoded(
    file: Container, found: Contents, names: Iterable[str]
) -> Iterator[tuple[str, Compressed]]:
    """The tasks by name, with their Thetas read, and their integers checked. As many tasks are read
    at once as have tensors of up to `AHEAD` bytes together."""
    for batch in _batches(found, names):
        stored = [(name, own) for name in batch for own in found.stored[name]]
        read = deque(finished(side_by_side(_reading(file, *each) for each in stored)))
        tensors = (read.popleft() for _ in stored)  # not held any longer than needed
        for name in batch:
            task = found.tasks[name]
            with damage_named(f"task {name!r}"):
                theta = with_leaves(task.theta, tensors)
                check_contents(theta)
            yield name, task._replace(theta=theta)


def _batches(found: Contents, names: Iterable[str]) -> Iterator[list[str]]:
    """The names, as many at a time as have tensors of up to `AHEAD` bytes."""
    batch, held = list[str](), 0
    for name in names:
        own = sum(stored.shape.numel() * stored.dtype.itemsize for stored in found.stored[name])
        if batch and held + own > AHEAD:
            yield batch
            batch, held = [], 0
        batch.append(name)
        held += own
    if batch:
        yield batch


def _reading(file: Container, task: str, stored: Stored) -> Steps[Tensor]:
    """The reading of a tensor of a task."""
    with damage_named(f"task {task!r}"):
        return (yield from file.reading(stored))


@contextmanager
def damage_named(name: str) -> Iterator[None]:
    """Turn whatever goes wrong inside, forms and views of a user's own included, into a ValueError
    that says which part of the file it is."""
    try:
        yield
    except Exception as error:
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(f"{name} is damaged: {kind}{str(error)[:500]}") from error


def _shapes(tasks: dict[str, Any]) -> Shapes:
    shapes: Shapes = {}
    for name, task in tasks.items():
        with damage_named(f"task {name!r}"):
            if set(task) != {"params", "view", "compression", "theta"}:
                raise ValueError(
                    f"it must have params, view, compression and theta, not {sorted(task)[:5]}"
                )
            shapes[name] = {n: torch.Size(sizes(shape)) for n, shape in task["params"].items()}
    return shapes


def _declare_task(
    file: Container, found: Contents, fields: Fields, name: str, shapes: Mapping[str, torch.Size]
) -> None:
    """Add a task to what is found."""
    task = file.description["tasks"][name]
    with damage_named(f"task {name!r}"):
        view, theta = fields.view(task["view"]), fields.theta(task["theta"])
        found.tasks[name] = Compressed(dict(shapes), view, theta)
        found.stored[name] = fields.stored
        check_shape(theta, view.shape(list(shapes.values())))


def _pool(name: str, node: dict[str, Any]) -> Pool:
    """The names under a node of the rest."""
    if set(node) != {"p"}:
        return {name: None}
    _, members = node["p"]
    if type(members) is not dict or name not in members:
        raise ValueError(f"{name} must be one of several tensors, not {str(members)[:100]}")
    return {member: torch.Size(sizes(shape)) for member, shape in members.items()}


def _declared(
    file: Container, name: str, node: dict[str, Any], pool: Pool
) -> dict[str, Stored | Pooled]:
    """The tensors under a node of the rest."""
    if "t" in node:
        return {name: file.declare("", name, node)}
    whole = file.declare("", f"{name} with {len(pool) - 1} others", node["p"][0])
    start, found = 0, {}
    for member, shape in pool.items():
        assert shape is not None
        found[member] = Pooled(whole, member, shape, start)
        start += shape.numel()
    if list(whole.shape) != [start]:
        raise ValueError(
            f"{whole.field} have {start} entries, what they are coded as {list(whole.shape)}"
        )
    return found


def _check_size(found: Contents, file_bytes: int) -> None:
    """Without a model that bounds them, the weights are bounded by the file."""
    params: Iterable[torch.Size] = (
        s for task in found.tasks.values() for s in task.shapes.values()
    )
    entries = sum(s.numel() for s in params) + sum(s.shape.numel() for s in found.rest.values())
    most = UNSEEN + 256 * file_bytes
    if entries > most:
        raise ValueError(
            f"it claims {entries} weights; without a model, "
            f"a file of {file_bytes} bytes may have {most}"
        )
