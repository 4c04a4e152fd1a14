"""Cases of DistributedDataParallel: what several ranks find is what one process finds."""

import dataclasses
import math
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import leco
from leco import distributed
from ranks.nets import DATA, MUS, families, few_sweeps, l_step, sgd, small, tasks, train
from ranks.place import Place


def wrapped(place: Place, net: nn.Module) -> nn.Module:
    return net if place.ranks == 1 else DistributedDataParallel(net)


def everything(lc: leco.LC) -> dict[str, torch.Tensor]:
    found = {f"w {name}": w.detach() for name, w in lc.params.items()}
    found |= {f"delta {name}": value for name, value in lc.delta.items()}
    found |= {f"lambda {name}": value for name, value in lc.multipliers.items()}
    record = lc.record()
    numbers = ("gap", "relative_gap", "multiplier_norm", "price", "bits", "weighed_gap")
    return found | {name: torch.tensor(float(getattr(record, name))) for name in numbers}


def every_family(place: Place):
    """Through the driver, with joint tasks; the LC is made of the wrapped net."""
    model = wrapped(place, families())
    lc = leco.LC(model, tasks())
    optimizer = sgd(model)
    lc.attach(optimizer)
    with few_sweeps():
        train(lc, model, optimizer, place.share(DATA), steps=1)
    return everything(lc)


def the_net_inside(place: Place):
    """The LC is made of the net inside, before it is wrapped; the penalty is in the loss."""
    net = small()
    lc = leco.LC(net, tasks(families=False))
    model = wrapped(place, net)
    optimizer = sgd(model)
    for mu in MUS:
        lc.mu = mu
        for _ in range(4):
            optimizer.zero_grad()
            (model(place.share(DATA)) + lc.penalty()).backward()
            optimizer.step()
        lc.step()
    return everything(lc)


def a_metric_of_each_ranks_gradients(place: Place):
    """Each rank measures its share of the examples; all have the mean."""
    net = small()
    lc = leco.LC(net, tasks(families=False))
    examples = place.share(DATA)
    # a loss whose curvature depends on the examples
    h = lc.curvature(
        lambda: sum(net(a) * a.square() for a in examples).div(len(examples)).backward()
    )
    d = leco.fisher(lc, lambda batch: net(batch).backward(), examples.split(1))
    lc.set_metric(d)
    model = wrapped(place, net)
    optimizer = sgd(model)
    lc.attach(optimizer)
    train(lc, model, optimizer, examples)
    return {**everything(lc), "h": torch.tensor(h), **{f"d {n}": v for n, v in d.items()}}


def the_best_net_of_all_ranks(place: Place):
    """Errors are reduced before the best is chosen: each rank alone would choose another."""
    model = wrapped(place, small())
    lc = leco.LC(model, tasks(families=False))
    optimizer = sgd(model)
    lc.attach(optimizer)
    errors = iter([[4.0, 4, 4, 4], [1, 3, 3, 3], [3, 1, 3, 3], [1.5, 1.5, 1.5, 1.5]])

    def evaluate() -> tuple[float, float]:
        row = next(errors)
        return 0.0, row[place.rank] if place.ranks > 1 else sum(row) / 4

    result = leco.run(
        lc,
        lambda k: l_step(model, optimizer, place.share(DATA)),
        MUS,
        evaluate=evaluate,
        from_delta=False,
        progress=False,
    )
    assert result.best_step == 3


