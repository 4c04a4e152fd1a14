"""A callback of transformers' `Trainer`: its training is the L step."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from leco.algorithm.lc import LC
from leco.atomic import atomically
from leco.integrations.callback import Driven
from leco.integrations.driver import Schedule, numbers
from leco.integrations.pretrained import save_pretrained as save_pretrained
from leco.optional import optional

transformers = optional(
    "transformers", "leco.integrations.transformers", "transformers", "trainers"
)
FILE = "lc.pt"
"""The run's state, in each checkpoint's folder."""


class LCCallback(Driven, transformers.TrainerCallback):
    """The LC algorithm in a `Trainer`: `Trainer(..., callbacks=[LCCallback(lc_of, schedule)])`.

    The Trainer evaluates the compressed net, and its checkpoints hold the weights of the compressed
    net: the metric of `load_best_model_at_end` and of early stopping is that of the compressed net,
    and so is what `from_pretrained` loads. The state of the run is in the file `lc.pt` beside them:
    `resume_from_checkpoint` goes on exactly. After the training the model is the compressed net, of
    the best checkpoint where the Trainer loads it. Let `eval_steps` and `save_steps` be multiples
    of the L step: inside an L step the compressed net is that of the last C step.

    mu, gap and bytes are in `trainer.state.log_history`; set `callback.log = trainer.log` to give
    them to the Trainer's reporters as well. The learning rate is the Trainer's.

    Args:
        lc_of: makes the LC of the Trainer's model, `lc_of(model)`.
        schedule: increasing values of mu, or a function of the LC that gives them.
        options: `steps` or `epochs` of an L step (default: the L steps share the training equally),
            `rounds`, `batches`, `stable`, and `file` for the compressed net at the end; further
            ones of `leco.Run`: `every`, `from_delta`, `compressions`, `tolerance`.

    Raises:
        ValueError: at the start of the training, where it has too few steps for the schedule; as
            `leco.LC`, `LC.attach` and `leco.Run` do.
    """

    def __init__(self, lc_of: Callable[[Any], LC], schedule: Schedule, **options: Any):
        super().__init__(lc_of, schedule, **options)
        self.log: Callable[[dict[str, float]], None] | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        folder = _resumed(args, state)
        if folder is not None:
            self._driver.load_state_dict(_read(folder))
        per_epoch = state.max_steps / max(state.num_train_epochs, 1)
        optimizers = [kwargs["optimizer"]]
        self._driver.start(kwargs["model"], optimizers, state.max_steps, per_epoch)
        if args.eval_on_start:
            self._driver.enter()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._driver.before()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        record = self._driver.after(state.global_step)
        if record is not None:
            self._report(state, numbers(record))
        if self.run.done:
            control.should_training_stop = True
        self._show(control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._show(control)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        saved = self._driver.state_dict()
        if args.should_save:
            path = _folder(args, state.global_step) / FILE
            atomically(path, lambda temporary: torch.save(saved, temporary))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        best = args.load_best_model_at_end and state.best_model_checkpoint
        saved = _read(Path(best)) if best else None
        self._driver.finish(saved, write=args.should_save)

    def _show(self, control: Any) -> None:
        """Show the compressed net to what follows a step."""
        if control.should_evaluate or control.should_save:
            self._driver.enter()

    def _report(self, state: Any, found: dict[str, float]) -> None:
        if self.log is not None:
            self.log(found)
        else:
            state.log_history.append({**found, "epoch": state.epoch, "step": state.global_step})


def _folder(args: Any, step: int) -> Path:
    return Path(args.output_dir) / f"checkpoint-{step}"


def _resumed(args: Any, state: Any) -> Path | None:
    """The folder of the checkpoint that the Trainer goes on from; None where it starts."""
    if not state.global_step:
        return None
    given = args.resume_from_checkpoint
    found = [Path(given)] if isinstance(given, str) else []
    found.append(_folder(args, state.global_step))
    for folder in found:
        if (folder / FILE).exists():
            return folder
    raise ValueError(
        f"LCCallback: the Trainer goes on at step {state.global_step}, and {found[-1] / FILE} is "
        "not there; where the checkpoint is in another folder, give it as "
        "TrainingArguments(resume_from_checkpoint=folder) too"
    )


def _read(folder: Path) -> dict[str, Any]:
    """The run's state in a checkpoint."""
    return torch.load(folder / FILE, map_location="cpu", weights_only=True)
