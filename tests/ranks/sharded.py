"""Cases of sharded parameters: FSDP2 and tensor parallelism find what one process finds."""

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

import leco
from leco.distributed import is_sharded, local, whole
from leco.integrations.sharded import ShardedState
from ranks.nets import DATA, MUS, families, few_sweeps, l_step, small, tasks, train
from ranks.place import Place, compare, key


def sharded(place: Place, net: nn.Module) -> nn.Module:
    if place.ranks > 1:
        fully_shard(net, mesh=init_device_mesh("cpu", (place.ranks,)))
        assert all(is_sharded(p) for p in net.parameters())
    return net


def everything(lc: leco.LC) -> dict[str, Tensor]:
    found = {f"w {name}": whole(w) for name, w in lc.params.items()}
    found |= {f"delta {name}": whole(value) for name, value in lc.delta.items()}
    found |= {f"lambda {name}": whole(value) for name, value in lc.multipliers.items()}
    record = lc.record()
    numbers = ("gap", "relative_gap", "multiplier_norm", "price", "bits", "weighed_gap")
    return found | {name: torch.tensor(float(getattr(record, name))) for name in numbers}


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=0.05)


def every_family(place: Place):
    """Through the driver, with joint tasks. Multipliers and Delta(Theta) are this rank's parts."""
    model = sharded(place, families())
    lc = leco.LC(model, tasks())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.5)
    lc.attach(optimizer)
    with few_sweeps():
        train(lc, model, optimizer, place.share(DATA), steps=1)
    for name, p in lc.params.items():
        assert local(lc.delta[name]).shape == local(lc.multipliers[name]).shape == local(p).shape
    return everything(lc)


def a_metric(place: Place):
    """Measured with the sharded model, and given as tensors that broadcast."""
    model = sharded(place, small())
    lc = leco.LC(model, tasks(families=False))
    h = lc.curvature(lambda: model(place.share(DATA)).backward())
    measured = leco.fisher(lc, lambda batch: model(batch).backward(), DATA.split(4))
    lc.set_metric(measured)
    optimizer = adam(model)
    lc.attach(optimizer)
    train(lc, model, optimizer, place.share(DATA))
    lc.set_metric({"w.a": torch.tensor([1.0, 2, 3]).double(), "w.b": torch.arange(1.0, 8)})
    lc.step()
    found = {**everything(lc), "h": torch.tensor(h), "largest": torch.tensor(lc.largest_mu)}
    return {**found, **{f"d {name}": whole(d) for name, d in measured.items()}}


def the_compressed_net_inside_an_evaluation(place: Place):
    """torch leaves parameters whole after an evaluation."""
    model = sharded(place, small())
    lc = leco.LC(model, tasks(families=False))
    optimizer = adam(model)
    lc.attach(optimizer)
    losses = []
    for mu in MUS:
        lc.mu = mu
        l_step(model, optimizer, place.share(DATA))
        lc.step()
        for _ in range(2):
            with torch.no_grad():
                losses.append(model(DATA))
            with lc.compressed(), torch.no_grad():
                losses.append(model(DATA))
    assert losses[0] == losses[2] != losses[1] == losses[3]
    return {**everything(lc), "losses": torch.stack(losses)}


def a_run_that_is_resumed_and_saved(place: Place):
    """Interrupted in its second half; its best net is written and read into a sharded model."""
    path, file = place.folder / "sharded.pt", place.folder / "net"
    for stop in (2, None):
        model = sharded(place, small())
        lc = leco.LC(model, tasks(families=False))
        optimizer = adam(model)
        lc.attach(optimizer)

        def evaluate(model=model) -> tuple[float, float]:
            with torch.no_grad():
                return 0.0, float(model(place.share(DATA)))

        def training(k: int, model=model, optimizer=optimizer, stop=stop) -> float:
            if k == stop:
                raise InterruptedError
            return l_step(model, optimizer, place.share(DATA))

        try:
            result = leco.run(
                lc,
                training,
                MUS,
                evaluate=evaluate,
                checkpoint=path,
                stateful={"optimizer": optimizer},
                progress=False,
            )
        except InterruptedError:
            continue
        size = leco.save(file, lc, result.best)
        assert size == file.stat().st_size
        bare = leco.load(file, small())
        again = leco.load(file, sharded(place, small()))
        lc.restore_(result.best)
        for name, p in bare.named_parameters():
            assert torch.equal(whole(again.get_parameter(name)), p)
            assert torch.equal(whole(model.get_parameter(name)), p)
        return {**everything(lc), "best": torch.tensor(result.best_step)}
    raise AssertionError


