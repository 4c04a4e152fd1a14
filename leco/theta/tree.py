"""Thetas that hold Thetas: their tensors, the tensors that retraining moves, and their description
by plain dicts, lists, numbers and tensors."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, cast

import torch
from torch import Tensor

from leco.theta import Theta, ZeroCodes, lookup
from leco.views import VIEWS


def leaves(field: Any) -> list[Tensor]:
    """All tensors of a Theta, those of the Thetas in it included, in order."""
    if isinstance(field, Tensor):
        return [field]
    return [leaf for member in field for leaf in leaves(member)] if isinstance(field, tuple) else []


def choices(thetas: Iterable[Theta]) -> list[Tensor]:
    """The discrete tensors of Thetas, indices and masks, which training within the compression
    leaves as they are; behind indices of learned values beside 0, these values."""
    found = list[Tensor]()
    for theta in thetas:
        for form in _forms(theta):
            own = [field for field in form if isinstance(field, Tensor)]
            found += [field for field in own if not field.is_floating_point()]
            if isinstance(form, ZeroCodes):
                found.append(form.codebook)
    return found


def _forms(field: Any) -> Iterator[Any]:
    """A Theta and all Thetas in it."""
    if isinstance(field, tuple):
        if hasattr(field, "_fields"):
            yield field
        for member in field:
            yield from _forms(member)


def share_changed(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    """The share of the indices that differ, and of the places that masks keep that are new, between
    two lists of `choices`; NaN where there are none.

    Where the number of learned values has changed, each new value counts as the old one that is
    nearest to it.
    """
    changed = total = 0
    pairs = list(zip(before, after, strict=False))
    following = [*pairs[1:], (torch.zeros(0), torch.zeros(0))]
    for (old, new), (old_book, new_book) in zip(pairs, following, strict=bool(pairs)):
        if new.is_floating_point():
            continue
        if old.shape != new.shape or old.dtype != new.dtype:  # another candidate of a choice
            changed, total = changed + new.numel(), total + new.numel()
            continue
        if old_book.is_floating_point() and old_book.shape != new_book.shape:
            new = _in_terms_of(old_book, new_book, new)
        kept = old.dtype == torch.bool
        changed += int((new & ~old).sum()) if kept else int((old != new).sum())
        total += int(new.sum()) if kept else new.numel()
    return changed / total if total else math.nan


def _in_terms_of(old: Tensor, new: Tensor, indices: Tensor) -> Tensor:
    """Indices of 0 and the values `new` (..., K), as indices of 0 and the nearest values of
    `old` (..., J)."""
    if not old.shape[-1] or not new.shape[-1]:
        return indices  # 0 is all that both have
    nearest = (new.unsqueeze(-1) - old.unsqueeze(-2)).abs().argmin(-1) + 1
    labels = torch.nn.functional.pad(nearest, (1, 0)).double()  # `lookup` takes floats
    return lookup(labels, indices).to(indices.dtype)


def with_leaves(field: Any, new: Iterator[Tensor]) -> Any:
    """The Theta whose `leaves` are the next ones of `new`."""
    if isinstance(field, Tensor):
        return next(new)
    if not isinstance(field, tuple):
        return field
    members = [with_leaves(member, new) for member in field]
    return cast(Any, type(field))(*members) if hasattr(field, "_fields") else tuple(members)


def free_leaves(theta: Theta) -> list[Tensor]:
    """The float tensors of a Theta, and of the Thetas in it, that stay free."""
    found: list[Tensor] = []
    for name in theta.free():
        field = getattr(theta, name)
        for member in field if type(field) is tuple else (field,):
            found += [member] if isinstance(member, Tensor) else free_leaves(member)
    return found


def with_free_leaves(theta: Theta, new: Sequence[Tensor]) -> Theta:
    """The Theta whose `free_leaves` are `new`."""
    rest = iter(new)

    def fill(field: Any) -> Any:
        if isinstance(field, Tensor):
            return next(rest)
        if type(field) is tuple:
            return tuple(fill(member) for member in field)
        return field._replace(**{name: fill(getattr(field, name)) for name in field.free()})

    filled = fill(theta)
    assert next(rest, None) is None
    return filled


def theta_state(field: Any) -> Any:
    """A Theta as a dict with the name of its form and its fields. Thetas and views in it are
    described in the same way; tensors and ints stay as they are."""
    if hasattr(field, "_fields"):
        return {
            "form": type(field).__name__,
            "fields": {
                name: theta_state(member) for name, member in zip(field._fields, field, strict=True)
            },
        }
    if isinstance(field, tuple):
        return [theta_state(member) for member in field]
    if is_dataclass(field):
        return {
            "view": type(field).__name__,
            "options": {f.name: getattr(field, f.name) for f in fields(field)},
        }
    return field


def theta_from_state(
    state: Any, forms: Sequence[type], device: torch.device, views: Sequence[type] = VIEWS
) -> Any:
    """The Theta that `theta_state` described, on `device`. Raises ValueError for a form or view
    that is not among `forms`, `views`."""
    if isinstance(state, Tensor):
        return state.to(device)
    if isinstance(state, (list, tuple)):
        return tuple(theta_from_state(member, forms, device, views) for member in state)
    if not isinstance(state, Mapping):
        return state
    kind, known = ("form", forms) if "form" in state else ("view", views)
    found = cast(Any, next((f for f in known if f.__name__ == state[kind]), None))
    if found is None:
        raise ValueError(
            f"unknown {'form of Theta' if kind == 'form' else kind} {state[kind]!r}; "
            f"known are {sorted(f.__name__ for f in known)}"
        )
    if kind == "view":
        return found(
            **{
                name: tuple(value) if isinstance(value, list) else value
                for name, value in state["options"].items()
            }
        )
    return found(
        **{
            name: theta_from_state(member, forms, device, views)
            for name, member in state["fields"].items()
        }
    )
