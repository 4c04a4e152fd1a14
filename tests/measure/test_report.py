"""The comparison of two nets: counts, names and verdicts, by a clock that the layers of the test
move; nothing left behind. The breakdown of a file: every byte, entropies, and the command that
prints it."""

import copy
import io
import json
import math
import subprocess
import sys
import tomllib
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import leco
import leco.measure.latency
from leco.command.cli import main
from leco.layers.flops import module_multiply_adds
from leco.measure.latency import Speed, speed


class Clock:
    """Seconds that pass only when a `Timed` layer says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Timed(nn.Linear):
    """A Linear that takes `price` seconds for each row."""

    def __init__(self, n_in: int, n_out: int, clock: Clock, price: float):
        super().__init__(n_in, n_out)
        self.clock, self.price = clock, price

    def forward(self, x: Tensor) -> Tensor:
        assert torch.is_inference_mode_enabled() or not torch.is_grad_enabled()
        assert not self.training
        self.clock.now += self.price * len(x)
        return super().forward(x)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(leco.measure.latency, "timer", clock)
    return clock


def net(clock: Clock, *prices: float) -> nn.Sequential:
    return nn.Sequential(*(Timed(4, 4, clock, price) for price in prices))


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


# --- time


def test_times_of_the_net_and_of_each_layer_are_those_of_the_clock(clock: Clock):
    before, after = net(clock, 0.3, 0.1, 0.1), net(clock, 0.1, 0.2, 0.1)
    found = leco.compare(before, after, torch.ones(2, 4), batches=(1, 5), repeats=10)
    assert list(found.layers) == ["0", "1", "2"]
    for batch in (1, 5):
        whole = found.speeds[batch]
        assert (whole.before, whole.after) == pytest.approx((0.5 * batch, 0.4 * batch))
        times = [
            (layer.speeds[batch].before, layer.speeds[batch].after)
            for layer in found.layers.values()
        ]
        assert times == [
            pytest.approx((before * batch, after * batch))
            for before, after in ((0.3, 0.1), (0.1, 0.2), (0.1, 0.1))
        ]
        assert [layer.verdict(batch) for layer in found.layers.values()] == [
            "faster 3.00x",
            "slower 0.50x",
            "the same",
        ]


def test_short_calls_are_repeated_within_a_sample(clock: Clock):
    calls = []

    def call():
        calls.append(None)
        clock.now += 1e-4

    measure = leco.measure.latency.sampler(call)
    calls.clear()
    assert measure() == pytest.approx(1e-4)
    assert 10 <= len(calls) <= 11


def test_an_interruption_does_not_show(clock: Clock):
    calls = []

    def call():
        calls.append(None)
        clock.now += 1.0 if len(calls) % 4 == 0 else 2e-4

    assert leco.measure.latency.sampler(call)() == pytest.approx(2e-4)


def test_nets_take_turns():
    order = []
    samples = leco.measure.latency.in_turns(
        [lambda: order.append("a") or "a", lambda: order.append("b") or "b"], 3
    )
    assert "".join(order) == "abbaab"
    assert samples == [["a"] * 3, ["b"] * 3]


def test_ratios_are_of_neighbours_in_time():
    load = [1.0, 10.0, 3.0, 7.0, 1.0, 5.0, 2.0, 8.0, 9.0, 4.0]
    found = speed([2 * s for s in load], load)
    assert (found.ratio, found.low, found.high) == (2.0, 2.0, 2.0)
    assert found.verdict == "faster 2.00x"


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (Speed(3.1, 1.0, 3.1, 2.9, 3.3), "faster 3.10x"),
        (Speed(0.7, 1.0, 0.7, 0.6, 0.8), "slower 0.70x"),
        (Speed(3.1, 1.0, 3.1, 0.9, 3.3), "unclear"),  # within the noise
        (Speed(0.7, 1.0, 0.7, 0.6, 1.1), "unclear"),
        (Speed(1.0, 1.0, 1.0, 0.9, 1.1), "the same"),
        (Speed(1.09, 1.0, 1.09, 1.08, 1.1), "the same"),  # sure, and too little to matter
        (Speed(1.0, 1.08, 0.92, 0.91, 0.93), "the same"),
        (Speed(1.11, 1.0, 1.11, 1.1, 1.12), "faster 1.11x"),
        (Speed(1.0, 1.12, 0.9, 0.88, 0.91), "slower 0.90x"),
    ],
)
def test_verdicts(found: Speed, verdict: str):
    assert found.verdict == verdict


@pytest.mark.parametrize("rounds", [10, 11, 30, 51])
def test_the_interval_misses_the_true_ratio_rarely(rounds: int):
    """By its definition: ranks low and high of `rounds` fair coins."""
    coin = torch.distributions.Binomial(rounds, torch.tensor(0.5, dtype=torch.float64))
    p = coin.log_prob(torch.arange(rounds + 1.0)).exp()
    found = speed([float(r) for r in range(1, rounds + 1)], [1.0] * rounds)
    # fewer than low, or at least high of the ratios are below the median
    below = p[: int(found.low)].sum() + p[int(found.high) :].sum()
    assert below < 0.01
    assert rounds < 30 or found.high - found.low < 0.7 * rounds


# --- what is compared


def low_rank(model: nn.Module, names: list[str]) -> leco.LC:
    lc = leco.LC(model, leco.each(names, leco.Matrix(), leco.LowRank(2)))
    lc.mu = 1.0
    return lc


def test_counts_of_a_factorised_net():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10)
    ).double()
    after = leco.factorize(model, low_rank(model, ["0.weight", "3.weight"]))
    found = leco.compare(
        model, after, torch.ones(2, 3, 6, 6).double(), file=1234, batches=[1], repeats=1
    )
    dense, pairs = (8 * 27, 10 * 288), (2 * (8 + 27), 2 * (10 + 288))
    assert found.multiply_adds == (dense[0] * 36 + dense[1], pairs[0] * 36 + pairs[1])
    assert found.memory == (8 * (sum(dense) + 18), 8 * (sum(pairs) + 18))
    assert found.file == (8 * (sum(dense) + 18), 1234)
    conv, linear = found.layers.values()
    assert (conv.kinds, linear.kinds) == (("Conv2d", "Conv2d x 2"), ("Linear", "Linear x 2"))
    assert (conv.multiply_adds, linear.multiply_adds) == (
        (dense[0] * 36, pairs[0] * 36),
        (dense[1], pairs[1]),
    )
    assert (conv.memory, linear.memory) == (
        (8 * (dense[0] + 8), 8 * (pairs[0] + 8)),
        (8 * (dense[1] + 10), 8 * (pairs[1] + 10)),
    )


def test_the_file_is_measured(tmp_path):
    (tmp_path / "net").write_bytes(bytes(77))
    found = leco.compare(
        nn.Linear(3, 2),
        nn.Linear(3, 2),
        torch.ones(1, 3),
        file=tmp_path / "net",
        batches=[1],
        repeats=1,
    )
    assert found.file == (32, 77)


def test_a_net_that_is_one_layer():
    model = nn.Linear(10, 8)
    found = leco.compare(
        model,
        leco.factorize(model, low_rank(model, ["weight"])),
        torch.ones(1, 10),
        batches=[1],
        repeats=1,
    )
    assert found.layers[""].kinds == ("Linear", "Linear x 2")
    assert found.multiply_adds == found.layers[""].multiply_adds == (80, 36)


def test_unchanged_layers_are_said_to_be_as_they_were():
    before = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.Linear(4, 2))
    after = copy.deepcopy(before)
    with torch.no_grad():
        after[2].weight[0, 0] += 1  # same class and shape, other values
    found = leco.compare(before, after, torch.ones(2, 4), batches=[2], repeats=1)
    assert [layer.changed for layer in found.layers.values()] == [False, False, True, False]
    # with running means and variances, and the number of batches
    assert found.layers["1"].memory.before == 4 * 4 * 4 + 8
    assert [layer.verdict(2) == "as it was" for layer in found.layers.values()] == [
        True,
        True,
        False,
        True,
    ]
    assert "3 others" in str(found)


def test_each_net_has_its_own_inputs():
    before = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        before[0].weight[2:], before[0].bias[2:] = 0, 0
    found = leco.compare(
        before, leco.narrow(before, torch.zeros(1, 5)), torch.ones(1, 5), batches=[1], repeats=1
    )
    assert found.layers["0"].multiply_adds == (40, 10)
    assert found.layers["2"].multiply_adds == (24, 6)
    assert found.layers["2"].changed


def test_equal_weights_with_other_options_are_a_change():
    before, after = nn.Conv2d(1, 2, 3), nn.Conv2d(1, 2, 3, stride=2)
    after.load_state_dict(before.state_dict())
    found = leco.compare(before, after, torch.ones(1, 1, 7, 7), batches=[1], repeats=1)
    assert found.layers[""].changed
    assert found.layers[""].multiply_adds == (18 * 25, 18 * 9)


def test_batches_are_made_of_the_rows_of_the_examples():
    seen = []

    class Sees(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x[:, 0].tolist())
            return super().forward(x)

    leco.compare(
        Sees(1, 1), Sees(1, 1), torch.tensor([[1.0], [2.0], [3.0]]), batches=[2, 5], repeats=1
    )
    assert {tuple(rows) for rows in seen} == {(1, 2), (1, 2, 3, 1, 2), (1,)}


class Odd(nn.Module):
    """Layers that are called once, twice, only functionally, never; a container with a weight of
    its own; a tied weight; a cache."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))
        self.twice, self.function, self.never, self.tied = (nn.Linear(4, 4) for _ in range(4))
        self.tied.weight = self.twice.weight
        self.cache: Tensor | None = None

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        self.cache = torch.zeros(100)
        x = self.twice(self.twice(x)) * self.scale
        return self.tied(nn.functional.linear(x, self.function.weight) + y)


