"""What a net is called with: tensors in order, or arguments by name."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

Inputs = Tensor | Sequence[Tensor] | Mapping[str, Any]


class Given(tuple[Any, ...]):
    """The arguments of a call, in order; `names` are theirs, or () where they have none."""

    names: tuple[str, ...]

    def __new__(cls, values: Sequence[Any], names: Sequence[str] = ()) -> "Given":
        made = super().__new__(cls, tuple(values))
        made.names = tuple(names)
        return made

    def mapped(self, function: Callable[[Tensor], Tensor]) -> "Given":
        """The same, with a function of each tensor in its place."""
        return Given([function(x) if isinstance(x, Tensor) else x for x in self], self.names)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(x for x in self if isinstance(x, Tensor))

    def whole(self) -> Any:
        """As an example that a user gives: a dict where they have names, else a tuple."""
        return dict(zip(self.names, self, strict=True)) if self.names else tuple(self)


def given(inputs: Inputs) -> Given:
    """The arguments of an example: a tensor, tensors in order, or a dict of arguments by name."""
    if isinstance(inputs, Given):
        return inputs
    if isinstance(inputs, Mapping):
        return Given(list(inputs.values()), list(inputs))
    return Given([inputs] if isinstance(inputs, Tensor) else list(inputs))


def call(model: nn.Module, inputs: Inputs) -> Any:
    """The net's outputs."""
    own = given(inputs)
    return model(**own.whole()) if own.names else model(*own)
