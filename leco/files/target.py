"""The model that a file is loaded into: which of its tensors the file fills, and the filling."""

import warnings
from collections.abc import Iterable, Mapping, Set
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from leco.distributed import fill_
from leco.files.container import Pooled, Stored
from leco.files.differences import differences, listed
from leco.names import known, plain, unwrapped

Shapes = Mapping[str, Mapping[str, torch.Size]]
EXTRA = "_extra_state"
"""The last part of the name under which a module's `get_extra_state` is in a `state_dict`."""


class Target:
    """A model, and what of a file fits it.

    Args:
        model: the net, or a wrapper around it (`torch.compile`, `DataParallel`, ...).
        strict: raise ValueError where a name or a shape differs; False: fill what fits, and note
            the rest.
    """

    def __init__(self, model: nn.Module, strict: bool = True):
        self.model, self.strict = unwrapped(model), strict
        state = self.model.state_dict(keep_vars=True)
        kept = [own for own in state if isinstance(state[own], Tensor) or _is_extra(own)]
        self.own = {plain(own): own for own in kept}
        """The model's own names by the plain ones."""
        self.state = {name: state[own] for name, own in self.own.items()}
        self.names: dict[str, str] = {}
        """The model's plain name for each name of the file that fills it."""
        self.notes: list[str] = []
        self._made: dict[int, Tensor] = {}
        for name, value in self.state.items():
            if is_lazy(value):
                raise ValueError(
                    f"the model's {name!r} is an uninitialized parameter of a lazy module; "
                    "run the model on a batch first"
                )

    def match(self, tasks: Shapes, rest: Iterable[str], tied: Mapping[str, Any]) -> None:
        """Compare the names in a file, and the shapes of the tasks' parameters, with the model's.

        Args:
            tasks: for each task, the shapes of its parameters.
            rest: names of the tensors in no task.
            tied: names that share the tensor of another name.
        """
        own = [*(name for shapes in tasks.values() for name in shapes), *rest]
        self._match_names([*own, *tied])
        self._match_ties([name for name in own if name in self.names], tied, set(own))
        for shapes in tasks.values():
            for name, shape in shapes.items():
                self.fits(name, shape)

    def _match_names(self, names: list[str]) -> None:
        """Which tensor of the model each name stands for."""
        for name in names:
            own = known(name, self.state)
            if own in self.state:
                self.names[name] = own
        filled = {id(self.state[own]) for own in self.names.values()}
        missing = [
            name
            for name, value in self.state.items()
            if isinstance(value, Tensor) and id(value) not in filled
        ]
        unknown = [name for name in names if name not in self.names]
        if missing or unknown:
            self._differs(differences(names, list(self.state), missing, unknown))

    def _match_ties(self, own: list[str], tied: Mapping[str, Any], known: set[str]) -> None:
        """Whether tensors that the model or the file has tied are one in the other too."""
        holders = {id(self.state[self.names[name]]): name for name in own}
        if len(holders) < len(own):
            raise ValueError(
                "it is of another architecture: it has two tensors for one that the model has tied"
            )
        for name, first in tied.items():
            if type(first) is not str or first not in known:
                raise ValueError(
                    f"it is of another architecture: {name!r} is tied to {str(first)[:100]!r}"
                )
            if name not in self.names:
                continue
            if first not in self.names:
                self._differs(f"{name!r} is tied to {first!r}, which the model does not have")
                del self.names[name]
                continue
            value, other = self.state[self.names[name]], self.state[self.names[first]]
            alike = isinstance(value, Tensor) and isinstance(other, Tensor)
            if not (alike and value.shape == other.shape) or holders.get(id(value), first) != first:
                self._differs(f"{name!r} is tied to {first!r}")
                del self.names[name]

    def _differs(self, what: str) -> None:
        if self.strict:
            raise ValueError(f"it is of another architecture: {what}")
        self.notes.append(what)

    def fits(self, name: str, shape: torch.Size) -> None:
        """Check the shape of a tensor of the file. What does not fit is not filled."""
        value = self._filled(name)
        if value is not None and value.shape != shape:
            self._differs(
                f"{name!r} is {tuple(shape)} in the file and {tuple(value.shape)} in the model"
            )
            del self.names[name]

    def takes(self, name: str, stored: Stored | Pooled) -> None:
        """Check the shape and the type of a tensor in no task."""
        self.fits(name, stored.shape)
        value = self._filled(name)
        if value is None or stored.dtype == value.dtype:
            return
        if not (stored.dtype.is_floating_point and value.dtype.is_floating_point):
            self._differs(f"{name!r} is {stored.dtype} in the file and {value.dtype} in the model")
            del self.names[name]

    def _filled(self, name: str) -> Tensor | None:
        """The tensor of the model that a name of the file fills; None for extra state, which a
        module takes in any shape."""
        own = self.names.get(name)
        return None if own is None or _is_extra(own) else self.state[own]

    def values(self, names: Iterable[str]) -> list[Tensor]:
        """The tensors of the model that names of the file fill."""
        found = (self._filled(name) for name in names if name in self.names)
        return [value for value in found if value is not None]

    def is_new(self, names: Iterable[str]) -> bool:
        """Whether all tensors that these names of the file fill are on the meta device. New ones
        take their places only in `finish`."""
        filled = self.values(names)
        return bool(filled) and all(value.is_meta for value in filled)

    @torch.no_grad()
    def put(self, values: Mapping[str, Tensor], tied: Mapping[str, str]) -> None:
        """Write tensors of a file, by their names in it, into the model, and into what is tied to
        them.

        For a tensor on the meta device this makes a new one on the CPU, which `finish` puts into
        all modules that have it: a tied weight stays one, and a parameter keeps its
        `requires_grad`.
        """
        others = {name: values[first] for name, first in tied.items() if first in values}
        for name, value in values.items():
            self._write(name, value, others=False)
        for name, value in others.items():
            self._write(name, value, others=True)

    def _write(self, name: str, value: Tensor, others: bool) -> None:
        """Write one tensor; `others`: another tensor may have the memory of `value`."""
        old = self._filled(name) if name in self.names else None
        if old is None or id(old) in self._made:
            return
        if old.is_meta:
            self._made[id(old)] = _on_cpu(old, value.clone() if others else value)
        else:
            fill_(old, value)

    def put_extra(self, values: Mapping[str, Tensor]) -> None:
        """Give the modules their extra state. This runs code of the model's own, so do it before
        anything is changed."""
        for name, value in values.items():
            if _is_extra(name) and name in self.names:
                path = self.own[self.names[name]].rpartition(".")[0]
                self.model.get_submodule(path).set_extra_state(value.clone())

    def finish(self, elsewhere: Set[str]) -> None:
        """Put the new tensors into the model, and note what is still on the meta device, but for
        the names of the model whose values are `elsewhere`."""
        _assign(self.model, self._made)
        self._note_meta(elsewhere)

    def _note_meta(self, elsewhere: Set[str]) -> None:
        """Note what is still on the meta device: buffers in no file, and what does not fit."""
        tensors = (*self.model.named_parameters(), *self.model.named_buffers())
        known = {id(self.model.get_parameter(name)) for name in elsewhere}
        left = [name for name, value in tensors if value.is_meta and id(value) not in known]
        if left:
            self.notes.append(f"{listed(left)} are not in the file and stay on the meta device")

    def warn(self, path: Any, stacklevel: int) -> None:
        """Warn, once, of everything that was noted."""
        if self.notes:
            text = f"leco.load: {path} was loaded in part: {'; '.join(self.notes)}"
            warnings.warn(text, stacklevel=stacklevel + 1)


def _is_extra(name: str) -> bool:
    return name.rpartition(".")[2] == EXTRA


def _on_cpu(old: Tensor, value: Tensor) -> Tensor:
    """`value` with the type and the strides of a tensor on the meta device. What has memory of its
    own is not copied."""
    whole = value.untyped_storage().nbytes() == value.nbytes
    same = value.dtype == old.dtype and value.stride() == old.stride()
    fits = whole and same and value.device.type == "cpu"
    new = value
    if not fits:  # empty_like of a tensor on the meta device imports sympy: 30 MB
        new = torch.empty_strided(old.shape, old.stride(), dtype=old.dtype).copy_(value)
    return nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new


def _assign(model: nn.Module, made: Mapping[int, Tensor]) -> None:
    """Put the new tensors in the places of the old ones, which `made` has by their ids."""
    for module in model.modules() if made else ():
        for tensors in (module._parameters, module._buffers):
            for name, old in tensors.items():
                if id(old) in made:
                    tensors[name] = made[id(old)]  # pyright: ignore[reportArgumentType]
