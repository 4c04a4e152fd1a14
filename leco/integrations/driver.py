"""An LC run that another trainer drives, counted in its optimizer steps.

The callbacks of the trainers call it:

    start       the LC, attached to the trainer's optimizers; or the state of a checkpoint
    before      before each optimizer step's forward pass: w is in the model
    after       after each optimizer step: the C step, where the L step ends
    enter       from here until the next `before`, the model holds Delta(Theta)
    finish      the model is the compressed net; the file
"""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from leco.algorithm.batchnorm import batchnorm_statistics
from leco.algorithm.lc import LC
from leco.algorithm.record import Record
from leco.algorithm.run import Run, count
from leco.algorithm.shards import whole_state
from leco.distributed import fill_
from leco.files.save import save
from leco.integrations.rates import StableRates

Schedule = Sequence[float] | Callable[[LC], Sequence[float]]


class Driver:
    """The LC run of a trainer: where its L steps end, when its model holds Delta(Theta), its state.

    Args:
        lc_of: makes the LC of the trainer's model, `lc_of(model)`.
        schedule: increasing values of mu; or a function of the LC that gives them, such as
            `lambda lc: leco.automatic(lc.curvature(...), 40)`.
        steps: optimizer steps of an L step.
        epochs: epochs of an L step instead, also a fraction. Without both, the L steps share the
            training equally.
        rounds: L steps, each with its C step, at each mu.
        batches: as of `leco.Run`: inputs to recalibrate batch-norm statistics with, whenever the
            model holds Delta(Theta).
        stable: keep the rates of SGD at `leco.stable_lr` or below, as mu grows. The trainer's
            schedule goes on by its own rates.
        file: where to write the compressed net at the end of the training.
        options: further ones of `leco.Run`: evaluate, every, from_delta, compressions, tolerance.

    Raises:
        ValueError: both `steps` and `epochs`; one that is not positive. `start` raises it where the
            training has too few steps for the schedule.
    """

    def __init__(
        self,
        lc_of: Callable[[Any], LC],
        schedule: Schedule,
        *,
        steps: int | None = None,
        epochs: float | None = None,
        rounds: int = 1,
        batches: Callable[[], Iterable[Any]] | None = None,
        stable: bool = False,
        file: Any = None,
        **options: Any,
    ):
        if steps is not None and epochs is not None:
            raise ValueError(f"LCCallback: steps = {steps} and epochs = {epochs}: give one of them")
        for name, value in (("steps", steps), ("epochs", epochs)):
            if value is not None and not value > 0:
                raise ValueError(f"LCCallback: {name} = {value} must be positive")
        self._lc_of, self._schedule = lc_of, schedule
        self._steps, self._epochs, self._rounds = steps, epochs, count("rounds", rounds)
        self._batches, self._file, self._options = batches, file, options
        self._stable = stable
        self._inside = ExitStack()
        self._run: Run | None = None
        self._saved: Mapping[str, Any] | None = None
        self._done = 0  # L steps
        self._begun = False  # whether `Run.begin` was called for the present mu

    @property
    def started(self) -> bool:
        """Whether there is a run."""
        return self._run is not None

    @property
    def run(self) -> Run:
        """The run. Raises ValueError before the training has begun."""
        if self._run is None:
            raise ValueError("LCCallback: there is no run before the training has begun")
        return self._run

    @property
    def lc(self) -> LC:
        """The LC. Raises ValueError before the training has begun."""
        return self.run.lc

    # --- the steps

    def start(
        self, model: nn.Module, optimizers: Iterable[Any], total: float, per_epoch: float
    ) -> None:
        """Make the LC and the direct compression, or go on from the state that was loaded.

        Args:
            model: the trainer's.
            optimizers: its optimizers.
            total: optimizer steps of the whole training.
            per_epoch: optimizer steps of an epoch.
        """
        # The run
        lc = self._lc_of(model)
        saved = self._saved
        mus = self._schedule if isinstance(self._schedule, Sequence) else None
        if mus is None:
            mus = saved["run"]["schedule"] if saved else self._schedule(lc)  # pyright: ignore
        run = Run(lc, mus, batches=self._batches, **self._options)

        # Where L steps end
        length = self._epochs and self._epochs * per_epoch
        length = self._steps or length or total / (len(run.mus) * self._rounds)
        needed = round(length * len(run.mus) * self._rounds)
        if length < 1 or needed > total:
            raise ValueError(
                f"LCCallback: {len(run.mus)} values of mu with {self._rounds} L steps of "
                f"{length:g} optimizer steps need {max(needed, len(run.mus) * self._rounds)}; the "
                f"training has {total:g}"
            )
        self._length = length

        # Its start
        optimizers = list(optimizers)
        if self._stable:
            StableRates(lc, optimizers)  # before the penalty's hook, which checks the rates
        lc.attach(*optimizers)
        self._run, self._done, self._begun = run, 0, False
        if saved:
            self._go_on(saved)
        else:
            run.start()

    def before(self) -> None:
        """Before a forward pass of the training: w is in the model, and mu is set."""
        self.leave()
        if not self._begun and not self.run.done:
            self.run.begin(self.run.next)
            self._begun = True

    def after(self, step: int) -> Record | None:
        """After optimizer step number `step`, from 1: C step and multipliers where the L step
        ends. Returns a record where mu was the last time."""
        if self.run.done or not self._begun or step < round((self._done + 1) * self._length):
            return None
        self._done += 1
        if self._done % self._rounds:
            self.run.again()
            return None
        self._begun = False
        return self.run.end(self.run.next)

    def enter(self) -> None:
        """From here on the model is the compressed net: for the trainer's evaluation, and for its
        checkpoint."""
        if not self.lc.inside:
            self._statistics = self._copies(batchnorm_statistics(self.lc.model))
            batches = None if self._batches is None else self._batches()
            self._inside.enter_context(self.lc.compressed(batches))

    def leave(self) -> None:
        """The model's weights are w again."""
        self._inside.close()

    @torch.no_grad()
    def finish(self, best: Mapping[str, Any] | None = None, write: bool = True) -> None:
        """Make the model the compressed net, and write the file. Warns as `Run.finish`.

        Args:
            best: the state of the best step, whose other weights the trainer has loaded.
            write: whether this process writes the file.
        """
        statistics = batchnorm_statistics(self.lc.model)
        loaded = self._copies(statistics)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # loaded where the model held Delta(Theta)
            self.leave()
        self.lc.detach()
        if best is not None:
            self._copy(loaded, statistics)
            self.lc.load_state_dict(best["run"]["lc"])
        self.lc.project_()
        if self._file is not None and (write or self.lc.sharded):
            save(self._file, self.lc)
        self.run.finish()

    # --- the state, for the trainer's checkpoint

    def state_dict(self) -> dict[str, Any]:
        """The run, w (as the trainer's checkpoint may hold Delta(Theta)), and where it stands.
        Sharded tensors are whole: every rank must call it."""
        inside = self.lc.inside
        state = {
            "run": self.run.state_dict(),
            "weights": self.lc.weights,
            "statistics": self._statistics if inside else batchnorm_statistics(self.lc.model),
            "done": self._done,
            "begun": self._begun,
        }
        return whole_state(state)

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from this state at the next `start`."""
        self._saved = saved

    def _go_on(self, saved: Mapping[str, Any]) -> None:
        """The state of a checkpoint, in the middle of an L step too."""
        self.run.load_state_dict(saved["run"])
        if saved["begun"]:  # mu and the compressions of this L step
            self.run.begin(self.run.next)
        self._copy(saved["weights"], self.lc.params)
        self._copy(saved["statistics"], batchnorm_statistics(self.lc.model))
        self._done, self._begun, self._saved = saved["done"], saved["begun"], None
        if not saved["begun"]:
            self.lc.belong()

    @staticmethod
    def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in tensors.items()}

    @staticmethod
    @torch.no_grad()
    def _copy(values: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            fill_(targets[name], value)


def numbers(record: Record) -> dict[str, float]:
    """What a trainer's loggers get of a record."""
    found = {
        "mu": record.mu,
        "relative_gap": record.relative_gap,
        "changed": record.changed,
        "compressed_loss": record.compressed_loss,
        "compressed_error": record.compressed_error,
    }
    if record.bits is not None:
        found["bytes"] = record.bits / 8
    return {f"lc_{name}": value for name, value in found.items() if value == value}
