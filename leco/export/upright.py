"""Tasks whose weights (in, out) are seen as (out, in), as other runtimes hold them."""

from collections.abc import Mapping

from torch import nn

from leco.algorithm.compressed import Compressed, compressed_tasks
from leco.algorithm.lc import LC
from leco.layers.replace import users_of
from leco.layers.sequences import COLUMNS, ROWS
from leco.modules import linear_like


def upright(
    model: nn.Module, compressed: LC | Mapping[str, Compressed]
) -> tuple[dict[str, Compressed], set[str]]:
    """The tasks, and the names of the weights that they have transposed: those of transformers'
    Conv1D, alone in their task, in a view such as `Rows(1)`, which has a row for each output."""
    tasks, names = compressed_tasks(compressed), set[str]()
    for key, (shapes, view, theta) in tasks.items():
        name, *others = shapes
        users = [] if others else users_of(model, name)
        if view in COLUMNS and users and all(linear_like(module) == 1 for module, _ in users):
            shape = shapes[name][::-1]
            tasks[key] = Compressed({name: shape}, ROWS[COLUMNS.index(view)], theta)
            names.add(name)
    return tasks, names
