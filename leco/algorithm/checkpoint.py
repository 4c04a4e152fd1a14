"""The checkpoint of a run: written whole or not at all, and checked whole before it is used."""

import copy
import math
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from leco.algorithm.lc import LC
from leco.algorithm.record import Record
from leco.algorithm.state import label
from leco.atomic import atomically
from leco.names import named_state, unwrapped

KIND = "leco run 1"


class DivergedError(ValueError):
    """NaN or infinity in the model."""


class Resumable(Protocol):
    """What a checkpoint needs of a run."""

    lc: LC
    stateful: dict[str, Any]
    records: list[Record]
    bounds: Any

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, saved: Mapping[str, Any]) -> None: ...


def save(run: Resumable, path: Path) -> None:
    """Write the run, its model, what the L step uses, and the state of the random generators."""
    state = {
        "kind": KIND,
        "tasks": _described(run.lc, {}),
        "run": run.state_dict(),
        "model": run.lc.model.state_dict(),
        "stateful": {name: part.state_dict() for name, part in run.stateful.items()},
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    atomically(path, lambda temporary: torch.save(state, temporary))


def resume(run: Resumable, path: Path) -> bool:
    """Load the checkpoint where there is one; False where there is none.

    Raises:
        ValueError: the file is damaged, no checkpoint of a run, or of another run; it says which.
            Nothing is changed then.
    """
    if not path.exists():
        return False
    try:
        state = _read(path)
        _check(run, state)
        _apply(run, state)
    except Exception as error:
        if isinstance(error, OSError):
            raise
        said = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ValueError(f"leco.run: checkpoint {path}: {said}") from error
    return True


def check_finite(model: nn.Module) -> None:
    """Raise DivergedError for a parameter with NaN or infinity, or a buffer with NaN."""
    for name, value in named_state(model).items():
        if value.is_floating_point() and value.numel() and not value.is_meta:
            low, high = (float(end) for end in torch.aminmax(value.detach()))
            bad = math.isnan(low) or (isinstance(value, nn.Parameter) and math.isinf(high - low))
            if bad and not bool(torch.isfinite(value).all()):
                raise DivergedError(
                    f"{name!r} holds NaN or infinite entries; the L step diverged (lower its "
                    "learning rate)"
                )


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers of the model, not copied."""
    return named_state(model)


def _read(path: Path) -> dict[str, Any]:
    """The content of a file whose checksums are right."""
    with path.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                damaged = archive.testzip()
        except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, RuntimeError) as error:
            raise ValueError(f"it is damaged, or no checkpoint ({error})") from error
        if damaged is not None:
            raise ValueError(f"it is damaged: {damaged} does not have its checksum")
        file.seek(0)
        state = torch.load(file, map_location="cpu", weights_only=True)
    wanted = {"kind", "tasks", "run", "model", "stateful", "rng", "cuda_rng"}
    if not isinstance(state, dict) or state.get("kind") != KIND or set(state) != wanted:
        raise ValueError("it is no checkpoint of this version of leco.run")
    return state


def _check(run: Resumable, state: Mapping[str, Any]) -> None:
    """Raise ValueError where the checkpoint is of another run."""
    # Tasks
    done = max(len(state["run"]["records"]) - 2, 0)
    own, saved = _described(run.lc, run.bounds(done)), state["tasks"]
    if set(own) != set(saved):
        raise ValueError(f"it is of the tasks {sorted(saved)}, not of {sorted(own)}")
    for name, described in saved.items():
        for was, now in zip(described, own[name], strict=True):
            if was != now:
                raise ValueError(f"its task {name!r} has {was}, the present one has {now}")
    # What the L step uses
    if set(state["stateful"]) != set(run.stateful):
        raise ValueError(
            f"it has the state of {sorted(state['stateful'])}, not of {sorted(run.stateful)}"
        )
    # The model
    sizes = {n: v.shape for n, v in run.lc.model.state_dict().items() if isinstance(v, Tensor)}
    found = {n: v.shape for n, v in state["model"].items() if isinstance(v, Tensor)}
    different = sorted(n for n in sizes.keys() | found.keys() if sizes.get(n) != found.get(n))
    if different:
        raise ValueError(
            f"it is of another model: {_listed(different)} differ in shape, or are in one of both"
        )


def _apply(run: Resumable, state: Mapping[str, Any]) -> None:
    """Load everything. Where a part refuses, those before it get their states back."""
    before = {name: copy.deepcopy(part.state_dict()) for name, part in run.stateful.items()}
    try:
        for name, part in run.stateful.items():
            part.load_state_dict(state["stateful"][name])
        run.load_state_dict(state["run"])
    except Exception:
        for name, part in run.stateful.items():
            part.load_state_dict(before[name])
        raise
    unwrapped(run.lc.model).load_state_dict(state["model"])
    run.lc.belong()
    torch.set_rng_state(state["rng"])
    if state["cuda_rng"]:
        torch.cuda.set_rng_state_all(state["cuda_rng"])


def _described(lc: LC, changed: Mapping[str, Any]) -> dict[str, list[str]]:
    """Of each task: its parameters, view and compression."""
    return {
        name: [
            ", ".join(lc.names[name]),
            label(task.view),
            label(changed.get(name, task.compression)),
        ]
        for name, task in lc.tasks.items()
    }


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(map(repr, names[:5])) + more
