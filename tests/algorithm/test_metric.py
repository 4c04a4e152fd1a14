"""An LC in a metric: mu_i = mu d_i in the penalty, the C step and the multipliers' step."""

import copy
import itertools

import pytest
import torch
from torch import nn

import leco
from leco.compressions.protocol import Compression
from leco.theta import Dense


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()


NAMES = ("0.weight", "2.weight")
X, Y = torch.randn(32, 6, dtype=torch.float64), torch.randint(3, (32,))


def tasks(compression=None) -> dict[str, leco.Task]:
    return leco.each(NAMES, leco.Vector(), compression or leco.Binary())


def metric() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return {
        "0.weight": 0.1 + torch.rand(5, 6, dtype=torch.float64),
        "2.weight": 0.1 + torch.rand(5, dtype=torch.float64),  # one for each column
    }


def train(model: nn.Module, lc: leco.LC, steps: int, mus: list[float]) -> list[leco.Record]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    lc.attach(optimizer)
    records = []
    for mu in mus:
        lc.mu = mu
        for _ in range(steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(X), Y).backward()
            optimizer.step()
        records.append(lc.step())
    return records


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().view(-1) for p in model.parameters()])


def test_the_hook_adds_the_gradient_of_the_penalty():
    model, d = net(), metric()
    lc = leco.LC(model, tasks(), metric=d)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    lc.attach(optimizer)
    lc.mu = 0.3
    for p in lc.params.values():
        p.data += torch.randn_like(p)
    lc.multipliers_step()
    by_hand = torch.autograd.grad(lc.penalty(), list(lc.params.values()))
    gaps = {n: p.detach() - lc.delta[n] for n, p in lc.params.items()}
    value = sum((0.15 * d[n] * g.square() - lc.multipliers[n] * g).sum() for n, g in gaps.items())
    assert torch.allclose(lc.penalty(), value, rtol=1e-14)
    optimizer.step()
    for (n, p), gradient in zip(lc.params.items(), by_hand, strict=True):
        assert torch.allclose(p.grad, gradient, atol=1e-14)
        assert torch.allclose(gradient, 0.3 * d[n] * gaps[n] - lc.multipliers[n], atol=1e-14)


def test_the_c_step_and_the_multipliers_see_mu_d():
    model, d = net(), metric()
    lc = leco.LC(model, tasks(), metric=d)
    lc.mu = 0.3
    (record,) = train(model, lc, 3, [0.3])
    last = {n: value.clone() for n, value in lc.multipliers.items()}
    model.zero_grad()
    for p in lc.params.values():
        p.data += 0.1 * torch.randn_like(p)
    again = lc.step()
    for n, p in lc.params.items():
        x = (p.detach() - last[n] / (0.3 * d[n])).view(-1)
        mu = (0.3 * d[n]).expand_as(p).reshape(-1)
        expected = leco.Binary().compress(x, mu).decompress().view_as(p)
        torch.testing.assert_close(lc.delta[n], expected, rtol=1e-12, atol=0)
        moved = last[n] - 0.3 * d[n] * (p.detach() - expected)
        assert torch.allclose(lc.multipliers[n], moved, atol=1e-15)
    gaps = {n: p.detach() - lc.delta[n] for n, p in lc.params.items()}
    weighed = sum(float((d[n] * g.square()).sum()) for n, g in gaps.items()) ** 0.5
    assert again.weighed_gap == pytest.approx(weighed, rel=1e-12)
    assert again.gap != pytest.approx(weighed, rel=1e-3)
    assert record.step == 1


def test_a_metric_of_ones_changes_nothing_and_its_scale_is_that_of_mu():
    runs = []
    ones = {"0.weight": 1.0, "2.weight": torch.ones(3, 5)}
    d = metric()
    for given, factor in ((None, 1), (ones, 1), (d, 2), ({n: 2 * v for n, v in d.items()}, 1)):
        model = net()
        lc = leco.LC(model, tasks(), metric=given)
        train(model, lc, 5, [factor * mu for mu in (0.25, 0.5, 1.0)])
        runs.append(weights(model))
    assert torch.equal(runs[0], runs[1])
    assert torch.equal(runs[2], runs[3])
    assert not torch.allclose(runs[0], runs[2])


