"""A small transformer-like net: an embedding that the head shares, blocks with norms, a list of
blocks that are called by name."""

import torch
from torch import Tensor, nn

DOUBLE = torch.float64


class Block(nn.Module):
    def __init__(self, size: int):
        super().__init__()
        self.norm = nn.LayerNorm(size)
        self.query, self.key = nn.Linear(size, size), nn.Linear(size, size)
        self.up, self.down = nn.Linear(size, 2 * size), nn.Linear(2 * size, size, bias=False)

    def forward(self, hidden_states: Tensor, mask: Tensor | None = None) -> tuple[Tensor, None]:
        x = self.norm(hidden_states)
        mixed = torch.softmax(self.query(x) @ self.key(x).mT, -1) @ x
        if mask is not None:
            mixed = mixed * mask
        out = self.down(torch.relu(self.up(x + mixed)))
        return hidden_states + out, None


class Net(nn.Module):
    """Tokens (N, T) to scores."""

    def __init__(self, blocks: int = 3, size: int = 8, vocabulary: int = 12):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, size)
        self.layers = nn.ModuleList(Block(size) for _ in range(blocks))
        self.norm = nn.LayerNorm(size)
        self.head = nn.Linear(size, vocabulary, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.embed(tokens)
        for layer in self.layers:
            x, _ = layer(hidden_states=x, mask=mask)
        return self.head(self.norm(x))


def net(**sizes: int) -> Net:
    torch.manual_seed(0)
    return Net(**sizes).double().train()


def batches(count: int = 4) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(12, (count, 2, 10), generator=generator)
    return [{"tokens": t, "mask": torch.tensor(0.5, dtype=DOUBLE)} for t in tokens]
