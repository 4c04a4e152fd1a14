"""The laws of a C step in a metric: mu_i = mu d_i for entry i. Each is a function of a case.

A compression that takes no metric must refuse it, with the reason.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from laws.case import MU, Case, close, every_other, raises, same, tensors


def metrics(x: Tensor) -> Iterator[Tensor]:
    """mu d for metrics d over two and over six powers of ten."""
    yield MU * (0.1 + torch.rand_like(x)).square()
    yield MU * torch.exp2(3 * torch.randn_like(x)).clamp(1e-3, 1e3)


def weighed(case: Case, x: Tensor, theta: Any, mu: Tensor) -> float:
    """The objective in the metric."""
    error = (mu / 2 * (x.double() - theta.decompress().double()).square()).sum()
    return float(error) + case.compression.price(theta)


def energy(x: Tensor, mu: Tensor) -> float:
    return float((mu * x.double().square()).sum())


def taking(law: Callable[[Case], None]) -> Callable[[Case], None]:
    """The law, for compressions that take a metric."""
    return lambda case: law(case) if case.takes_metric() else None


def law_no_metric_is_refused(case: Case) -> None:
    x = torch.randn(case.shape, dtype=torch.float64)
    mu = next(metrics(x))
    if not case.takes_metric():
        raises(ValueError, lambda: case.compress(x, mu=mu), "metric")
        return
    for wrong in (0.0, -1.0, math.nan, math.inf):
        bad = mu.clone()
        bad.view(-1)[1] = wrong
        raises(ValueError, lambda bad=bad: case.compress(x, mu=bad), "positive and finite")
    raises(ValueError, lambda: case.compress(x, mu=mu.view(-1)[1:]), "shape")
    raises(TypeError, lambda: case.compress(x, mu=(mu * 9).int() + 1), "floating-point")


def law_metric_of_ones(case: Case) -> None:
    for x in every_other(case):
        plain = case.compress(x)
        assert same(case.compress(x, mu=torch.full_like(x, MU)), plain)
        if case.takes_metric():  # also where the C step does not see that it is constant
            mu = torch.full_like(x, MU)
            with case.ways():
                theta = case.compression.c_step(x, mu, None)
            most = weighed(case, x, plain, mu) * (1 + 1e-9)
            assert weighed(case, x, theta, mu) <= most + (1e-12 + case.metric_slack) * energy(x, mu)


@taking
def law_metric_changes_nothing_else(case: Case) -> None:
    for x in every_other(case):
        for mu in list(metrics(x))[:1]:
            before, weights, theta = x.clone(), mu.clone(), case.compress(x, mu=mu)
            kept = {name: field.clone() for name, field in tensors(theta).items()}
            assert same(case.compress(x, mu=mu), theta)
            case.compress(x, theta, mu)
            assert torch.equal(x, before)
            assert torch.equal(mu, weights)
            assert all(torch.equal(field, kept[n]) for n, field in tensors(theta).items())
            single = case.compress(x.float(), mu=mu)
            assert single.decompress().dtype == torch.float32
            assert case.compress(x.float(), single, mu).decompress().dtype == torch.float32
            assert weighed(case, x, single, mu) <= weighed(case, x, theta, mu) * 1.01 + (
                1e-5 + case.metric_slack
            ) * energy(x, mu)
            half = case.compress(x.bfloat16(), mu=mu.bfloat16())
            assert half.decompress().dtype == torch.bfloat16


@taking
def law_metric_member(case: Case) -> None:
    for x in every_other(case):
        for mu in metrics(x):
            delta = case.compress(x, mu=mu).decompress()
            assert delta.shape == x.shape
            assert torch.isfinite(delta).all()
            assert case.member(delta)


@taking
def law_metric_optimal(case: Case) -> None:
    for x in every_other(case):
        for mu in metrics(x):
            theta = case.compress(x, mu=mu)
            delta, reached = theta.decompress(), weighed(case, x, theta, mu)
            for _ in range(15):
                other = case.near(x, delta)
                least = float((mu / 2 * (x - other).square()).sum()) + case.cost(other)
                assert reached <= least * (1 + 1e-9) + (1e-12 + case.metric_slack) * energy(x, mu)


@taking
def law_metric_warm_start_is_never_worse(case: Case) -> None:
    for x in every_other(case):
        for mu in metrics(x):
            start = case.compress(x + 0.1 * x.std(correction=0) * torch.randn_like(x), mu=mu)
            last = weighed(case, x, start, mu)
            assert weighed(case, x, case.compress(x, start, mu), mu) <= last * (
                1 + 1e-9
            ) + 1e-12 * energy(x, mu)


@taking
def law_metric_scale(case: Case) -> None:
    e = case.compression.scaling()
    for x in every_other(case):
        if e is None or not x.any():
            continue
        for mu in metrics(x):
            here = case.compress(x, mu=mu)
            for c in (2.0**-60, 2.0**60):
                there = case.compress(c * x, mu=mu / c**e)
                delta = there.decompress() / c
                found = float((mu / 2 * (x - delta).square()).sum())
                found += case.compression.price(there) if e else 0.0
                allowed = (1e-9 + case.metric_slack) * energy(x, mu)
                assert found <= weighed(case, x, here, mu) * (1 + 1e-6) + allowed


@taking
def law_metric_of_a_batch(case: Case) -> None:
    if not case.batch:
        return
    problems = [x for x in every_other(case) if x.shape == case.shape]
    rows = torch.stack(problems[:6]).unflatten(0, (2, 3))
    mu = MU * torch.exp2(torch.randn_like(rows))
    together = case.compress(rows, mu=mu).decompress()
    pairs = zip(rows.flatten(0, 1), mu.flatten(0, 1), together.flatten(0, 1), strict=True)
    for row, own, delta in pairs:
        assert close(delta, case.compress(row, mu=own).decompress())


METRIC_LAWS: dict[str, Callable[[Case], None]] = {
    name.removeprefix("law_"): law
    for name, law in list(globals().items())
    if name.startswith("law_")
}
