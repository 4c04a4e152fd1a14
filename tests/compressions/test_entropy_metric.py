"""The descent of `EntropyCodebook` in a metric: what its sweeps skip, its samples, and the values
that it drops."""

import math

import pytest
import torch
from torch import Tensor

from leco.compressions import (
    EntropyCodebook,
    entropy_metric,
    entropy_metric_starts,
    entropy_weighed,
)
from leco.compressions.entropy_descent import ENTRY_BITS, Candidates
from leco.compressions.entropy_idle import objectives_without, without_idle
from leco.compressions.entropy_weighed import Swept, Weighed, sweep

INF = math.inf


def drawn(rows: int, n: int, seed: int = 0, spread: float = 1.5) -> tuple[Tensor, Tensor]:
    """Weights and their metric, over some orders of magnitude."""
    generator = torch.Generator().manual_seed(seed)
    draw = {"generator": generator, "dtype": torch.float64}
    return torch.randn(rows, n, **draw), (spread * torch.randn(rows, n, **draw)).exp()


def state_of(values: list[float], lengths: list[float], zero: int | None = 0) -> Candidates:
    """One state, (1, K)."""
    flags = torch.zeros(1, len(values), dtype=torch.bool)
    if zero is not None:
        flags[0, zero] = True
    rows = (torch.tensor([row], dtype=torch.float64) for row in (values, lengths))
    value, length = rows
    return Candidates(value, flags, length)


def swept(x: Tensor, mu: Tensor, state: Candidates, price: float) -> Swept:
    return sweep(Weighed.of(x, mu), torch.arange(1), state, price, torch.tensor([False]))


def codes_by_hand(x: Tensor, mu: Tensor, state: Candidates, price: float) -> Tensor:
    """The codes (n,) of one row, by all costs."""
    values, _, lengths = (field[0] for field in state)
    costs = mu[0, :, None] * (x[0, :, None] - values).square() + price * lengths
    return costs.masked_fill(lengths.isinf(), INF).argmin(-1)


def objective_by_hand(x: Tensor, mu: Tensor, codes: Tensor, values: Tensor, zero: Tensor) -> Tensor:
    """sum mu_i (theta_i^2 - 2 x_i theta_i) and the bits, of one row."""
    theta, counts = values[codes], codes.bincount(minlength=len(values)).double()
    shares = counts / counts.sum()
    bits = -torch.xlogy(counts, shares).sum() / math.log(2)
    used = ((counts > 0) & ~zero).sum()
    return torch.stack([(mu[0] * theta * (theta - 2 * x[0])).sum(), bits + ENTRY_BITS * used])


STATES = {
    "0 is the shortest": state_of([0.0, -1.0, 1.0, 2.0], [0.2, 4.0, 3.5, 6.0]),
    "0 is not the shortest": state_of([-1.0, 0.0, 0.5], [3.0, 2.0, 1.0], 1),
    "values out of use": state_of([0.0, -1.0, 1.0], [0.3, INF, 2.0]),
    "0 out of use": state_of([0.0, -1.0, 1.0], [INF, 1.0, 1.0]),
    "0 alone": state_of([0.0, -1.0, 1.0], [0.0, INF, INF]),
    "no 0": state_of([0.1, -1.0, 1.0], [0.2, 4.0, 3.0], None),
}


@pytest.mark.parametrize("price", [0.0, 0.01, 0.5, 1e20])
@pytest.mark.parametrize("name", list(STATES))
def test_a_sweep_is_that_over_all_weights_and_values(name: str, price: float):
    x, mu = drawn(1, 500)
    state = STATES[name]
    found = swept(x, mu, state, price)
    codes = codes_by_hand(x, mu, state, price)
    assert found.counts[0].tolist() == codes.bincount(minlength=state.values.shape[1]).tolist()
    after = found.after.values[0]
    loss, bits = objective_by_hand(x, mu, codes, after, state.zero[0])
    assert float(found.objective) == pytest.approx(float(loss + price * bits), rel=1e-12)
    for j in range(len(after)):
        own = codes == j
        if own.any() and not state.zero[0, j]:
            mean = (mu[0, own] * x[0, own]).sum() / mu[0, own].sum()
            torch.testing.assert_close(after[j], mean)


def test_a_sweep_skips_most_weights_where_few_are_kept():
    x, mu = drawn(1, 1000)
    state = state_of([0.0, -2.0, 2.0], [0.1, 5.0, 5.0])
    front = int(Weighed.of(x, mu).fronts(torch.arange(1), state, 2.0))
    kept = int((codes_by_hand(x, mu, state, 2.0) != 0).sum())
    assert 0 < kept <= front < 500


def test_a_sample_stands_for_all_weights():
    x, mu = drawn(3, 1000)
    data = Weighed.of(x, mu)
    some = data.sample(100)
    assert some.x.shape[1] <= 100
    assert some.n == 1000
    assert some.numbers[:50].tolist() == [1.0] * 50
    for own, whole in zip(some[:4], data[:4], strict=True):
        assert torch.equal(own[:, :50], whole[:, :50])
    total = (some.numbers * some.mu * some.x.square()).sum(-1)
    torch.testing.assert_close(total, (mu * x.square()).sum(-1), rtol=0.03, atol=0)
    assert data.sample(1000) is data


