"""A compressed task by itself: its parameters, the view, the Theta.

A file gives these; packed layers and exports are made from them.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from leco.algorithm.lc import LC
from leco.theta import Theta
from leco.views import View


class Compressed(NamedTuple):
    """Parameters by name with their shapes, the view that makes them one array, and the Theta of
    that array."""

    shapes: dict[str, torch.Size]
    view: View
    theta: Theta

    def deltas(self) -> dict[str, Tensor]:
        """Delta(Theta), by parameter name."""
        return dict(
            zip(
                self.shapes,
                self.view.backward(self.theta.decompress(), list(self.shapes.values())),
                strict=True,
            )
        )


def compressed_tasks(source: LC | Mapping[str, Compressed]) -> dict[str, Compressed]:
    """The compressed tasks of an `LC`, by task name; a mapping is returned as it is.

    Raises:
        ValueError: no Theta yet; a parameter that the model has replaced since the LC was made.

    >>> import leco, torch
    >>> task = leco.Task("weight", leco.Vector(), leco.Binary())
    >>> lc = leco.LC(torch.nn.Linear(4, 2), {"all": task})
    >>> lc.mu = 1.0
    >>> leco.algorithm.compressed.compressed_tasks(lc)["all"].shapes
    {'weight': torch.Size([2, 4])}
    """
    if not isinstance(source, LC):
        return dict(source)
    if not source.thetas:
        raise ValueError(
            "there is no Theta yet; set lc.mu first, which makes the direct compression"
        )
    source.check_current()
    return {
        task: Compressed(
            {name: source.params[name].shape for name in names},
            source.tasks[task].view,
            source.thetas[task],
        )
        for task, names in source.names.items()
    }
