"""Layers of torch with several weights, of which some are packed: LSTM, GRU, RNN and multi-head
attention."""

from typing import Any

from torch import Tensor, nn

from leco.layers.packed_weight import PackedWeight


class PackedWeights(nn.Module):
    """A layer of torch, some of whose weights are decoded where they are read, by their names."""

    packed: nn.ModuleDict

    def __getattr__(self, name: str) -> Any:
        packed = self.__dict__["_modules"].get("packed")
        if packed is not None and name in packed:
            return packed[name]()
        return super().__getattr__(name)

    def extra_repr(self) -> str:
        own = (f"{name}: {weight.extra_repr()}" for name, weight in self.packed.items())
        return "; ".join(filter(None, [super().extra_repr(), *own]))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"


class PackedRecurrent(PackedWeights, nn.RNNBase):
    """A recurrent layer: torch reads all weights from one list at each call."""

    @property
    def _flat_weights(self) -> list[Tensor]:
        return [getattr(self, name) for name in self._flat_weights_names]

    @_flat_weights.setter
    def _flat_weights(self, weights: list[Tensor]) -> None:
        """torch renews its list, which is not kept here."""

    def flatten_parameters(self) -> None:
        """There is nothing to flatten: the weights are decoded at each call."""


class PackedLSTM(PackedRecurrent, nn.LSTM): ...


class PackedGRU(PackedRecurrent, nn.GRU): ...


class PackedRNN(PackedRecurrent, nn.RNN): ...


class PackedMultiheadAttention(PackedWeights, nn.MultiheadAttention): ...


MANY: dict[type, type] = {
    nn.LSTM: PackedLSTM,
    nn.GRU: PackedGRU,
    nn.RNN: PackedRNN,
    nn.MultiheadAttention: PackedMultiheadAttention,
}


def packed_among(layer: Any, name: str, weight: PackedWeight, known: nn.Module | None) -> Any:
    """`layer` with a packed weight of this name: `known`, which has others already, or a new one.
    Its other parameters are to come."""
    made: Any = known
    if made is None:
        kind: Any = MANY[type(layer)]
        made = kind.__new__(kind)
        kept = {key: value for key, value in vars(layer).items() if key != "_flat_weights"}
        copied = ("_parameters", "_buffers", "_modules")
        made.__dict__ |= kept | {key: dict(kept[key]) for key in copied}
        made.packed = nn.ModuleDict()
    del made._parameters[name]
    made.packed[name] = weight
    return made
