"""The state of an LC as plain dicts, and its checks when it comes back."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from leco.compressions.protocol import Compression
from leco.task import Task, check_shapes
from leco.theta import THETAS, Theta
from leco.theta.tree import theta_from_state, theta_state
from leco.views import VIEWS, array_shape


def label(value: Any) -> str:
    """A compression or view in words, without the addresses of functions."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def described(thetas: Mapping[str, Theta]) -> dict[str, Any]:
    """Thetas as dicts of tensors and numbers, by task."""
    return {name: theta_state(theta) for name, theta in thetas.items()}


def checked(
    saved: Mapping[str, Any],
    tasks: Mapping[str, Task],
    params: Mapping[str, Mapping[str, nn.Parameter]],
    multipliers: Mapping[str, Tensor],
) -> dict[str, Theta]:
    """The Thetas of a saved state. Raises ValueError where the state is of other tasks."""
    if saved["thetas"] and set(saved["thetas"]) != set(tasks):
        raise ValueError(
            f"LC: the state is of tasks {sorted(saved['thetas'])}, this LC has {sorted(tasks)}"
        )
    if set(saved["multipliers"]) != set(multipliers):
        raise ValueError(
            f"LC: the state has multipliers of {sorted(saved['multipliers'])}, this LC of "
            f"{sorted(multipliers)}"
        )
    for name, value in saved["multipliers"].items():
        if value.shape != multipliers[name].shape:
            raise ValueError(
                f"LC: {name!r} has shape {tuple(multipliers[name].shape)}, the state's multipliers "
                f"{tuple(value.shape)}"
            )
    thetas = restored(saved["thetas"], tasks, params)
    for name, theta in thetas.items():
        expected = tasks[name].view.shape([p.shape for p in params[name].values()])
        got = array_shape(theta.decompress())
        if got != expected:
            raise ValueError(
                f"LC: task {name!r} has shape {_plain(expected)}, the state's Theta {_plain(got)}"
            )
    return thetas


def restored(
    saved: Mapping[str, Any],
    tasks: Mapping[str, Task],
    params: Mapping[str, Mapping[str, nn.Parameter]],
) -> dict[str, Theta]:
    """Thetas from their dicts: of the library's forms, or of those that a compression lists as
    `forms`; on the devices of the tasks' first parameters."""
    thetas = {}
    for name, state in saved.items():
        compression = tasks[name].compression
        forms = (*THETAS, *getattr(compression, "forms", ()))
        views = (*VIEWS, *getattr(compression, "views", ()))
        device = next(iter(params[name].values())).device
        thetas[name] = theta_from_state(state, forms, device, views)
    return thetas


def with_compressions(
    tasks: Mapping[str, Task],
    compressions: Mapping[str, Compression[Any]],
    params: Mapping[str, Mapping[str, nn.Parameter]],
) -> dict[str, Task]:
    """The tasks with other compressions of the same kinds. Raises as `LC.set_compressions`."""
    changed = dict(tasks)
    for name, compression in compressions.items():
        if name not in tasks:
            raise ValueError(
                f"LC: set_compressions: there is no task {name!r}; there are {', '.join(tasks)}"
            )
        before = tasks[name].compression
        if type(compression) is not type(before):
            raise TypeError(
                f"LC: set_compressions: task {name!r} is compressed by {before!r}; {compression!r} "
                "is of another kind"
            )
        if compression != before:
            changed[name] = replace(tasks[name], compression=compression)
            check_shapes(name, changed[name], params[name])
    return changed


def _plain(shape: Any) -> tuple[Any, ...]:
    return tuple(n if isinstance(n, int) else tuple(n) for n in shape)
