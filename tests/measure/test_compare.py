"""The comparison of two nets: counts, names and verdicts; nothing left behind."""

import copy
from collections import OrderedDict

import pytest
import torch
from clock import Clock, Timed, hooks, net
from torch import Tensor, nn

import leco
import leco.measure.latency
from leco.layers.flops import module_multiply_adds


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
    assert module_multiply_adds(before, (torch.ones(3, 4), torch.ones(3, 4))) == {
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
    with pytest.raises(TypeError, match="compare: example_inputs are int"):
        leco.compare(model, model, 3)
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
        match=r"call no layer of the same name; before has \['0'\], after \['a'\]",
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
