"""The C steps of several tasks, shared out among the ranks: each task has one owner."""

from collections.abc import Callable, Mapping
from itertools import zip_longest
from typing import Any, TypeVar

import torch

import leco.distributed as distributed
from leco.theta import Theta
from leco.theta.tree import leaves, with_leaves

P = TypeVar("P")


def shared_c_steps(
    costs: Mapping[str, float],
    problem: Callable[[str, bool], P],
    solve: Callable[[str, P], Theta],
    devices: Mapping[str, torch.device],
) -> dict[str, Theta]:
    """The Thetas of all tasks on every rank. Each C step is made once, on the task's owner.

    Args:
        costs: of the tasks' C steps, in any unit.
        problem: `problem(task, own)` gives what the C step takes. Every rank calls it in the same
            order, as it gathers the parts of sharded parameters; `own` is whether this rank needs
            the result.
        solve: the C step.
        devices: where the tasks' Thetas are.

    Raises:
        Exception: what a C step raises on any rank, on every rank.
    """
    if distributed.ranks() == 1:
        return {name: solve(name, problem(name, True)) for name in costs}
    queues = owned(costs, distributed.ranks())
    thetas = distributed.together(lambda: _own(queues, problem, solve))
    return _exchanged(queues, thetas, costs, devices)


def owned(costs: Mapping[str, float], ranks: int) -> list[list[str]]:
    """The tasks of each rank: the costliest first, each to the rank that has least to do.

    >>> from leco.algorithm.owners import owned
    >>> owned({"a": 3, "b": 5, "c": 2, "d": 1}, 2)
    [['b', 'd'], ['a', 'c']]
    """
    queues: list[list[str]] = [[] for _ in range(ranks)]
    loads = [0.0] * ranks
    for name in sorted(costs, key=lambda name: -costs[name]):
        least = loads.index(min(loads))
        queues[least].append(name)
        loads[least] += costs[name]
    return queues


def _own(
    queues: list[list[str]],
    problem: Callable[[str, bool], P],
    solve: Callable[[str, P], Theta],
) -> dict[str, Theta]:
    """The Thetas of this rank's tasks. One problem is held at a time.

    An error waits until all problems are gathered, as the other ranks take part in that.
    """
    thetas, error = dict[str, Theta](), None
    for names in zip_longest(*queues):  # a task for each rank
        own: list[tuple[str, P]] = []
        for owner, name in enumerate(names):
            if name is not None:
                mine = owner == distributed.rank()
                given = problem(name, mine)
                own += [(name, given)] if mine else []
                del given
        for name, given in own:
            try:
                thetas[name] = solve(name, given)
            except Exception as raised:
                error = error or raised
    if error is not None:
        raise error
    return thetas


def _exchanged(
    queues: list[list[str]],
    own: Mapping[str, Theta],
    order: Mapping[str, Any],
    devices: Mapping[str, torch.device],
) -> dict[str, Theta]:
    """Every rank's Thetas on all ranks, in the order of the tasks."""
    # Forms and shapes
    bare = {
        name: with_leaves(theta, map(_without_values, leaves(theta))) for name, theta in own.items()
    }
    every: dict[str, Any] = {}
    for others in distributed.gathered(bare):
        every |= others

    # Their numbers
    owners = {name: owner for owner, names in enumerate(queues) for name in names}
    found = {}
    for name in order:
        device = devices[name]
        tensors = [
            leaf.to(device) if name in own else torch.empty_like(leaf, device=device)
            for leaf in leaves(own.get(name, every[name]))
        ]
        distributed.broadcast_(tensors, owners[name])
        found[name] = own[name] if name in own else with_leaves(every[name], iter(tensors))
    return found


def _without_values(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
