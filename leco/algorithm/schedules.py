"""Schedules of mu and of the L step's learning rate, as plain functions."""

import math

FROM_LAST = (0.05, 7.0, 1.5)  # start, end, power of L steps that start at the last w
FROM_DELTA = (0.0005, 0.005, 1.0)  # at Delta(Theta)


def exponential(start: float, factor: float, steps: int) -> list[float]:
    """start * factor^k for k = 0, ..., steps - 1: mu with a factor slightly above 1, learning rates
    with one slightly below.

    Starting points of the authors, for mu: 9e-5 and 1.1 for 40 steps (LeNet300, quantization and
    pruning), 1e-3 and 1.25 for 50 (ResNets).

    >>> import leco
    >>> leco.exponential(1.0, 2.0, 4)
    [1.0, 2.0, 4.0, 8.0]
    """
    if not 0 < start < float("inf") or not 0 < factor < float("inf"):
        raise ValueError(
            f"exponential: start = {start} and factor = {factor} must be positive and finite"
        )
    if steps < 1:
        raise ValueError(f"exponential: steps = {steps} must be at least 1")
    return [start * factor**k for k in range(steps)]


def automatic(
    curvature: float,
    steps: int,
    start: float | None = None,
    end: float | None = None,
    power: float | None = None,
    *,
    from_delta: bool = True,
) -> list[float]:
    """mu_k = start h (end/start)^((k/(steps - 1))^power), where h is the curvature of the loss from
    w to Delta(Theta), as `lc.curvature` measures it.

    The schedule does not depend on the scale of the loss or of the weights. The defaults are the
    best of the runs in docs/benchmarks.md.

    Args:
        curvature: h.
        steps: the number of values.
        start, end, power: 0.0005, 0.005 and 1, for 40 steps of some 10 rounds each; 1 is
            `exponential`.
        from_delta: False for L steps that start where the last one ended, as those of
            `leco.run(from_delta=False)`: the defaults are 0.05, 7 and 1.5 then. With a power above
            1 most steps are at small mu, where indices and masks still change, and the last ones
            close the gap.

    >>> import leco
    >>> [round(mu, 6) for mu in leco.automatic(0.1, steps=3)]
    [5e-05, 0.000158, 0.0005]
    >>> [round(mu, 5) for mu in leco.automatic(0.1, steps=5, from_delta=False)]
    [0.005, 0.00927, 0.02869, 0.12386, 0.7]
    """
    defaults = FROM_DELTA if from_delta else FROM_LAST
    start, end, power = (
        default if given is None else given
        for given, default in zip((start, end, power), defaults, strict=True)
    )
    if not 0 < curvature < float("inf"):
        raise ValueError(
            f"automatic: curvature = {curvature} must be positive and finite: is w trained, and "
            "the compression not exact already?"
        )
    if not 0 < start <= end < float("inf"):
        raise ValueError(
            f"automatic: start = {start} must be positive, end = {end} finite and not below it"
        )
    if steps < 1:
        raise ValueError(f"automatic: steps = {steps} must be at least 1")
    if not 0 < power < float("inf"):
        raise ValueError(f"automatic: power = {power} must be positive and finite")
    return [
        start * curvature * (end / start) ** ((k / max(1, steps - 1)) ** power)
        for k in range(steps)
    ]


def stable_lr(lr: float, mu: float, momentum: float = 0.0, nesterov: bool = False) -> float:
    """min(lr, c/mu), half of the largest rate at which gradient descent on the penalty, of
    curvature mu, is stable.

    c = 1 without momentum (Part I, section 5), 1 + beta with heavy-ball momentum beta, (1 +
    beta)/(1 + 2 beta) with Nesterov's, from the largest lr mu for which the roots of z^2 - (1 +
    beta)(1 - lr mu) z + beta (1 - lr mu) (Nesterov) and z^2 - (1 + beta - lr mu) z + beta (heavy
    ball) stay in the unit disc.

    >>> import leco
    >>> leco.stable_lr(0.1, mu=100.0)
    0.01
    >>> round(leco.stable_lr(0.1, mu=100.0, momentum=0.9, nesterov=True), 5)
    0.00679
    """
    if not 0 < lr < float("inf") or not 0 < mu < float("inf") or not 0 <= momentum < 1:
        raise ValueError(
            f"stable_lr: lr = {lr} and mu = {mu} must be positive and finite, momentum = "
            f"{momentum} at least 0 and below 1"
        )
    return min(lr, (1 + momentum) / (1 + 2 * momentum if nesterov else 1) / mu)


def steady_mu(lr: float, iterations: int, momentum: float = 0.0) -> float:
    """ln 3 (1 - momentum)/(lr iterations): above it L steps of so many iterations are long enough
    that no sign swings for ever.

    With multipliers, a weight that the loss holds near 0 can be +a after one C step and -a after
    the next: the multiplier adds up what the L step had no time to close. For {-a, +a} and a loss
    of curvature H around 0 that cycle exists exactly where s mu/(mu + H) < 1 - s/2, with s = 1 -
    exp(-lr (mu + H) iterations/(1 - momentum)) the share of its way that w goes in an L step. In
    flat directions (H = 0) this is s < 2/3, the bound above; in the others mu must pass H too. Let
    mu pass it well before the learning rate decays; more iterations in each L step lower it. (The
    cycle, in flat directions: Delta = +-a, w = -+3 s a/(4 - 3 s) and lambda = +-mu (a + |w|)/2 in
    turn; the C step exchanges the signs where |w| < a.)

    >>> import leco
    >>> round(leco.steady_mu(0.1, iterations=100, momentum=0.9), 6)
    0.010986
    """
    if not 0 < lr < float("inf") or iterations < 1 or not 0 <= momentum < 1:
        raise ValueError(
            f"steady_mu: lr = {lr} must be positive, iterations = {iterations} at least 1, "
            f"momentum = {momentum} in [0, 1)"
        )
    return math.log(3) * (1 - momentum) / (lr * iterations)
