"""The length of the whole file: counted without writing it, and kept below a limit to the byte."""

import copy
import pickle
import random
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

import leco
from leco import (
    Budget,
    Choice,
    Codebook,
    EntropyCodebook,
    Kernel,
    L0Penalty,
    Matrix,
    Part,
    RankSelection,
    Rows,
    Vector,
)
from leco.files.length import Entry, container_length

WEIGHTS = ("0.weight", "3.weight", "5.weight")


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(40, 50), nn.BatchNorm1d(50), nn.Tanh(), nn.Linear(50, 30), nn.Tanh(),
        nn.Linear(30, 10),
    )  # fmt: skip


def members(kind: str) -> tuple[Part, ...]:
    """For three matrices."""
    coded = [Part(Vector(), EntropyCodebook(0, k=8), (b,), 1 / 8) for b in range(3)]
    kept = [Part(Vector(), L0Penalty(0), (b,), 5) for b in range(3)]
    ranks = [Part(Matrix(), RankSelection(0), (b,), 4) for b in range(3)]
    schemes = Choice(
        0,
        [
            Part(Vector(), EntropyCodebook(0, k=8)),
            Part(Matrix(), RankSelection(0), unit=32),
            Part(Vector(), L0Penalty(0), unit=40),
        ],
    )
    chosen = [Part(Kernel(), schemes, (b,), 1 / 8) for b in range(3)]
    kinds = {
        "entropy": coded,
        "kept": kept,
        "ranks": ranks,
        "choice": chosen,
        "mixed": [coded[0], ranks[1], kept[2]],
        "kept and entropy": [kept[0], coded[1], kept[2]],
    }
    return tuple(kinds[kind])


def made(kind: str, limit: float = 3000, model: nn.Module | None = None) -> leco.LC:
    task = leco.Task(WEIGHTS, leco.Blocks(), Budget(members(kind), limit))
    lc = leco.LC(model or net(), {"all": task})
    lc.mu = 1.0
    return lc


def several() -> leco.LC:
    """A budget between two other tasks, and a layer in none."""
    tasks = {
        "first": leco.Task("0.weight", Rows(), leco.Binary()),
        "all": leco.Task("3.weight", leco.Blocks(), Budget(members("kept")[:1], 3000)),
        "last": leco.Task("5.bias", Vector(), Codebook(2)),
    }
    lc = leco.LC(net(), tasks)
    lc.mu = 1.0
    return lc


# --- the length


def long() -> leco.LC:
    """Entries of their own, of four types, some with names that JSON escapes."""
    model = nn.ModuleDict(
        {
            'quote"d': nn.Linear(64, 40),
            "größe": nn.Linear(50, 60).double(),
            "two": nn.Linear(70, 64).half(),
            "three": nn.Linear(64, 64).bfloat16(),
            "codes": nn.Linear(8, 8),
        }
    )
    tasks = {
        "größe.weight": leco.Task("codes.weight", Vector(), leco.Binary()),
        "low": leco.Task('quote"d.weight', Matrix(), leco.LowRank(20)),
    }
    lc = leco.LC(model, tasks)
    lc.mu = 1.0
    return lc


@pytest.mark.parametrize("make", [long, several, *[lambda k=k: made(k) for k in ("mixed", "kept")]])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_the_length_is_that_of_the_file(tmp_path, make, dtype):
    lc = make()
    assert leco.file_bytes(lc, dtype=dtype) == leco.save(tmp_path / "net", lc, dtype=dtype)
    snapshot = lc.snapshot()
    lc.project_()
    saved = leco.save(tmp_path / "net", lc, snapshot, dtype)
    assert leco.file_bytes(lc, snapshot, dtype) == saved


def test_the_length_at_every_padding(tmp_path):
    for n in range(1, 40):
        model = nn.Sequential(nn.Linear(n, 3), nn.Linear(60, 70 + n))
        lc = leco.LC(model, {"a": leco.Task("0.weight", Vector(), leco.Binary())})
        lc.mu = 1.0
        assert leco.file_bytes(lc) == leco.save(tmp_path / "net", lc)


def test_the_length_of_a_container_with_entries_of_any_size():
    """The order decides how many digits the offsets have."""
    draw = random.Random(0)
    for _ in range(100):
        tensors = {
            f"{draw.choice('abé')}{k}": torch.zeros(
                draw.choice([1, 3, 97, 12_000]),
                dtype=draw.choice(
                    [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.uint8]
                ),
            )
            for k in range(30)
        }
        entries = [Entry(name, t.dtype, tuple(t.shape)) for name, t in tensors.items()]
        assert container_length(entries) == len(safetensors.torch.save(tensors))


# --- the limit


def fitted(lc: leco.LC, limit: float, path: Any, **options: Any) -> int:
    """The length of the file that `save` writes after the fit, which must be what is returned."""
    length = leco.fit_to_file(lc, limit, **options)
    assert length == leco.save(path, lc, dtype=options.get("dtype"))
    return length


@pytest.mark.parametrize(
    ("kind", "limit"),
    [
        ("entropy", 1700),
        ("kept", 2600),
        ("kept", 6011),
        ("choice", 2207),
        ("kept and entropy", 3007),
    ],
)
def test_a_file_keeps_its_limit_and_fills_it(tmp_path, kind, limit):
    assert 0.98 * limit <= fitted(made(kind), limit, tmp_path / "net") <= limit


@pytest.mark.parametrize(("kind", "limit"), [("ranks", 3000), ("ranks", 7007), ("mixed", 4321)])
def test_less_than_one_rank_is_left_over(tmp_path, kind, limit):
    assert limit - 4 * 90 <= fitted(made(kind), limit, tmp_path / "net") <= limit


