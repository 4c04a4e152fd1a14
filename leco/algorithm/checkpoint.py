"""The checkpoint of a run: written whole or not at all, and checked whole before it is used."""

import copy
import hashlib
import io
import math
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import torch
from torch import Tensor, nn

import leco.distributed as distributed
from leco.algorithm import run_state
from leco.algorithm.interrupts import uninterrupted
from leco.algorithm.shards import placed_model, placed_state, whole_state
from leco.atomic import atomically
from leco.names import named_state, unwrapped

DIGEST = hashlib.sha256().digest_size  # bytes at the end of a checkpoint
KIND = "leco run 1"
OTHERS = "other_ranks"
"""The random states of the ranks after the first one; not there in files of one process that are
older than this entry."""


class DivergedError(ValueError):
    """NaN or infinity in the model."""


class Resumable(run_state.Stateful, Protocol):
    """What a checkpoint needs of a run."""

    stateful: dict[str, Any]

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, saved: Mapping[str, Any]) -> None: ...


def save(run: Resumable, path: Path) -> None:
    """Write the run, its model, what the L step uses, and the state of the random generators.

    Of several ranks the first one writes, with the random states of all.
    """
    first, *others = distributed.gathered(_random_state())
    content = {
        "run": run.state_dict(),
        "model": unwrapped(run.lc.model).state_dict(),
        "stateful": {name: part.state_dict() for name, part in run.stateful.items()},
    }
    state = {"kind": KIND, **whole_state(content), **first, OTHERS: others}
    if distributed.rank() == 0:
        atomically(path, lambda temporary: _write(state, temporary))
    distributed.wait()


def resume(run: Resumable, path: Path) -> bool:
    """Load the checkpoint where there is one; False where there is none.

    Raises:
        ValueError: the file is damaged, no checkpoint of a run, or of another run; it says which.
            Nothing is changed then.
    """
    if not distributed.together(path.exists):
        return False
    return distributed.together(lambda: _resume(run, path))


def _resume(run: Resumable, path: Path) -> bool:
    try:
        state = _read(path)
        _check(run, state)
        _apply(run, state)
    except Exception as error:
        said = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ValueError(f"leco.run: checkpoint {path}: {said}") from error
    return True


def check_stateful(parts: Mapping[str, Any]) -> None:
    """Raise TypeError where a state can be written but not read back, as by the safe loader of
    torch: it would be found out when a run resumes."""
    for name, part in parts.items():
        file = io.BytesIO()
        torch.save(part.state_dict(), file)
        file.seek(0)
        try:
            torch.load(file, weights_only=True)
        except pickle.UnpicklingError as error:
            raise TypeError(
                f"leco.run: stateful[{name!r}]: its state_dict holds objects that a checkpoint "
                "can't give back; let it hold tensors, numbers, strings, lists and dicts"
            ) from error


def check_finite(model: nn.Module, when: str) -> None:
    """Raise DivergedError for NaN in a parameter or buffer, and for infinity in a parameter that is
    trained.

    Args:
        model: the net.
        when: for the message, such as "after the L step".
    """
    for name, tensor in named_state(model).items():
        value = distributed.local(tensor)
        if value.is_floating_point() and value.numel() and not value.is_meta:
            low, high = (float(end) for end in torch.aminmax(value))
            trained = tensor.requires_grad and math.isinf(high - low)
            if math.isnan(low) or trained:
                what = "NaN" if math.isnan(low) else "infinite"
                kind = "parameter" if isinstance(tensor, nn.Parameter) else "buffer"
                raise DivergedError(f"{kind} {name!r} has {what} entries {when}")


def _write(state: Any, path: str) -> None:
    """The state as torch saves it, and the SHA-256 of that."""
    torch.save(state, path)
    with open(path, "rb+") as file:
        digest = _digest(file, file.seek(0, io.SEEK_END))
        file.write(digest)


def _digest(file: BinaryIO, length: int) -> bytes:
    """The SHA-256 of the first bytes of a file, which is left behind them."""
    found = hashlib.sha256()
    file.seek(0)
    while length > 0:
        part = file.read(min(length, 2**20))
        found.update(part)
        length -= len(part)
    return found.digest()


def _read(path: Path) -> dict[str, Any]:
    """The content of a file whose checksums are right. Raises ValueError for any other file."""
    if path.is_dir():
        raise ValueError("it is a folder")
    with path.open("rb") as file:
        content = max(file.seek(0, io.SEEK_END) - DIGEST, 0)
        if _digest(file, content) != file.read():
            raise ValueError("it is damaged, or no checkpoint: its checksum is wrong")

        # Content
        file.seek(0)
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:
            raise ValueError(f"it is damaged, or no checkpoint ({error})") from error
    wanted = {"kind", "run", "model", "stateful", "rng", "cuda_rng", OTHERS}
    if not isinstance(state, dict) or state.get("kind") != KIND or {*state, OTHERS} != wanted:
        raise ValueError("it is no checkpoint of this version of leco.run")
    return state


def _check(run: Resumable, state: Mapping[str, Any]) -> None:
    """Raise ValueError where the checkpoint is of another run."""
    # Tasks and schedule
    run_state.check(run, state["run"])

    # What the L step uses
    if set(state["stateful"]) != set(run.stateful):
        raise ValueError(
            f"it has the state of {sorted(state['stateful'])}, not of {sorted(run.stateful)}"
        )

    # The model
    sizes, found = _sizes(unwrapped(run.lc.model).state_dict()), _sizes(state["model"])
    different = sorted(n for n in sizes.keys() | found.keys() if sizes.get(n) != found.get(n))
    if different:
        raise ValueError(
            f"it is of another model: {_listed(different)} differ in shape, or are in one of both"
        )


def _apply(run: Resumable, state: Mapping[str, Any]) -> None:
    """Load everything. Where a part refuses, those before it get their states back."""
    model = unwrapped(run.lc.model)
    before = copy.deepcopy([model.state_dict(), *(p.state_dict() for p in run.stateful.values())])
    with uninterrupted():
        try:
            model.load_state_dict(placed_model(model, state["model"]))
            for name, part in run.stateful.items():
                part.load_state_dict(placed_state(part, state["stateful"][name]))
            run.load_state_dict(state["run"])  # as a whole, or not at all
        except BaseException:
            for part, kept in zip([model, *run.stateful.values()], before, strict=True):
                part.load_state_dict(kept)
            raise
        run.lc.belong()
        every = [state, *state.get(OTHERS, [])]
        if distributed.rank() < len(every):  # a further rank goes on with its own
            _set_random_state(every[distributed.rank()])


def _random_state() -> dict[str, Any]:
    """The states of torch's global generators."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"rng": torch.get_rng_state(), "cuda_rng": cuda}


def _set_random_state(state: Mapping[str, Any]) -> None:
    torch.set_rng_state(state["rng"])
    for device, rng in enumerate(state["cuda_rng"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(rng, device)


def _sizes(model: Mapping[str, Any]) -> dict[str, Any]:
    """Of each entry of a `state_dict` its shape; None for what is no tensor."""
    return {n: tuple(v.shape) if isinstance(v, Tensor) else None for n, v in model.items()}


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(map(repr, names[:5])) + more
