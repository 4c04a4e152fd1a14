"""The file: Thetas, their description and all other weights, in one safetensors file. Its reported size is its length.

Float tensors of 4 kB or more stand in it as they are. The tensor "leco" is one run of bytes: the length of the description, the
description (deflated JSON), and the payloads of all other tensors in the order in which the description names them: integers and masks
coded (`leco.coding`), small floats as they are. Nothing in it is executed: forms and views are looked up in fixed lists.

The description: for each task its parameters and their shapes, the view, the compression (for people) and the Theta; the other tensors; which
names share a tensor. A Theta is {form: [fields]}, a tensor {"t": [dtype, shape, bytes, coding]} or the key of one that stands as it is, a
view {"v": [name, options]}, a tuple a list.
"""

import dataclasses
import json
import math
import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from leco.algorithm import LC, Snapshot
from leco.coding import decode, encode
from leco.run import atomically
from leco.theta import THETAS, Theta
from leco.views import VIEWS

VERSION = 1
NATIVE = 4096  # bytes from which a float tensor is worth an entry of its own
INTEGERS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
DTYPES = {str(t).removeprefix("torch."): t for t in (*INTEGERS, torch.float16, torch.bfloat16, torch.float32, torch.float64)}
WORDS = (  # of descriptions, so that a short one deflates too; part of the format
    b'{"version":1,"tasks":{"all":{"params":{".weight":[".bias":[],"view":["Matrix",{"rows":[0]}]["Groups",{"size":["Rows",{"dim":0}]'
    b'"Kernel","Blocks","compression":["Budget",{"members":[["Part",{"view":["Vector",{}],"compression":["EntropyCodebook",{"alpha":1.0,"k":16,'
    b'"zero":true}],"at":[0],"unit":1.0}]],"limit":}]"theta":{"Sum":[[{"Term":[{"ZeroCodes":[{"t":["uint8",[{"name":"entropy","base":{"name":"digits",'
    b'"base":]},{"t":["float32",[]},{"v":["Vector",{}]},[0]]},"Sparse":[{"t":["bool","Codes":"Scaled":"Factors":],"tied":{},"rest":{".bias":{"t":['
    b'"float32",[10],40]},".weight":}}'
)


