"""C steps that are wrong in a metric only."""

import torch
from torch import Tensor

from laws.broken.fault import Fault
from leco.compressions import L0Penalty, TopK
from leco.theta import Sparse


class ForgetsTheMetric(TopK):
    """The largest magnitudes."""

    takes_metric = True

    def c_step(self, x, mu, theta=None):
        return TopK(self.kappa).c_step(x, 1.0)


class TakesAnyMetric(TopK):
    takes_metric = True

    def compress(self, x, mu, theta=None):
        mu = torch.as_tensor(mu).nan_to_num(1.0).abs().clamp(1e-6, 1e6)
        mu = mu if mu.shape == x.shape else float(mu.view(-1)[0])
        return TopK(self.kappa).compress(x, mu, theta)


class WeighsByTheRoot(TopK):
    """sqrt(d) |x| where the metric is constant as well."""

    takes_metric = True

    def c_step(self, x, mu, theta=None):
        if isinstance(mu, Tensor):
            return TopK(max(1, self.kappa - 1)).c_step(x, mu)
        return TopK(self.kappa).c_step(x, mu)


class SortsTheMetric(TopK):
    """The metric is changed in place."""

    takes_metric = True

    def compress(self, x, mu, theta=None):
        found = TopK(self.kappa).compress(x, mu, theta)
        if isinstance(mu, Tensor) and mu.is_contiguous():
            mu.mul_(2)
        return found


class OneMoreInAMetric(TopK):
    takes_metric = True

    def c_step(self, x, mu, theta=None):
        more = isinstance(mu, Tensor) and self.kappa < x.shape[-1]
        return TopK(self.kappa + more).c_step(x, mu)


class OneMetricForAll(TopK):
    """The metric of the first problem for all of a batch."""

    takes_metric = True

    def c_step(self, x, mu, theta=None):
        if isinstance(mu, Tensor) and x.dim() > 1:
            mu = mu.reshape(-1, mu.shape[-1])[:1].expand(x.shape).contiguous()
        return TopK(self.kappa).c_step(x, mu)


class WarmFromNothing(TopK):
    """Worse than the last Theta."""

    takes_metric = True

    def c_step(self, x, mu, theta=None):
        found = TopK(self.kappa).c_step(x, mu)
        warm = isinstance(mu, Tensor) and theta is not None
        return Sparse(found.mask, 0 * found.values) if warm else found


class ForgetsTheScaleOfTheMetric(L0Penalty):
    """mu keeps its value at another scale."""

    takes_metric = True

    def scaling(self):
        return 2

    def compress(self, x, mu, theta=None):
        if isinstance(mu, Tensor) and float(x.abs().max()) > 2.0**40:
            return L0Penalty(0.0).compress(x, mu, theta)
        return L0Penalty(self.alpha).compress(x, mu, theta)


FAULTS = (
    Fault("no_metric_is_refused", "top 7", TakesAnyMetric(7)),
    Fault("metric_of_ones", "top 7", WeighsByTheRoot(7)),
    Fault("metric_changes_nothing_else", "top 7", SortsTheMetric(7)),
    Fault("metric_member", "top 7", OneMoreInAMetric(7)),
    Fault("metric_optimal", "top 7", ForgetsTheMetric(7)),
    Fault("metric_warm_start_is_never_worse", "top 7", WarmFromNothing(7)),
    Fault("metric_scale", "l0 penalty 0.2", ForgetsTheScaleOfTheMetric(0.2)),
    Fault("metric_of_a_batch", "top 7", OneMetricForAll(7)),
)
