"""The Theta of a task from its nodes of the description, with tensors that take no memory."""

import functools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from leco.files.container import Stored
from leco.files.limits import DEPTH, Allowance
from leco.files.reader import Container
from leco.theta import Checked, Intermediate, Shaped, shape_of


def check_shape(theta: Any, expected: Any) -> None:
    """Raise ValueError where a Theta that tells its shape has not the one of its parameters."""
    if knows_its_shape(theta) and shape_of(theta) != expected:
        raise ValueError(f"theta is of shape {shape_of(theta)}, its parameters are of {expected}")


def check_contents(field: Any) -> None:
    """Raise ValueError where the integers of a Theta, or of one in it, name values that are not
    there."""
    if isinstance(field, Tensor) or not isinstance(field, tuple):
        return
    for member in field:
        check_contents(member)
    if isinstance(field, Checked):
        field.check()


def knows_its_shape(field: Any) -> bool:
    """Whether a Theta and every Theta in it has `shape()`, as the library's have."""
    return not isinstance(field, tuple) or (
        (_is_shaped(type(field)) or type(field) is tuple) and all(map(knows_its_shape, field))
    )


@functools.cache
def _is_shaped(form: type) -> bool:
    return issubclass(form, Shaped)


class Fields:
    """Fields of one task from nodes, on the meta device. `stored` lists their tensors in order."""

    def __init__(
        self,
        file: Container,
        task: str,
        shapes: Iterable[torch.Size],
        forms: Sequence[type],
        views: Sequence[type],
    ):
        self._file, self._task = file, task
        self._allowance = Allowance(sum(shape.numel() for shape in shapes))
        self._forms = {form.__name__: form for form in forms}
        self._views = {view.__name__: view for view in views}
        self.stored: list[Stored] = []

    def theta(self, node: Any) -> Any:
        """The Theta of the task."""
        field = self._field(node, "theta", 0)
        if type(field) not in self._forms.values():
            raise ValueError(f"theta must be a form, not {str(node)[:100]}")
        return field

    def view(self, node: Any) -> Any:
        """The view [name, options]."""
        name, options = node
        if name not in self._views:
            raise ValueError(
                f"unknown view {name!r}; known are {sorted(self._views)} (see `views`)"
            )
        return self._views[name](**{option: _tuples(value) for option, value in options.items()})

    def _field(self, node: Any, name: str, depth: int) -> Any:
        if depth > DEPTH:
            raise ValueError(f"{name[:100]}...: forms may be nested {DEPTH} deep")
        if type(node) is list:
            members = enumerate(node)
            return tuple(self._field(own, f"{name}.{n}", depth + 1) for n, own in members)
        if type(node) in (int, float):
            return node
        if type(node) is not dict or len(node) != 1:
            raise ValueError(
                f"{name} must be a tensor, a form, a view, a number or a list of these, "
                f"not {str(node)[:100]}"
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
        named = zip(form._fields, members, strict=True)
        theta = form(*(self._field(node, f"{name}.{own}", depth + 1) for own, node in named))
        if knows_its_shape(theta):
            self._allow(theta, name)
        return theta

    def _allow(self, theta: Any, name: str) -> None:
        """Check the sizes of the arrays that are made of a Theta."""
        shape = shape_of(theta)
        shapes = shape if shape and isinstance(shape[0], tuple) else (shape,)
        if max(map(len, shapes), default=0) > 64:
            raise ValueError(f"{name} has more than 64 dimensions")
        self._allowance.make(sum(map(math.prod, shapes)))
        if isinstance(theta, Intermediate):
            self._allowance.make(theta.intermediate())

    def _tensor(self, node: dict[str, Any], name: str) -> Tensor:
        stored = self._file.declare(self._task, name, node)
        self._allowance.claim(stored.shape, stored.dtype.itemsize, stored.length)
        self.stored.append(stored)
        return torch.empty(stored.shape, dtype=stored.dtype, device="meta")


def _tuples(value: Any) -> Any:
    return tuple(_tuples(member) for member in value) if isinstance(value, list) else value
