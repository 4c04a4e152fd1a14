"""What the algorithm works on: w, Theta, Delta(Theta), the multipliers and mu, kept consistent."""

import math
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

import leco.distributed as distributed
from leco.algorithm import penalty, state
from leco.algorithm.interrupts import uninterrupted
from leco.algorithm.metric import Metric, check_tasks, checked_metric, largest
from leco.algorithm.record import Snapshot
from leco.algorithm.watch import STALE, Watch
from leco.coding.tensors import bits
from leco.compressions.protocol import Compression
from leco.names import check_current, named_parameters, named_state, unwrapped
from leco.task import Task, resolve
from leco.theta import Theta


class Variables:
    """The variables of an `LC` over a model, without the steps that choose their values.

    Every method leaves Delta(Theta) equal to the decompression of Theta; Ctrl-C waits until it is.
    """

    def __init__(
        self,
        model: nn.Module,
        tasks: Mapping[str, Task],
        *,
        multipliers: bool = True,
        metric: Metric | None = None,
    ):
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
        self._stale = False  # inside: whether w had been changed since Theta was found
        self._watch = Watch()
        self._sharded = any(distributed.is_sharded(p) for p in self._params.values())
        self._metric: dict[str, Tensor] = {}
        self._largest = 1.0
        self.set_metric(metric)
        self._handles: list[Any] = []
        self._delta: dict[str, Tensor] = {}
        self._quadratic = not multipliers
        self._multipliers: dict[str, Tensor] = {}  # made when they are asked for, or move

    def __getstate__(self) -> dict[str, Any]:
        """A copy, and what is pickled, is not attached."""
        return {**self.__dict__, "_handles": [], "_moved": self._watch.moved(self._params)}

    def __setstate__(self, saved: dict[str, Any]) -> None:
        moved = saved.pop("_moved")
        self.__dict__.update(saved)
        if not moved:  # the copied weights count their versions anew
            self._watch.belong(self._params)

    # --- what there is

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
        """lambda for each compressed parameter; empty for the quadratic penalty. They are 0, and
        take no memory, until you ask for them or they move."""
        if not self._quadratic and not self._multipliers:
            self._multipliers = {n: torch.zeros_like(p.detach()) for n, p in self._params.items()}
        return dict(self._multipliers)

    @property
    def weights(self) -> dict[str, Tensor]:
        """w for each compressed parameter, also inside `with lc.compressed()`, where the model
        holds Delta(Theta)."""
        return {n: self._delta[n] if self._inside else p.detach() for n, p in self._params.items()}

    @property
    def inside(self) -> bool:
        """Whether the model holds Delta(Theta), inside `with lc.compressed()`."""
        return self._inside

    @property
    def sharded(self) -> bool:
        """Whether a rank has a part only of some compressed parameter (`fully_shard`, tensor
        parallelism)."""
        return self._sharded

    @property
    def metric(self) -> dict[str, Tensor]:
        """d for each weighed parameter, as tensors that broadcast to it; empty without a metric."""
        return dict(self._metric)

    def set_metric(self, metric: Metric | None) -> None:
        """Weigh the distortion by another metric, or by none, from now on; w, Theta and the
        multipliers stay.

        Raises ValueError as the constructor does, changing nothing.
        """
        self._require_outside("set_metric")
        first = {id(p): name for name, p in self._params.items()}
        every = named_parameters(self.model, ties=True)
        tied = {name: first[id(p)] for name, p in every.items() if id(p) in first}
        found = checked_metric(metric, self._params, tied)
        check_tasks(self.tasks, self._task_params(), found)
        self._metric, self._largest = found, largest(found, self._params)

    @property
    def largest_mu(self) -> float:
        """The largest mu d_i, which bounds the learning rate (`leco.stable_lr`): mu without a
        metric."""
        return self.mu * self._largest

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

    def c_step(self) -> None:
        """Find Theta for the present w."""
        raise NotImplementedError

    def bits(self) -> int:
        """Bits of the coded Thetas of all tasks."""
        return sum(bits(theta) for theta in self._require_theta().values())

    def rest(self) -> dict[str, Tensor]:
        """Parameters and buffers of the model's `state_dict` that no task compresses."""
        self.check_current()
        compressed = {id(p) for p in self._params.values()}
        every = named_state(self.model)
        return {name: value for name, value in every.items() if id(value) not in compressed}

    # --- checks

    def check_current(self) -> None:
        """Raise ValueError where the model has another parameter in the place of a compressed
        one."""
        distributed.reshard_(self.model)
        check_current(self.model, self._params)

    def check_saved(self) -> None:
        """Before the present net is written to a file: warn where w was changed since Theta was
        found, as Theta does not belong to it then."""
        self.check_current()
        if not self._inside and self._watch.moved(self._params):
            self._watch.say("stale", STALE)

    def belong(self) -> None:
        """Say that Theta belongs to the weights as they are now: after both were loaded."""
        self._watch.belong(self._params)

    # --- the state, as data

    def state_dict(self) -> dict[str, Any]:
        """mu, Thetas, multipliers and metric, as plain dicts of tensors and numbers. The weights
        are in the model's own `state_dict`."""
        return {
            "mu": self._mu,
            "steps": self._steps,
            "thetas": state.described(self.thetas),
            "made_by": {name: state.label(made) for name, made in self._made_by.items()},
            "multipliers": self.multipliers,
            "metric": self.metric,
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave, for the same tasks. Raises ValueError, changing
        nothing, for other tasks."""
        self._require_outside("load_state_dict")
        self.check_current()
        thetas = state.checked(saved, self.tasks, self._task_params(), self.multipliers)
        labels = {name: state.label(task.compression) for name, task in self.tasks.items()}
        made_by = saved.get("made_by", labels)
        self.set_metric(saved.get("metric", self._metric))
        with torch.no_grad(), uninterrupted():
            for name, value in saved["multipliers"].items():
                distributed.fill_(self.multipliers[name], value)
            self._mu, self._steps = saved["mu"], saved["steps"]
            if thetas:
                self._set_thetas(thetas)
                self._made_by = {
                    name: task.compression
                    for name, task in self.tasks.items()
                    if made_by.get(name) == labels[name]
                }

    def snapshot(self) -> Snapshot:
        """The compressed net as it is now, as copies that later steps don't change. Inside
        `compressed`, with the statistics found there."""
        rest = {name: value.detach().clone() for name, value in self.rest().items()}
        return Snapshot(dict(self._require_theta()), rest, dict(self._made_by))

    # --- changes

    @torch.no_grad()
    def project_(self) -> None:
        """w <- Delta(Theta): the model becomes the compressed net."""
        self._require_theta("project_")
        self.check_current()
        with uninterrupted():
            for name, p in self._params.items():
                distributed.fill_(p, self._delta[name])
            self._watch.belong(self._params)

    @torch.no_grad()
    def restore_(self, snapshot: Snapshot) -> None:
        """Make the model, and Theta, the compressed net of `snapshot`: w = Delta(Theta).
        Multipliers stay."""
        self._require_outside("restore_")
        rest = self.rest()
        with uninterrupted():
            self._set_thetas(snapshot.thetas)
            self._made_by |= snapshot.made_by or {}
            self.project_()
            for name, value in snapshot.rest.items():
                distributed.fill_(rest[name], value)

    def set_thetas(self, thetas: Mapping[str, Theta]) -> None:
        """Replace Thetas (of the same shapes) by others, such as retrained ones, and Delta(Theta)
        with them."""
        self._require_outside("set_thetas")
        self.check_current()
        with uninterrupted():
            self._set_thetas({**self._require_theta(), **thetas})

    def adopt(self, thetas: Mapping[str, Theta]) -> None:
        """Make the model the compressed net of Thetas of all tasks that were found elsewhere:
        w = Delta(Theta), and the multipliers are 0.

        Raises:
            ValueError: Thetas of other tasks, or of other shapes. Nothing is changed then.
        """
        self._require_outside("adopt")
        self.check_current()
        if set(thetas) != set(self.tasks):
            raise ValueError(f"LC: adopt: Thetas of {sorted(thetas)}, not of {sorted(self.tasks)}")
        with torch.no_grad(), uninterrupted():
            self._set_thetas(thetas)
            self._made_by = {name: task.compression for name, task in self.tasks.items()}
            self._multipliers = {}
            self.project_()

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
        >>> task = leco.Task("weight", leco.Vector(), leco.TopK(6))
        >>> lc = leco.LC(torch.nn.Linear(4, 2), {"all": task})
        >>> lc.mu = 1.0
        >>> lc.set_compressions({"all": leco.TopK(3)})
        >>> record = lc.step()
        >>> int(lc.delta["weight"].count_nonzero())
        3
        """
        self._require_outside("set_compressions")
        changed = state.with_compressions(self.tasks, compressions, self._task_params())
        check_tasks(changed, self._task_params(), self._metric)
        self.tasks = changed

    # --- private

    def _task_params(self) -> dict[str, dict[str, nn.Parameter]]:
        return {task: {n: self._params[n] for n in names} for task, names in self.names.items()}

    @torch.no_grad()
    def _set_thetas(self, thetas: Mapping[str, Theta]) -> None:
        for name, theta in thetas.items():
            params = [self._params[n] for n in self.names[name]]
            parts = self.tasks[name].view.backward(theta.decompress(), [p.shape for p in params])
            for n, p, part in zip(self.names[name], params, parts, strict=True):
                if n not in self._delta:
                    self._delta[n] = torch.empty_like(p.detach())
                distributed.fill_(self._delta[n], part)
        self.thetas = dict(thetas)
        self._watch.belong(self._params)

    @torch.no_grad()
    def _move_multipliers(self) -> None:
        for name, value in self.multipliers.items():
            w, delta = distributed.local(self._params[name]), distributed.local(self._delta[name])
            (gap,) = penalty.gap([w], [delta])
            if name in self._metric:
                gap.mul_(distributed.local(self._metric[name]))
            distributed.local(value).sub_(gap, alpha=self.mu)

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
