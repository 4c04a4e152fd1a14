"""A compressed net as a file has it: the description, and the bytes of the tensors."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from leco.algorithm.lc import LC
from leco.algorithm.record import Snapshot
from leco.distributed import is_sharded, whole
from leco.files.arguments import check_kind
from leco.files.container import Payload
from leco.files.writer import Writer, check_tensor, described
from leco.names import plain, unwrapped


class Rest(NamedTuple):
    """The tensors in no task; which name shares the tensor of another; what a file leaves out, in
    words."""

    tensors: dict[str, Tensor]
    tied: dict[str, str]
    left_out: list[str]

    def rounded(self, dtype: torch.dtype | None) -> "Rest":
        """The wider floats in `dtype`; as they are for None. Raises ValueError where `dtype` can't
        hold an entry."""
        if dtype is None:
            return self
        tensors = {name: _rounded(name, value, dtype) for name, value in self.tensors.items()}
        return self._replace(tensors=tensors)


class Written(NamedTuple):
    """The description of a file, and its tensors in order."""

    description: dict[str, Any]
    payloads: list[Payload]


def check_net(call: str, lc: object, snapshot: object, dtype: object) -> None:
    """Raise TypeError or ValueError unless the arguments of `call` say which net is written, and
    how."""
    check_kind(call, "lc", lc, LC, "a leco.LC")
    check_kind(call, "snapshot", snapshot, Snapshot | None, "a leco.Snapshot or None")
    if dtype not in (None, torch.float16, torch.bfloat16):
        raise ValueError(
            f"leco.{call.split('(')[0]}: dtype = {dtype} must be torch.float16, torch.bfloat16 or "
            "None"
        )


def present(call: str, lc: LC, snapshot: Snapshot | None = None) -> Snapshot:
    """The snapshot, or the net as it is now, with whole tensors. Raises ValueError where there is
    no Theta yet."""
    lc.check_current()
    net = snapshot or Snapshot(lc.thetas, lc.rest())
    if not net.thetas:
        raise ValueError(
            f"leco.{call.split('(')[0]}: there is no Theta yet; set lc.mu first, which makes the "
            "direct compression"
        )
    rest = net.rest.items()
    return net._replace(rest={n: whole(v) if is_sharded(v) else v for n, v in rest})


def written(lc: LC, net: Snapshot, rest: Rest, without: str | None = None) -> Written:
    """The description and the tensors of a net, but for the Theta of the task `without`, whose node
    is null."""
    file, tasks, made_by = Writer(), {}, net.made_by or {}
    for name, theta in net.thetas.items():
        tasks[name] = {
            "params": {n: list(lc.params[n].shape) for n in lc.names[name]},
            "view": described(lc.tasks[name].view),
            "compression": described(made_by.get(name, lc.tasks[name].compression)),
            "theta": None if name == without else file.field(theta, name),
        }
    description = {"tasks": tasks, "tied": rest.tied, "rest": file.rest(rest.tensors)}
    return Written(description, file.payloads)


def rest_of(model: nn.Module, values: dict[str, Tensor]) -> Rest:
    """What a file has beside the tasks.

    A snapshot's copies do not show ties, so they are taken from the model. A tied weight in a task
    has the first of its names.
    """
    rest, tied, first, left_out = dict[str, Tensor](), {}, {}, []
    for own, value in unwrapped(model).state_dict(keep_vars=True).items():
        name = plain(own)
        if not isinstance(value, Tensor):
            kind = type(value).__name__
            text = f"{name!r} is a {kind}, which the file leaves out: it holds tensors only"
            left_out += [] if value is None else [text]
        elif first.setdefault(id(value), name) != name:
            tied[name] = first[id(value)]
        elif name in values:
            check_tensor(name, values[name])
            rest[name] = values[name]
    return Rest(rest, tied, left_out)


def _rounded(name: str, value: Tensor, dtype: torch.dtype) -> Tensor:
    """A wider float tensor in `dtype`. Raises ValueError where it can't hold an entry."""
    if not value.is_floating_point() or value.element_size() <= dtype.itemsize:
        return value
    rounded, bound = value.to(dtype), torch.finfo(dtype).max
    lost = rounded.isinf() & ~value.isinf()
    if lost.any():
        raise ValueError(
            f"leco.save: {name!r} has the entry {float(value[lost][0]):g}; {dtype} holds at most "
            f"{bound:g} (save with dtype=None)"
        )
    return rounded
