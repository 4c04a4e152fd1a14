"""ALPS: pruning without training by ADMM, then conjugate gradients on the support."""

from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.baselines.oneshot import damped
from benchmarks.baselines.oneshot_masks import Kept, largest


class Problem(NamedTuple):
    """min 1/2 tr((W - W0) H (W - W0)') in variables that give H a unit diagonal."""

    w0: Tensor
    h: Tensor
    values: Tensor
    vectors: Tensor
    kept: Kept

    def proximal(self, rho: float) -> Tensor:
        """(H + rho I)^-1."""
        return (self.vectors / (self.values + rho)) @ self.vectors.T

    def mask(self, w: Tensor) -> Tensor:
        return largest(w.abs(), self.kept)


class State(NamedTuple):
    rho: float
    w: Tensor
    d: Tensor
    v: Tensor
    grown: bool = False


def alps(w0: Tensor, h: Tensor, kept: Kept, *, steps: int = 300, damping: float = 0.01) -> Tensor:
    """ALPS: ADMM whose rho follows how much the support still changes, then 10 steps of CG.

    Meng et al., arXiv 2406.07831, algorithms 1 and 2. rho follows the schedule of the authors'
    code.

    Args:
        w0: (out, in).
        h: second moments (in, in), not damped.
        kept: the share or n:m.
        steps: of ADMM at most.
        damping: share of the mean diagonal.
    """
    # unit diagonal
    h = damped(h, damping)
    norms = h.diagonal().sqrt()
    h = h / norms / norms[:, None]
    values, vectors = (part.to(w0.dtype) for part in torch.linalg.eigh(h))
    norms, h = norms.to(w0.dtype), h.to(w0.dtype)
    problem = Problem(w0 * norms, h, values, vectors, kept)

    # the support, then the weights on it
    w = admm(problem, steps)
    mask = problem.mask(w)
    return conjugate_gradients(h, problem.w0 @ h, mask, w * mask) / norms


def admm(problem: Problem, steps: int, rho: float = 0.1, every: int = 3) -> Tensor:
    """W of the ADMM: W <- (W0 H - V + rho D)(H + rho)^-1, D <- largest of W + V/rho,
    V <- V + rho (W - D)."""
    target, w0 = problem.w0 @ problem.h, problem.w0
    start = State(rho, w0, w0 * problem.mask(w0), torch.zeros_like(w0))
    state, support, inverse = start, problem.mask(w0), problem.proximal(rho)
    for step in range(1, steps + 1):
        # one step
        w = (target - state.v + state.rho * state.d) @ inverse
        d = w + state.v / state.rho
        d = d * problem.mask(d)
        state = state._replace(w=w, d=d, v=state.v + state.rho * (w - d))

        # rho after every third
        if step % every == 0:
            now = d != 0
            changed = int((now != support).sum())
            support, share = now, changed / now.sum().item()
            after = scheduled(state, start, changed, share)
            if after is None or (step > 30 and share < 3e-4):
                break
            state, inverse = after, problem.proximal(after.rho)
    return state.w


def scheduled(state: State, start: State, changed: int, share: float) -> State | None:
    """The state with the next rho; None where the support stands still at a grown rho.

    rho grows by 1.3, 1.2 or 1.1, the faster the more of the support changes. It falls by 5 at a
    start where the support hardly changes.
    """
    if share > 0.1 or share > 0.005:
        factor = 1.3 if share > 0.1 else 1.2
        return state._replace(rho=min(state.rho * factor, 1e6), grown=True)
    if changed and state.grown:
        return state._replace(rho=min(1.1 * state.rho, 1e6))
    if changed:
        return start._replace(rho=state.rho / 5)
    return None if state.grown else state._replace(rho=state.rho / 5)


def conjugate_gradients(
    h: Tensor, target: Tensor, mask: Tensor, start: Tensor, steps: int = 10
) -> Tensor:
    """Descend on 1/2 tr(W H W') - tr(W target') over the rows of W that are 0 off the mask."""
    w, residual = start, (target - start @ h) * mask
    direction, norm = residual, residual.square().sum(1, keepdim=True)
    for _ in range(steps):
        image = direction @ h
        along = (direction * image).sum(1, keepdim=True)
        step = norm / along.clamp(min=torch.finfo(w.dtype).tiny)
        w = w + step * direction
        residual = residual - step * image * mask
        last, norm = norm, residual.square().sum(1, keepdim=True)
        direction = residual + norm / last.clamp(min=torch.finfo(w.dtype).tiny) * direction
    return w
