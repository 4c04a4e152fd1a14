"""SVD and fine-tuning: ranks that are the same share of every layer, or chosen greedily by singular
values, at the cost that LC ended with."""

import heapq
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

import leco
from benchmarks.proof.cell import Cell
from benchmarks.proof.methods import train_free
from leco.compressions.costs import RankCost

Cost = Callable[[int], float]


def uniform(
    singular: Mapping[str, Tensor], costs: Mapping[str, Cost], limit: float
) -> dict[str, int]:
    """The largest share of full rank that costs at most `limit`, for all matrices."""

    def at(share: float) -> dict[str, int]:
        return {name: max(1, int(share * len(values))) for name, values in singular.items()}

    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (
            (middle, high)
            if sum(costs[n](r) for n, r in at(middle).items()) <= limit
            else (low, middle)
        )
    return at(low)


def greedy(
    singular: Mapping[str, Tensor], costs: Mapping[str, Cost], limit: float
) -> dict[str, int]:
    """From rank 1 up, always the next singular value with the largest square for its cost, while
    the cost is at most `limit`."""
    ranks = dict.fromkeys(singular, 1)
    spent = sum(costs[name](1) for name in ranks)

    def offer(name: str) -> tuple[float, str]:
        rank = ranks[name]
        return -(float(singular[name][rank]) ** 2) / max(
            costs[name](rank + 1) - costs[name](rank), 1e-9
        ), name

    waiting = [offer(name) for name, values in singular.items() if len(values) > 1]
    heapq.heapify(waiting)
    while waiting:
        _, name = heapq.heappop(waiting)
        more = costs[name](ranks[name] + 1) - costs[name](ranks[name])
        if spent + more > limit:
            continue
        spent, ranks[name] = spent + more, ranks[name] + 1
        if ranks[name] < len(singular[name]):
            heapq.heappush(waiting, offer(name))
    return ranks


def priced(cell: Cell) -> tuple[dict[str, RankCost], float]:
    """What a rank of each parameter costs, and what all may: a budget's limit, else
    `cell.limit`."""
    costs, limit = dict[str, RankCost](), cell.limit
    for task in cell.tasks.values():
        if isinstance(task.compression, leco.Budget):
            limit = task.compression.limit
            parts = [
                (task.params[part.places(len(task.params))[0]], part.compression)
                for part in task.compression.members
            ]
        else:
            parts = [(task.params[0], task.compression)]
        costs |= {param: own.cost for param, own in parts}  # pyright: ignore[reportAttributeAccessIssue]
    if limit is None:
        raise ValueError(
            "SVD + fine-tuning has the cost of LC: run the method LC of this row first"
        )
    return costs, limit


def fine_tuned(
    cell: Cell, choose: Callable[[Mapping[str, Tensor], Mapping[str, Cost], float], dict[str, int]]
) -> leco.LC:
    """Truncated SVDs at the chosen ranks, then training of the factors. A rank that costs as much
    as the whole matrix leaves it whole."""
    prices, limit = priced(cell)
    singular, costs = dict[str, Tensor](), dict[str, Cost]()
    for param, price in prices.items():
        weight = cell.model.get_parameter(param).detach().flatten(1)
        singular[param] = torch.linalg.svdvals(weight.double())
        costs[param] = lambda rank, price=price, shape=weight.shape: price(shape, rank)
    tasks = dict[str, leco.Task]()
    for param, rank in choose(singular, costs, limit).items():
        full = len(singular[param])
        whole = costs[param](rank) >= costs[param](full)
        tasks[param] = leco.Task(param, leco.Matrix(), leco.LowRank(full if whole else rank))
    lc = leco.LC(cell.model, tasks)
    lc.mu = 1.0  # of no effect in a set
    train_free(cell, lc, cell.settings.epochs)
    return lc


def uniform_ranks(cell: Cell) -> leco.LC:
    return fine_tuned(cell, uniform)


def greedy_ranks(cell: Cell) -> leco.LC:
    return fine_tuned(cell, greedy)