def save(path: str | os.PathLike[str], lc: LC, snapshot: Snapshot | None = None) -> int:
    """Write the compressed net to a safetensors file and return its length in bytes. The file is written beside and renamed.

    Args:
        lc: whose Thetas are written, with the other weights and buffers of its model as they are (inside `lc.compressed(batches)`: with
            recalibrated batch-norm statistics).
        snapshot: write this one instead, such as `leco.run(...).best`.

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
    net = snapshot or Snapshot(lc.thetas, lc.rest())
    if not net.thetas:
        raise ValueError("leco.save: there is no Theta yet; set lc.mu first, which makes the direct compression")
    file = _Writer()
    tasks = {}
    for name, theta in net.thetas.items():
        tasks[name] = {
            "params": {n: list(lc.params[n].shape) for n in lc.names[name]},
            "view": _describe(lc.tasks[name].view),
            "compression": _describe(lc.tasks[name].compression),
            "theta": file.field(theta, name),
        }
    rest, tied, first = {}, {}, {}
    for name, value in lc.rest().items():  # a snapshot's copies know nothing of ties
        if id(value) in first:
            tied[name] = first[id(value)]
            continue
        first[id(value)] = name
        rest[name] = file.tensor(net.rest[name], name)
    description = {"version": VERSION, "tasks": tasks, "tied": tied, "rest": rest}
    content = bytearray(_deflate(description) + b"".join(file.payloads))
    tensors = {"leco": torch.frombuffer(content, dtype=torch.uint8), **file.tensors}
    atomically(Path(path), lambda temporary: save_file(tensors, temporary))
    return Path(path).stat().st_size


def load(path: str | os.PathLike[str], model: nn.Module, forms: Sequence[type] = (), views: Sequence[type] = ()) -> nn.Module:
    """Put the compressed net of a file into `model`, at w = Delta(Theta), and return it. Needs the architecture, not the training script.

    Args:
        model: a net of the same architecture, with any weights.
        forms: Theta classes of your own that the file uses, beside the library's.
        views: view classes of your own, likewise.

    Raises:
        ValueError: not a file of leco, a version or form that is not known, damaged contents, or another architecture; `model` is unchanged.
    """
    description, content, tensors = _read(path)
    file = _Reader(content, tensors, (*THETAS, *forms), (*VIEWS, *views))
    state = {name: value for name, value in model.state_dict(keep_vars=True).items() if isinstance(value, Tensor)}
    values: dict[str, Tensor] = {}
    for name, task in description["tasks"].items():
        shapes = [torch.Size(shape) for shape in task["params"].values()]
        try:
            parts = file.view(task["view"]).backward(file.field(task["theta"]).decompress(), shapes)
            values |= dict(zip(task["params"], parts, strict=True))
        except (RuntimeError, TypeError, AttributeError, LookupError, ValueError) as error:
            raise ValueError(f"{path}: task {name!r} is damaged: {error}") from error
    try:
        values |= {name: file.field(node) for name, node in description["rest"].items()}
        file.end()
    except (RuntimeError, TypeError, LookupError, ValueError) as error:
        raise ValueError(f"{path}: the tensors in no task are damaged: {error}") from error
    values |= {name: values[first] for name, first in description["tied"].items()}
    filled = {id(state[name]) for name in values if name in state}  # a tied weight stands in the file under one of its names
    missing = [name for name, value in state.items() if id(value) not in filled]
    unknown = [name for name in values if name not in state]
    if missing or unknown:
        raise ValueError(f"{path} is of another architecture: the file lacks {missing[:3]} and has {unknown[:3]} beside what the model has")
    for name, value in values.items():
        if value.shape != state[name].shape:
            shapes = f"{tuple(value.shape)} in the file and {tuple(state[name].shape)} in the model"
            raise ValueError(f"{path} is of another architecture: {name!r} is {shapes}")
    with torch.no_grad():
        for name, value in values.items():
            state[name].copy_(value)
    return model


class _Writer:
    """Fields as nodes of the description; their bytes in `payloads`, or `tensors` of their own."""

    def __init__(self) -> None:
        self.payloads: list[bytes] = []
        self.tensors: dict[str, Tensor] = {}

    def field(self, value: Any, name: str) -> Any:
        if isinstance(value, Tensor):
            return self.tensor(value, name, coded=True)
        if hasattr(value, "_fields"):
            return {type(value).__name__: [self.field(member, f"{name}.{part}") for part, member in zip(value._fields, value, strict=True)]}
        if isinstance(value, tuple):
            return [self.field(member, f"{name}.{index}") for index, member in enumerate(value)]
        return {"v": _describe(value)} if dataclasses.is_dataclass(value) else value

    def tensor(self, value: Tensor, name: str, coded: bool = False) -> Any:
        value = value.detach().cpu().contiguous()
        if value.is_floating_point() and value.nbytes >= NATIVE:
            while name in self.tensors or name == "leco":
                name += "_"
            self.tensors[name] = value
            return name
        coding = []
        payload = value.reshape(-1).view(torch.uint8) if value.numel() else torch.zeros(0, dtype=torch.uint8)
        if coded and not value.is_floating_point():
            payload, described = encode(value)
            coding = [described]
        self.payloads.append(payload.cpu().numpy().tobytes())
        return {"t": [str(value.dtype).removeprefix("torch."), list(value.shape), payload.numel(), *coding]}


class _Reader:
    """The other way round; payloads are taken in the order in which they were written."""

    def __init__(self, content: Tensor, tensors: dict[str, Tensor], forms: Sequence[type], views: Sequence[type]):
        self._content, self._at, self._tensors = content, 0, tensors
        self._forms, self._views = ({found.__name__: found for found in known} for known in (forms, views))

    def field(self, node: Any) -> Any:
        if isinstance(node, str):
            return self._tensors[node]
        if isinstance(node, list):
            return tuple(self.field(member) for member in node)
        if isinstance(node, (int, float)):
            return node
        ((kind, value),) = node.items()
        if kind == "t":
            return self._tensor(*value)
        if kind == "v":
            return self.view(value)
        if kind not in self._forms:
            raise ValueError(f"unknown form of Theta {kind!r}; known are {sorted(self._forms)} (see `forms`)")
        return cast(Theta, self._forms[kind](*(self.field(member) for member in value)))

    def view(self, described: list[Any]) -> Any:
        name, options = described
        if name not in self._views:
            raise ValueError(f"unknown view {name!r}; known are {sorted(self._views)} (see `views`)")
        return self._views[name](**{option: _tuples(value) for option, value in options.items()})

    def _tensor(self, dtype: str, shape: list[int], length: int, coding: dict[str, Any] | None = None) -> Tensor:
        payload = self._content[self._at : self._at + length]
        if not 0 <= length == len(payload):
            raise ValueError(f"a tensor of {length} bytes is cut at {len(payload)}")
        self._at += length
        if coding is not None:
            return decode(payload, coding, torch.Size(shape), DTYPES[dtype])
        if math.prod(shape) * DTYPES[dtype].itemsize != length:
            raise ValueError(f"{length} bytes do not hold {shape} entries of {dtype}")
        return payload.clone().view(DTYPES[dtype]).reshape(shape) if length else torch.zeros(shape, dtype=DTYPES[dtype])

    def end(self) -> None:
        if self._at != len(self._content):
            raise ValueError(f"{len(self._content) - self._at} bytes are left over")


def _tuples(value: Any) -> Any:
    return tuple(_tuples(member) for member in value) if isinstance(value, list) else value


def _describe(value: Any) -> Any:
    """A dataclass as [name, options]; functions by name, so that equal nets make equal files."""
    if dataclasses.is_dataclass(value):
        return [type(value).__name__, {field.name: _describe(getattr(value, field.name)) for field in dataclasses.fields(value) if field.init}]
    if isinstance(value, (bool, int, float, str, type(None))):
        return value
    if isinstance(value, (tuple, list)):
        return [_describe(member) for member in value] if len(value) <= 64 else f"{len(value)} values"
    return getattr(value, "__qualname__", type(value).__qualname__)


def describe(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a file says of itself: its tasks with their parameters, views, compressions and forms, the tensors in no task, and all lengths.

    Raises:
        ValueError: as `load`.
    """
    return _read(path)[0]