def a_run_goes_on_with_each_ranks_random_numbers(place: Place):
    """Interrupted and resumed, it equals the whole run to the bit. One rank writes."""
    found = []
    for stop in (None, 2):
        model = wrapped(place, small())
        lc = leco.LC(model, tasks(families=False))
        optimizer = sgd(model)
        lc.attach(optimizer)
        torch.manual_seed(place.rank)
        path = None if stop is None else place.folder / "run.pt"

        def training(k: int, model=model, optimizer=optimizer, stop=stop) -> float:
            if k == stop:
                raise InterruptedError
            return l_step(model, optimizer, torch.randn(4, 1, dtype=torch.float64))

        def go(training, lc=lc, optimizer=optimizer, path=path):
            parts = {"optimizer": optimizer}
            leco.run(lc, training, MUS, checkpoint=path, stateful=parts, progress=False)

        try:
            go(training)
        except InterruptedError:
            torch.manual_seed(99)
            with torch.no_grad():
                for p in lc.params.values():
                    p.zero_()
            go(lambda k, training=training: training(k, stop=None))
        found.append(everything(lc))
    for name, value in found[0].items():
        assert torch.equal(value, found[1][name]), name


@dataclass(frozen=True)
class Counted(leco.Binary):
    """Counts its C steps, and fails where it shall."""

    name: str = ""
    fails: bool = False

    def c_step(self, *args, **kwargs):
        COUNTS.append(self.name)
        if self.fails:
            raise ValueError("no C step today")
        return super().c_step(*args, **kwargs)


COUNTS: list[str] = []


def each_c_step_is_made_once(place: Place):
    net = small()
    named = {n: leco.Task(f"w.{n}", leco.Vector(), Counted(name=n)) for n in ("a", "b")}
    lc = leco.LC(net, named)
    COUNTS.clear()
    lc.mu = 1.0
    lc.step()
    lc.c_step("b")
    every = sorted(name for names in distributed.gathered(list(COUNTS)) for name in names)
    assert every == ["a"] * 2 + ["b"] * 3
    assert place.ranks == 1 or len(COUNTS) < 5


def an_error_on_one_rank_is_an_error_on_all(place: Place):
    net = small()
    named = {n: leco.Task(f"w.{n}", leco.Vector(), Counted(name=n)) for n in ("a", "b")}
    lc = leco.LC(net, named)
    lc.mu = 1.0
    before = lc.thetas
    failing = dataclasses.replace(named["b"].compression, fails=True)
    lc.set_compressions({"b": failing})
    for _ in range(2):  # the ranks stay in step
        with pytest.raises(ValueError, match=r"task 'b', mu = 1: no C step today"):
            lc.step()
        assert lc.thetas == before


def nan_on_one_rank_ends_the_run_on_all(place: Place):
    model = small()
    lc = leco.LC(model, tasks(families=False))
    run = leco.Run(lc, MUS)
    run.start()
    before = lc.params["w.a"].detach().clone()
    run.begin(0)
    if place.rank == 0:
        with torch.no_grad():
            lc.params["w.a"][0, 0] = math.nan
    with pytest.raises(ValueError, match="NaN"):
        run.end(0)
    assert torch.equal(lc.params["w.a"], before)


def ranks_that_drift_are_refused(place: Place):
    """In weights at the first step and at the hundredth, and in mu at the start."""
    if place.ranks == 1:
        return
    for steps in (0, 100):
        lc = leco.LC(small(), tasks(families=False))
        lc.mu = 1.0
        for _ in range(steps):
            lc.step()
        with torch.no_grad():
            lc.params["w.b"][2] += 1e-9 * (place.rank == 1)
        with pytest.raises(ValueError, match=r"have different parameter 'w\.b', and 0 other.*wrap"):
            lc.step()
    lc = leco.LC(small(), tasks(families=False))
    with pytest.raises(ValueError, match=r"rank 1 and rank 0 have different mu \(2, 1\), and 0"):
        lc.mu = 1.0 + (place.rank == 1)


CASES = [
    every_family,
    the_net_inside,
    a_metric_of_each_ranks_gradients,
    the_best_net_of_all_ranks,
    a_run_goes_on_with_each_ranks_random_numbers,
    each_c_step_is_made_once,
    an_error_on_one_rank_is_an_error_on_all,
    nan_on_one_rank_ends_the_run_on_all,
    ranks_that_drift_are_refused,
]
