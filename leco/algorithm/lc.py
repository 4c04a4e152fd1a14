"""The learning-compression (LC) algorithm: min L(w) subject to w = Delta(Theta), by alternating
optimization.

    Theta  <- C step at the first mu                                                 direct
    compression
    for mu = mu_0 < mu_1 < ...:
        L step:  w      <- argmin_w L(w) - lambda'(w - Delta(Theta)) + mu/2 ||w - Delta(Theta)||^2
                        your training
        C step:  Theta  <- argmin_Theta mu/2 ||x - Delta(Theta)||^2 + alpha C(Theta),  x = w -
        lambda/mu
        multipliers:  lambda <- lambda - mu (w - Delta(Theta))

The L step knows the compression only as Delta(Theta) + lambda/mu, a point that w is pulled to; the
C step knows the task only as x. This is the augmented Lagrangian; with lambda = 0 throughout it is
the quadratic penalty. Carreira-Perpinan, arXiv 1707.01209, sections 3 and 4.
"""

import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from leco.algorithm.batchnorm import kept_statistics, recalibrate_
from leco.algorithm.penalty import hooks, mean_curvature, penalty_value
from leco.algorithm.record import Record, Snapshot, norm
from leco.coding.tensors import bits
from leco.compressions.protocol import Compression
from leco.task import Task, check_shapes, resolve
from leco.theta import THETAS, Theta
from leco.theta.tree import theta_from_state, theta_state
from leco.views import VIEWS, array_shape


