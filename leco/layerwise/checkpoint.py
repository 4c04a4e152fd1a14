"""The checkpoint of a calibration: a file for each unit that is done."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import leco.distributed as distributed
from leco.algorithm.state import described, label, restored
from leco.atomic import atomically
from leco.task import Task
from leco.theta import Theta

KIND = "leco calibration 1"


class Checkpoint:
    """A folder with a file for each unit that is done. The first rank writes it, all read it.

    Args:
        folder: it is made where it is not there; None for no checkpoint.
        identity: what the calibration is of, in words: another one's files are refused.
        function: the name that errors begin with.
    """

    def __init__(self, folder: str | Path | None, identity: Any, function: str = "calibrate"):
        self._function = function
        self._folder = None if folder is None else Path(folder)
        self._identity = hashlib.sha256(repr(identity).encode()).hexdigest()
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)

    def save(
        self, unit: str, thetas: Mapping[str, Theta], rest: Mapping[str, Tensor], records: Any
    ) -> None:
        if self._folder is None or distributed.rank() > 0:
            return
        state = {
            "kind": KIND,
            "identity": self._identity,
            "thetas": described(thetas),
            "rest": dict(rest),
            "records": records,
        }
        atomically(self._path(unit), lambda path: torch.save(state, path))

    def load(
        self, unit: str, tasks: Mapping[str, Task], params: Mapping[str, Mapping[str, nn.Parameter]]
    ) -> tuple[dict[str, Theta], dict[str, Tensor], Any] | None:
        """What `save` was given, or None where a rank has no such file.

        Raises:
            ValueError: a file of another calibration, or a damaged one.
        """
        there = self._folder is not None and self._path(unit).exists()
        if not all(distributed.gathered(there)):
            return None
        path = self._path(unit)
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise ValueError(f"{self._function}: checkpoint {path} is damaged ({error})") from error
        if state.get("kind") != KIND or state.get("identity") != self._identity:
            raise ValueError(
                f"{self._function}: checkpoint {path} is of another net, other tasks or other "
                "options; remove the folder, or give another one"
            )
        return restored(state["thetas"], tasks, params), state["rest"], state["records"]

    def _path(self, unit: str) -> Path:
        assert self._folder is not None
        return self._folder / f"{unit.replace('/', '-')}.pt"


def identity_of(tasks: Mapping[str, Task], params: Mapping[str, Tensor], options: Any) -> Any:
    """What tells one calibration from another: tasks, shapes, sums of the weights, options."""
    how = {n: (task.params, label(task.view), label(task.compression)) for n, task in tasks.items()}
    what = {
        n: (tuple(p.shape), float(p.detach().sum(dtype=torch.float64))) for n, p in params.items()
    }
    return how, what, options
