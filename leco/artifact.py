"""The file: Thetas, their description and all other weights, in one safetensors file. Its reported size is its length.

Metadata key "leco" holds a JSON description: for each task its parameters and their shapes, the view, the form of Theta and how each
field is coded; for each other tensor its name. Integers and masks are coded (`leco.coding`), floats stand as they are. Nothing in it is
executed: forms and views are looked up in fixed lists.
"""

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from leco.algorithm import LC, Snapshot
from leco.coding import decode, encode
from leco.run import atomically
from leco.theta import THETAS
from leco.views import VIEWS

VERSION = 1
DTYPES = {str(t).removeprefix("torch."): t for t in (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)}


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
    tensors: dict[str, Tensor] = {}
    tasks = {}
    for index, (name, theta) in enumerate(net.thetas.items()):
        shapes = {n: list(lc.params[n].shape) for n in lc.names[name]}
        tasks[name] = {
            "params": shapes,
            "view": _describe(lc.tasks[name].view),
            "compression": _describe(lc.tasks[name].compression),
            "form": type(theta).__name__,
            "fields": {f: _write(tensors, f"{index}.{f}", value) for f, value in zip(theta._fields, theta, strict=True)},
        }
    first: dict[int, str] = {}
    tied: dict[str, str] = {}
    for name, live in lc.rest().items():
        if first.setdefault(id(live), name) != name:
            tied[name] = first[id(live)]
            continue
        value = net.rest[name]
        tensors[f"rest.{name}"] = value.detach().cpu().contiguous()
    description = {"version": VERSION, "tasks": tasks, "tied": tied}
    metadata = {"leco": json.dumps(description, separators=(",", ":"), sort_keys=True)}
    atomically(Path(path), lambda temporary: save_file(tensors, temporary, metadata))
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
    description, tensors = _read(path)
    state = {name: value for name, value in model.state_dict(keep_vars=True).items() if isinstance(value, Tensor)}
    values = {name.removeprefix("rest."): value for name, value in tensors.items() if name.startswith("rest.")}
    values |= {name: values[first] for name, first in description["tied"].items()}
    by_name = {form.__name__: form for form in (*THETAS, *forms)}
    for name, task in description["tasks"].items():
        if task["form"] not in by_name:
            raise ValueError(f"{path}: task {name!r} has a Theta of unknown form {task['form']!r}; known are {sorted(by_name)} (see `forms`)")
        shapes = [torch.Size(shape) for shape in task["params"].values()]
        try:
            theta = by_name[task["form"]](**{f: _value(tensors, spec) for f, spec in task["fields"].items()})
            parts = _view(task["view"], views).backward(theta.decompress(), shapes)
        except (RuntimeError, TypeError, KeyError, IndexError, ValueError) as error:
            raise ValueError(f"{path}: task {name!r} is damaged: {error}") from error
        values |= dict(zip(task["params"], parts, strict=True))
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


def _write(tensors: dict[str, Tensor], key: str, value: Any) -> Any:
    """Add a field's tensor to the file; what its description holds."""
    if not isinstance(value, Tensor):
        return {"int": value}
    if value.is_floating_point():
        tensors[key] = value.detach().cpu().contiguous()
        return {"tensor": key}
    coded = encode(value)
    tensors[key] = coded.payload.cpu()
    return {"tensor": key, "dtype": str(value.dtype).removeprefix("torch."), "shape": list(value.shape), "coding": coded.coding}


def _value(tensors: dict[str, Tensor], spec: dict[str, Any]) -> Any:
    if "int" in spec:
        return int(spec["int"])
    if "coding" not in spec:
        return tensors[spec["tensor"]]
    return decode(tensors[spec["tensor"]], spec["coding"], torch.Size(spec["shape"]), DTYPES[spec["dtype"]])


def _describe(value: Any) -> Any:
    """A dataclass as its name and options; functions by name, so that equal nets make equal files."""
    if dataclasses.is_dataclass(value):
        options = {field.name: _describe(getattr(value, field.name)) for field in dataclasses.fields(value) if field.init}
        return {"name": type(value).__name__, "options": options}
    if isinstance(value, (bool, int, float, str, type(None))):
        return value
    if isinstance(value, (tuple, list)):
        return [_describe(member) for member in value] if len(value) <= 64 else f"{len(value)} values"
    return getattr(value, "__qualname__", type(value).__qualname__)


def _view(description: dict[str, Any], views: Sequence[type]) -> Any:
    view = {v.__name__: v for v in (*VIEWS, *views)}[description["name"]]
    return view(**{name: tuple(value) if isinstance(value, list) else value for name, value in description["options"].items()})


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        description = json.loads(metadata["leco"])
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a safetensors file, or is damaged: {error}") from error
    except KeyError as error:
        raise ValueError(f"{path} is a safetensors file, but not one of leco (no metadata 'leco')") from error
    if description.get("version") != VERSION:
        raise ValueError(f"{path} has format version {description.get('version')}; this leco reads version {VERSION}")
    return description, tensors


def dense_bytes(model: nn.Module) -> int:
    """Bytes of the model's distinct parameters and buffers as they are: what compression ratios are against."""
    distinct = {id(value): value for value in model.state_dict(keep_vars=True).values() if isinstance(value, Tensor)}
    return sum(value.nbytes for value in distinct.values())
