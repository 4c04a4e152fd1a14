"""A tiny transformer, its data and the plain loop that every trainer must equal to the bit."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset

import leco

STEPS, LENGTH = 24, 4  # optimizer steps, and those of an L step
MUS = leco.exponential(0.02, 1.7, STEPS // LENGTH)
RATE = 3e-2


class Sentences(Dataset):
    """Rows of tokens; the label says which of two tokens is the more frequent."""

    def __init__(self, count: int = 64, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        self.tokens = torch.randint(0, 12, (count, 8), generator=generator)
        self.labels = ((self.tokens < 6).sum(1) > 4).long()

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"tokens": self.tokens[index], "labels": self.labels[index]}


class Tiny(nn.Module):
    """An embedding, one transformer layer with dropout, batch norm, a head; returns loss and
    logits."""

    def __init__(self, dropout: float = 0.1):
        super().__init__()
        self.embedding = nn.Embedding(12, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout, batch_first=True)
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 2)

    def forward(self, tokens, labels=None):
        logits = self.head(self.norm(self.layer(self.embedding(tokens)).mean(1)))
        if labels is None:
            return {"logits": logits}
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def tiny(dropout: float = 0.1) -> Tiny:
    torch.manual_seed(7)
    return Tiny(dropout)


def lc_of(model: nn.Module) -> leco.LC:
    """Joint 1-bit weights in the layer, and a sparse head."""
    inner = leco.match(model, "layer.linear*.weight", "layer.self_attn.*weight")
    joint = leco.Task(inner, leco.Vector(), leco.Codebook(4))
    return leco.LC(model, {"layer": joint, "head": leco.Task("head.weight", leco.Rows(), TOP)})


TOP = leco.TopK(4)


def batches(count: int = STEPS, size: int = 8, seed: int = 0):
    """The batches of a run, in order."""
    data = Sentences(seed=seed)
    for k in range(count):
        at = torch.arange(k * size, (k + 1) * size) % len(data)
        yield {"tokens": data.tokens[at], "labels": data.labels[at]}


def state(lc: leco.LC) -> dict[str, torch.Tensor]:
    """Everything that a run moves."""
    found = {f"w {name}": value for name, value in lc.model.state_dict().items()}
    found |= {f"delta {name}": value for name, value in lc.delta.items()}
    return found | {f"lambda {name}": value for name, value in lc.multipliers.items()}


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name
