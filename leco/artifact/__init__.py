"""The file: Thetas, their description and all other weights, in one safetensors file. Its reported size is its length.

Nothing in it is executed: forms and views are looked up in fixed lists, and sizes are checked before memory is taken; every tensor has a
checksum. `container` has the bytes, `contents` the checks, `breakdown` tables for people.

The description: for each task its parameters and their shapes, the view, the compression (for people) and the Theta; the other tensors; which
names share a tensor. A Theta is {form: [fields]}, a tensor {"t": [dtype, shape, bytes, coding]}, or {"t": [dtype, shape, entry]} where it stands
as it is, several that are coded as one {"p": [tensor, {name: shape}]}, a view {"v": [name, options]}, a tuple a list.
"""

import dataclasses
import math
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from leco.algorithm import LC
from leco.artifact.container import DTYPES, ENTRY, RAW, Container, Payload, opened, write
from leco.artifact.contents import Contents, contents, decoded, part
from leco.coding import encode
from leco.compressed import Compressed
from leco.layers.packed import pack
from leco.record import Snapshot
from leco.theta import THETAS
from leco.views import VIEWS

NATIVE = 4096  # bytes from which a float tensor that no coding makes shorter is worth an entry of its own


def save(path: str | os.PathLike[str], lc: LC, snapshot: Snapshot | None = None, dtype: torch.dtype | None = None) -> int:
    """Write the compressed net to a safetensors file and return its length in bytes. The file is written beside and renamed.

    Args:
        lc: whose Thetas are written, with the other weights and buffers of its model as they are (inside `lc.compressed(batches)`: with
            recalibrated batch-norm statistics).
        snapshot: write this one instead, such as `leco.run(...).best`.
        dtype: round the wider floats in no task (biases, norms, statistics, layers left out) to torch.float16 or torch.bfloat16.

    Raises:
        ValueError: no Theta yet; another dtype; a value that `dtype` can't hold; a tensor of a type that the file has not.

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
        raise ValueError(f"leco.save: dtype = {dtype} must be torch.float16, torch.bfloat16 or None")
    net = snapshot or Snapshot(lc.thetas, lc.rest())
    if not net.thetas:
        raise ValueError("leco.save: there is no Theta yet; set lc.mu first, which makes the direct compression")
    file, tasks = _Writer(), {}
    for name, theta in net.thetas.items():
        tasks[name] = {
            "params": {n: list(lc.params[n].shape) for n in lc.names[name]},
            "view": _describe(lc.tasks[name].view),
            "compression": _describe(lc.tasks[name].compression),
            "theta": file.field(theta, name),
        }
    rest, tied, first = dict[str, Tensor](), {}, {}
    for name, value in lc.model.state_dict(keep_vars=True).items():  # a snapshot's copies know nothing of ties; a task has the first of the names
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
        raise ValueError(f"leco.save: {name!r} has the entry {float(value[lost][0]):g}; {dtype} holds at most {bound:g} (save with dtype=None)")
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
            return {type(value).__name__: [self.field(member, f"{name}.{part}") for part, member in zip(value._fields, value, strict=True)]}
        if isinstance(value, tuple):
            return [self.field(member, f"{name}.{index}") for index, member in enumerate(value)]
        return {"v": _describe(value)} if dataclasses.is_dataclass(value) else value

    def rest(self, tensors: dict[str, Tensor]) -> dict[str, Any]:
        """By name. Small ones of one type and a like name (all running means) are coded as one, under the name of the first."""
        pools: dict[Any, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            alike = (value.dtype, name.rpartition(".")[2]) if value.nbytes < NATIVE else name
            pools.setdefault(alike, {})[name] = value
        found = {}
        for pool in pools.values():
            first = next(iter(pool))
            found[first] = self.tensor(torch.cat([value.reshape(-1) for value in pool.values()]) if len(pool) > 1 else pool[first], first)
            if len(pool) > 1:
                found[first] = {"p": [found[first], {name: list(value.shape) for name, value in pool.items()}]}
        return found

    def tensor(self, value: Tensor, name: str) -> Any:
        value = value.detach().cpu().contiguous()
        kind, shape = str(value.dtype).removeprefix("torch."), list(value.shape)
        if kind not in DTYPES:
            raise ValueError(f"leco.save: {name!r} is of {value.dtype}; a file holds {', '.join(DTYPES)}")
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
        return [type(value).__name__, {field.name: _describe(getattr(value, field.name)) for field in dataclasses.fields(value) if field.init}]
    if isinstance(value, (bool, int, float, str, type(None))):
        return str(value) if isinstance(value, float) and not math.isfinite(value) else value
    if isinstance(value, (tuple, list)):
        return [_describe(member) for member in value] if len(value) <= 64 else f"{len(value)} values"
    return getattr(value, "__qualname__", type(value).__qualname__)


def load(path: str | os.PathLike[str], model: nn.Module, forms: Sequence[type] = (), views: Sequence[type] = (), packed: bool = False) -> nn.Module:
    """Put the compressed net of a file into `model`, at w = Delta(Theta), and return it. Needs the architecture, not the training script.

    Args:
        model: a net of the same architecture, with any weights.
        forms: Theta classes of your own that the file uses, beside the library's.
        views: view classes of your own, likewise.
        packed: return what `leco.pack` makes of `model` then, a net whose layers compute from Theta.

    Raises:
        ValueError: not a file of leco, a version or form that is not known, damaged contents, or another architecture; `model` is unchanged.
    """
    state = {name: value for name, value in model.state_dict(keep_vars=True).items() if isinstance(value, Tensor)}
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
    """Delta(Theta) by parameter, of the shapes that the file says: forms of a user's own may give others."""
    deltas = task.deltas()
    for name, shape in task.shapes.items():
        if deltas[name].shape != shape or not deltas[name].is_floating_point():
            raise ValueError(f"theta gives {name!r} as {deltas[name].dtype} of shape {tuple(deltas[name].shape)}, not as floats of {tuple(shape)}")
    return deltas


