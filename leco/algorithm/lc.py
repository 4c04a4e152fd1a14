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
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from leco.algorithm import attach, penalty, state
from leco.algorithm.batchnorm import kept_statistics, recalibrate_
from leco.algorithm.curvature import mean_curvature
from leco.algorithm.interrupts import uninterrupted
from leco.algorithm.record import Record, Snapshot, norm
from leco.algorithm.watch import Watch
from leco.coding.tensors import bits
from leco.compressions.protocol import Compression
from leco.names import check_current, named_state, unwrapped
from leco.task import Task, resolve
from leco.theta import Theta


class LC:
    """The state of the algorithm (mu, Thetas, Delta(Theta), multipliers) over a model, with a
    method for each of its steps.

    Construction changes nothing in the model. Setting `mu` for the first time makes the direct
    compression. Extra memory is one copy of the compressed parameters for Delta(Theta) and one for
    the multipliers, with the parameters' dtype and device.

    Args:
        model: the net whose parameters the tasks name. Nothing is written on its modules. Of a net
            in DataParallel, DistributedDataParallel or torch.compile the net inside is taken, and
            names do not have `module.` or `_orig_mod.`.
        tasks: name to `Task`. Parameters in no task are trained as usual; `leco.plan(lc)` says
            which is which.
        multipliers: False for the quadratic penalty.

    Raises:
        ValueError: an unknown parameter, one that stands twice or in two tasks, without values,
            empty, not floating point, or with NaN or infinite entries; a view or compression that
            can't take the parameters' shapes. The task, parameter, value and bound are named. Every
            method raises it, too, for a parameter that the model has replaced since.

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

    def __init__(self, model: nn.Module, tasks: Mapping[str, Task], *, multipliers: bool = True):
        if not tasks:
            raise ValueError("LC: tasks is empty; nothing would be compressed")
        self.model = unwrapped(model)
        self.tasks = dict(tasks)
        self.thetas: dict[str, Theta] = {}
        self._params, self.names = resolve(model, self.tasks)
        self._mu: float | None = None
        self._steps = 0
        self._made_by: dict[str, Any] = {}  # the compression that each Theta is of
        self._inside = False
        self._watch = Watch()
        self._handles: list[Any] = []
        self._delta: dict[str, Tensor] = {}
        self._multipliers: dict[str, Tensor] | None = (
            {n: torch.zeros_like(p) for n, p in self._params.items()} if multipliers else None
        )

    def __getstate__(self) -> dict[str, Any]:
        """A copy, or what is pickled, is not attached."""
        return {**self.__dict__, "_handles": []}

    # --- state

    @property
    def params(self) -> dict[str, nn.Parameter]:
        """The compressed parameters, by qualified name."""
        return dict(self._params)

    @property
    def delta(self) -> dict[str, Tensor]:
        """Delta(Theta) for each compressed parameter."""
        self._require_theta("delta")
        return dict(self._delta)

    @property
    def multipliers(self) -> dict[str, Tensor]:
        """lambda for each compressed parameter; empty for the quadratic penalty."""
        return dict(self._multipliers or {})

    @property
    def mu(self) -> float:
        """The penalty parameter. The first value that you set makes the direct compression, the C
        step at that mu with lambda = 0."""
        if self._mu is None:
            raise ValueError(
                "LC: mu is not set yet; set lc.mu = mu_0 first, which makes the direct compression"
            )
        return self._mu

    @mu.setter
    def mu(self, mu: float) -> None:
        if not 0 < mu < math.inf:
            raise ValueError(f"LC: mu = {mu} must be positive and finite")
        if self._mu is not None and mu < self._mu:
            warnings.warn(
                f"LC: mu goes down from {self._mu} to {mu}; a schedule should not decrease",
                stacklevel=2,
            )
        before, self._mu = self._mu, float(mu)
        if not self.thetas:
            try:
                self.c_step()
            except BaseException:
                self._mu = before
                raise

    def bits(self) -> int:
        """Bits of the coded Thetas of all tasks."""
        return sum(bits(theta) for theta in self._require_theta().values())

    def state_dict(self) -> dict[str, Any]:
        """mu, Thetas and multipliers, as plain dicts of tensors and numbers. The weights are in the
        model's own `state_dict`."""
        return {
            "mu": self._mu,
            "steps": self._steps,
            "thetas": state.described(self.thetas),
            "made_by": {name: state.label(made) for name, made in self._made_by.items()},
            "multipliers": self.multipliers,
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave, for the same tasks. Raises ValueError, changing
        nothing, for other ones."""
        thetas = state.checked(saved, self.tasks, self._task_params(), self.multipliers)
        made_by = saved.get("made_by", {})
        with torch.no_grad(), uninterrupted():
            for name, value in saved["multipliers"].items():
                self.multipliers[name].copy_(value)
            self._mu, self._steps = saved["mu"], saved["steps"]
            if thetas:
                self._set_thetas(thetas)
                self._made_by = {
                    name: task.compression
                    for name, task in self.tasks.items()
                    if made_by.get(name, state.label(task.compression))
                    == state.label(task.compression)
                }

    def check_current(self) -> None:
        """Raise ValueError where the model has another parameter in the place of a compressed
        one."""
        check_current(self.model, self._params)

    # --- the L step's penalty

    def penalty(self) -> Tensor:
        """-lambda'(w - Delta(Theta)) + mu/2 ||w - Delta(Theta)||^2, a scalar to add to the loss (or
        use `attach`)."""
        self._require_theta("penalty")
        self.check_current()
        found = penalty.value(self._params, self._delta, self._multipliers or {}, self.mu)
        self._watch.valued += found.requires_grad
        return found

    def attach(self, *optimizers: Any) -> None:
        """Add the penalty's gradient, mu (w - Delta(Theta)) - lambda, to `.grad` whenever an
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
        """What the hook reports after it added the gradient."""
        self._watch.added += 1
        if unstable:
            self._watch.say(f"LC: SGD diverges: {unstable}")

    def curvature(self, backward: Callable[[], Any], mu: float = 1.0) -> float:
        """h = (grad L(Delta(Theta)) - grad L(w))'(Delta(Theta) - w) / ||Delta(Theta) - w||^2: what
        mu has to be compared with.

        The mean curvature of the loss from w to Delta(Theta). Where mu is far below h the loss
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
            probe = LC(self.model, self.tasks, multipliers=False)
            probe.mu = mu
        return mean_curvature(self.model, self._params, probe.delta, probe.compressed, backward)

    # --- the C step and the multipliers

    def c_step(self) -> None:
        """Theta <- argmin mu/2 ||w - lambda/mu - Delta(Theta)||^2 + alpha C(Theta), task by task.
        Where one task fails, none is changed."""
        thetas = self._compress("c_step")
        with uninterrupted():
            self._take(thetas)

    def multipliers_step(self) -> None:
        """lambda <- lambda - mu (w - Delta(Theta)); nothing for the quadratic penalty."""
        self._require_theta("multipliers_step")
        self.check_current()
        with uninterrupted():
            self._move_multipliers()

    def step(self) -> Record:
        """C step, then multipliers: what follows an L step. Returns a record without `bits`;
        prints nothing."""
        self._watch.at_step(self._params)
        start = time.perf_counter()
        thetas = self._compress("step")
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

        Args:
            batches: inputs to recalibrate the batch-norm statistics with (`leco.recalibrate_`),
                which belong to w otherwise; they are restored as well.
        """
        self._require_theta("compressed")
        self.check_current()
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
            if self._inside:
                self._exchange()
                self._inside = False

    @torch.no_grad()
    def project_(self) -> None:
        """w <- Delta(Theta): the model becomes the compressed net."""
        self._require_theta("project_")
        self.check_current()
        with uninterrupted():
            for name, p in self._params.items():
                p.copy_(self._delta[name])
            self._watch.belong(self._params)

    def snapshot(self) -> Snapshot:
        """The compressed net as it is now, as copies that later steps don't change. Inside
        `compressed`, with the statistics found there."""
        self.check_current()
        rest = {name: value.detach().clone() for name, value in self.rest().items()}
        return Snapshot(dict(self._require_theta()), rest, dict(self._made_by))

    @torch.no_grad()
    def restore_(self, snapshot: Snapshot) -> None:
        """Make the model, and Theta, the compressed net of `snapshot`: w = Delta(Theta).
        Multipliers stay."""
        self._require_outside("restore_")
        self.check_current()
        with uninterrupted():
            self._set_thetas(snapshot.thetas)
            self._made_by |= snapshot.made_by or {}
            self.project_()
            rest = self.rest()
            for name, value in snapshot.rest.items():
                rest[name].copy_(value)

    def set_thetas(self, thetas: Mapping[str, Theta]) -> None:
        """Replace Thetas (of the same shapes) by others, such as retrained ones, and Delta(Theta)
        with them."""
        self._require_outside("set_thetas")
        with uninterrupted():
            self._set_thetas({**self._require_theta(), **thetas})

    def set_compressions(self, compressions: Mapping[str, Compression[Any]]) -> None:
        """Compress the named tasks by others of the same kind from the next C step on: a bound that
        tightens while the net trains.

        Theta, w and the multipliers stay; that C step starts from no Theta, as the last one may
        break the new bound. `leco.run(compressions=...)` does it before each L step, and resumes
        with the right ones.

        Raises:
            ValueError: a task that is not there, or a compression that can't take its parameters'
                shapes.
            TypeError: a compression of another kind than the task's. Nothing is changed then.

        >>> import leco, torch
        >>> lc = leco.LC(torch.nn.Linear(4, 2), {"all": leco.Task("weight", leco.Vector(), leco.TopK(6))})
        >>> lc.mu = 1.0
        >>> lc.set_compressions({"all": leco.TopK(3)})
        >>> record = lc.step()
        >>> int(lc.delta["weight"].count_nonzero())
        3
        """
        self._require_outside("set_compressions")
        self.tasks = state.with_compressions(self.tasks, compressions, self._task_params())

    def rest(self) -> dict[str, Tensor]:
        """Parameters and buffers of the model's `state_dict` that no task compresses."""
        compressed = {id(p) for p in self._params.values()}
        every = named_state(self.model)
        return {name: value for name, value in every.items() if id(value) not in compressed}

    def check_saved(self) -> None:
        """Before the present net is written to a file: warn where w was changed since Theta was
        found, as Theta does not belong to it then."""
        self.check_current()
        if not self._inside and self._watch.moved(self._params):
            self._watch.say(
                "LC: the weights were changed since the last C step, and Theta was not: the file "
                "holds Delta(Theta) of that step; call lc.step() first, or restore Theta together "
                "with the weights (lc.load_state_dict)"
            )

    def belong(self) -> None:
        """Say that Theta belongs to the weights as they are now: after both were loaded."""
        self._watch.belong(self._params)

    # --- private

    def _task_params(self) -> dict[str, dict[str, nn.Parameter]]:
        return {task: {n: self._params[n] for n in names} for task, names in self.names.items()}

    @torch.no_grad()
    def _compress(self, verb: str) -> dict[str, Theta]:
        mu = self.mu
        self._require_outside(verb)
        self.check_current()
        thetas = {}
        for name, task in self.tasks.items():
            warm = self._made_by.get(name) == task.compression
            last = self.thetas.get(name) if warm else None
            try:
                thetas[name] = task.compression.compress(self._array(name), mu, last)
            except ValueError as error:
                bad = [n for n in self.names[name] if not torch.isfinite(self._params[n]).all()]
                where = f"parameter {bad[0]!r}, " if bad else ""
                raise ValueError(f"task {name!r}, {where}mu = {mu:g}: {error}") from error
        return thetas

    def _array(self, name: str) -> Any:
        """x = w - lambda/mu through the task's view; half precision is compressed in float32."""
        tensors, device = [], self._params[self.names[name][0]].device
        for n in self.names[name]:
            w = self._params[n].detach()
            w = w.float() if w.element_size() < 4 else w
            if self._multipliers is not None:
                w = torch.sub(w, self._multipliers[n], alpha=1 / self.mu)
            tensors.append(w.to(device))
        return self.tasks[name].view.forward(tensors)

    def _take(self, thetas: Mapping[str, Theta]) -> None:
        """The Thetas of a C step of the present w."""
        self._set_thetas(thetas)
        self._made_by = {name: task.compression for name, task in self.tasks.items()}

    @torch.no_grad()
    def _set_thetas(self, thetas: Mapping[str, Theta]) -> None:
        for name, theta in thetas.items():
            params = [self._params[n] for n in self.names[name]]
            parts = self.tasks[name].view.backward(theta.decompress(), [p.shape for p in params])
            for n, p, part in zip(self.names[name], params, parts, strict=True):
                if n not in self._delta:
                    self._delta[n] = torch.empty_like(p)
                self._delta[n].copy_(part)
        self.thetas = dict(thetas)
        self._watch.belong(self._params)

    @torch.no_grad()
    def _move_multipliers(self) -> None:
        for name, value in (self._multipliers or {}).items():
            (gap,) = penalty.gap([self._params[name]], [self._delta[name]])
            value.sub_(gap, alpha=self.mu)

    @torch.no_grad()
    def _record(self, coded: int | None, seconds: float) -> Record:
        gap = norm(p - self._delta[name] for name, p in self._params.items())
        size = norm(self._params.values())
        relative = gap / size if size else gap
        thetas = self.thetas.items()
        price = float(sum(self.tasks[name].compression.price(theta) for name, theta in thetas))
        multipliers = norm(self.multipliers.values())
        return Record(self._steps, self.mu, gap, relative, multipliers, price, coded, seconds)

    @torch.no_grad()
    def _exchange(self) -> None:
        """w <-> Delta(Theta), one parameter's temporary at a time; in place, so that compiled and
        sharded modules see it."""
        moved = self._watch.moved(self._params)
        for name, p in self._params.items():
            w = p.detach().clone()
            p.copy_(self._delta[name])
            self._delta[name].copy_(w)
        if not moved:
            self._watch.belong(self._params)

    def _require_theta(self, verb: str = "") -> dict[str, Theta]:
        if verb:
            self._require_outside(verb)
        if not self.thetas:
            raise ValueError(
                "LC: there is no Theta yet; set lc.mu = mu_0 first, which makes the direct "
                "compression"
            )
        return self.thetas

    def _require_outside(self, verb: str) -> None:
        if self._inside:
            raise RuntimeError(
                f"LC: {verb} inside `with lc.compressed()`, where the model holds Delta(Theta) and "
                "not w"
            )