def test_layers_that_are_not_called_as_modules_are_skipped_and_said():
    before, after = Odd(), Odd()
    del after.never
    assert module_multiply_adds(before, torch.ones(3, 4), torch.ones(3, 4)) == {
        "": 192,
        "twice": 96,
        "tied": 48,
    }
    found = leco.compare(
        before, after, [torch.ones(3, 4), torch.ones(3, 4)], batches=[2], repeats=1
    )
    assert list(found.layers) == ["twice", "tied"]
    assert found.skipped == {
        "": "it holds layers that are",
        "function": "not both nets call it as a module",
        "never": "the net after has no module of this name",
    }
    assert found.multiply_adds == (64, 64)
    assert found.layers["twice"].multiply_adds == (32, 32)
    assert found.memory == (4 * (4 + 3 * 16 + 4 * 4 + 100), 4 * (4 + 2 * 16 + 3 * 4 + 100))
    assert "not timed: function: not both nets call it as a module" in str(found)


def test_fused_layers_are_counted_as_what_they_compute():
    model = nn.Sequential(
        nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), nn.Linear(32, 4)
    ).eval()
    found = leco.compare(model, model, torch.ones(2, 5, 32), batches=[1], repeats=1)
    attention = 5 * 32 * 96 + 2 * 5 * 5 * 32 + 5 * 32 * 32
    assert found.layers["0.self_attn"].multiply_adds.before == attention
    assert found.multiply_adds.before == attention + 2 * 5 * 32 * 64 + 5 * 32 * 4
    assert found.skipped == {"0.self_attn.out_proj": "not both nets call it as a module"}
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize("functional", [0, 1])
def test_layers_that_only_one_net_calls_are_skipped(functional: int):
    class Net(nn.Module):
        def __init__(self, functional: bool):
            super().__init__()
            self.first, self.second, self.functional = nn.Linear(4, 4), nn.Linear(4, 4), functional

        def forward(self, x: Tensor) -> Tensor:
            return (
                nn.functional.linear(self.first(x), self.second.weight)
                if self.functional
                else self.second(self.first(x))
            )

    found = leco.compare(
        Net(functional == 0), Net(functional == 1), torch.ones(1, 4), batches=[1], repeats=1
    )
    assert list(found.layers) == ["first"]
    assert found.skipped == {"second": "not both nets call it as a module"}


