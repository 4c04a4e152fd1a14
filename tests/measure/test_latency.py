"""Times of nets, of layers and of ranks, by a clock that the layers of the test move."""

import pytest
import torch
from clock import Clock, hooks, net
from torch import Tensor, nn

import leco
import leco.measure.latency
from leco.measure.latency import Speed, speed


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