def test_objectives_without_a_value():
    """Each weight of the value goes to its second best one; all other codes stay."""
    x, mu = drawn(1, 300)
    price, start = 0.05, state_of([0.0, -1.2, 0.9, 1.1], [0.5, 3.0, 3.0, 3.0])
    best = swept(x, mu, start, price)
    while not torch.equal(best.after.lengths, best.state.lengths):
        best = swept(x, mu, best.after, price)
    found = objectives_without(Weighed.of(x, mu), torch.arange(1), best, price)[0]
    assert found[0] == INF
    codes, values = codes_by_hand(x, mu, best.after, price), best.after.values[0]
    for j in range(1, 4):
        lengths = best.after.lengths.clone()
        lengths[0, j] = INF
        fewer = codes_by_hand(x, mu, best.after._replace(lengths=lengths), price)
        loss, bits = objective_by_hand(
            x, mu, torch.where(codes == j, fewer, codes), values, start.zero[0]
        )
        assert float(found[j]) == pytest.approx(float(loss + price * bits), rel=1e-9)


def test_values_that_do_not_pay_are_dropped():
    """Seven values within a narrow cluster pay for one of them alone."""
    generator = torch.Generator().manual_seed(0)
    x = 3 + 0.01 * torch.randn(1, 200, generator=generator, dtype=torch.float64)
    mu, strict = torch.ones_like(x), torch.tensor([False])
    quantiles = x.quantile(torch.linspace(0.05, 0.95, 7, dtype=torch.float64)).tolist()
    start = state_of([0.0, *quantiles], [9.0, *[math.log2(7)] * 7])
    data = Weighed.of(x, mu)
    best = swept(x, mu, start, 0.001)
    assert int((best.counts > 0).sum()) == 7
    lean = without_idle(data, best, 0.001, strict)
    assert int((lean.counts > 0).sum()) == 1
    assert float(lean.objective) < float(best.objective)


def objective(x: Tensor, mu: Tensor, theta, alpha: float) -> float:
    loss = float((mu / 2 * (x - theta.decompress()).square()).sum())
    return loss + EntropyCodebook(alpha).price(theta)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples of 200 weights."""
    monkeypatch.setattr(entropy_metric, "SAMPLE", 200)


@pytest.mark.parametrize("alpha", [0.001, 0.02])
def test_the_last_theta_goes_on_with_all_weights(monkeypatch: pytest.MonkeyPatch, alpha: float):
    """A sample of 4 weights misses what the last Theta has."""
    x, mu = drawn(1, 1000, spread=2.0)
    compression = EntropyCodebook(alpha, 16)
    start = compression.compress(x, mu)
    monkeypatch.setattr(entropy_metric, "SAMPLE", 4)
    least = objective(x, mu, start, alpha)
    assert objective(x, mu, compression.compress(x, mu), alpha) > 1.001 * least
    assert objective(x, mu, compression.compress(x, mu, start), alpha) <= least * (1 + 1e-12)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("alpha", [0.001, 0.1])
def test_more_weights_than_a_sample_holds(alpha: float):
    x, mu = drawn(2, 1000, spread=1.0)
    compression = EntropyCodebook(alpha, 5)
    for start in (compression.compress(x, 1.0), compression.compress(x, mu)):
        theta = compression.compress(x, mu, start)
        assert objective(x, mu, theta, alpha) <= objective(x, mu, start, alpha) * (1 + 1e-12)


@pytest.mark.usefixtures("small")
def test_a_c_step_makes_few_passes_over_all_weights(monkeypatch: pytest.MonkeyPatch):
    """The starts come from the sample; few sweeps look at the other weights."""
    looked_at, sorted_ones, plain = list[int](), list[int](), entropy_weighed.coded

    def counted(x: Tensor, *state: Tensor) -> Tensor:
        looked_at.append(x.numel())
        return plain(x, *state)

    class Noted(entropy_metric_starts.Sorted):
        def __init__(self, x: Tensor, weights: Tensor | None = None):
            sorted_ones.append(x.shape[-1])
            super().__init__(x, weights)

    monkeypatch.setattr(entropy_weighed, "coded", counted)
    monkeypatch.setattr(entropy_metric_starts, "Sorted", Noted)
    x, mu = drawn(1, 50_000, spread=0.5)
    theta = EntropyCodebook(1e-4, 16).compress(x, mu)
    assert theta.codebook.shape[-1] > 8
    assert sorted_ones == [200]
    assert sum(looked_at) < 60 * x.numel()


def test_equal_costs_have_the_first_code():
    x, price = torch.zeros(2, 3), torch.ones(2, 3)
    values = torch.tensor([[-1.0, 1.0, 3.0], [2.0, -1.0, 1.0]])
    lengths = torch.tensor([[1.0, 1.0, 1.0], [INF, 2.0, 2.0]])
    found = entropy_weighed.coded(x, price, values, lengths)
    assert found.tolist() == [[0, 0, 0], [1, 1, 1]]
    # a price times a length is finite
    found = entropy_weighed.coded(x, torch.full((2, 3), INF), values, lengths)
    assert found.tolist() == [[0, 0, 0], [1, 1, 1]]


@pytest.mark.usefixtures("small")
def test_the_codes_of_many_weights_are_the_best_ones():
    """No weight gains by another code, at the frequencies that the codes have."""
    x, mu = drawn(1, 2000)
    x, mu = x[0], mu[0]
    theta = EntropyCodebook(0.02, 6).compress(x, mu)
    values = torch.cat([torch.zeros(1, dtype=torch.float64), theta.codebook.double()])
    codes = theta.indices.long()
    lengths = -(codes.bincount(minlength=len(values)) / len(x)).log2()
    costs = mu[:, None] / 2 * (x[:, None] - values).square() + 0.02 * lengths
    own = costs.gather(-1, codes[:, None]).squeeze(-1)
    assert float((own - costs.amin(-1)).sum() / own.sum()) < 1e-4
    assert 3 <= len(values) <= 6