def test_direct_compression_in_the_curvature_minimises_a_quadratic_loss():
    """L(w) = sum_i h_i (w_i - w0_i)^2 / 2 is the distortion in the metric h: the C step in it finds
    the best of all compressed nets, which the one without it does not."""
    torch.manual_seed(3)
    model = nn.Linear(7, 1, bias=False).double()
    w0, h = model.weight.detach().clone(), torch.exp2(3 * torch.randn(1, 7, dtype=torch.float64))

    def loss() -> torch.Tensor:
        return (h * (model.weight - w0).square()).sum() / 2

    task = {"all": leco.Task("weight", leco.Vector(), leco.TopK(3))}
    reached = []
    for given in ({"weight": h}, None):
        lc = leco.LC(model, task, metric=given)
        lc.mu = 1.0
        with lc.compressed():
            reached.append(loss().item())
        if given:
            assert lc.curvature(lambda: loss().backward()) == pytest.approx(1.0, rel=1e-12)
    energies = (h * w0.square()).view(-1) / 2
    best = min(
        sum(energies[i] for i in range(7) if i not in kept)
        for kept in itertools.combinations(range(7), 3)
    )
    assert reached[0] == pytest.approx(float(best), rel=1e-12)
    assert reached[1] > reached[0] * 1.01


def test_the_state_has_the_metric():
    model, d = net(), metric()
    lc = leco.LC(model, tasks(), metric=d)
    train(model, lc, 3, [0.2, 0.4])
    twin = copy.deepcopy(model)
    other = leco.LC(twin, tasks())
    other.load_state_dict(lc.state_dict())
    assert all(torch.equal(other.metric[n], d[n]) for n in d)
    lc.detach()
    a, b = train(model, lc, 3, [0.8]), train(twin, other, 3, [0.8])
    assert torch.equal(weights(model), weights(twin))
    assert a[0]._replace(c_seconds=0) == b[0]._replace(c_seconds=0)


def test_a_run_resumes_in_the_metric(tmp_path):
    def result(parts: list[int], path) -> torch.Tensor:
        for stop in parts:
            model = net()
            lc = leco.LC(model, tasks(), metric=metric())
            optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
            lc.attach(optimizer)
            run = leco.Run(lc, [0.1, 0.2, 0.4, 0.8], checkpoint=path)
            for k in run:
                if k == stop:
                    break
                run.begin(k)
                for _ in range(3):
                    optimizer.zero_grad()
                    nn.functional.cross_entropy(model(X), Y).backward()
                    optimizer.step()
                run.end(k)
        return weights(model)

    whole, parts = result([9], tmp_path / "a"), result([2, 9], tmp_path / "b")
    assert torch.equal(whole, parts)


def test_retraining_works_with_a_metric():
    model = net()
    lc = leco.LC(model, tasks(), metric=metric())
    lc.mu = 0.1
    free = leco.Retraining(lc)
    optimizer = torch.optim.Adam(free.parameters(), lr=0.01)
    free.attach(optimizer)
    before = nn.functional.cross_entropy(model(X), Y).item()
    for _ in range(20):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X), Y).backward()
        optimizer.step()
    assert nn.functional.cross_entropy(model(X), Y).item() < before
    assert len(model[0].weight.abs().unique()) == 1
    lc.step()


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"3.weight": 1.0}, ValueError, ["3.weight", "no compressed parameter"]),
        ({"0.bias": torch.ones(5)}, ValueError, ["0.bias", "no compressed parameter"]),
        ({"0.weight": torch.ones(4)}, ValueError, ["0.weight", "(4,)", "(5, 6)"]),
        ({"0.weight": torch.ones(2, 5, 6)}, ValueError, ["0.weight", "(2, 5, 6)"]),
        ({"0.weight": torch.zeros(5, 6)}, ValueError, ["30 of 30", "positive and finite"]),
        ({"2.weight": torch.tensor(-1.0)}, ValueError, ["2.weight", "-1"]),
        ({"2.weight": torch.tensor(torch.nan)}, ValueError, ["2.weight", "nan"]),
        ({"2.weight": torch.tensor(torch.inf)}, ValueError, ["2.weight", "inf"]),
        ({"2.weight": torch.tensor(True)}, TypeError, ["2.weight", "bool"]),
        (torch.ones(3), TypeError, ["mapping", "Tensor"]),
    ],
)
def test_a_wrong_metric_is_refused(given, error, words):
    lc = leco.LC(net(), tasks(), metric=metric())
    for attempt in (lambda: leco.LC(net(), tasks(), metric=given), lambda: lc.set_metric(given)):
        with pytest.raises(error) as raised:
            attempt()
        assert all(word in str(raised.value) for word in words), raised.value
    assert all(torch.equal(lc.metric[n], d) for n, d in metric().items())