def test_all_calls_of_a_layer_count(clock: Clock):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = Timed(4, 4, clock, 0.25)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.layer(x))

    found = leco.compare(Twice(), Twice(), torch.ones(1, 4), batches=[1], repeats=1)
    assert found.layers["layer"].speeds[1].before == 0.5


def test_parametrized_layers_are_layers():
    before = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), nn.Linear(4, 2))
    found = leco.compare(before, copy.deepcopy(before), torch.ones(1, 4), batches=[1], repeats=1)
    assert list(found.layers) == ["0", "1"]


def test_nothing_is_left_behind():
    before = nn.Sequential(nn.Linear(4, 4), nn.Dropout(), nn.BatchNorm1d(4), nn.Linear(4, 2))
    after = copy.deepcopy(before).eval()
    before[2].eval()
    state = copy.deepcopy(before.state_dict())
    draws = torch.random.get_rng_state()
    leco.compare(before, after, torch.ones(2, 4), batches=[1, 3], repeats=2)
    assert torch.equal(draws, torch.random.get_rng_state())
    assert [m.training for m in before] == [True, True, False, True]
    assert before.training
    assert not any(m.training for m in after.modules())
    assert hooks(before) == hooks(after) == 0
    assert all(torch.equal(value, state[name]) for name, value in before.state_dict().items())