def thetas(path: str | os.PathLike[str], forms: Sequence[type] = (), views: Sequence[type] = ()) -> dict[str, Compressed]:
    """The Thetas of a file by task, with the parameters that they are of and the views, without a model.

    Raises:
        ValueError: as `load`; more than 2^22 weights and 256 for each byte of the file.
    """
    with opened(path) as file:
        found = contents(file, (*THETAS, *forms), (*VIEWS, *views), None)
        return {name: decoded(file, found, name) for name in found.tasks}


class Stream(NamedTuple):
    """One tensor of a file, or what the file needs besides. `kind` is "theta", "rest" or "overhead", `coding` its name ("raw": bytes as they are)."""

    task: str
    field: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int
    coding: str
    kind: str


def streams(path: str | os.PathLike[str], forms: Sequence[type] = (), views: Sequence[type] = ()) -> list[Stream]:
    """What each byte of a file is for: its header, description and checksums, then its tensors in order. The bytes sum to its length."""
    with opened(path) as file:
        return streams_of(file, contents(file, (*THETAS, *forms), (*VIEWS, *views), None))


def streams_of(file: Container, found: Contents) -> list[Stream]:
    """The same of an open file."""
    overhead = {"header": file.header_bytes, "description": file.description_bytes, "checksums": file.checksum_bytes}
    rows = [Stream("", name, "", (), length, "", "overhead") for name, length in overhead.items()]
    for kind, tensors in (*(("theta", found.stored[name]) for name in found.tasks), ("rest", found.rest.values())):
        for t in tensors:
            rows.append(Stream(t.task, t.field, str(t.dtype).removeprefix("torch."), tuple(t.shape), t.length, str(t.coding.get("name")), kind))
    return rows


def describe(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a file says of itself: its tasks with their parameters, views, compressions and forms, the tensors in no task, and all lengths.

    Raises:
        ValueError: as `load`, for the header and the description.
    """
    with opened(path) as file:
        return file.description


def dense_bytes(model: nn.Module) -> int:
    """Bytes of the model's distinct parameters and buffers as they are: what compression ratios are against."""
    distinct = {id(value): value for value in model.state_dict(keep_vars=True).values() if isinstance(value, Tensor)}
    return sum(value.nbytes for value in distinct.values())
