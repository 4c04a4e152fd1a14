"""The solver against closed forms, brute force and slow versions."""

import itertools

import pytest
import torch

import leco
from leco.layerwise import refine
from leco.layerwise.layouts import Plain
from leco.layerwise.quadratic import Layer, Moments
from leco.layerwise.refine import with_better_codes, with_better_floats
from leco.layerwise.solve import Problem, Schedule, solve

DOUBLE = torch.float64
STEPS = Schedule(40, 0.1, 10.0)


def spread(inputs: int, samples: int = 200, seed: int = 0) -> torch.Tensor:
    """H of correlated inputs of very different sizes."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(inputs, inputs, dtype=DOUBLE, generator=generator)
    sizes = torch.exp(torch.randn(inputs, dtype=DOUBLE, generator=generator))
    x = torch.randn(samples, inputs, dtype=DOUBLE, generator=generator) @ mix * sizes
    return x.mT @ x / samples


def problem_of(
    w: torch.Tensor, h: torch.Tensor, view, compression, damping: float = 0.01
) -> Problem:
    layer = Layer(w.unsqueeze(0), Moments(h.unsqueeze(0), damping))
    task = leco.Task("weight", view, compression)
    return Problem(task, [layer], [Plain(1, w.shape[1])], [w.shape])


def error(problem: Problem, w: torch.Tensor, delta: torch.Tensor) -> float:
    """tr(E H E') by its definition."""
    h = problem.layers[0].moments.damped[0]
    return float((((delta - w) @ h) * (delta - w)).sum())


def weights(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


def test_the_decomposition_is_that_of_the_damped_moments():
    h = spread(6)
    moments = Moments(h.unsqueeze(0), 0.01)
    expected = h + 0.01 * h.diagonal().mean() * torch.eye(6, dtype=DOUBLE)
    torch.testing.assert_close(moments.damped[0], expected)
    w = weights(3, 6)
    torch.testing.assert_close(moments.straight(moments.rotated(w)), w[None])
    layer = Layer(w[None], moments)
    delta = weights(3, 6, seed=5)
    layer.take(delta[None])
    expected = (((delta - w) @ expected) * (delta - w)).sum()
    assert layer.error() == pytest.approx(float(expected), rel=1e-12)


def test_the_l_step_minimises_the_augmented_lagrangian():
    w, h, mu = weights(3, 6), spread(6), 0.3
    problem = problem_of(w, h, leco.Vector(), leco.Binary())
    layer, moments = problem.layers[0], problem.layers[0].moments
    delta, multipliers = weights(3, 6, seed=2), torch.zeros(3, 6, dtype=DOUBLE)
    for _ in range(3):
        layer.take(delta[None])
        x = layer.l_step(mu)[0]

        # by hand, in the weights' own coordinates
        system = moments.damped[0] + mu * torch.diag(moments.d[0])
        right = w @ moments.damped[0] + mu * moments.d[0] * delta + multipliers
        expected = torch.linalg.solve(system, right, left=False)
        own = expected.clone().requires_grad_()
        loss = (((own - w) @ moments.damped[0]) * (own - w)).sum() / 2
        loss = loss - (multipliers * (own - delta)).sum()
        loss = loss + mu / 2 * (moments.d * (own - delta).square()).sum()
        (gradient,) = torch.autograd.grad(loss, own)
        assert gradient.abs().max() < 1e-10
        torch.testing.assert_close(x, expected - multipliers / (mu * moments.d))

        layer.multipliers_step(mu)
        multipliers = multipliers - mu * moments.d * (expected - delta)
        delta = weights(3, 6, seed=3)


def whitened(problem: Problem, w: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """H^(1/2), and the SVD of W H^(1/2)."""
    values, vectors = torch.linalg.eigh(problem.layers[0].moments.damped[0])
    root = vectors * values.sqrt() @ vectors.mT
    return root, *torch.linalg.svd(w @ root, full_matrices=False)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("outputs", [10, 12])
def test_a_low_rank_is_the_truncated_svd_of_the_whitened_weights(turned: bool, outputs: int):
    w, h = weights(outputs, 10), spread(10)
    problem = problem_of(w, h, leco.Matrix((1,) if turned else (0,)), leco.LowRank(3))
    root, u, s, v = whitened(problem, w)
    best = u[:, :3] * s[:3] @ v[:3] @ torch.linalg.inv(root)
    found = solve(problem, STEPS)
    delta = found.theta.decompress()
    torch.testing.assert_close(delta.mT if turned else delta, best)
    assert found.steps == 0
    assert found.error == pytest.approx(float(s[3:].square().sum() / s.square().sum()))
    assert found.error < found.direct


@pytest.mark.parametrize("alpha", [0.003, 0.3, 30.0])
def test_a_rank_is_selected_by_enumeration(alpha: float):
    w, h = weights(12, 10), spread(10)
    problem = problem_of(w, h, leco.Matrix(), leco.RankSelection(alpha))
    problem.layers[0].weight = 0.7
    *_, s, _ = whitened(problem, w)
    sizes = [22 * r for r in range(10)] + [120]
    every = [0.35 * float(s[r:].square().sum()) + alpha * n for r, n in enumerate(sizes)]
    theta = solve(problem, STEPS).theta
    rank = every.index(min(every))
    assert (theta.u.shape[1] if hasattr(theta, "u") else 10) == rank
    problem.take(theta)
    assert problem.objective(theta) == pytest.approx(min(every))


def test_layers_that_share_their_inputs_have_a_right_factor_in_common():
    """The rows of each layer count by its weight."""
    w, h = weights(9, 8), spread(8)
    moments = Moments(h.unsqueeze(0), 0.01)
    layers = [Layer(w[:5][None], moments, 3.0), Layer(w[5:][None], moments, 0.5)]
    task = leco.Task(["a", "b"], leco.Matrix(), leco.LowRank(2))
    shapes = [torch.Size([5, 8]), torch.Size([4, 8])]
    found = solve(Problem(task, layers, [Plain(1, 8)] * 2, shapes), STEPS)
    scale = torch.tensor([3.0] * 5 + [0.5] * 4, dtype=DOUBLE).sqrt().unsqueeze(-1)
    own = problem_of(scale * w, h, leco.Matrix(), leco.LowRank(2))
    root, u, s, v = whitened(own, scale * w)
    best = (u[:, :2] * s[:2] @ v[:2] @ torch.linalg.inv(root)) / scale
    torch.testing.assert_close(found.theta.decompress(), best)


def test_matrices_whose_columns_are_not_the_inputs_have_no_closed_form():
    """A convolution's scheme 2, and layers with inputs of their own."""
    w, h = weights(6, 2 * 2 * 2), spread(8)
    layer = Layer(w[None], Moments(h.unsqueeze(0), 0.01))
    shape = torch.Size([6, 2, 2, 2])
    task = leco.Task("weight", leco.Matrix((0, 2)), leco.LowRank(2))
    found = solve(Problem(task, [layer], [Plain(1, 8)], [shape]), STEPS)
    assert found.steps == 40
    assert found.error < found.direct
    layers = [Layer(part[None], Moments(h.unsqueeze(0), 0.01)) for part in (w[:3], w[3:])]
    both = leco.Task(["a", "b"], leco.Matrix(), leco.LowRank(2))
    shapes = [torch.Size([3, 8])] * 2
    assert solve(Problem(both, layers, [Plain(1, 8)] * 2, shapes), STEPS).steps == 40


def test_a_diagonal_h_takes_one_c_step():
    w, d = weights(4, 8), torch.exp(weights(8, seed=4))
    for h in (torch.diag(d), d):
        problem = problem_of(w, h, leco.Rows(), leco.Uniform(2))
        found = solve(problem, STEPS)
        damped = d + 0.01 * d.mean()
        expected = leco.Uniform(2).compress(w, damped.expand(4, 8).contiguous())
        ours = error(problem, w, found.theta.decompress())
        assert ours == pytest.approx(error(problem, w, expected.decompress()), rel=1e-9)


@pytest.mark.parametrize(
    ("values", "sizes"), [((-1, 1), 8), ((-1, 0, 1), 6)], ids=["binary", "ternary"]
)
def test_tiny_rows_by_brute_force(values: tuple[float, ...], sizes: int):
    """No row is below the optimum; most rows are at it."""
    w, h = weights(60, sizes), spread(sizes)
    problem = problem_of(w, h, leco.Rows(), leco.FixedCodebook(values))
    delta = solve(problem, STEPS).theta.decompress()
    every = torch.tensor(list(itertools.product(values, repeat=sizes)), dtype=DOUBLE)
    damped = problem.layers[0].moments.damped[0]
    gaps = every.unsqueeze(1) - w
    best = ((gaps @ damped) * gaps).sum(-1).amin(0)
    ours = (((delta - w) @ damped) * (delta - w)).sum(-1)
    assert (ours >= best - 1e-9).all()
    assert (ours <= best * 1.0001 + 1e-9).double().mean() > 0.6
    assert ours.sum() < 1.05 * best.sum()


FORMS = {
    "grid": (leco.Groups(5), leco.Uniform(2, zero_point=True)),
    "values a row": (leco.Rows(), leco.Codebook(3)),
    "ternary": (leco.Groups(5), leco.Ternary()),
    "kept": (leco.Vector(), leco.TopK(0.4)),
    "2:5": (leco.Vector(), leco.NM(2, 5)),
    "rank": (leco.Matrix(), leco.LowRank(2)),
    "entropy": (leco.Vector(), leco.EntropyCodebook(0.5, 4)),
    "sum": (
        leco.Blocks(),
        leco.Additive(((leco.Vector(), leco.TopK(0.2)), (leco.Matrix(), leco.LowRank(1)))),
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_never_worse_than_direct_compression(name: str):
    w, h = weights(6, 10), spread(10)
    problem = problem_of(w, h, *FORMS[name])
    for steps in (1, 5, 40):
        found = solve(problem_of(w, h, *FORMS[name]), STEPS._replace(steps=steps))
        delta = found.theta.decompress()
        delta = delta[0] if isinstance(delta, tuple) else delta
        relative = error(problem, w, delta.view(6, 10)) / error(problem, w, torch.zeros_like(w))
        assert found.error == pytest.approx(relative, rel=1e-9)
        price = problem.task.compression.price(found.theta)
        start = problem.task.compression.compress(problem.array([w[None]]), problem.mu(STEPS.first))
        problem.take(start)
        assert found.error * problem.layers[0].energy / 2 + price <= problem.objective(start) + 1e-9


def test_floats_by_least_squares():
    """On the support of pruning, conjugate gradients reach the optimum of each row."""
    w, h = weights(5, 12), spread(12)
    problem = problem_of(w, h, leco.Rows(), leco.TopK(4))
    theta = leco.TopK(4).compress(w, 1.0)
    found = with_better_floats(problem, theta)
    assert found is not None
    damped = problem.layers[0].moments.damped[0]
    best = torch.zeros_like(w)
    for row, own, mask in zip(w, best, theta.mask, strict=True):
        own[mask] = torch.linalg.solve(damped[mask][:, mask], damped[mask] @ row)
    least = error(problem, w, best)
    assert least - 1e-9 <= error(problem, w, found.decompress()) <= 1.001 * least
    assert least < 0.9 * error(problem, w, theta.decompress())


def test_as_many_iterations_as_floats_are_enough(monkeypatch: pytest.MonkeyPatch):
    """Conjugate gradients end at the optimum, where steepest descent is still on its way."""
    monkeypatch.setattr(refine, "ITERATIONS", 4)
    monkeypatch.setattr(refine, "ENOUGH", 0.0)
    w, h = weights(1, 12), spread(12)
    problem = problem_of(w, h, leco.Rows(), leco.TopK(4))
    found = with_better_floats(problem, leco.TopK(4).compress(w, 1.0))
    assert found is not None
    mask, damped = found.decompress()[0] != 0, problem.layers[0].moments.damped[0]
    best = torch.zeros_like(w)
    best[0, mask] = torch.linalg.solve(damped[mask][:, mask], damped[mask] @ w[0])
    ours = error(problem, w, found.decompress())
    assert ours == pytest.approx(error(problem, w, best), rel=1e-9)


@pytest.mark.parametrize("name", ["grid", "values a row", "ternary"])
def test_codes_by_a_slow_sweep(name: str):
    """Weight by weight, the code of least error with all others as they are."""
    w, h = weights(6, 10), spread(10)
    view, compression = FORMS[name]
    problem = problem_of(w, h, view, compression)
    theta = compression.compress(view.forward([w]), 1.0)
    delta = theta.decompress().clone()
    problems = torch.arange(60).view(delta.shape) // delta.shape[-1]
    for column in range(10):
        for row in range(6):
            at = row * 10 + column
            flat, which = delta.view(-1), int(problems.view(-1)[at])
            if isinstance(compression, leco.Uniform):
                levels = torch.arange(4) - theta.zero_point.double()[which]
                options = theta.scale[which] * levels
            elif isinstance(compression, leco.Codebook):
                options = theta.codebook[which]
            else:
                options = theta.scale[which] * theta.values
            errors = []
            for option in options:
                flat[at] = option
                errors.append(error(problem, w, delta.view(6, 10)))
            flat[at] = options[int(torch.tensor(errors).argmin())]
    found = with_better_codes(problem, theta)
    assert found is not None
    torch.testing.assert_close(found.decompress(), delta)
    assert error(problem, w, delta.view(6, 10)) < error(problem, w, theta.decompress().view(6, 10))


def test_codes_at_a_price_by_a_slow_sweep():
    """Weight by weight, the code of least error and bits, with the lengths before the sweep."""
    w, h = weights(6, 10), spread(10)
    compression = leco.EntropyCodebook(0.5, 5)
    problem = problem_of(w, h, leco.Vector(), compression)
    problem.layers[0].weight = 2.0
    theta = leco.EntropyCodebook(0.01, 5).compress(w.view(-1), 1.0)
    options = torch.cat([torch.zeros(1, dtype=DOUBLE), theta.codebook])
    counts = theta.indices.long().bincount(minlength=len(options)).double()
    lengths = -(counts / 60).log2()
    delta, codes = theta.decompress().clone(), theta.indices.clone()
    for column in range(10):
        for row in range(6):
            at, costs = row * 10 + column, []
            for option, length in zip(options, lengths, strict=True):
                delta[at] = option
                costs.append(error(problem, w, delta.view(6, 10)) + 0.5 * float(length))
            codes[at] = int(torch.tensor(costs).argmin())
            delta[at] = options[codes[at].long()]
    found = with_better_codes(problem, theta)
    assert found is not None
    assert torch.equal(found.indices, codes)
    assert not torch.equal(found.indices, theta.indices)

    # the sum of the error and the price falls
    def objective(theta) -> float:
        problem.take(theta)
        return problem.objective(theta)

    assert objective(found) < objective(theta)
    assert objective(refine.refined(problem, theta)) <= objective(found)


def test_multipliers_and_the_metric_help():
    """Against the quadratic penalty, and against C steps without the metric."""
    w, h = weights(16, 32), spread(32)
    found = solve(problem_of(w, h, leco.Vector(), leco.NM(2, 4)), STEPS)
    assert found.error < 0.8 * found.direct
    assert 10 < found.steps < 60


def test_several_groups_are_several_problems():
    w, h = weights(2, 5, 8), torch.stack([spread(8), spread(8, seed=7)])
    task = leco.Task("weight", leco.Rows(), leco.Binary())
    shape = torch.Size([10, 8])
    both = Problem(task, [Layer(w, Moments(h, 0.01))], [Plain(2, 8)], [shape])
    together = solve(both, STEPS).theta.decompress()
    for g in range(2):
        own = problem_of(w[g], h[g], leco.Rows(), leco.Binary())
        alone = solve(own, STEPS)
        mine = error(own, w[g], together.view(2, 5, 8)[g])
        assert mine <= 1.02 * error(own, w[g], alone.theta.decompress())


def test_steps_are_spent_where_choices_change():
    steps = Schedule(40, 0.1, 10.0)
    factor = 100 ** (1 / 39)
    assert steps.growth(0.3) == pytest.approx(factor**0.5)
    assert steps.growth(0.005) == pytest.approx(factor**4)
    assert steps.growth(float("nan")) == pytest.approx(factor)
    w, h = weights(8, 16), spread(16)
    assert solve(problem_of(w, h, leco.Matrix(), leco.Tucker((2, 2))), steps).steps == 40
    pruned = solve(problem_of(w, h, leco.Vector(), leco.NM(2, 4)), steps)
    assert pruned.steps < 40
    constant = Schedule(40, 0.1, 10.0)
    assert (
        solve(problem_of(w, h, leco.Vector(), leco.NM(2, 4)), constant._replace(steps=1)).steps == 1
    )
