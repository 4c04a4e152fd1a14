"""The largest entries of each row: what constraints on a count keep."""

from collections.abc import Callable

import torch
from torch import Tensor


def largest(kappa: int, score: Callable[..., Tensor], *arrays: Tensor) -> Tensor:
    """A mask (..., n) of the kappa largest scores along the last dimension, at least 1 of them; of
    equal scores the first ones. O(n).

    Args:
        kappa: how many are kept in each row, from 1 to n.
        score: elementwise function of `arrays` that returns a new tensor. It is called again where
            it is needed, so that one copy of the scores is in memory at a time.
        arrays: tensors of one shape (..., n), contiguous.
    """
    # all that reach the kappa-th largest score
    threshold = _kth_largest(score(*arrays), kappa)
    mask = score(*arrays) >= threshold
    if int(mask.count_nonzero()) == kappa * threshold.numel():
        return mask

    # of the tied ones, the first
    kept = mask.view(-1).nonzero().squeeze(1)
    row = kept // mask.shape[-1]
    scores = score(*(array.reshape(-1)[kept] for array in arrays))
    stay = _first_of_ties(row, scores == threshold.view(-1)[row], kappa)
    mask.view(-1)[kept[~stay]] = False
    return mask


def _kth_largest(a: Tensor, kappa: int) -> Tensor:
    """The kappa-th largest entry along the last dimension, (..., 1). `a` is overwritten."""
    place = a.shape[-1] - kappa
    if a.device.type != "cpu":
        return a.kthvalue(place + 1, dim=-1, keepdim=True).values
    a.numpy().partition(place, axis=-1)  # numpy's selection is vectorised, torch's is not
    return a[..., place : place + 1].clone()


def _first_of_ties(row: Tensor, tied: Tensor, kappa: int) -> Tensor:
    """Which candidates stay so that each row keeps kappa: the last of the tied ones go.

    Args:
        row: the row of each candidate, in order, at least kappa in each row.
        tied: which candidates equal the kappa-th largest of their row.
    """
    places = tied.nonzero().squeeze(1)
    rows = row[places]
    rank = torch.arange(len(places), device=row.device) - torch.searchsorted(rows, rows)
    room = kappa - (row.bincount() - rows.bincount(minlength=int(row[-1]) + 1))
    stay = torch.ones_like(tied)
    stay[places[rank >= room[rows]]] = False
    return stay