class LC:
    """The state of the algorithm (mu, Thetas, Delta(Theta), multipliers) over a model, with a
    method for each of its steps.

    Construction changes nothing in the model. Setting `mu` for the first time makes the direct
    compression. Extra memory is one copy of the compressed parameters for Delta(Theta) and one for
    the multipliers, with the parameters' dtype and device.

    Args:
        model: the net whose parameters the tasks name. Nothing is written on its modules.
        tasks: name to `Task`. Parameters in no task are trained as usual; `leco.plan(lc)` says
            which is which.
        multipliers: False for the quadratic penalty.

    Raises:
        ValueError: an unknown parameter, one that stands twice or in two tasks, on the meta device,
            empty, not floating point, or with NaN or infinite entries; a view or compression that
            can't take the parameters' shapes. The task, parameter, value and bound are named.

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
        self.model = model
        self.tasks = dict(tasks)
        self.thetas: dict[str, Theta] = {}
        self._params, self.names = resolve(model, self.tasks)
        self._mu: float | None = None
        self._steps = 0
        self._cold = set[str]()
        """Tasks whose Theta is of another compression than the present one."""
        self._inside = False
        self._handles: list[Any] = []
        self._delta: dict[str, Tensor] = {}
        self._multipliers: dict[str, Tensor] | None = (
            {n: torch.zeros_like(p) for n, p in self._params.items()} if multipliers else None
        )

    # --- state

    @property
    def params(self) -> dict[str, nn.Parameter]:
        """The compressed parameters, by qualified name."""
        return dict(self._params)

    @property
    def delta(self) -> dict[str, Tensor]:
        """Delta(Theta) for each compressed parameter."""
        self._require_theta()
        return dict(self._delta)

    @property
    def multipliers(self) -> dict[str, Tensor]:
        """lambda for each compressed parameter; empty for the quadratic penalty."""
        return dict(self._multipliers or {})

    @property
    def mu(self) -> float:
        """The penalty parameter. The first value that is set makes the direct compression, the C
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
        """mu, Thetas and multipliers, as plain dicts of tensors and numbers. The weights are the
        model's own `state_dict`."""
        thetas = {name: theta_state(theta) for name, theta in self.thetas.items()}
        return {
            "mu": self._mu,
            "steps": self._steps,
            "thetas": thetas,
            "multipliers": self.multipliers,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave, for the same tasks. Raises ValueError, changing
        nothing, for other ones."""
        if state["thetas"] and set(state["thetas"]) != set(self.tasks):
            raise ValueError(
                f"LC: the state is of tasks {sorted(state['thetas'])}, this LC has {sorted(self.tasks)}"
            )
        if set(state["multipliers"]) != set(self._multipliers or {}):
            raise ValueError(
                f"LC: the state has multipliers of {sorted(state['multipliers'])}, this LC of {sorted(self.multipliers)}"
            )
        thetas = self.thetas_from_state(state["thetas"])
        for name, theta in thetas.items():
            expected, got = self._view_shape(name), array_shape(theta.decompress())
            if got != expected:
                raise ValueError(
                    f"LC: task {name!r} has shape {_plain(expected)}, the state's Theta {_plain(got)}"
                )
        with torch.no_grad():
            for name, value in state["multipliers"].items():
                self.multipliers[name].copy_(value)
        self._mu, self._steps = state["mu"], state["steps"]
        if thetas:
            self._set_thetas(thetas)

    # --- the L step's penalty

    def penalty(self) -> Tensor:
        """-lambda'(w - Delta(Theta)) + mu/2 ||w - Delta(Theta)||^2, a scalar to add to the loss (or
        use `attach`)."""
        return penalty_value(self)

    def attach(self, *optimizers: torch.optim.Optimizer) -> None:
        """Add the penalty's gradient, mu (w - Delta(Theta)) - lambda, to `.grad` whenever an
        optimizer steps: the training code stays as it is.

        Gives the trajectory of the loss with `penalty()`, without a graph, and once a step under
        gradient accumulation. Gradient clipping does not see it. LBFGS, whose line search needs the
        loss's value too, can't be attached.

        Raises:
            TypeError: LBFGS.
            ValueError: a compressed parameter that no optimizer holds, or that is frozen; attached
                already.
        """
        if self._handles:
            raise ValueError("LC: attached already; call lc.detach() first")
        self._handles = hooks(self, optimizers)

    @property
    def attached(self) -> bool:
        """Whether the penalty's gradient joins some optimizer's steps."""
        return bool(self._handles)

    def detach(self) -> None:
        """Undo `attach`."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def curvature(self, backward: Callable[[], Any], mu: float = 1.0) -> float:
        """h = (grad L(Delta(Theta)) - grad L(w))'(Delta(Theta) - w) / ||Delta(Theta) - w||^2: what
        mu has to be compared with.

        The mean curvature of the loss from w to Delta(Theta): where mu is far below h the loss
        rules the L step, far above h the penalty. Call it before the first L step; `leco.automatic`
        makes a schedule of it. Weights, `.grad` and batch-norm statistics are left as they
        were, and so is Theta: where there is none yet, direct compression is made for the purpose,
        and forgotten.

        Args:
            backward: computes the task's loss, without the penalty, on some examples and calls
                `backward()`: a few hundred at least, and the same each time.
            mu: for the direct compression, which depends on it in the penalty forms, and h with it:
                there mu_0 is better tried than measured.

        Raises:
            ValueError: w is Delta(Theta) already; `backward` reaches none of the compressed
                parameters, or gives NaN.

        >>> import leco, torch
        >>> model, x = torch.nn.Linear(4, 1, bias=False), 3 * torch.eye(4)
        >>> lc = leco.LC(model, {"all": leco.Task("weight", leco.Vector(), leco.Binary())})
        >>> round(lc.curvature(lambda: (model(x) ** 2).sum().backward()), 3)  # ||3 w||^2 has curvature 18
        18.0
        """
        self._require_outside("curvature")
        probe = self
        if not self.thetas:
            probe = LC(self.model, self.tasks, multipliers=False)
            probe.mu = mu
        return mean_curvature(probe, backward)

    # --- the C step and the multipliers

    @torch.no_grad()
    def c_step(self) -> None:
        """Theta <- argmin mu/2 ||w - lambda/mu - Delta(Theta)||^2 + alpha C(Theta), task by task.
        Where one task fails, none is changed."""
        mu = self.mu
        self._require_outside("c_step")
        thetas = {}
        for name, task in self.tasks.items():
            last = None if name in self._cold else self.thetas.get(name)
            try:
                thetas[name] = task.compression.compress(self._array(name), mu, last)
            except ValueError as error:
                bad = [n for n in self.names[name] if not torch.isfinite(self._params[n]).all()]
                where = f"parameter {bad[0]!r}, " if bad else ""
                raise ValueError(f"task {name!r}, {where}mu = {mu:g}: {error}") from error
        self._set_thetas(thetas)

    @torch.no_grad()
    def multipliers_step(self) -> None:
        """lambda <- lambda - mu (w - Delta(Theta)); nothing for the quadratic penalty."""
        self._require_theta()
        self._require_outside("multipliers_step")
        for name, value in self.multipliers.items():
            value.sub_(self._params[name], alpha=self.mu).add_(self._delta[name], alpha=self.mu)

    def step(self) -> Record:
        """C step, then multipliers: what follows an L step. Returns a record; prints nothing."""
        start = time.perf_counter()
        self.c_step()
        self.multipliers_step()
        seconds = time.perf_counter() - start
        self._steps += 1
        return self.record(seconds)

    @torch.no_grad()
    def record(self, c_seconds: float = math.nan) -> Record:
        """The present state in numbers."""
        self._require_theta()
        gap = norm(p - self._delta[name] for name, p in self._params.items())
        size = norm(self._params.values())
        price = sum(
            self.tasks[name].compression.price(theta) for name, theta in self.thetas.items()
        )
        relative = gap / size if size else gap
        return Record(
            self._steps,
            self.mu,
            gap,
            relative,
            norm(self.multipliers.values()),
            float(price),
            self.bits(),
            c_seconds,
        )

    # --- the compressed net

    @contextmanager
    def compressed(self, batches: Iterable[Any] | None = None) -> Iterator[nn.Module]:
        """Inside, the model's weights are Delta(Theta); afterwards they are w again, whatever
        happened inside.

        Args:
            batches: inputs to recalibrate the batch-norm statistics with (`leco.recalibrate_`),
                which belong to w otherwise; they are restored as well.
        """
        self._require_theta()
        self._require_outside("compressed")
        self._exchange()
        self._inside = True
        try:
            with nullcontext() if batches is None else kept_statistics(self.model):
                if batches is not None:
                    recalibrate_(self.model, batches)
                yield self.model
        finally:
            self._exchange()
            self._inside = False

    @torch.no_grad()
    def project_(self) -> None:
        """w <- Delta(Theta): the model becomes the compressed net."""
        self._require_theta()
        self._require_outside("project_")
        for name, p in self._params.items():
            p.copy_(self._delta[name])

    def snapshot(self) -> Snapshot:
        """The compressed net as it is now, as copies that later steps don't change. Inside
        `compressed`, with the statistics found there."""
        return Snapshot(
            dict(self._require_theta()),
            {name: value.detach().clone() for name, value in self.rest().items()},
        )

    @torch.no_grad()
    def restore_(self, snapshot: Snapshot) -> None:
        """Make the model, and Theta, the compressed net of `snapshot`: w = Delta(Theta).
        Multipliers stay."""
        self._require_outside("restore_")
        self._set_thetas(snapshot.thetas)
        self.project_()
        rest = self.rest()
        for name, value in snapshot.rest.items():
            rest[name].copy_(value)

    def set_thetas(self, thetas: Mapping[str, Theta]) -> None:
        """Replace Thetas (of the same shapes) by others, such as retrained ones, and Delta(Theta)
        with them."""
        self._require_outside("set_thetas")
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
        tasks = dict(self.tasks)
        for name, compression in compressions.items():
            if name not in tasks:
                raise ValueError(
                    f"LC: set_compressions: there is no task {name!r}; there are {', '.join(tasks)}"
                )
            before = tasks[name].compression
            if compression == before:
                continue
            if type(compression) is not type(before):
                raise TypeError(
                    f"LC: set_compressions: task {name!r} is compressed by {before!r}; {compression!r} is of another kind"
                )
            tasks[name] = replace(tasks[name], compression=compression)
            check_shapes(name, tasks[name], {n: self._params[n] for n in self.names[name]})
        self._cold |= {name for name, task in tasks.items() if task is not self.tasks[name]}
        self.tasks = tasks

    def rest(self) -> dict[str, Tensor]:
        """Parameters and buffers of the model's `state_dict` that no task compresses."""
        compressed = {id(p) for p in self._params.values()}
        state = self.model.state_dict(keep_vars=True)
        return {
            name: value
            for name, value in state.items()
            if isinstance(value, Tensor) and id(value) not in compressed
        }

    # --- private

    def thetas_from_state(self, state: Mapping[str, Any]) -> dict[str, Theta]:
        """Thetas from the dicts that `leco.theta.tree.theta_state` made, of the library's forms or
        those that a compression lists as `forms`."""
        thetas = {}
        for name, described in state.items():
            compression = self.tasks[name].compression
            forms, views = (
                (*THETAS, *getattr(compression, "forms", ())),
                (*VIEWS, *getattr(compression, "views", ())),
            )
            thetas[name] = theta_from_state(
                described, forms, self._params[self.names[name][0]].device, views
            )
        return thetas

    def _view_shape(self, name: str) -> Any:
        return self.tasks[name].view.shape([self._params[n].shape for n in self.names[name]])

    def _array(self, name: str) -> Any:
        """x = w - lambda/mu through the task's view; half precision is compressed in float32."""
        tensors, device = [], self._params[self.names[name][0]].device
        for n in self.names[name]:
            w = self._params[n].detach()
            w = w.float() if w.element_size() < 4 else w
            x = (
                w
                if self._multipliers is None
                else torch.sub(w, self._multipliers[n], alpha=1 / self.mu)
            )
            tensors.append(x.to(device))
        return self.tasks[name].view.forward(tensors)

    @torch.no_grad()
    def _set_thetas(self, thetas: Mapping[str, Theta]) -> None:
        for name, theta in thetas.items():
            params = [self._params[n] for n in self.names[name]]
            parts = self.tasks[name].view.backward(theta.decompress(), [p.shape for p in params])
            for n, p, part in zip(self.names[name], params, parts, strict=True):
                if n not in self._delta:
                    self._delta[n] = torch.empty_like(p)
                self._delta[n].copy_(part)
        self.thetas, self._cold = dict(thetas), set()

    @torch.no_grad()
    def _exchange(self) -> None:
        """w <-> Delta(Theta), one parameter's temporary at a time; in place, so compiled and
        sharded modules see it."""
        for name, p in self._params.items():
            w = p.detach().clone()
            p.copy_(self._delta[name])
            self._delta[name].copy_(w)

    def _require_theta(self) -> dict[str, Theta]:
        if not self.thetas:
            raise ValueError(
                "LC: there is no Theta yet; set lc.mu = mu_0 first, which makes the direct compression"
            )
        return self.thetas

    def _require_outside(self, verb: str) -> None:
        if self._inside:
            raise RuntimeError(
                f"LC: {verb} inside `with lc.compressed()`, where the model holds Delta(Theta) and not w"
            )


def _plain(shape: Any) -> tuple[Any, ...]:
    return tuple(n if isinstance(n, int) else tuple(n) for n in shape)
