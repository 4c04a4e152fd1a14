"""A callback of Lightning's `Trainer`: its training is the L step."""

import math
import os
from collections.abc import Mapping
from typing import Any

import torch

from leco.integrations.callback import Driven
from leco.integrations.driver import numbers
from leco.optional import optional

lightning = optional("lightning.pytorch", "leco.integrations.lightning", "lightning", "trainers")


class LCCallback(Driven, lightning.Callback):
    """The LC algorithm in Lightning's `Trainer(callbacks=[LCCallback(lc_of, schedule)])`.

    Validation sees the compressed net, and the checkpoints of validation and of the end of an L
    step hold its weights: `ModelCheckpoint(monitor=...)` keeps the best compressed net, and
    `load_from_checkpoint` loads it. The state of the run is in the checkpoint:
    `fit(ckpt_path=...)` goes on exactly. After the training the model is the compressed net of the
    last C step; `restore_` makes it that of a checkpoint. Inside an L step the compressed net is
    that of the last C step.

    mu, gap and bytes go to the Trainer's loggers. The learning rate is your module's. Steps are
    those of `trainer.global_step`, which counts the steps of each optimizer.

    Args:
        lc_of: makes the LC of your module, `lc_of(module)`; of `module.net` where the file has to
            load into the net.
        schedule: increasing values of mu, or a function of the LC that gives them.
        options: `steps` or `epochs` of an L step (default: the L steps share the training equally),
            `rounds`, `batches`, `stable`, and `file` for the compressed net at the end; further
            ones of `leco.Run`: `every`, `from_delta`, `compressions`, `tolerance`.

    Raises:
        ValueError: at the start of the training, where it has too few steps for the schedule; as
            `leco.LC`, `LC.attach` and `leco.Run` do.
    """

    @torch.no_grad()
    def restore_(self, path: str | os.PathLike[str]) -> None:
        """Make the model, and the LC, the compressed net of a checkpoint, such as
        `trainer.checkpoint_callback.best_model_path`."""
        saved = torch.load(path, map_location="cpu", weights_only=False)
        self._module.load_state_dict(saved["state_dict"])
        self.lc.load_state_dict(saved["callbacks"][self.state_key]["run"]["lc"])
        self.lc.project_()

    # --- the hooks

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._module = pl_module
        total = trainer.estimated_stepping_batches
        per_epoch = trainer.num_training_batches / trainer.accumulate_grad_batches
        per_epoch = math.ceil(per_epoch) if math.isfinite(per_epoch) else math.nan
        self._driver.start(pl_module, trainer.optimizers, total, per_epoch)

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        self._driver.before()

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        record = self._driver.after(trainer.global_step)
        if record is not None:
            for logger in trainer.loggers:
                logger.log_metrics(numbers(record), step=trainer.global_step)
            self._driver.enter()
        if self.run.done:
            trainer.should_stop = True

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        if self._driver.started and not trainer.sanity_checking:
            self._driver.enter()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._driver.finish(write=trainer.is_global_zero)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        if self._driver.started:
            self._driver.leave()

    # --- the checkpoint

    def state_dict(self) -> dict[str, Any]:
        return self._driver.state_dict() if self._driver.started else {}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        if state_dict:
            self._driver.load_state_dict(state_dict)
