"""A net with blocks in order, small, and what its layers see."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

WIDE = 64


class Block(nn.Module):
    """Two layers that share their input, and a third."""

    def __init__(self, pair: bool) -> None:
        super().__init__()
        self.a, self.b, self.down = (nn.Linear(WIDE, WIDE, bias=False) for _ in range(3))
        self.pair = pair

    def forward(self, hidden_states: Tensor, scale: float = 1.0) -> Any:
        x = torch.tanh(hidden_states)
        found = hidden_states + scale * self.down(torch.relu(self.a(x)) * self.b(x))
        return (found,) if self.pair else found


class Net(nn.Module):
    """Like a transformer, as far as the benchmark looks."""

    def __init__(self, pair: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, WIDE)
        self.model = nn.Module()
        self.model.layers = nn.ModuleList(Block(pair) for _ in range(3))
        self.head = nn.Linear(WIDE, 11, bias=False)

    def forward(self, input_ids: Tensor, use_cache: bool) -> Any:
        assert not use_cache
        hidden = self.embedding(input_ids)
        for block in self.model.layers:
            found = block(hidden, scale=0.5)
            hidden = found[0] if isinstance(found, tuple) else found
        return SimpleNamespace(logits=self.head(hidden))


def net(pair: bool = False) -> Any:
    torch.manual_seed(0)
    return Net(pair).double()


SEQUENCES = torch.randint(11, (4, 20), generator=torch.Generator().manual_seed(1))


def seen(model: Net, name: str) -> Tensor:
    """H of a layer by a pass of the whole net."""
    inputs: list[Tensor] = []
    handle = model.get_submodule(name).register_forward_pre_hook(lambda _, x: inputs.append(x[0]))
    with torch.no_grad():
        model(SEQUENCES, use_cache=False)
    handle.remove()
    x = inputs[0].flatten(0, 1)
    return x.T @ x / len(x)