class Own(Compression):
    """A user's compression that knows nothing of a metric."""

    def c_step(self, x, mu, theta=None):
        return Dense(x * (mu / (mu + 1)))


class OwnTopK(leco.TopK):
    """A C step of its own, of a class that takes a metric."""

    def c_step(self, x, mu, theta=None):
        return super().c_step(x, float(mu))


class Bare:
    """No subclass of Compression."""

    def check(self, shape):
        pass

    def compress(self, x, mu, theta=None):
        return Dense(x * (mu / (mu + 1)))

    def price(self, theta):
        return 0.0


@pytest.mark.parametrize("compression", [Own(), OwnTopK(3), Bare()])
def test_a_compression_that_knows_no_metric_works_without_one_and_says_so_with_one(compression):
    lc = leco.LC(net(), tasks(compression))
    lc.mu = 0.5
    lc.step()
    for attempt in (
        lambda: leco.LC(net(), tasks(compression), metric=metric()),
        lambda: lc.set_metric(metric()),
        lambda: leco.LC(
            net(),
            {
                "all": leco.Task(
                    NAMES, leco.Blocks(), leco.Choice(0.1, [(leco.Vector(), compression)])
                )
            },
            metric=metric(),
        ),
    ):
        with pytest.raises(ValueError, match="metric"):
            attempt()
    partly = {**tasks(compression), "2.weight": leco.Task("2.weight", leco.Vector(), leco.TopK(3))}
    leco.LC(net(), partly, metric={"2.weight": 2.0}).mu = 0.5


def test_set_compressions_asks_the_metric():
    class Sometimes(leco.TopK):
        def check_metric(self, shape):
            if self.kappa > 4:
                raise ValueError("too many for a metric")

    lc = leco.LC(net(), tasks(Sometimes(3)), metric=metric())
    with pytest.raises(ValueError, match=r"0\.weight.*too many"):
        lc.set_compressions({"0.weight": Sometimes(5)})
    assert lc.tasks["0.weight"].compression == Sometimes(3)


def test_names_of_wrapped_nets_and_of_ties():
    model = net()
    wrapped = nn.DataParallel(model)
    lc = leco.LC(wrapped, tasks(), metric={"module.0.weight": torch.full((5, 6), 2.0)})
    assert list(lc.metric) == ["0.weight"]
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    task = {"all": leco.Task("0.weight", leco.Vector(), leco.TopK(3))}
    assert list(leco.LC(tied, task, metric={"1.weight": 2.0}).metric) == ["0.weight"]
    with pytest.raises(ValueError, match="twice"):
        leco.LC(tied, task, metric={"1.weight": 2.0, "0.weight": 2.0})


def test_half_precision_keeps_the_metric_in_float32():
    model = net().bfloat16()
    lc = leco.LC(model, tasks(leco.TopK(5)), metric={n: d.bfloat16() for n, d in metric().items()})
    assert all(d.dtype == torch.float32 for d in lc.metric.values())
    lc.mu = 0.5
    record = lc.step()
    assert lc.delta["0.weight"].dtype == torch.bfloat16
    assert record.weighed_gap > 0


def test_the_largest_mu():
    lc = leco.LC(net(), tasks(), metric={"0.weight": torch.full((5, 1), 0.5)})
    lc.mu = 2.0
    assert lc.largest_mu == 2.0  # of the other task
    lc.set_metric({"0.weight": 3.0})
    assert lc.largest_mu == 6.0
    lc.set_metric({"0.weight": 0.25, "2.weight": 0.5})
    assert lc.largest_mu == 1.0
    lc.set_metric(None)
    assert lc.largest_mu == 2.0
    assert not lc.metric


def test_an_unstable_rate_is_noticed_by_the_largest_mu():
    model = net()
    lc = leco.LC(model, tasks(), metric={"0.weight": torch.tensor([1.0] * 5 + [100.0])})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    lc.attach(optimizer)
    lc.mu = 1.0
    nn.functional.cross_entropy(model(X), Y).backward()
    with pytest.warns(UserWarning, match="learning rate"):
        optimizer.step()


def test_inside_compressed_the_metric_stays():
    lc = leco.LC(net(), tasks(), metric=metric())
    lc.mu = 1.0
    with lc.compressed(), pytest.raises(RuntimeError, match="set_metric"):
        lc.set_metric(None)
