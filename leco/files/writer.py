"""Tensors, Thetas and options as nodes of the description, with the tensors' bytes beside."""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from leco.coding.tensors import encode
from leco.compressions.stored import untold
from leco.files.container import DTYPES, ENTRY, RAW, Payload

# bytes from which a float tensor that no coding makes shorter is worth an entry of its own
NATIVE = 4096


class Writer:
    """Makes nodes of fields; collects their bytes in `payloads`.

    Args:
        taken: names of entries that the file has already.
    """

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self.payloads: list[Payload] = []
        self._entries = {ENTRY, "__metadata__", *taken}

    def field(self, value: Any, name: str) -> Any:
        """The node of a Theta, or of a field of one."""
        if isinstance(value, Tensor):
            return self.tensor(value, name)
        if hasattr(value, "_fields"):
            named = zip(value._fields, value, strict=True)
            return {type(value).__name__: [self.field(v, f"{name}.{own}") for own, v in named]}
        if isinstance(value, tuple):
            return [self.field(member, f"{name}.{index}") for index, member in enumerate(value)]
        return {"v": described(value)} if dataclasses.is_dataclass(value) else value

    def rest(self, tensors: dict[str, Tensor]) -> dict[str, Any]:
        """Nodes of tensors in no task, by name. Small ones of one type and a like name (all running
        means) are coded as one, under the name of the first."""
        # alike: of one type, with the same last part of the name
        pools: dict[Any, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            check_tensor(name, value)
            alike = (value.dtype, name.rpartition(".")[2]) if value.nbytes < NATIVE else name
            pools.setdefault(alike, {})[name] = value
        # a node for each
        found = {}
        for pool in pools.values():
            first = next(iter(pool))
            if len(pool) == 1:
                found[first] = self.tensor(pool[first], first)
                continue
            whole = self.tensor(torch.cat([value.reshape(-1) for value in pool.values()]), first)
            shapes = {name: list(value.shape) for name, value in pool.items()}
            found[first] = {"p": [whole, shapes]}
        return found

    def tensor(self, value: Tensor, name: str) -> Any:
        """The node of a tensor."""
        check_tensor(name, value)
        value = value.detach().cpu().contiguous()
        kind, shape = str(value.dtype).removeprefix("torch."), list(value.shape)
        payload, coding = encode(value)
        if coding == RAW and value.is_floating_point() and value.nbytes >= NATIVE:
            while name in self._entries:
                name += "_"
            self._entries.add(name)
            self.payloads.append(Payload(value, name))
            return {"t": [kind, shape, name]}
        self.payloads.append(Payload(payload))
        return {"t": [kind, shape, payload.numel(), coding]}


def check_tensor(name: str, value: Tensor) -> None:
    """Raise ValueError, naming the tensor, where a file can't hold it."""
    if is_lazy(value):
        raise ValueError(
            f"leco.save: {name!r} is an uninitialized parameter of a lazy module; "
            "run the model on a batch first"
        )
    if value.is_meta:
        raise ValueError(f"leco.save: {name!r} is on the meta device and has no values")
    if value.layout != torch.strided:
        raise ValueError(f"leco.save: {name!r} is {value.layout}; a file holds dense tensors")
    if value.dtype not in DTYPES.values():
        raise ValueError(
            f"leco.save: {name!r} is of {value.dtype}; a file holds {', '.join(DTYPES)}"
        )


def described(value: Any) -> Any:
    """A dataclass as [name, options]. Functions are described by name, so that equal nets make
    equal files."""
    if dataclasses.is_dataclass(value):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
        told = {name: described(own) for name, own in fields.items() if not untold(name, own)}
        return [type(value).__name__, told]
    if isinstance(value, (bool, int, float, str, type(None))):
        return str(value) if isinstance(value, float) and not math.isfinite(value) else value
    if isinstance(value, (tuple, list)):
        few = len(value) <= 64
        return [described(member) for member in value] if few else f"{len(value)} values"
    return getattr(value, "__qualname__", type(value).__qualname__)
