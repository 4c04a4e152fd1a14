"""Nets and tasks that the tests of the algorithm share."""

import torch
from torch import nn

import leco

X = torch.randn(16, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
Y = torch.arange(16) % 3


class Weights(nn.Module):
    """A model that is its parameters."""

    def __init__(self, **values: torch.Tensor):
        super().__init__()
        for name, value in values.items():
            self.register_parameter(name, nn.Parameter(value.clone()))


def quadratic(seed: int = 0, n: int = 6):
    """L(w) = (w - c)'A(w - c)/2 with A positive definite: every L step has a closed form."""
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(n, n, generator=generator, dtype=torch.float64)
    return root @ root.T / n + torch.eye(n, dtype=torch.float64), torch.randn(
        n, generator=generator, dtype=torch.float64
    )


def network(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).to(dtype)


def tasks() -> dict[str, leco.Task]:
    return {
        "first": leco.Task("0.weight", leco.Rows(), leco.Binary()),
        "second": leco.Task("2.weight", leco.Matrix(), leco.LowRank(1)),
    }


def one_weight(w: torch.Tensor, compression, **options) -> leco.LC:
    return leco.LC(Weights(w=w), {"w": leco.Task("w", leco.Vector(), compression)}, **options)


def backward(model: nn.Module) -> None:
    nn.functional.cross_entropy(model(X), Y).backward()


def train(model: nn.Module, optimizer, steps: int = 1) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        backward(model)
        optimizer.step()
