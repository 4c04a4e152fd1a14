"""Whether the ranks of a distributed job have the same numbers."""

from collections.abc import Mapping

import torch
from torch import Tensor

import leco.distributed as distributed
from leco.algorithm.record import PART

CURE = (
    "wrap the model in DistributedDataParallel (or fully_shard it) before the training, give all "
    "ranks the same schedule, and make the same calls on all of them"
)


def check_alike(mu: float, params: Mapping[str, Tensor], multipliers: Mapping[str, Tensor]) -> None:
    """Raise ValueError, on all ranks, where one has another mu, or other weights or multipliers in
    parameters that are not sharded. Multipliers that a rank has not are 0, as their checksum is."""
    if distributed.ranks() == 1:
        return
    own: dict[str, float] = {"mu": mu}
    for what, tensors in (("parameter", params), ("the multipliers of", multipliers)):
        for name, tensor in tensors.items():
            if not distributed.is_sharded(tensor):
                own[f"{what} {name!r}"] = checksum(tensor.detach())
    first, *others = distributed.gathered(own)
    for rank, found in enumerate(others, 1):
        different = [
            what for what in {**first, **found} if first.get(what, 0) != found.get(what, 0)
        ]
        if different:
            values = f" ({found['mu']:g}, {first['mu']:g})" if different[0] == "mu" else ""
            raise ValueError(
                f"LC: rank {rank} and rank 0 have different {different[0]}{values}, "
                f"and {len(different) - 1} other differences; {CURE}"
            )


def checksum(tensor: Tensor) -> int:
    """A number that depends on every bit of the tensor, and on their order: the sum of the entries,
    read as integers, times odd numbers, modulo 2^64.

    >>> import torch
    >>> from leco.algorithm.alike import checksum
    >>> checksum(torch.tensor([1.0, 2.0])) == checksum(torch.tensor([2.0, 1.0]))
    False
    """
    integers = {8: torch.int64, 4: torch.int32, 2: torch.int16}[tensor.element_size()]
    found, start = 0, 1
    for part in tensor.reshape(-1).view(integers).split(PART):
        odd = torch.arange(start, start + 2 * len(part), 2, device=part.device)
        found += int((part.long() * odd).sum())
        start += 2 * len(part)
    return found % 2**64