def _deflate(description: dict[str, Any]) -> bytes:
    deflate = zlib.compressobj(9, wbits=-15, zdict=WORDS)
    packed = deflate.compress(json.dumps(description, separators=(",", ":")).encode()) + deflate.flush()
    return struct.pack("<I", len(packed)) + packed


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], Tensor, dict[str, Tensor]]:
    """The description, the payloads after it, and the tensors that stand as they are."""
    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file, or is damaged: {error}") from error
    if "leco" not in tensors:
        raise ValueError(f"{path} is a safetensors file, but not one of leco (no tensor 'leco')")
    content = tensors.pop("leco")
    try:
        (length,) = struct.unpack("<I", content[:4].numpy().tobytes())
        inflate = zlib.decompressobj(wbits=-15, zdict=WORDS)
        description = json.loads(inflate.decompress(content[4 : 4 + length].numpy().tobytes()))
        version = description["version"]
    except (struct.error, zlib.error, ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{path}: the description is damaged: {error}") from error
    if version != VERSION:
        raise ValueError(f"{path} has format version {version}; this leco reads version {VERSION}")
    return description, content[4 + length :], tensors


def dense_bytes(model: nn.Module) -> int:
    """Bytes of the model's distinct parameters and buffers as they are: what compression ratios are against."""
    distinct = {id(value): value for value in model.state_dict(keep_vars=True).values() if isinstance(value, Tensor)}
    return sum(value.nbytes for value in distinct.values())
