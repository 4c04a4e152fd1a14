"""Weights of layers as matrices (G, out, in), one for each group of inputs, and back."""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Layout(Protocol):
    """How a weight is a stack of matrices."""

    def matrices(self, w: Tensor) -> Tensor:
        """(G, out, in) of a weight."""
        ...

    def weight(self, matrices: Tensor, shape: torch.Size) -> Tensor:
        """The weight of matrices (G, out, in)."""
        ...


@dataclass(frozen=True)
class Plain:
    """Outputs before inputs: W (out, in) of Linear, (out, in / G, kernel) of convolutions, experts
    (G, out, in)."""

    groups: int = 1
    inputs: int = 0

    def matrices(self, w: Tensor) -> Tensor:
        return w.reshape(self.groups, -1, self.inputs)

    def weight(self, matrices: Tensor, shape: torch.Size) -> Tensor:
        return matrices.reshape(shape)


@dataclass(frozen=True)
class Transposed:
    """Inputs before outputs: W (in, out) of transformers' Conv1D and of embeddings, experts
    (G, in, out)."""

    groups: int = 1
    inputs: int = 0

    def matrices(self, w: Tensor) -> Tensor:
        return w.reshape(self.groups, self.inputs, -1).mT

    def weight(self, matrices: Tensor, shape: torch.Size) -> Tensor:
        return matrices.mT.reshape(shape)


@dataclass(frozen=True)
class Flipped:
    """W (in, out / G, kernel) of transposed convolutions: a convolution of the spread inputs, with
    the kernel turned round."""

    groups: int
    kernel: tuple[int, ...]

    def matrices(self, w: Tensor) -> Tensor:
        outputs, turned = w.shape[1], range(3, 3 + len(self.kernel))
        w = w.reshape(self.groups, -1, outputs, *self.kernel).flip(*turned)
        return w.transpose(1, 2).flatten(2)

    def weight(self, matrices: Tensor, shape: torch.Size) -> Tensor:
        turned = range(3, 3 + len(self.kernel))
        inputs = matrices.shape[2] // math.prod(self.kernel)
        w = matrices.reshape(self.groups, shape[1], inputs, *self.kernel)
        return w.transpose(1, 2).flip(*turned).reshape(shape)
