"""Reading a file: the compressed net into a model, or its Thetas alone."""

import os
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from leco.algorithm.compressed import Compressed
from leco.files.container import opened
from leco.files.contents import contents, decoded, part
from leco.layers.packed import pack
from leco.theta import THETAS
from leco.views import VIEWS


def load(
    path: str | os.PathLike[str],
    model: nn.Module,
    forms: Sequence[type] = (),
    views: Sequence[type] = (),
    packed: bool = False,
) -> nn.Module:
    """Put the compressed net of a file into `model`, at w = Delta(Theta), and return it. Needs the
    architecture, not the training script.

    Args:
        model: a net of the same architecture, with any weights.
        forms: Theta classes of your own that the file uses, beside the library's.
        views: view classes of your own, likewise.
        packed: return what `leco.pack` makes of `model` then, a net whose layers compute from
            Theta.

    Raises:
        ValueError: not a file of leco, a version or form that is not known, damaged contents, or
            another architecture; `model` is unchanged.
    """
    state = {
        name: value
        for name, value in model.state_dict(keep_vars=True).items()
        if isinstance(value, Tensor)
    }
    values: dict[str, Tensor] = {}
    tasks: dict[str, Compressed] = {}
    with opened(path) as file:
        found = contents(file, (*THETAS, *forms), (*VIEWS, *views), state)
        for name in found.tasks:
            task = decoded(file, found, name)
            with part(f"task {name!r}"):
                values |= _deltas(task)
            tasks |= {name: task} if packed else {}
        with part("the rest"):
            values |= {name: file.read(stored) for name, stored in found.rest.items()}
    with torch.no_grad():
        for name, value in values.items():
            state[name].copy_(value)
        for name, first in found.tied.items():
            state[name].copy_(values[first])
    return pack(model, tasks) if packed else model


def _deltas(task: Compressed) -> dict[str, Tensor]:
    """Delta(Theta) by parameter, of the shapes that the file says: forms of a user's own may give
    others."""
    deltas = task.deltas()
    for name, shape in task.shapes.items():
        if deltas[name].shape != shape or not deltas[name].is_floating_point():
            raise ValueError(
                f"theta gives {name!r} as {deltas[name].dtype} of shape {tuple(deltas[name].shape)}, not as floats of {tuple(shape)}"
            )
    return deltas


def thetas(
    path: str | os.PathLike[str], forms: Sequence[type] = (), views: Sequence[type] = ()
) -> dict[str, Compressed]:
    """The Thetas of a file by task, with the parameters that they are of and the views, without a
    model.

    Raises:
        ValueError: as `load`; more than 2^22 weights and 256 for each byte of the file.
    """
    with opened(path) as file:
        found = contents(file, (*THETAS, *forms), (*VIEWS, *views), None)
        return {name: decoded(file, found, name) for name in found.tasks}
