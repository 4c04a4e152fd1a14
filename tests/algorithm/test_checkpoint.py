"""Checkpoints: of another run, damaged, foreign, or of a net that diverged."""

import copy
import math
import re
from pathlib import Path

import pytest
import torch
from problem import MUS, Problem
from torch import nn

import leco
from leco.algorithm import checkpoint as checkpoints


def everything(problem: Problem) -> list:
    """Copies of all that a checkpoint may change."""
    lc = problem.lc
    thetas = {name: tuple(theta) for name, theta in lc.thetas.items()}
    parts = (problem.model.state_dict(), problem.optimizer.state_dict(), lc.state_dict(), thetas)
    return copy.deepcopy([*parts, lc.tasks, torch.get_rng_state()])


def same(a, b) -> bool:
    """Whether nested states are equal to the bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b or (isinstance(a, float) and math.isnan(a) and math.isnan(b))


def refused(problem: Problem, path: Path, message: str, mus=MUS, **options) -> None:
    """A ValueError with the path and the cause, and nothing is changed."""
    before, content = everything(problem), path.read_bytes() if path.is_file() else b""
    with pytest.raises(ValueError, match=message) as caught:
        problem.run(mus, checkpoint=path, **options)
    assert str(path) in str(caught.value)
    assert same(everything(problem), before)
    assert problem.calls == []
    assert not path.is_file() or path.read_bytes() == content


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> bytes:
    """The checkpoint of a finished run of Codebook(2)."""
    path = tmp_path_factory.mktemp("finished") / "run.checkpoint"
    Problem(leco.Codebook(2)).run(MUS, checkpoint=path, tolerance=0)
    return path.read_bytes()


@pytest.fixture
def path(tmp_path, finished) -> Path:
    (tmp_path / "run.checkpoint").write_bytes(finished)
    return tmp_path / "run.checkpoint"


@pytest.mark.parametrize(
    "other", [leco.Codebook(8), leco.TopK(0.1), leco.Codebook(2, exact=False)], ids=repr
)
def test_a_checkpoint_of_another_compression_is_refused(path, other):
    message = re.escape(f"has {leco.Codebook(2)!r}, the present one has {other!r}")
    refused(Problem(other), path, "task '0.weight' " + message)


def test_a_checkpoint_of_another_view_or_other_parameters_is_refused(path):
    problem = Problem(leco.Codebook(2))
    problem.lc.detach()
    weights = leco.match(problem.model, nn.Linear)
    problem.lc = leco.LC(problem.model, leco.each(weights, leco.Rows(), leco.Codebook(2)))
    refused(problem, path, r"has Vector\(\), the present one has Rows\(dim=0\)")
    tasks = {
        "0.weight": leco.Task("3.weight", leco.Vector(), leco.Codebook(2)),
        "3.weight": leco.Task("0.weight", leco.Vector(), leco.Codebook(2)),
    }
    problem.lc = leco.LC(problem.model, tasks)
    refused(problem, path, "has 0.weight, the present one has 3.weight")
    problem.lc = leco.LC(problem.model, {"all": tasks["0.weight"]})
    refused(problem, path, r"of the tasks \['0.weight', '3.weight'\], not of \['all'\]")


def test_a_checkpoint_of_another_model_schedule_or_optimizer_is_refused(path):
    problem = Problem(leco.Codebook(2))
    refused(problem, path, r"another schedule, from mu = 0.3 to 656.1", [2 * mu for mu in MUS])
    refused(problem, path, r"\['optimizer'\], not of \[\]", stateful={})
    wider = Problem(leco.Codebook(2))
    wider.model.add_module("4", nn.Linear(2, 2).double())
    refused(wider, path, "another model: '4.bias', '4.weight' differ")


def test_a_part_that_refuses_its_state_leaves_all_as_it_was(path):
    problem = Problem(leco.Codebook(2))
    problem.optimizer = torch.optim.SGD([problem.model[0].weight], lr=0.1)  # of fewer parameters
    refused(problem, path, "parameter group")


def test_every_flipped_bit_is_refused_or_harmless(path, finished, tmp_path):
    expected = checkpoints._read(path)
    places = torch.randperm(8 * len(finished), generator=torch.Generator().manual_seed(0))
    damaged, said = tmp_path / "damaged", 0
    for place in places[:600].tolist():
        content = bytearray(finished)
        content[place // 8] ^= 1 << place % 8
        damaged.write_bytes(content)
        try:
            state = checkpoints._read(damaged)
        except ValueError:
            said += 1
        else:
            assert same(state, expected), place
    assert said == 600
    content = bytearray(finished)
    content[len(finished) // 2] ^= 4
    damaged.write_bytes(content)
    refused(Problem(leco.Codebook(2)), damaged, "damaged")


def test_truncated_empty_and_foreign_files_are_refused(path, finished, tmp_path):
    for share in (0, 1, 2, 3, 7, 9):
        path.write_bytes(finished[: len(finished) * share // 10])
        refused(Problem(leco.Codebook(2)), path, "damaged, or no checkpoint")
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    refused(Problem(leco.Codebook(2)), path, "damaged, or no checkpoint")
    for foreign in ({"kind": "other"}, [1, 2], nn.Linear(2, 2).state_dict()):
        torch.save(foreign, path)
        refused(Problem(leco.Codebook(2)), path, "no checkpoint")
    torch.save(nn.Linear(2, 2), path)  # a pickle of code
    refused(Problem(leco.Codebook(2)), path, "checkpoint")
    refused(Problem(leco.Codebook(2)), tmp_path, "it is a folder")


def test_a_state_that_can_not_be_read_back_is_refused_at_the_start(tmp_path):
    class Sampler:
        def state_dict(self):
            return {"order": Path("a")}

    problem, path = Problem(), tmp_path / "run.checkpoint"
    with pytest.raises(TypeError, match=r"stateful\['sampler'\]: its state_dict holds objects"):
        problem.run(MUS, checkpoint=path, stateful={"sampler": Sampler()})
    assert not path.exists()


# --- nets that diverged


@pytest.mark.parametrize(
    ("name", "kind", "value"),
    [
        ("3.bias", "parameter", math.nan),
        ("3.bias", "parameter", math.inf),
        ("0.weight", "parameter", math.nan),
        ("1.running_mean", "buffer", math.nan),
    ],
)
def test_a_net_with_nan_is_never_in_a_checkpoint(tmp_path, name, kind, value):
    problem, path = Problem(), tmp_path / "run.checkpoint"
    train = problem.train
    states = []

    def diverges(k: int) -> float:
        states.append(copy.deepcopy([problem.model.state_dict(), problem.lc.state_dict()]))
        loss = train(k)
        if k == 3:
            problem.model.state_dict()[name].view(-1)[0] = value
        return loss

    problem.train = diverges  # type: ignore[method-assign]
    what = "NaN" if math.isnan(value) else "infinite"
    with pytest.warns(UserWarning, match=f"{kind} '{name}' has {what} entries"):
        result = problem.run(MUS, checkpoint=path)
    assert (result.stopped, len(result.records)) == ("diverged", 4)
    assert same(problem.model.state_dict(), states[3][0])
    assert problem.lc.mu == result.records[-1].mu == MUS[2]
    assert problem.lc.record()[2:5] == result.records[-1][2:5]
    problem.lc.restore_(result.best)
    assert all(bool(value.isfinite().all()) for value in problem.model.state_dict().values())

    # The run goes on from the state before it
    healthy = Problem()
    assert healthy.run(MUS, checkpoint=path).stopped == "schedule"
    assert healthy.calls == list(range(3, 8))


def test_a_net_with_nan_before_the_run_or_in_its_first_step_is_refused(tmp_path):
    problem, path = Problem(), tmp_path / "run.checkpoint"
    with torch.no_grad():
        problem.model[3].bias[0] = math.nan
    with pytest.raises(ValueError, match=r"'3.bias' has NaN entries before the first L step"):
        problem.run(MUS, checkpoint=path)
    assert not path.exists()
    problem = Problem()
    before = copy.deepcopy(problem.model.state_dict())
    problem.train = lambda k: float(problem.model[3].bias.data.fill_(math.nan)[0])  # type: ignore
    with pytest.raises(ValueError, match=r"'3.bias' has NaN entries after the L step"):
        problem.run(MUS, checkpoint=path)
    assert same(problem.model.state_dict(), before)


def test_nan_between_two_rounds_ends_the_run_too():
    problem, calls = Problem(), []

    def diverges(k: int) -> float:
        calls.append(k)
        if len(calls) == 5:
            problem.model[0].weight.data[0, 0] = math.nan
        return 0.0

    with pytest.warns(UserWarning, match="'0.weight' has NaN"):
        result = leco.run(problem.lc, diverges, MUS, rounds=3, progress=False)
    assert (result.stopped, calls) == ("diverged", [0, 0, 0, 1, 1])
    assert problem.lc.record()[2:5] == result.records[-1][2:5]


def test_a_frozen_parameter_may_hold_infinity():
    problem = Problem()
    mask = nn.Parameter(torch.tensor([0.0, -math.inf]), requires_grad=False)
    problem.model.register_parameter("mask", mask)
    assert problem.run(MUS, tolerance=0, evaluate=None).stopped == "schedule"


@pytest.mark.parametrize("good", [2, 5])
def test_a_net_whose_loss_is_nan_is_never_best(good):
    found = iter((0.5, 9.0) if step == good else (math.nan, 1.0) for step in range(9))
    result = Problem().run(MUS, evaluate=lambda: next(found))
    assert result.best_step == good


def test_where_every_loss_is_nan_the_run_says_so():
    with pytest.warns(UserWarning, match="evaluate returned NaN for every net"):
        result = Problem().run(MUS, evaluate=lambda: (math.nan, 1.0))
    assert result.best_step == 0