def test_nothing_is_left_behind_by_a_net_that_fails():
    class Fails(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("it fails")

    before, after = nn.Sequential(nn.Linear(4, 4)), nn.Sequential(Fails(4, 4))
    after[0].eval()
    with pytest.raises(RuntimeError, match="it fails"):
        leco.measure.latency.layer_speeds(before, after, ["0"], [torch.ones(1, 4)], 1)
    assert hooks(before) == hooks(after) == 0
    assert (before[0].training, after.training, after[0].training) == (True, True, False)


def test_what_makes_no_sense_is_refused():
    model, x = nn.Linear(4, 2), torch.ones(2, 4)
    with pytest.raises(TypeError, match=r"compare: after is a dict, must be an nn\.Module"):
        leco.compare(model, {}, x)
    with pytest.raises(TypeError, match=r"compare: example_inputs are \['list'\]"):
        leco.compare(model, model, [[1.0, 2.0]])
    with pytest.raises(TypeError, match="compare: example_inputs are dict"):
        leco.compare(model, model, {"x": x})
    for bad in ([], [torch.ones(0, 4)], [torch.tensor(1.0)], [x, torch.ones(3, 4)]):
        with pytest.raises(
            ValueError, match=r"compare: example_inputs of shapes .* must have one batch size"
        ):
            leco.compare(model, model, bad)
    for batches, repeats in (([0], 1), ([], 1), ([1, -3], 1), ([1], 0)):
        with pytest.raises(
            ValueError, match=r"compare: batches = \(.*\) and repeats = \d must be at least 1"
        ):
            leco.compare(model, model, x, batches=batches, repeats=repeats)
    with pytest.raises(
        ValueError,
        match=r"compare: the nets call no layer of the same name; before has \['0'\], after \['a'\]",
    ):
        leco.compare(
            nn.Sequential(nn.Linear(4, 2)), nn.Sequential(OrderedDict(a=nn.Linear(4, 2))), x
        )


def test_the_table_fits(clock: Clock):
    prices = [0.3, 0.1, 0.1]
    text = str(
        leco.compare(
            net(clock, *prices),
            net(clock, *reversed(prices)),
            torch.ones(2, 4),
            file=100,
            repeats=2,
        )
    )
    assert max(len(line) for line in text.splitlines()) <= 160
    for part in (
        "bytes in memory",
        "bytes on disk",
        "multiply-adds",
        "ms, batch 1",
        "ms, batch 64",
        "slower 0.33x",
        "float32 on cpu",
    ):
        assert part in text
    assert "300 -> 100  faster 3.00x" in text


# --- ranks


@pytest.fixture
def prices(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Linear takes as many milliseconds as it has weights."""
    forward = nn.Linear.forward

    def timed(self: nn.Linear, x: Tensor) -> Tensor:
        assert torch.is_inference_mode_enabled()
        clock.now += 1e-3 * self.weight.numel()
        return forward(self, x)

    monkeypatch.setattr(nn.Linear, "forward", timed)


@pytest.mark.usefixtures("prices")
def test_seconds_of_each_rank():
    layer = nn.Linear(20, 10)
    draws = torch.random.get_rng_state()
    table = leco.measured_ranks(layer, torch.ones(3, 20), ranks=[4, 2], repeats=1)
    assert torch.equal(draws, torch.random.get_rng_state())
    assert table.values == pytest.approx(
        [0.06, 0.06, 0.06, 0.09, 0.12, 0.12, 0.12, 0.12, 0.12, 0.12, 0.2]
    )
    exact = leco.measured_ranks(layer, torch.ones(3, 20), ranks=range(1, 11), repeats=1)
    # never above the dense layer
    assert exact.values == pytest.approx(
        [0.03, 0.03, 0.06, 0.09, 0.12, 0.15, 0.18, 0.2, 0.2, 0.2, 0.2]
    )
    assert leco.measured_ranks(layer, torch.ones(3, 20), repeats=1).values[8] == pytest.approx(0.2)
    assert hooks(layer) == 0
    assert layer.training


@pytest.mark.usefixtures("prices")
def test_ranks_that_make_the_machine_faster():
    layer = nn.Linear(20, 10).double()
    with torch.no_grad():
        layer.weight.copy_(torch.randn(10, 3) @ torch.randn(3, 20))
    cost = leco.measured_ranks(layer, torch.ones(3, 20).double(), repeats=1)
    theta = leco.RankSelection(1e-3, cost).compress(layer.weight.detach(), mu=1.0)
    assert theta.u.shape == (10, 3)


def test_ranks_of_a_convolution():
    assert (
        len(
            leco.measured_ranks(
                nn.Conv2d(3, 8, 3), torch.ones(1, 3, 5, 5), ranks=[1], repeats=1
            ).values
        )
        == 9
    )


def test_ranks_out_of_bounds():
    layer, x = nn.Linear(20, 10), torch.ones(1, 20)
    for ranks in ([0, 3], [11], []):
        with pytest.raises(
            ValueError, match=r"measured_ranks: ranks = \[.*\] must be from 1 to 10"
        ):
            leco.measured_ranks(layer, x, ranks)
    with pytest.raises(ValueError, match="repeats = 0 at least 1"):
        leco.measured_ranks(layer, x, [1], 0)
    with pytest.raises(
        ValueError, match="layer is a Embedding, must be one of Linear, Conv1d, Conv2d, Conv3d"
    ):
        leco.measured_ranks(nn.Embedding(20, 10), x)


# --- what each byte of a file is for


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.codes, self.sparse, self.pair, self.own = (
            nn.Linear(40, 50),
            nn.Linear(50, 60),
            nn.Linear(60, 40, bias=False),
            nn.Linear(40, 40),
        )
        self.tied = nn.Linear(40, 40)
        self.tied.weight = self.own.weight
        self.norm = nn.BatchNorm1d(40)


@pytest.fixture
def saved(tmp_path: Path) -> tuple[leco.LC, Path]:
    tasks = {
        "codes": leco.Task("codes.weight", leco.Vector(), leco.Codebook(4)),
        "sum": leco.Task(
            "sparse.weight",
            leco.Matrix(),
            leco.Additive([(leco.Vector(), leco.TopK(0.05)), (leco.Matrix(), leco.LowRank(2))]),
        ),
        "pair": leco.Task("pair.weight", leco.Matrix(), leco.LowRank(3)),
    }
    lc = leco.LC(Net(), tasks)
    lc.mu = 1.0
    leco.save(tmp_path / "net.safetensors", lc)
    return lc, tmp_path / "net.safetensors"


def test_every_byte_of_a_file_is_accounted_for(saved: tuple[leco.LC, Path]):
    lc, path = saved
    found = leco.breakdown(path)
    assert found.bytes == path.stat().st_size == sum(row.bytes for row in found.tensors)
    assert found.dense_bytes == leco.dense_bytes(lc.model)
    assert found.ratio == found.dense_bytes / found.bytes
    assert {row.field for row in found.tensors if row.kind == "overhead"} == {
        "header",
        "description",
        "checksums",
    }
    assert {row.field for row in found.tensors if row.kind == "rest"} | {*found.tied} == set(
        lc.rest()
    )
    assert found.tied == {"tied.weight": "own.weight"}
    for name, theta in lc.thetas.items():
        assert found.tasks[name].bytes * 8 == leco.bits(theta)
        assert found.tasks[name].bytes == sum(
            row.bytes for row in found.tensors if row.task == name
        )
    assert [row.weights for row in found.tasks.values()] == [40 * 50, 50 * 60, 60 * 40]
    assert [row.form for row in found.tasks.values()] == [
        "Codes",
        "Sum(Sparse, Factors)",
        "Factors",
    ]
    assert found.tasks["pair"].params == {"pair.weight": (40, 60)}
    assert (found.tasks["codes"].view, found.tasks["codes"].compression) == (
        "Vector()",
        "Codebook(k=4)",
    )
    assert [row.field for row in found.tensors if row.task == "sum"] == [
        "terms.0.mask",
        "terms.0.values",
        "terms.1.u",
        "terms.1.v",
    ]


def test_entropy_of_the_integers_of_a_file(saved: tuple[leco.LC, Path]):
    lc, path = saved
    rows = {(row.task, row.field): row for row in leco.breakdown(path).tensors}
    indices = lc.thetas["codes"].indices
    p = torch.bincount(indices.int()) / indices.numel()
    row = rows["codes", "indices"]
    assert row.entropy == pytest.approx(-(p * p.log2()).sum().item())
    assert row.entries == 2000
    assert row.over == pytest.approx(row.bytes - row.entropy * 2000 / 8)
    assert 0 <= row.over < 20
    mask = rows["sum", "terms.0.mask"]
    assert mask.entropy == pytest.approx(-(0.05 * math.log2(0.05) + 0.95 * math.log2(0.95)))
    assert rows["codes", "codebook"].entropy is None
    assert rows["codes", "codebook"].over is None
    assert rows["", "norm.num_batches_tracked"].entropy == 0


class Doubled(NamedTuple):
    """A form of a user's own."""

    half: Tensor

    def decompress(self) -> Tensor:
        return 2 * self.half

    def free(self) -> tuple[str, ...]:
        return ("half",)


@dataclass(frozen=True)
class Double:
    def check(self, shape: torch.Size) -> None: ...

    def compress(self, x: Tensor, mu: float, theta: Doubled | None = None) -> Doubled:
        return Doubled(x / 2)


def test_forms_of_a_users_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    lc = leco.LC(nn.Linear(3, 2), leco.each(["weight"], leco.Vector(), Double()))
    lc.mu = 1.0
    leco.save(tmp_path / "net", lc)
    found = leco.breakdown(tmp_path / "net", forms=[Doubled])
    assert (found.tasks["weight"].form, found.tasks["weight"].compression) == (
        "Doubled",
        "Double()",
    )
    assert main(["inspect", str(tmp_path / "net")]) == 1
    assert "unknown form of Theta 'Doubled'" in capsys.readouterr().err


def test_the_command_prints_tables(
    saved: tuple[leco.LC, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    printed = {}
    for columns in (40, 100, 160, 300):
        monkeypatch.setenv("COLUMNS", str(columns))
        assert main(["inspect", str(saved[1])]) == 0
        printed[columns] = out = capsys.readouterr().out
        assert max(map(len, out.splitlines())) <= max(100, min(columns, 160))
        total = next(line for line in out.splitlines() if line.startswith("| the file"))
        assert f" {saved[1].stat().st_size:,} " in total
        for part in (
            "Tasks",
            "Their tensors",
            "Not compressed",
            "Codebook(k=4)",
            "own.weight",
            "is own.weight",
            "terms.1.u",
            "checksums",
        ):
            assert part in out
        assert all(line.isascii() for line in out.splitlines())
    assert printed[40] == printed[100] != printed[160] == printed[300]


def test_the_command_prints_json(saved: tuple[leco.LC, Path], capsys: pytest.CaptureFixture[str]):
    assert main(["inspect", "--json", str(saved[1])]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (
        found["bytes"] == sum(row["bytes"] for row in found["tensors"]) == saved[1].stat().st_size
    )
    assert found["tasks"]["pair"]["params"] == {"pair.weight": [40, 60]}
    assert found["tied"] == {"tied.weight": "own.weight"}
    row = next(row for row in found["tensors"] if row["field"] == "indices")
    assert (row["kind"], row["task"], row["dtype"], row["shape"]) == (
        "theta",
        "codes",
        "uint8",
        [2000],
    )
    assert 1 < row["entropy"] <= 2
    assert row["over_entropy"] == pytest.approx(row["bytes"] - row["entropy"] * 250)


def damaged(path: Path, at: int) -> str:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    (path.parent / "damaged").write_bytes(data)
    return str(path.parent / "damaged")


def test_the_command_says_in_one_line_what_is_wrong(
    saved: tuple[leco.LC, Path], capsys: pytest.CaptureFixture[str]
):
    path = saved[1]
    other = path.parent / "other.safetensors"
    save_file({"a": torch.ones(2)}, other)
    (path.parent / "cut").write_bytes(path.read_bytes()[:-1])
    cases = {
        str(path.parent / "none"): "none",
        str(path.parent): "",
        str(path.parent / "cut"): "damaged",
        str(other): "not one of leco",
        # of a tensor that is in no task, or an entry of its own
        damaged(path, path.stat().st_size - 1): "checksum",
        damaged(path, path.stat().st_size // 2): "checksum",
    }
    for file, said in cases.items():
        for arguments in (["inspect", file], ["inspect", file, "--json"]):
            assert main(arguments) == 1
            out, err = capsys.readouterr()
            assert (out, err.count("\n")) == ("", 1)
            assert err.startswith("leco: ")
            assert said in err


def test_names_in_a_file_are_printed_and_not_obeyed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model = nn.Module()
    for name in ("[bold]a[/]", "[/]b", ":smile:c", "\x1b[2Jd\n", "\ud800e", "\u00e9f"):
        model.register_parameter(name, nn.Parameter(torch.ones(2)))
    lc = leco.LC(model, {"[/t]": leco.Task("[bold]a[/]", leco.Vector(), leco.Binary())})
    lc.mu = 1.0
    leco.save(tmp_path / "net", lc)
    for encoding, last in (("utf-8", "\u00e9f"), ("ascii", r"\xe9f")):
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding))
        assert main(["inspect", str(tmp_path / "net")]) == 0
        sys.stdout.flush()
        out = sys.stdout.buffer.getvalue().decode(encoding)
        assert "\x1b" not in out
        for name in ("[bold]a[/]", "[/t]", "[/]b", ":smile:c", r"\x1b[2Jd\n", r"\ud800e", last):
            assert f"| {name} " in out


def test_the_command_is_installed(saved: tuple[leco.LC, Path]):
    scripts = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"][
        "scripts"
    ]
    assert scripts == {"leco": "leco.command.cli:main"}
    file = damaged(saved[1], 100)
    run = subprocess.run(
        [sys.executable, "-m", "leco", "inspect", file],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (run.returncode, run.stdout, run.stderr.count("\n")) == (1, "", 1)
    assert run.stderr.startswith(f"leco: {file}")
