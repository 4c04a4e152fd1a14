"""What a calibration has to tell."""

from dataclasses import dataclass, field
from typing import NamedTuple


class LayerRecord(NamedTuple):
    """What became of a task: tr((W - W0) H (W - W0)') / tr(W0 H W0') of direct compression in the
    metric diag(H) and of LC, the steps, and the seconds of the solve."""

    task: str
    direct: float
    error: float
    steps: int
    seconds: float


@dataclass
class Calibration:
    """The outcome of `calibrate`.

    Args:
        records: of the tasks that were solved, in order.
        left: tasks that were left at direct compression, with the reason.
        blocks: of each polished block the relative error of its outputs before and after.
        notes: what is damped or unseen, by parameter.
        seconds: of the whole.
    """

    records: list[LayerRecord] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    blocks: dict[str, tuple[float, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def __str__(self) -> str:
        wide = max([len("task"), *(len(r.task) for r in self.records)])
        lines = [f"{'task':<{wide}}  {'direct':>9}  {'LC':>9}  {'steps':>5}  {'seconds':>7}"]
        lines += [
            f"{r.task:<{wide}}  {r.direct:9.3g}  {r.error:9.3g}  {r.steps:5}  {r.seconds:7.2f}"
            for r in self.records
        ]
        lines += [f"{name}: polished, {a:.3g} to {b:.3g}" for name, (a, b) in self.blocks.items()]
        lines += [f"{task}: direct compression, {why}" for task, why in self.left.items()]
        return "\n".join([*lines, *self.notes, f"{self.seconds:.1f} s"])
