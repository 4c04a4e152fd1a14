"""The file: Thetas, their description and all other weights, in one safetensors file. Its reported
size is its length.

Nothing in it is executed: forms and views are looked up in fixed lists, and sizes are checked
before memory is taken; every tensor has a checksum. `container` has the bytes, `contents` the
checks, `breakdown` tables for people.

The description: for each task its parameters and their shapes, the view, the compression (for
people) and the Theta; the other tensors; which names share a tensor. A Theta is {form: [fields]}, a
tensor {"t": [dtype, shape, bytes, coding]}, or {"t": [dtype, shape, entry]} where it stands as it
is, several that are coded as one {"p": [tensor, {name: shape}]}, a view {"v": [name, options]}, a
tuple a list.
"""

import dataclasses
import math
import os
from typing import Any

import torch
from torch import Tensor, nn

from leco.algorithm.lc import LC
from leco.algorithm.record import Snapshot
from leco.coding.tensors import encode
from leco.files.container import DTYPES, ENTRY, RAW, Payload, write

# bytes from which a float tensor that no coding makes shorter is worth an entry of its own
NATIVE = 4096


def save(
    path: str | os.PathLike[str],
    lc: LC,
    snapshot: Snapshot | None = None,
    dtype: torch.dtype | None = None,
) -> int:
    """Write the compressed net to a safetensors file and return its length in bytes. The file is
    written beside and renamed.

    Args:
        lc: whose Thetas are written, with the other weights and buffers of its model as they are
            (inside `lc.compressed(batches)`: with recalibrated batch-norm statistics).
        snapshot: write this one instead, such as `leco.run(...).best`.
        dtype: round the wider floats in no task (biases, norms, statistics, layers left out) to
            torch.float16 or torch.bfloat16.

    Raises:
        ValueError: no Theta yet; another dtype; a value that `dtype` can't hold; a tensor of a type
            that the file has not.

    >>> import leco, tempfile, torch
    >>> model = torch.nn.Linear(784, 300)
    >>> lc = leco.LC(model, {"fc": leco.Task("weight", leco.Vector(), leco.Binary())})
    >>> lc.mu = 1.0
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     size = leco.save(f"{folder}/model.safetensors", lc)
    ...     same = leco.load(f"{folder}/model.safetensors", torch.nn.Linear(784, 300))
    >>> size < model.weight.numel() * 4 / 25, bool((same.weight == lc.delta["weight"]).all())
    (True, True)
    """
    if dtype not in (None, torch.float16, torch.bfloat16):
        raise ValueError(
            f"leco.save: dtype = {dtype} must be torch.float16, torch.bfloat16 or None"
        )
    if snapshot is None:
        lc.check_saved()
    lc.check_current()
    net = snapshot or Snapshot(lc.thetas, lc.rest())
    if not net.thetas:
        raise ValueError(
            "leco.save: there is no Theta yet; set lc.mu first, which makes the direct compression"
        )
    file, tasks = _Writer(), {}
    for name, theta in net.thetas.items():
        tasks[name] = {
            "params": {n: list(lc.params[n].shape) for n in lc.names[name]},
            "view": _describe(lc.tasks[name].view),
            "compression": _describe(lc.tasks[name].compression),
            "theta": file.field(theta, name),
        }
    rest, tied, first = dict[str, Tensor](), {}, {}
    # a snapshot's copies know nothing of ties; a task has the first of the names
    for name, value in lc.model.state_dict(keep_vars=True).items():
        if not isinstance(value, Tensor) or first.setdefault(id(value), name) != name:
            tied |= {name: first[id(value)]} if isinstance(value, Tensor) else {}
        elif name in net.rest:
            rest[name] = net.rest[name] if dtype is None else _rounded(name, net.rest[name], dtype)
    return write(path, {"tasks": tasks, "tied": tied, "rest": file.rest(rest)}, file.payloads)


def _rounded(name: str, value: Tensor, dtype: torch.dtype) -> Tensor:
    if not value.is_floating_point() or value.element_size() <= dtype.itemsize:
        return value
    rounded, bound = value.to(dtype), torch.finfo(dtype).max
    lost = rounded.isinf() & ~value.isinf()
    if lost.any():
        raise ValueError(
            f"leco.save: {name!r} has the entry {float(value[lost][0]):g}; {dtype} holds at most {bound:g} (save with dtype=None)"
        )
    return rounded


class _Writer:
    """Fields as nodes of the description; their bytes in `payloads`."""

    def __init__(self) -> None:
        self.payloads: list[Payload] = []
        self._entries = {ENTRY, "__metadata__"}

    def field(self, value: Any, name: str) -> Any:
        if isinstance(value, Tensor):
            return self.tensor(value, name)
        if hasattr(value, "_fields"):
            return {
                type(value).__name__: [
                    self.field(member, f"{name}.{part}")
                    for part, member in zip(value._fields, value, strict=True)
                ]
            }
        if isinstance(value, tuple):
            return [self.field(member, f"{name}.{index}") for index, member in enumerate(value)]
        return {"v": _describe(value)} if dataclasses.is_dataclass(value) else value

    def rest(self, tensors: dict[str, Tensor]) -> dict[str, Any]:
        """By name. Small ones of one type and a like name (all running means) are coded as one,
        under the name of the first."""
        pools: dict[Any, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            alike = (value.dtype, name.rpartition(".")[2]) if value.nbytes < NATIVE else name
            pools.setdefault(alike, {})[name] = value
        found = {}
        for pool in pools.values():
            first = next(iter(pool))
            found[first] = self.tensor(
                torch.cat([value.reshape(-1) for value in pool.values()])
                if len(pool) > 1
                else pool[first],
                first,
            )
            if len(pool) > 1:
                found[first] = {
                    "p": [found[first], {name: list(value.shape) for name, value in pool.items()}]
                }
        return found

    def tensor(self, value: Tensor, name: str) -> Any:
        value = value.detach().cpu().contiguous()
        kind, shape = str(value.dtype).removeprefix("torch."), list(value.shape)
        if kind not in DTYPES:
            raise ValueError(
                f"leco.save: {name!r} is of {value.dtype}; a file holds {', '.join(DTYPES)}"
            )
        payload, coding = encode(value)
        if coding == RAW and value.is_floating_point() and value.nbytes >= NATIVE:
            while name in self._entries:
                name += "_"
            self._entries.add(name)
            self.payloads.append(Payload(value, name))
            return {"t": [kind, shape, name]}
        self.payloads.append(Payload(payload))
        return {"t": [kind, shape, payload.numel(), coding]}


def _describe(value: Any) -> Any:
    """A dataclass as [name, options]; functions by name, so that equal nets make equal files."""
    if dataclasses.is_dataclass(value):
        return [
            type(value).__name__,
            {
                field.name: _describe(getattr(value, field.name))
                for field in dataclasses.fields(value)
                if field.init
            },
        ]
    if isinstance(value, (bool, int, float, str, type(None))):
        return str(value) if isinstance(value, float) and not math.isfinite(value) else value
    if isinstance(value, (tuple, list)):
        return (
            [_describe(member) for member in value] if len(value) <= 64 else f"{len(value)} values"
        )
    return getattr(value, "__qualname__", type(value).__qualname__)


def dense_bytes(model: nn.Module) -> int:
    """Bytes of the model's distinct parameters and buffers as they are: what compression ratios are
    against."""
    distinct = {
        id(value): value
        for value in model.state_dict(keep_vars=True).values()
        if isinstance(value, Tensor)
    }
    return sum(value.nbytes for value in distinct.values())
