"""Qualified names of a model's parameters and buffers, without those of wrappers around it.

DataParallel and DistributedDataParallel put `module.` before every name, torch.compile puts
`_orig_mod.` before the names inside a compiled module. A file of the wrapped net loads into the
bare net, so these parts are left out.
"""

from collections.abc import Collection, Iterator, Mapping

from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

COMPILED = "_orig_mod"


def unwrapped(model: nn.Module) -> nn.Module:
    """The net inside DataParallel, DistributedDataParallel and torch.compile.

    >>> from torch import nn
    >>> from leco.names import unwrapped
    >>> unwrapped(nn.DataParallel(nn.Linear(2, 3)))
    Linear(in_features=2, out_features=3, bias=True)
    """
    while True:
        if isinstance(model, (DataParallel, DistributedDataParallel)):
            model = model.module
        elif COMPILED in model._modules:
            model = model.get_submodule(COMPILED)
        else:
            return model


def plain(name: str) -> str:
    """A qualified name without the parts of compiled modules."""
    return ".".join(part for part in name.split(".") if part != COMPILED)


def known(name: str, names: Collection[str]) -> str:
    """The plain name that `name` stands for among `names`, where it is that of a wrapped net."""
    short = plain(name)
    candidates = (name, short, short.removeprefix("module."))
    return next((candidate for candidate in candidates if candidate in names), name)


def named_parameters(model: nn.Module, *, ties: bool = False) -> dict[str, nn.Parameter]:
    """The parameters of the net inside by plain name; with `ties`, a shared one under each name."""
    every = unwrapped(model).named_parameters(remove_duplicate=not ties)
    return {plain(name): p for name, p in every}


def named_state(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of the net inside by plain name, as `state_dict` has them, without
    copies."""
    return dict(_tensors(unwrapped(model).state_dict(keep_vars=True)))


def _tensors(state: Mapping[str, object]) -> Iterator[tuple[str, Tensor]]:
    for name, value in state.items():
        if isinstance(value, Tensor):
            yield plain(name), value


def parameter_at(model: nn.Module, name: str) -> nn.Parameter | None:
    """The parameter that the net inside has under a plain name now, or None."""
    *path, last = name.split(".")
    module = unwrapped(model)
    for part in path:
        child = module._modules.get(part)
        if child is None:
            return None
        module = unwrapped(child)
    return module._parameters.get(last)


def check_current(model: nn.Module, params: Mapping[str, nn.Parameter]) -> None:
    """Raise ValueError where the model has another parameter, or none, under a name."""
    for name, p in params.items():
        if parameter_at(model, name) is not p:
            raise ValueError(
                f"LC: parameter {name!r} was replaced in the model since the LC was made (by "
                "load_state_dict(assign=True), a new nn.Parameter, weight norm, an adapter, "
                "fully_shard or the like); make a new LC of the model as it is now"
            )
