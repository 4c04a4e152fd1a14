"""The reconstruction error of a layer as a loss of its weights, and its L step in closed form.

    L(W) = 1/2 tr((W - W0) H (W - W0)'),    H = X X'/n + damping

With d = diag(H), W~ = W D^(1/2) and H~ = D^(-1/2) H D^(-1/2) = Q diag(s) Q', the augmented
Lagrangian's minimum is W~ = (W0~ H~ + mu Delta~ + lambda~) Q diag(1/(s + mu)) Q'. In the basis Q
everything but Q itself is a product of entries, so that a step takes two products of matrices.
"""

import torch
from torch import Tensor

from leco.compressions.checks import full_dtype


class Moments:
    """H, damped, with its eigendecomposition: of one layer, or of several that have it in common.

    Args:
        h: second moments (G, in, in) of a layer's G groups of inputs; or (G, in), their diagonals.
        damping: the share of the mean diagonal that is added to the diagonal.

    A group without any input has H = 1: its weights count alike.
    """

    def __init__(self, h: Tensor, damping: float):
        self.diagonal = h.dim() == 2
        d = h.clone() if self.diagonal else h.diagonal(dim1=-2, dim2=-1).clone()
        mean = d.mean(-1, keepdim=True)
        self.unseen = (mean == 0).view(-1)
        added = torch.where(mean == 0, 1, damping * mean)
        self.d = d + added
        self.root = self.d.sqrt()
        if self.diagonal:
            self.s, self.q, self.scaled = torch.ones_like(d), None, None
            return
        self.scaled = h / self.root.unsqueeze(-1) / self.root.unsqueeze(-2)  # H~
        self.scaled.diagonal(dim1=-2, dim2=-1).fill_(1)
        self.s, self.q = torch.linalg.eigh(self.scaled)
        self.s.clamp_(min=0)

    @property
    def damped(self) -> Tensor:
        """H with its damping (G, in, in)."""
        if self.scaled is None:
            return torch.diag_embed(self.d)
        return self.scaled * self.root.unsqueeze(-1) * self.root.unsqueeze(-2)

    def times(self, w: Tensor) -> Tensor:
        """W H for W (G, out, in)."""
        root = self.root.unsqueeze(-2)
        scaled = w * root
        return (scaled if self.scaled is None else scaled @ self.scaled).mul_(root)

    def rotated(self, w: Tensor) -> Tensor:
        """W~ Q for W (G, out, in)."""
        scaled = w * self.root.unsqueeze(-2)
        return scaled if self.q is None else scaled @ self.q

    def straight(self, rotated: Tensor) -> Tensor:
        """The W whose `rotated` is given."""
        w = rotated if self.q is None else rotated @ self.q.mT
        return w / self.root.unsqueeze(-2)


class Layer:
    """The L step, the multipliers and the error of one weight W (G, out, in), in the basis Q.

    Args:
        w: the trained weights W0.
        moments: of its inputs.
        weight: a factor of the loss, for layers that are compressed jointly.
    """

    def __init__(self, w: Tensor, moments: Moments, weight: float = 1.0):
        self.w0, self.moments, self.weight = w.to(full_dtype(w.dtype)), moments, weight
        self.trained = moments.rotated(self.w0)
        self.s = moments.s.unsqueeze(-2)
        self.delta = self.trained
        self.multipliers = torch.zeros_like(self.trained)
        self.w = self.trained
        self.energy = float((self.s * self.trained.square()).sum(dtype=torch.float64))

    @property
    def metric(self) -> Tensor:
        """d of each weight (G, 1, in), with the layer's factor."""
        return self.weight * self.moments.d.unsqueeze(-2)

    def l_step(self, mu: float) -> Tensor:
        """Move W to the minimum of the augmented Lagrangian. Returns W - lambda/(mu d), which the
        C step compresses."""
        pulled = torch.add(self.multipliers, self.delta, alpha=mu)
        self.w = pulled.addcmul_(self.s, self.trained).div_(self.s + mu)
        return self.moments.straight(torch.sub(self.w, self.multipliers, alpha=1 / mu))

    def take(self, delta: Tensor) -> None:
        """Delta(Theta) of the C step (G, out, in)."""
        self.delta = self.moments.rotated(delta)

    def multipliers_step(self, mu: float) -> None:
        """lambda <- lambda - mu d (W - Delta(Theta))."""
        self.multipliers.add_(self.delta - self.w, alpha=mu)

    def error(self, delta: Tensor | None = None) -> float:
        """tr((Delta - W0) H (Delta - W0)') of the last Delta, or of another."""
        rotated = self.delta if delta is None else self.moments.rotated(delta)
        gap = (rotated - self.trained).square_().mul_(self.s)
        return float(gap.sum(dtype=torch.float64))

    @property
    def relative(self) -> float:
        """The error of the last Delta by that of a weight of 0."""
        return self.error() / self.energy if self.energy else 0.0
