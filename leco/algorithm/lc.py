"""The learning-compression (LC) algorithm: min L(w) subject to w = Delta(Theta), by alternating
optimization.

    Theta <- C step at the first mu                                        direct compression
    for mu = mu_0 < mu_1 < ...:
        L step:       w      <- argmin_w L(w) - lambda'(w - Delta(Theta))
                                         + mu/2 ||w - Delta(Theta)||^2     your training
        C step:       Theta  <- argmin_Theta mu/2 ||x - Delta(Theta)||^2 + alpha C(Theta)
                                with x = w - lambda/mu
        multipliers:  lambda <- lambda - mu (w - Delta(Theta))

The L step knows the compression only as Delta(Theta) + lambda/mu, a point that w is pulled to. The
C step knows the task only as x. This is the augmented Lagrangian; with lambda = 0 throughout it is
the quadratic penalty. Carreira-Perpinan, arXiv 1707.01209, sections 3 and 4.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

import leco.distributed as distributed
from leco.algorithm import attach, penalty
from leco.algorithm.alike import check_alike
from leco.algorithm.batchnorm import kept_statistics, recalibrate_
from leco.algorithm.curvature import mean_curvature
from leco.algorithm.inputs import c_step_input
from leco.algorithm.interrupts import uninterrupted
from leco.algorithm.metric import weighed_gap
from leco.algorithm.owners import shared_c_steps
from leco.algorithm.record import Record, differences, norm
from leco.algorithm.variables import Variables
from leco.algorithm.watch import LOST
from leco.theta import Theta

HUNDREDTH = 100  # steps between two comparisons of the ranks


class LC(Variables):
    """The state of the algorithm over a model (mu, Thetas, Delta(Theta), multipliers), with a
    method for each step.

    Construction changes nothing in the model. Setting `mu` for the first time makes the direct
    compression. Extra memory is one copy of the compressed parameters for Delta(Theta) and, from
    their first step on, one for the multipliers, with the parameters' dtype and device.

    Args:
        model: the net whose parameters the tasks name. Nothing is written on its modules. Of a net
            in DataParallel, DistributedDataParallel or torch.compile the net inside is taken, and
            names do not have `module.` or `_orig_mod.`. Of several ranks (torchrun),
            each makes the same calls; parameters may be sharded, by `fully_shard` before.
        tasks: name to `Task`. Parameters in no task are trained as usual; `leco.plan(lc)` says
            which is which.
        multipliers: False for the quadratic penalty.
        metric: parameter name to a positive number d for each weight, a tensor that broadcasts to
            the parameter: the loss's curvature there, up to a common factor (`leco.fisher`). mu is
            mu d_i for weight i then, in the penalty, the C step and the multipliers' step:
            distortion is weighed by it, and ||.||^2 above is sum_i d_i (.)_i^2. Other parameters
            have d = 1. Memory: the tensors as given.

    Raises:
        ValueError: an unknown parameter, one that stands twice or in two tasks, without values,
            empty, not floating point, or with NaN or infinite entries; a view or compression that
            can't take the parameters' shapes. The task, parameter, value and bound are named. Every
            method raises it, too, for a parameter that the model has replaced since. A metric that
            is not positive and finite, or of a task whose compression takes none.

    >>> import leco, torch
    >>> model = torch.nn.Linear(4, 2)
    >>> lc = leco.LC(model, {"all": leco.Task("weight", leco.Vector(), leco.Binary())})
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> lc.attach(optimizer)
    >>> x, y = torch.randn(8, 4), torch.randn(8, 2)
    >>> for mu in leco.exponential(0.1, 2.0, 12):
    ...     lc.mu = mu
    ...     for _ in range(10):
    ...         optimizer.zero_grad()
    ...         torch.nn.functional.mse_loss(model(x), y).backward()
    ...         for group in optimizer.param_groups:
    ...             group["lr"] = leco.stable_lr(0.1, mu)
    ...         optimizer.step()
    ...     record = lc.step()
    >>> with lc.compressed():
    ...     len(model.weight.unique())
    2
    """

    # --- the L step's penalty

    def penalty(self) -> Tensor:
        """-lambda'(w - Delta(Theta)) + mu/2 ||w - Delta(Theta)||^2: a scalar to add to the loss,
        where you don't use `attach`."""
        self._require_theta("penalty")
        self.check_current()
        if self._sharded:
            raise ValueError(
                "LC: penalty: the parameters are sharded, and each rank's loss is of its own; call "
                "lc.attach(optimizer) instead"
            )
        found = penalty.value(self._params, self._delta, self._multipliers, self.mu, self._metric)
        if found.requires_grad:
            found.register_hook(self._watch.reached)
        return found

    def attach(self, *optimizers: Any) -> None:
        """Add the penalty's gradient, mu d (w - Delta(Theta)) - lambda, to `.grad` whenever an
        optimizer steps: the training code stays as it is.

        This gives the trajectory of the loss with `penalty()`, without a graph, and once a step
        under gradient accumulation. Gradient clipping does not see it. A parameter that you freeze
        afterwards is not moved. Sparse gradients become dense.

        Args:
            optimizers: of torch.optim, or wrappers that keep one as `.optimizer` (accelerate).

        Raises:
            TypeError: LBFGS, whose line search needs the penalty's value; SparseAdam; something
                that is no optimizer.
            ValueError: a compressed parameter that no optimizer holds, that is frozen, or that
                another LC is attached for; attached already.
        """
        if self._handles:
            raise ValueError("LC: attached already; call lc.detach() first")
        self.check_current()
        self._handles = attach.hook(self, optimizers)

    @property
    def attached(self) -> bool:
        """Whether the penalty's gradient joins some optimizer's steps."""
        return bool(self._handles)

    def detach(self) -> None:
        """Undo `attach`."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def applied(self, unstable: str = "") -> None:
        """Count an application of the penalty; the hook calls it after it added the gradient.

        Args:
            unstable: why the optimizer diverges on the penalty, or "".
        """
        self._watch.added += 1
        if unstable:
            self._watch.say("unstable", f"LC: SGD diverges: {unstable}")

    def curvature(self, backward: Callable[[], Any], mu: float = 1.0) -> float:
        """h = (grad L(Delta(Theta)) - grad L(w))'(Delta(Theta) - w) / ||Delta(Theta) - w||^2: what
        mu has to be compared with.

        The mean curvature of the loss from w to Delta(Theta), in units of the metric where there
        is one. Where mu is far below h the loss
        rules the L step, far above h the penalty. Call it before the first L step;
        `leco.automatic` makes a schedule of it. Weights, `.grad`, batch-norm statistics and Theta
        are left as they were: where there is no Theta yet, direct compression is made for the
        purpose, and forgotten.

        Args:
            backward: computes the task's loss, without the penalty, on some examples and calls
                `backward()`: a few hundred examples at least, and the same each time.
            mu: for the direct compression, which depends on it in the penalty forms.

        Raises:
            ValueError: w is Delta(Theta) already; `backward` reaches none of the compressed
                parameters, or gives NaN.

        >>> import leco, torch
        >>> model, x = torch.nn.Linear(4, 1, bias=False), 3 * torch.eye(4)
        >>> lc = leco.LC(model, {"all": leco.Task("weight", leco.Vector(), leco.Binary())})
        >>> round(lc.curvature(lambda: (model(x) ** 2).sum().backward()), 3)  # ||3 w||^2: 18
        18.0
        """
        self._require_outside("curvature")
        self.check_current()
        probe = self
        if not self.thetas:
            probe = LC(self.model, self.tasks, metric=self._metric)
            probe.mu = mu
        return mean_curvature(
            self.model, self._params, probe.delta, probe.compressed, backward, self._metric
        )

    # --- the C step and the multipliers

    def c_step(self, *names: str) -> None:
        """Theta <- argmin mu/2 ||w - lambda/mu - Delta(Theta)||^2 + alpha C(Theta), task by task:
        of all tasks, or of those that you name. Where one task fails, none is changed."""
        thetas = self._compress("c_step", names)
        stale = len(thetas) < len(self.tasks) and self._watch.moved(self._params)
        with uninterrupted():
            self._take(thetas)
            if stale:
                self._watch.forget()

    def multipliers_step(self) -> None:
        """lambda <- lambda - mu (w - Delta(Theta)); nothing for the quadratic penalty."""
        self._require_theta("multipliers_step")
        self.check_current()
        with uninterrupted():
            self._move_multipliers()

    def step(self) -> Record:
        """Make the C step, then the multipliers' step: what follows an L step.

        Returns:
            A record whose `bits` is None, as counting them codes every weight (`lc.bits()`).
        """
        start = time.perf_counter()
        thetas = self._compress("step")
        self._watch.at_step(self._params)
        self.multipliers  # noqa: B018  # their memory first
        with uninterrupted():  # all of it, or nothing
            self._take(thetas)
            self._move_multipliers()
            self._steps += 1
        return self._record(None, time.perf_counter() - start)

    def record(self) -> Record:
        """The present state in numbers."""
        self._require_theta("record")
        return self._record(self.bits(), math.nan)

    # --- the compressed net

    @contextmanager
    def compressed(self, batches: Iterable[Any] | None = None) -> Iterator[nn.Module]:
        """Inside, the model's weights are Delta(Theta); afterwards they are w again, whatever
        happened inside.

        What can't be right there is refused: the penalty, its gradient in an optimizer's step,
        `delta`, `record` and the steps. Weights that you change by other means are put back, with
        a warning.

        Args:
            batches: inputs to recalibrate the batch-norm statistics with (`leco.recalibrate_`),
                which belong to w otherwise; they are restored as well.
        """
        self._require_theta("compressed")
        self.check_current()
        self._stale = self._watch.moved(self._params)
        try:
            with uninterrupted():
                self._exchange()
                self._inside = True
            with nullcontext() if batches is None else kept_statistics(self.model):
                if batches is not None:
                    recalibrate_(self.model, batches)
                yield self.model
        finally:
            try:
                self.leave()
            finally:  # again, where Ctrl-C came before the first one had begun
                self.leave()

    def leave(self) -> None:
        """End `compressed()`: the weights are w again. Nothing where it has ended."""
        with uninterrupted():
            lost = self._inside and self._put_back()
        if lost:
            self._watch.say("lost", LOST)

    # --- private

    @torch.no_grad()
    def _compress(self, verb: str, names: Sequence[str] = ()) -> dict[str, Theta]:
        mu = self.mu
        self._require_outside(verb)
        self.check_current()
        names = tuple(names) or tuple(self.tasks)
        for name in names:
            if name not in self.tasks:
                raise ValueError(
                    f"LC: there is no task {name!r}; there are {', '.join(self.tasks)}"
                )
        if not self.thetas or (verb == "step" and self._steps % HUNDREDTH == 0):
            check_alike(mu, self._params, self._multipliers)
        sizes = {n: sum(self._params[own].numel() for own in self.names[n]) for n in names}
        devices = {n: self._params[self.names[n][0]].device for n in names}
        return shared_c_steps(sizes, self._problem, self._solve, devices)

    def _problem(self, name: str, own: bool) -> tuple[Any, Any]:
        """x and mu of the task's C step. Every rank takes part where parameters are sharded; the
        others get nothing that is not their `own`."""
        params = {n: self._params[n] for n in self.names[name]}
        if not own and not any(distributed.is_sharded(p) for p in params.values()):
            return None, None
        return c_step_input(self.tasks[name], self.mu, params, self._multipliers, self._metric)

    def _solve(self, name: str, problem: tuple[Any, Any]) -> Theta:
        """The task's C step, from its last Theta where that is of the same compression."""
        compression = self.tasks[name].compression
        last = self.thetas.get(name) if self._made_by.get(name) == compression else None
        try:
            return compression.compress(*problem, last)
        except ValueError as error:
            own = {n: distributed.local(self._params[n]) for n in self.names[name]}
            bad = [n for n, w in own.items() if not torch.isfinite(w).all()]
            where = f"parameter {bad[0]!r}, " if bad else ""
            raise ValueError(f"task {name!r}, {where}mu = {self.mu:g}: {error}") from error

    def _take(self, thetas: Mapping[str, Theta]) -> None:
        """The Thetas of a C step of the present w."""
        self._set_thetas({**self.thetas, **thetas})
        self._made_by |= {name: self.tasks[name].compression for name in thetas}

    @torch.no_grad()
    def _record(self, coded: int | None, seconds: float) -> Record:
        w = {n: distributed.local(p) for n, p in self._params.items()}
        delta = {n: distributed.local(self._delta[n]) for n in w}
        gap = self._norm(lambda n: differences([w[n]], [delta[n]]))
        size = self._norm(lambda n: [w[n]])
        relative = gap / size if size else gap
        thetas = self.thetas.items()
        price = float(sum(self.tasks[name].compression.price(theta) for name, theta in thetas))
        given = {n: [distributed.local(value)] for n, value in self._multipliers.items()}
        multipliers = self._norm(lambda n: given.get(n, ()))
        weighed = gap
        if self._metric:
            d = {n: distributed.local(value) for n, value in self._metric.items()}
            weighed = self._norm(lambda n: [weighed_gap(w[n], delta[n], d.get(n))])
        numbers = self._steps, self.mu, gap, relative, multipliers, price, coded, seconds
        return Record(*numbers, weighed_gap=weighed)

    def _norm(self, parts: Callable[[str], Iterable[Tensor]]) -> float:
        """The norm of what belongs to all parameters, over all ranks.

        Args:
            parts: the tensors of a parameter, of this rank.
        """
        if not self._sharded:
            return norm(tensor for name in self._params for tensor in parts(name))
        sums = {name: norm(parts(name)) ** 2 for name in self._params}
        return math.sqrt(distributed.total(sums, self._params))

    @torch.no_grad()
    def _exchange(self) -> None:
        """w <-> Delta(Theta), one parameter's temporary at a time; in place, so that compiled and
        sharded modules see it."""
        distributed.reshard_(self.model)
        for name, p in self._params.items():
            w, delta = distributed.local(p), distributed.local(self._delta[name])
            kept = w.clone()
            w.copy_(delta)
            delta.copy_(kept)
        self._watch.belong(self._params)

    @torch.no_grad()
    def _put_back(self) -> bool:
        """Make the model's weights w again. Returns whether they were changed inside; Delta(Theta)
        is made anew then."""
        changed = self._watch.moved(self._params)
        self._exchange()
        self._inside = False
        if changed:
            self._set_thetas(self.thetas)
        if self._stale:
            self._watch.forget()
        return changed
