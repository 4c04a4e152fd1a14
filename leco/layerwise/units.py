"""The units of a calibration, what is solved on the inputs of one pass: what comes before the
blocks, each block, what comes after them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import Tensor, nn

import leco.distributed as distributed
from leco.algorithm.lc import LC
from leco.layerwise.checkpoint import Checkpoint
from leco.layerwise.moments import Recorder, all_finite
from leco.layerwise.polish import Piece, polished
from leco.layerwise.record import LayerRecord
from leco.layerwise.solver import Solver
from leco.layerwise.stream import Stream
from leco.theta import Theta


def units_of(
    names: Mapping[str, Sequence[str]],
    params: Mapping[str, nn.Parameter],
    blocks: Sequence[nn.Module],
) -> dict[str, int | None]:
    """Of each task the number of the block that has all of its parameters; -1 where all are outside
    of the blocks, None where they are in several places."""
    place = {id(p): i for i, block in enumerate(blocks) for p in block.parameters()}
    found: dict[str, int | None] = {}
    for task, own in names.items():
        places = {place.get(id(params[n]), -1) for n in own}
        found[task] = places.pop() if len(places) == 1 else None
    return found


class Units:
    """The calibration of one LC, unit by unit: what comes before the blocks, each block, what comes
    after them; the model's weights are w0 between units.

    Each rank of torch.distributed has batches of its own. They add up the moments, solve different
    tasks of a unit, and have all Thetas after it.
    """

    def __init__(
        self,
        lc: LC,
        stream: Stream,
        solver: Solver,
        polish: int,
        checkpoint: Checkpoint,
        progress: bool,
    ):
        self.lc, self.stream, self.solver, self.polish = lc, stream, solver, polish
        self.checkpoint, self.result = checkpoint, solver.result
        self.thetas: dict[str, Theta] = {}
        self.changed: dict[str, Tensor] = {}  # Delta(Theta) of what is on its way, and polished
        # norms and biases
        self.names = {id(p): name for name, p in lc.model.named_parameters()}
        self.own = solver.own
        self.at = units_of(lc.names, lc.params, stream.blocks)
        self.bar = Progress(
            TextColumn("calibrate"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            disable=not progress or distributed.rank() > 0,
        )
        self.line = self.bar.add_task("", total=len(lc.tasks))

    def all(self) -> None:
        with self.bar:
            if self.stream.blocks:
                self._in_blocks()
            else:
                self._solved("net", list(self.lc.tasks), self.stream.whole)

    @torch.no_grad()
    def finish(self) -> None:
        """Theta into lc, Delta(Theta) and what was polished into the model."""
        self._forget(self.lc.tasks)
        params = dict(self.lc.model.named_parameters())
        for n, value in self.changed.items():
            params[n].copy_(value)
        self.lc.adopt(self.thetas)

    # --- units

    def _in_blocks(self) -> None:
        outer = [t for t, place in self.at.items() if place == -1]
        joint = [t for t, place in self.at.items() if place is None]
        stream = self.stream

        # the order of the blocks, and where a weight outside of them is used last
        every = {n: p for t in outer for n, p in self.own[t].items()}
        with Recorder(every, sums=False) as first:
            distributed.together(stream.check)
        first.merge_()
        if joint:
            self._solved("joint", joint, stream.whole)

        # before the blocks
        dense: Stream | None = None
        with Recorder(every) as recorder:
            distributed.together(stream.before)
        recorder.merge_()
        early = [
            t for t in outer if all(recorder.seen[n].same_kinds(first.seen[n]) for n in self.own[t])
        ]
        if self.polish:
            dense = stream.fork()
            counts = distributed.gathered(len(stream.hidden))
            if len(set(counts)) > 1:
                raise ValueError(
                    f"calibrate: the ranks have {counts} batches; polish = {self.polish} needs as "
                    "many on each"
                )
        self._solved("before", early, lambda: None, recorder)
        if early or joint:
            with self._compressed(self._outside()):
                stream.before()

        # the blocks, then the rest
        for i in range(len(stream.blocks)):
            self._block(i, [t for t, place in self.at.items() if place == i], dense)
        late = [t for t in outer if t not in early]

        def after() -> None:
            with self._compressed(self._outside()):
                stream.after()

        self._solved("after", late, after)

    def _block(self, i: int, tasks: list[str], dense: Stream | None) -> None:
        block = self.stream.blocks[i]
        names = [self.names[id(p)] for p in block.parameters() if id(p) in self.names]

        def outputs() -> None:
            with self._compressed(names), torch.no_grad():  # joint tasks have their Delta
                for number in range(len(self.stream.hidden)):
                    self.stream.run(block, i, number)

        self._solved(f"block-{i:04}", tasks, outputs, polish=(i, dense) if dense else None)
        if dense is not None:
            dense.advance(i)
        with self._compressed(names):
            self.stream.advance(i)
        self._forget(tasks)

    def _outside(self) -> list[str]:
        """The changed weights outside of the blocks."""
        inside = {id(p) for block in self.stream.blocks for p in block.parameters()}
        places = dict(self.lc.model.named_parameters())
        return [n for n in self.changed if id(places[n]) not in inside]

    # --- a unit

    def _solved(
        self,
        unit: str,
        tasks: list[str],
        outputs: Callable[[], object],
        recorder: Recorder | None = None,
        polish: tuple[int, Stream] | None = None,
    ) -> None:
        """Solve tasks on the moments of a pass, or take them from the checkpoint."""
        if not tasks and polish is None:
            return
        kept = self.checkpoint.load(unit, self.lc.tasks, self.own)
        if kept is not None:
            thetas, rest, (records, left, blocks, notes) = kept
            self._take(thetas)
            self.changed |= rest
            self.result.records += [LayerRecord(*record) for record in records]
            self.result.left |= left
            self.result.blocks |= {n: tuple(ends) for n, ends in blocks.items()}
            self.result.notes += notes
            for task in tasks:
                self._show(task)
            return
        first, noted = len(self.result.records), len(self.result.notes)
        if recorder is None:
            with Recorder({n: p for t in tasks for n, p in self.own[t].items()}) as recorder:
                distributed.together(outputs)
            recorder.merge_()
        all_finite((n, recorder.seen[n]) for t in tasks for n in self.own[t])
        self._take(self.solver.thetas(tasks, recorder, unit == "joint", self._show))
        rest = self._polish(tasks, *polish) if polish else {}
        own = {t: self.thetas[t] for t in tasks if t in self.thetas}
        records = [tuple(record) for record in self.result.records[first:]]
        left = {t: why for t, why in self.result.left.items() if t in tasks}
        name = self.stream.name(polish[0]) if polish else ""
        ends = {name: list(self.result.blocks[name])} if name else {}
        notes = self.result.notes[noted:]
        self.checkpoint.save(unit, own, rest, [records, left, ends, notes])

    def _show(self, task: str) -> None:
        self.bar.update(self.line, advance=1, description=task)

    def _take(self, thetas: dict[str, Theta]) -> None:
        self.thetas |= thetas
        for task, theta in thetas.items():
            params = self.own[task]
            parts = self.lc.tasks[task].view.backward(
                theta.decompress(), [p.shape for p in params.values()]
            )
            for (n, p), part in zip(params.items(), parts, strict=True):
                self.changed[n] = torch.empty_like(p).copy_(part)

    def _forget(self, tasks: Iterable[str]) -> None:
        """Free the Delta(Theta) of tasks: `finish` makes it anew."""
        for n in (n for t in tasks for n in self.own[t]):
            self.changed.pop(n, None)

    def _polish(self, tasks: list[str], i: int, dense: Stream) -> dict[str, Tensor]:
        """Polish a block. Returns its norms and biases."""
        block = self.stream.blocks[i]
        inner = {id(p): name for name, p in block.named_parameters()}
        compressed = {id(p) for t in self.own for p in self.own[t].values()}
        rest = {
            name: p
            for name, p in block.named_parameters()
            if id(p) not in compressed and p.dim() < 2
        }
        pieces = {}
        for t in tasks:
            names = [inner[id(p)] for p in self.own[t].values()]
            shapes = [p.shape for p in self.own[t].values()]
            pieces[t] = Piece(self.lc.tasks[t], self.thetas[t], names, shapes)
        with self._compressed(
            [
                self.names[id(p)]
                for p in block.parameters()
                if id(p) in self.names
                and id(p) in compressed
                and not any(self.names[id(p)] in self.own[t] for t in tasks)
            ]
        ):
            thetas, found, before, after = polished(
                self.stream,
                i,
                lambda number: self._target(dense, i, number),
                pieces,
                rest,
                self.polish,
            )
        self._take(thetas)
        self.result.blocks[self.stream.name(i)] = before, after
        by_name = dict(block.named_parameters())
        changed = {self.names[id(by_name[name])]: value for name, value in found.items()}
        self.changed |= changed
        return changed

    @torch.no_grad()
    def _target(self, dense: Stream, i: int, number: int) -> Tensor:
        return dense.run(dense.blocks[i], i, number)

    # --- the model

    @contextmanager
    def _compressed(self, names: Iterable[str]) -> Iterator[None]:
        """Inside, the named parameters are the changed ones where there are such."""
        params = dict(self.lc.model.named_parameters())
        names = [n for n in names if n in self.changed]
        before = {n: params[n].detach().clone() for n in names}
        try:
            with torch.no_grad():
                for n in names:
                    params[n].copy_(self.changed[n])
            yield
        finally:
            with torch.no_grad():
                for n, value in before.items():
                    params[n].copy_(value)
