"""A limit for the length of the whole file."""

from dataclasses import replace
from typing import Any

import torch

from leco.algorithm.lc import LC
from leco.compressions.budget import Budget
from leco.compressions.checks import check_number
from leco.files.length import Sizes, file_length
from leco.files.writer import Writer, described
from leco.files.written import Written, check_net, present, rest_of, written

CALL = "fit_to_file(lc, limit)"
NEAR = 0.01  # share of the limit by which a file may stay below it and is left as it is


class FileBytes:
    """The length of a net's file as a function of one task's Theta: a `count` for `leco.Budget`.

    All else is as it was when this object was made: the other tasks' Thetas, and the parameters
    and buffers in no task. `leco.fit_to_file` makes it.

    Args:
        task: whose Theta varies.
        rest: the description of the file, with null for that Theta, and all other tensors.
    """

    def __init__(self, task: str, rest: Written) -> None:
        self.task = task
        self._description = rest.description
        self._sizes = Sizes.of(rest.payloads)

    def __repr__(self) -> str:
        return f"FileBytes(task={self.task!r})"

    def __call__(self, theta: Any) -> int:
        # the node and the tensors of Theta
        file = Writer(entry.name for entry in self._sizes.entries)
        node = file.field(theta, self.task)

        # the whole file
        tasks = self._description["tasks"]
        tasks = {**tasks, self.task: {**tasks[self.task], "theta": node}}
        description = {**self._description, "tasks": tasks}
        return file_length(description, self._sizes.joined(Sizes.of(file.payloads)))


def fit_to_file(
    lc: LC, limit: float, task: str | None = None, dtype: torch.dtype | None = None
) -> int:
    """Make the C step of a task with a `leco.Budget` so that the file of the whole net has at most
    `limit` bytes, and return the file's length.

    The file of `leco.save(path, lc, dtype=dtype)` then has that length: Thetas, description,
    checksums and padding, and all parameters and buffers in no task. The Budget gets all that the
    rest of the file leaves of the limit. Nothing changes where the task has this limit already
    and the file takes 99 % to 100 % of it.

    The task keeps the Budget with this limit, so that later C steps stay near it. They take the
    rest of the file as it was in this call. Its length changes as the other tasks' Thetas change,
    by some bytes as biases do, and more where norms leave 0 and 1, which take no bytes. Call this
    function once more before you save.

    Args:
        lc: with Thetas.
        limit: of the file, in bytes.
        task: which one, where several have a Budget. The others' Thetas stay.
        dtype: as in `leco.save`.

    Raises:
        ValueError: no task with a Budget, or several and none named; a limit below the length of
            the file where the Budget buys nothing. Nothing is changed then.

    >>> import torch, leco
    >>> model = torch.nn.Linear(784, 300)
    >>> kept = leco.Part(leco.Vector(), leco.L0Penalty(0), unit=5)
    >>> budget = leco.Budget((kept,), limit=20_000)
    >>> lc = leco.LC(model, {"fc": leco.Task("weight", leco.Vector(), budget)})
    >>> lc.mu = 1.0
    >>> 19_800 <= leco.fit_to_file(lc, 20_000) <= 20_000
    True
    """
    check_net(CALL, lc, None, dtype)
    check_number("fit_to_file: limit", limit)
    net = present(CALL, lc)
    name = _chosen(lc, task)
    before: Any = lc.tasks[name].compression

    # the length as a function of this Theta
    rest = written(lc, net, rest_of(lc.model, net.rest).rounded(dtype), without=name)
    named = described(replace(before, limit=limit, count=FileBytes))
    rest.description["tasks"][name]["compression"] = named
    count = FileBytes(name, rest)

    # a Theta of this limit that still has it
    length = count(lc.thetas[name])
    if described(before) == named and (1 - NEAR) * limit <= length <= limit:
        return length

    # the C step
    try:
        lc.set_compressions({name: replace(before, limit=limit, count=count)})
        lc.c_step(name)
    except BaseException:
        lc.set_compressions({name: before})
        raise
    return count(lc.thetas[name])


def _chosen(lc: LC, task: str | None) -> str:
    """The task with a Budget: the one that is named, or the only one."""
    having = [name for name, own in lc.tasks.items() if isinstance(own.compression, Budget)]
    if task is None and len(having) == 1:
        return having[0]
    if task in having:
        return task
    if task in lc.tasks:
        text = f"task {task!r} is compressed by {lc.tasks[task].compression!r}, not by a Budget"
    elif task is not None:
        text = f"there is no task {task!r}; there are {', '.join(lc.tasks)}"
    elif having:
        text = f"the tasks {', '.join(having)} have a Budget; name the one to change, task=..."
    else:
        text = "no task has a leco.Budget, whose limit could be changed"
    raise ValueError(f"leco.fit_to_file: {text}")
