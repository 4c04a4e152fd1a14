"""The units of a calibration, what is solved on the inputs of one pass: what comes before the
blocks, each block, what comes after them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor, nn

from leco.algorithm.lc import LC
from leco.compressions.checks import full_dtype
from leco.layerwise.checkpoint import Checkpoint
from leco.layerwise.layouts import Layout
from leco.layerwise.moments import Inputs, Recorder, all_finite, whole
from leco.layerwise.polish import Piece, polished
from leco.layerwise.quadratic import Layer, Moments
from leco.layerwise.record import Calibration, LayerRecord
from leco.layerwise.solve import Problem, Schedule, solve
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
    after them; the model's weights are w0 between units."""

    def __init__(
        self,
        lc: LC,
        stream: Stream,
        schedule: Schedule,
        damping: float,
        polish: int,
        checkpoint: Checkpoint,
        progress: bool,
    ):
        self.lc, self.stream, self.damping, self.polish = lc, stream, damping, polish
        self.schedule = schedule
        self.checkpoint, self.result = checkpoint, Calibration()
        self.thetas: dict[str, Theta] = {}
        self.changed: dict[str, Tensor] = {}  # Delta(Theta), and polished norms and biases
        self.names = {id(p): name for name, p in lc.model.named_parameters()}
        self.own = {t: {n: lc.params[n] for n in names} for t, names in lc.names.items()}
        self.at = units_of(lc.names, lc.params, stream.blocks)
        self.moments: Moments | None = None
        self.h: Tensor | None = None
        self.bar = Progress(
            TextColumn("calibrate"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            disable=not progress,
        )
        self.line = self.bar.add_task("", total=len(lc.tasks))

    def all(self) -> Calibration:
        with self.bar:
            if self.stream.blocks:
                self._in_blocks()
            else:
                self._solved("net", list(self.lc.tasks), self.stream.whole)
        self._finish()
        return self.result

    # --- units

    def _in_blocks(self) -> None:
        outer = [t for t, place in self.at.items() if place == -1]
        joint = [t for t, place in self.at.items() if place is None]
        stream = self.stream

        # the order of the blocks, and where a weight outside of them is used last
        every = {n: p for t in outer for n, p in self.own[t].items()}
        with Recorder(every, sums=False) as first:
            stream.check()
        if joint:
            self._solved("joint", joint, stream.whole)

        # before the blocks
        dense: Stream | None = None
        with Recorder(every) as recorder:
            stream.before()
        early = [
            t for t in outer if all(recorder.seen[n].same_kinds(first.seen[n]) for n in self.own[t])
        ]
        if self.polish:
            dense = stream.fork()
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
            self.bar.update(self.line, advance=len(tasks), description=unit)
            return
        if recorder is None:
            with Recorder({n: p for t in tasks for n, p in self.own[t].items()}) as recorder:
                outputs()
        all_finite((n, recorder.seen[n]) for t in tasks for n in self.own[t])
        first, noted = len(self.result.records), len(self.result.notes)
        for task in tasks:
            self._solve(task, recorder, joint=unit == "joint")
            self.bar.update(self.line, advance=1, description=task)
        self.moments = self.h = None
        rest = self._polish(tasks, *polish) if polish else {}
        own = {t: self.thetas[t] for t in tasks if t in self.thetas}
        records = [tuple(record) for record in self.result.records[first:]]
        left = {t: why for t, why in self.result.left.items() if t in tasks}
        name = self.stream.name(polish[0]) if polish else ""
        ends = {name: list(self.result.blocks[name])} if name else {}
        notes = self.result.notes[noted:]
        self.checkpoint.save(unit, own, rest, [records, left, ends, notes])

    @torch.no_grad()
    def _solve(self, task: str, recorder: Recorder, joint: bool) -> None:
        problem = self._problem(task, recorder, joint)
        if problem is None:
            return
        try:
            solved = solve(problem, self.schedule)
        except ValueError as error:
            raise ValueError(f"calibrate: task {task!r}: {error}") from error
        self._take({task: solved.theta})
        self.result.records.append(LayerRecord(task, *solved[1:]))

    def _problem(self, task: str, recorder: Recorder, joint: bool) -> Problem | None:
        """A task with its layers; None where it is left at direct compression."""
        own, layers, layouts = self.own[task], list[Layer](), list[Layout]()
        for name, p in own.items():
            found = whole(p, recorder.seen[name])
            if isinstance(found, str):
                self._leave(task, name, found)
                return None
            recorder.seen[name].parts.clear()
            layer = Layer(found.layout.matrices(p.detach()), self._moments(name, found))
            if joint and layer.energy:
                layer.weight = 1 / layer.energy
            layers.append(layer)
            layouts.append(found.layout)
        return Problem(self.lc.tasks[task], layers, layouts, [p.shape for p in own.values()])

    def _moments(self, name: str, inputs: Inputs) -> Moments:
        """H of a parameter with its decomposition: the last one where layers share their inputs."""
        if self.h is None or not torch.equal(self.h, inputs.h):
            self.h, self.moments = inputs.h, Moments(inputs.h, self.damping)
        assert self.moments is not None
        unseen, groups = int(self.moments.unseen.sum()), len(inputs.h)
        if unseen:
            self.result.notes.append(
                f"{name}: no calibration input reaches {unseen} of its {groups} groups, in which "
                "all weights count alike"
            )
        if not self.moments.diagonal and inputs.samples < inputs.h.shape[-1]:
            self.result.notes.append(
                f"{name}: {inputs.samples} samples are fewer than its {inputs.h.shape[-1]} inputs; "
                "damping alone tells some of them apart"
            )
        return self.moments

    def _leave(self, task: str, name: str, why: str) -> None:
        """Direct compression without H."""
        view, compression = self.lc.tasks[task].view, self.lc.tasks[task].compression
        x = view.forward([p.detach().to(full_dtype(p.dtype)) for p in self.own[task].values()])
        self._take({task: compression.compress(x, self.schedule.last)})
        self.result.left[task] = f"{name}: {why}" if len(self.own[task]) > 1 else why

    def _take(self, thetas: dict[str, Theta]) -> None:
        self.thetas |= thetas
        for task, theta in thetas.items():
            params = self.own[task]
            parts = self.lc.tasks[task].view.backward(
                theta.decompress(), [p.shape for p in params.values()]
            )
            for (n, p), part in zip(params.items(), parts, strict=True):
                self.changed[n] = torch.empty_like(p).copy_(part)

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

    @torch.no_grad()
    def _finish(self) -> None:
        """Theta into lc, Delta(Theta) and what was polished into the model."""
        params = dict(self.lc.model.named_parameters())
        for n, value in self.changed.items():
            if n not in self.lc.params:
                params[n].copy_(value)
        self.lc.adopt(self.thetas)