def nan_on_one_rank_ends_the_run_on_all(place: Place):
    model = sharded(place, small())
    lc = leco.LC(model, tasks(families=False))
    run = leco.Run(lc, MUS)
    run.start()
    before = whole(lc.params["w.a"]).clone()
    run.begin(0)
    own = local(lc.params["w.a"])
    if place.rank == 0:
        own[0, 0] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        run.end(0)
    assert torch.equal(whole(lc.params["w.a"]), before)


def what_cannot_work_is_refused(place: Place):
    if place.ranks == 1:
        return
    net = small()
    early = leco.LC(net, tasks(families=False))
    late = leco.LC(sharded(place, net), tasks(families=False))
    late.mu = 1.0
    with pytest.raises(ValueError, match=r"'w\.a' was replaced.*fully_shard.*make a new LC"):
        early.mu = 1.0
    with pytest.raises(ValueError, match=r"sharded.*call lc.attach\(optimizer\) instead"):
        late.penalty()


def tensor_parallel_layers(place: Place):
    """By columns and by rows."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    if place.ranks > 1:
        mesh = init_device_mesh("cpu", (place.ranks,))
        parallelize_module(model, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
    lc = leco.LC(
        model,
        {
            "first": leco.Task("0.weight", leco.Rows(), leco.TopK(2)),
            "second": leco.Task("2.weight", leco.Groups(4), leco.Uniform(2)),
        },
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    lc.attach(optimizer)
    x = torch.randn(8, 4, dtype=torch.float64)
    for mu in MUS:
        lc.mu = mu
        for _ in range(3):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
        lc.step()
    return everything(lc)


def interrupted(place: Place, before: int = 0) -> dict[str, Tensor]:
    """A training that begins with a checkpoint where there is one, and writes another."""
    model = sharded(place, small())
    lc = leco.LC(model, tasks(families=False), metric={"w.b": torch.full((7,), 2.0)})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    lc.attach(optimizer)
    state = {"model": model.state_dict(), "lc": ShardedState(lc)}
    for k in range(3):
        if k < 2 and before:
            continue
        if k == 2 and before:
            dcp.load(state, checkpoint_id=place.folder.parent / f"dcp-{before}")
            lc.check_saved()  # no warning: w belongs to Theta
        lc.mu = MUS[k]
        l_step(model, optimizer, place.share(DATA))
        lc.step()
        if k == 1:
            dcp.save(state, checkpoint_id=place.folder.parent / f"dcp-{place.ranks}")
    return everything(lc)


def a_checkpoint_of_torch_distributed(place: Place):
    """Written by one process and by several; the others go on from it."""
    whole_run = interrupted(place)
    for before in (1, place.ranks):
        again = interrupted(place, before)
        for name, value in whole_run.items():
            torch.testing.assert_close(again[name], value, rtol=1e-12, atol=1e-12)
    return whole_run


def in_one_process_again(place: Place, expected) -> None:
    """From the checkpoint of several."""
    (path,) = (p for p in place.folder.parent.glob("dcp-*") if p.name != "dcp-1")
    again = interrupted(place, int(path.name.removeprefix("dcp-")))
    compare(again, expected[key(a_checkpoint_of_torch_distributed)])


AFTER = [in_one_process_again]
CASES = [
    a_checkpoint_of_torch_distributed,
    every_family,
    a_metric,
    the_compressed_net_inside_an_evaluation,
    a_run_that_is_resumed_and_saved,
    nan_on_one_rank_ends_the_run_on_all,
    what_cannot_work_is_refused,
    tensor_parallel_layers,
]
