"""The benchmark of compression without training on nets of other kinds: batches that differ in more
than their hidden states, convolutions, formats mixed by sensitivity; cells and their records."""

import argparse
import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from streamed import SEQUENCES, net
from torch import Tensor, nn

import leco
from benchmarks import nets, records
from benchmarks.layerwise import methods, resnet, smollm2, stream, subject
from benchmarks.layerwise.rows import ROWS, Mixed
from leco.layerwise.moments import Inputs, Recorder, whole

BATCHES = smollm2.batches(SEQUENCES)
GRIDS = {f"{b} bits": (leco.Groups(64), leco.Uniform(b)) for b in (2, 3, 4)}
MIXED = ROWS["3 bits"]._replace(mixed=Mixed(GRIDS, "3 bits"))


class Masked(nn.Module):
    """A block that gets a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        return hidden + mask * torch.tanh(self.inner(mask * hidden))


class Masking(nn.Module):
    """Two blocks, to which each batch gives a mask by its place."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Masked() for _ in range(2))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        for block in self.layers:
            x = block(x, mask)
        return x


def moments(
    model: nn.Module, weights: Mapping[str, Tensor], batches: list[Any]
) -> dict[str, Tensor]:
    """H of weights by a pass of the whole net, as leco sees them."""
    with Recorder(weights) as recorder, torch.no_grad():
        for batch in batches:
            model(**batch)
    found = {}
    for name, p in weights.items():
        inputs = whole(p, recorder.seen[name])
        assert isinstance(inputs, Inputs)
        found[name] = inputs.h[0]
    return found


def streamed(model: nn.Module, blocks: Any, batches: list[Any]) -> dict[str, Tensor]:
    """H by the stream, which leaves the weights alone."""
    found = {}

    def keep(name: str, w0: Tensor, h: Tensor) -> Tensor:
        found[f"{name}.weight"] = h.clone()
        return w0

    stream.compress_(model, blocks, batches, keep)
    return found


def test_each_batch_has_its_own_mask():
    torch.manual_seed(0)
    model = Masking().double()
    pairs = [torch.randn(2, 2, 3, 8, dtype=torch.float64) for _ in range(3)]
    batches = [{"x": x, "mask": mask.round()} for x, mask in pairs]
    weights = {n: p for n, p in model.named_parameters() if p.ndim == 2}
    expected, found = moments(model, weights, batches), streamed(model, model.layers, batches)
    assert list(found) == list(expected)
    for name, h in expected.items():
        torch.testing.assert_close(found[name], h)


def test_convolutions_are_matrices_of_their_patches():
    torch.manual_seed(0)
    model: Any = nets.NETS["resnet8"]().double().eval()
    batches = [{"input": torch.randn(2, 3, 12, 12, dtype=torch.float64)} for _ in range(2)]
    blocks = resnet.blocks(model, "3 bits")
    weights = methods.matrices(model, blocks)
    assert len(weights) == 8
    expected, found = moments(model, weights, batches), streamed(model, blocks, batches)
    for name, h in expected.items():
        torch.testing.assert_close(found[name], h)


@pytest.mark.parametrize(("row", "peer"), [("3 bits", "GPTQ"), ("2:4", "SparseGPT")])
def test_lc_of_convolutions_is_better_than_a_peer(row: str, peer: str):
    torch.manual_seed(0)
    first: Any = nets.NETS["resnet8"]().eval()
    second, errors = copy.deepcopy(first), []
    batches = [{"input": torch.randn(4, 3, 16, 16)} for _ in range(2)]
    for model, method in ((first, peer), (second, "LC")):
        blocks = resnet.blocks(model, row)
        found = methods.run_(model, blocks, resnet.ROWS[row], method, batches)
        errors.append(sum(found["errors"].values()))
        stem = model[0].weight
        assert (stem == nets_stem(stem)).all() == (row == "2:4")
    assert errors[1] < errors[0]


def nets_stem(like: Tensor) -> Tensor:
    """The first convolution of the net of seed 0."""
    torch.manual_seed(0)
    model: Any = nets.NETS["resnet8"]()
    return model[0].weight.to(like)


def test_a_budget_has_the_bytes_of_its_grid(tmp_path: Path):
    model, table = net().float(), tmp_path / "table.json"
    tasks = methods.tasks_of(model, model.model.layers, MIXED, BATCHES, table)
    plain = net().float()
    grid = methods.lc_(plain, plain.model.layers, ROWS["3 bits"], BATCHES, 0)
    found = methods.lc_(model, model.model.layers, MIXED, BATCHES, 0, table=table)
    assert len({task.compression.bits for task in tasks.values()}) > 1  # pyright: ignore[reportAttributeAccessIssue]
    assert 0.8 < found["coded_bytes"] / grid["coded_bytes"] < 1.05
    assert set(leco.Sensitivity.load(table).errors) == set(tasks)


def arguments(**changes: Any) -> argparse.Namespace:
    defaults = {"rows": ["2 bits", "mixed"], "methods": ["RTN", "GPTQ", "LC"], "batches": 2}
    return argparse.Namespace(**{"record": True, **defaults, **changes})


def toy(made: list[nn.Module]) -> subject.Subject:
    """A small net of which each copy is in `made`."""

    def new() -> nn.Module:
        made.append(net().float())
        return made[-1]

    return subject.Subject(
        *("toy", {"2 bits": ROWS["2 bits"], "mixed": MIXED}, new),
        *(lambda model, _: model.model.layers, lambda count: BATCHES[:count]),
        lambda model: {"norm": float(model.head.weight.detach().norm())},
    )


def test_each_cell_is_recorded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(records, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(subject, "FOLDER", tmp_path / "kept")
    made = list[nn.Module]()
    subject.cells(toy(made), arguments(methods=["RTN"]))
    subject.cells(toy(made), arguments())
    subject.cells(toy(made), arguments())
    found = records.read("layerwise", "toy")
    assert [(run["row"], run["method"]) for run in found] == [
        *(("2 bits", "RTN"), ("2 bits", "GPTQ"), ("2 bits", "LC"), ("mixed", "LC"))
    ]
    assert len(made) == 4
    rtn, gptq, lc, mixed = found
    assert rtn["bytes"] == gptq["bytes"] == 9 * 64**2 * (2 + 18 / 64) / 8
    assert 0 < lc["error"] < gptq["error"] < 1
    assert "error" not in rtn
    assert "bytes" not in mixed
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["toy, 2.json"]

    # without --record nothing is kept, and everything is run
    subject.cells(toy(made), arguments(rows=["2 bits"], record=False))
    assert len(made) == 7
    assert len(records.read("layerwise", "toy")) == 4


def test_what_is_cut_off_while_it_is_judged_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(records, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(subject, "FOLDER", tmp_path / "kept")

    def cut_off(model: nn.Module) -> dict[str, float]:
        raise KeyboardInterrupt

    wanted = arguments(rows=["2 bits"], methods=["LC"])
    with pytest.raises(KeyboardInterrupt):
        subject.cells(toy([])._replace(judged=cut_off), wanted)
    assert not records.read("layerwise", "toy")
    assert len([*(tmp_path / "kept" / "toy, 2 bits, LC, 2").iterdir()]) == 3
    subject.cells(toy([]), wanted)
    (found,) = records.read("layerwise", "toy")
    assert "cpu_seconds" not in found  # of what was resumed
    assert found["norm"] > 0
    assert not [*(tmp_path / "kept").iterdir()]