@pytest.mark.parametrize("limit", [3500, 3600, 4444])
def test_one_of_several_tasks_gets_what_is_left(tmp_path, limit):
    lc = several()
    before = dict(lc.thetas)
    assert 0.98 * limit <= fitted(lc, limit, tmp_path / "net") <= limit
    assert lc.thetas["first"] is before["first"]
    assert lc.thetas["last"] is before["last"]


def test_small_room_beside_a_large_rest_is_filled(tmp_path):
    """The budget has 2 % of the file, so that 1 % of the file is no small share of it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(60, 50), nn.Linear(50, 600))
    kept = Budget((Part(Vector(), L0Penalty(0), unit=15),), 300_000)
    lc = leco.LC(model, {"all": leco.Task("0.weight", Vector(), kept)})
    lc.mu = 1.0
    limit = leco.file_overhead(lc) + 2500
    assert limit - 50 <= fitted(lc, limit, tmp_path / "net") <= limit


def test_floats_rounded_in_the_file_leave_more_to_the_budget(tmp_path):
    kept = []
    for dtype in (None, torch.float16):
        lc = made("kept")
        length = fitted(lc, 3000, tmp_path / "net", dtype=dtype)
        assert 0.98 * 3000 <= length <= 3000
        kept.append(sum(int(delta.count_nonzero()) for delta in lc.delta.values()))
    assert kept[0] < kept[1]


def test_every_step_of_training_can_be_kept_below_the_limit(tmp_path):
    lc = made("kept")
    x, y = torch.randn(64, 40), torch.randn(64, 10)
    optimizer = torch.optim.SGD(lc.model.parameters(), lr=0.05)
    lc.attach(optimizer)
    for mu in (1.0, 1.5, 2.0):
        lc.mu = mu
        for _ in range(4):
            optimizer.zero_grad()
            nn.functional.mse_loss(lc.model(x), y).backward()
            optimizer.step()
        lc.step()
        if mu > 1:  # the norms are no longer all 0 and 1, which take no bytes
            assert 0.98 * 3000 <= leco.file_bytes(lc) <= 1.01 * 3000
        assert 0.98 * 3000 <= fitted(lc, 3000, tmp_path / "net") <= 3000
        path = tmp_path / "snapshot"
        assert leco.save(path, lc, lc.snapshot()) == leco.file_bytes(lc)


def test_a_net_within_the_limit_stays_as_it_is():
    lc = made("kept")
    length = leco.fit_to_file(lc, 3000)
    theta, compression = lc.thetas["all"], lc.tasks["all"].compression
    lc.params["0.weight"].data.mul_(1.1)
    assert leco.fit_to_file(lc, 3000) == length
    assert lc.thetas["all"] is theta
    assert lc.tasks["all"].compression is compression


def test_a_copy_and_a_pickle_keep_the_limit():
    lc = made("kept")
    leco.fit_to_file(lc, 3000)
    for other in (copy.deepcopy(lc), pickle.loads(pickle.dumps(lc))):
        other.step()
        assert 0.98 * 3000 <= leco.file_bytes(other) <= 3000


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: leco.fit_to_file(made("kept"), 900), ValueError, ("limit = 900", "at least")),
        (lambda: leco.fit_to_file(made("kept"), -1), ValueError, ("fit_to_file: limit = -1",)),
        (
            lambda: leco.fit_to_file(several(), 3000, "first"),
            ValueError,
            ("fit_to_file", "task 'first' is compressed by Binary(", "Budget"),
        ),
        (
            lambda: leco.fit_to_file(several(), 3000, "none"),
            ValueError,
            ("there is no task 'none'", "first, all, last"),
        ),
        (
            lambda: leco.fit_to_file(several(), 3000, dtype=torch.int8),  # pyright: ignore
            ValueError,
            ("leco.fit_to_file: dtype = torch.int8",),
        ),
        (
            lambda: leco.fit_to_file(made("kept").model, 3000),  # pyright: ignore
            TypeError,
            ("lc must be a leco.LC",),
        ),
    ],
)
def test_errors_name_what_is_wrong(call, error, words):
    with pytest.raises(error) as caught:
        call()
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_no_budget_and_several_are_named():
    lc = leco.LC(net(), {"a": leco.Task("0.weight", Vector(), leco.Binary())})
    with pytest.raises(ValueError, match="there is no Theta yet; set"):
        leco.fit_to_file(lc, 3000)
    lc.mu = 1.0
    with pytest.raises(ValueError, match=r"no task has a leco.Budget"):
        leco.fit_to_file(lc, 3000)
    kept = Budget((Part(Vector(), L0Penalty(0), unit=5),), 1000)
    tasks = {name: leco.Task(f"{name}.weight", Vector(), kept) for name in "03"}
    lc = leco.LC(net(), tasks)
    lc.mu = 1.0
    with pytest.raises(ValueError, match="the tasks 0, 3 have a Budget; name the one"):
        leco.fit_to_file(lc, 3000)
    first = lc.thetas["0"]
    assert 0.98 * 3000 <= leco.fit_to_file(lc, 3000, "3") <= 3000
    assert lc.thetas["0"] is first


def test_a_limit_that_can_not_be_kept_changes_nothing():
    lc = made("kept")
    theta, compression = lc.thetas["all"], lc.tasks["all"].compression
    with pytest.raises(ValueError, match="must be at least"):
        leco.fit_to_file(lc, 500)
    lc.params["0.weight"].data[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"'0\.weight'"):
        leco.fit_to_file(lc, 3500)
    assert lc.thetas["all"] is theta
    assert lc.tasks["all"].compression is compression
