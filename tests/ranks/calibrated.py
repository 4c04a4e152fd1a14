"""Cases of calibration: ranks with different batches find what one process finds with all."""

import pytest
import torch
from layerwise.nets import Net, batches, net

import leco
from leco import distributed
from leco.layerwise import solver
from ranks.place import Place

SPARSE = {f"{25 * b} %": (leco.Rows(), leco.TopK(0.25 * b)) for b in (1, 2)}
FAR = {"mask": torch.tensor(0.5, dtype=torch.float64)}


def problem(model: Net) -> leco.LC:
    """Layers of several kinds, a joint task, and the head, which is the embedding."""
    tasks = leco.each(leco.match(model, "*query.weight", "*key.weight"), leco.Rows(), leco.Binary())
    tasks |= leco.each(leco.match(model, "*up.weight"), leco.Rows(), leco.Ternary())
    tasks["down"] = leco.Task(leco.match(model, "*down.weight"), leco.Vector(), leco.TopK(0.5))
    tasks["head"] = leco.Task("embed.weight", leco.Rows(), leco.Codebook(3))
    return leco.LC(model, tasks)


def found(lc: leco.LC, result: leco.Calibration) -> dict[str, torch.Tensor]:
    weights = {f"w {n}": p.detach() for n, p in lc.model.named_parameters()}
    deltas = {f"delta {n}": value for n, value in lc.delta.items()}
    errors = {record.task: torch.tensor(record.error) for record in result.records}
    return {**weights, **deltas, **errors}


def calibrated(place: Place):
    """Each rank has its share of the batches; joint tasks and the tied head too."""
    own = batches(4)[place.rank :: place.ranks]
    lc = problem(net())
    result = leco.calibrate(lc, own, steps=10, progress=False)
    assert next(r.task for r in result.records) == "down"
    assert len(result.records) == len(lc.tasks)
    return found(lc, result)


def polished_and_gone_on(place: Place):
    """With the same batches on each rank a step of the polish is that of one process. It goes on
    from the file of a unit that the first rank wrote."""
    folder = place.folder / "calibration"
    lc = problem(net())
    options = {"steps": 5, "polish": 2, "progress": False, "checkpoint": folder}
    result = leco.calibrate(lc, batches(2), **options)
    again = problem(net())
    leco.calibrate(again, batches(2), **options)
    for name, value in lc.delta.items():
        assert torch.equal(value, again.delta[name]), name
    assert all(after < before for before, after in result.blocks.values())
    return found(lc, result)


def polished_ranks_stay_alike(place: Place):
    """Each steps along the mean of the gradients of all."""
    lc = problem(net())
    own = batches(4)[place.rank :: place.ranks]
    result = leco.calibrate(lc, own, steps=2, polish=2, progress=False)
    for name, p in lc.model.named_parameters():
        sums = distributed.gathered(float(p.detach().sum()))
        assert len(set(sums)) == 1, (name, sums)
    assert len(set(distributed.gathered(repr(result.blocks)))) == 1


def distilled(place: Place):
    """Each rank has its share of a batch: a step is that of the whole batch."""
    lc, dense = problem(net()), net()
    leco.calibrate(lc, batches(2), steps=2, progress=False)
    every = [torch.cat([b["tokens"] for b in batches(4)[i : i + 2]]) for i in (0, 2)]
    own = [{**batches(1)[0], "tokens": t.chunk(place.ranks)[place.rank]} for t in every]
    losses = leco.distill(lc, dense, own, epochs=3, progress=False)
    weights = {n: p.detach() for n, p in lc.model.named_parameters()}
    return {**weights, "losses": torch.tensor(losses)}


def each_task_is_solved_once(place: Place):
    """The ranks have different tasks of a unit, and all records."""
    solved, original = [], solver.solve

    def counted(*given):
        solved.append(given)
        return original(*given)

    solver.solve = counted
    try:
        lc = problem(net())
        result = leco.calibrate(lc, batches(2), steps=2, progress=False)
    finally:
        solver.solve = original
    assert len(result.records) == len(lc.tasks)
    assert sum(distributed.gathered(len(solved))) == len(lc.tasks)
    assert place.ranks == 1 or len(solved) < len(lc.tasks)


def a_table_of_candidates(place: Place):
    own = batches(4)[place.rank :: place.ranks]
    model = net()
    names = leco.match(model, "layers.*query.weight", "layers.*up.weight")
    table = leco.sensitivity(model, names, SPARSE, own, progress=False)
    rows = {f"{n} {c}": torch.tensor(e) for n in names for c, e in table.errors[n].items()}
    return {**rows, "bits": torch.tensor([table.bits[n]["25 %"] for n in names])}


def what_ranks_may_not_do(place: Place):
    """Nets, tasks or numbers of batches that differ; an error on one rank is one on all."""
    if place.ranks == 1:
        return
    other = net()
    with torch.no_grad():
        other.norm.weight += 1  # not compressed: it may differ
        other.layers[0].up.weight += place.rank
    with pytest.raises(ValueError, match="different weights, tasks or options"):
        leco.calibrate(problem(other), batches(2), progress=False)
    with pytest.raises(ValueError, match="polish = 1 needs as many on each"):
        leco.calibrate(problem(net()), batches(2 + place.rank), polish=1, progress=False)
    given = batches(2)
    if place.rank:
        given[1] = {**given[1], **FAR, "tokens": torch.zeros(1, 1, dtype=torch.long) - 1}
    with pytest.raises(IndexError):
        leco.calibrate(problem(net()), given, progress=False)


CASES = [
    calibrated,
    polished_and_gone_on,
    polished_ranks_stay_alike,
    distilled,
    each_task_is_solved_once,
    a_table_of_candidates,
    what_ranks_may_not_do,
]
