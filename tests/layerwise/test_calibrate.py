"""Calibration from end to end, on small nets with blocks."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

import leco
from leco.layerwise import solver
from leco.layerwise.layouts import Plain
from leco.layerwise.polish import error_of
from leco.layerwise.quadratic import Layer, Moments
from leco.layerwise.solve import Problem, Schedule, solve
from leco.layerwise.units import Units
from tests.layerwise.nets import DOUBLE, Net, batches, net

STEPS = Schedule(10, 0.1, 10.0)


def problem(model: Net, pattern: str = "layers.*.weight", compression: Any = None) -> leco.LC:
    names = [n for n in leco.match(model, pattern) if "norm" not in n]
    chosen = compression or leco.Uniform(2, zero_point=True)
    return leco.LC(model, leco.each(names, leco.Groups(8), chosen))


def calibrate(lc: leco.LC, given: Any = None, **options: Any) -> leco.Calibration:
    given = batches() if given is None else given
    return leco.calibrate(lc, given, **{"steps": 10, "progress": False, **options})


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def output(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return torch.stack([model.eval()(**batch) for batch in batches()])


def test_blocks_by_hand():
    """Each block's moments are those of the inputs in the net compressed so far."""
    model, twin = net(), net()
    names = [n for n in leco.match(model, "layers.*.weight") if "norm" not in n]
    lc = leco.LC(model, leco.each(names, leco.Matrix(), leco.LowRank(3)))
    assert [r.task for r in calibrate(lc).records] == names

    for block in twin.layers:
        inputs: dict[str, list[torch.Tensor]] = {}
        handles = [
            layer.register_forward_hook(
                lambda _, args, out, name=name, inputs=inputs: inputs.setdefault(name, []).append(
                    args[0]
                )
            )
            for name, layer in block.named_children()
            if name != "norm"
        ]
        output(twin)
        for handle in handles:
            handle.remove()
        for name, given in inputs.items():
            weight = block.get_submodule(name).weight
            x = torch.cat([one.reshape(-1, one.shape[-1]) for one in given])
            moments = Moments((x.mT @ x / len(x))[None], 0.01)
            task = leco.Task("w", leco.Matrix(), leco.LowRank(3))
            layers = [Layer(weight.detach()[None], moments)]
            by_hand = Problem(task, layers, [Plain(1, weight.shape[1])], [weight.shape])
            found = solve(by_hand, STEPS).theta.decompress()
            weight.data.copy_(found.view_as(weight))
    torch.testing.assert_close(weights(model), weights(twin), rtol=1e-6, atol=1e-6)


def test_the_model_is_the_compressed_net_and_lc_holds_it():
    model, before = net(), output(net())
    lc = problem(model)
    result = calibrate(lc)
    assert all(r.error <= r.direct for r in result.records)
    assert sum(r.error for r in result.records) < 0.8 * sum(r.direct for r in result.records)
    for name, p in lc.params.items():
        assert torch.equal(p, lc.delta[name])
        assert len(p.view(-1, 8)[0].unique()) <= 4
    assert all(not value.any() for value in lc.multipliers.values())
    assert model.training
    direct = net()
    plain = problem(direct)
    plain.mu = 1.0
    plain.project_()
    assert (output(model) - before).norm() < (output(direct) - before).norm()
    assert "layers.0.query.weight" in str(result)


def test_lc_goes_on_from_it(tmp_path):
    lc = problem(net())
    calibrate(lc)
    leco.save(tmp_path / "net.safetensors", lc)
    loaded = leco.load(tmp_path / "net.safetensors", net())
    torch.testing.assert_close(output(loaded), output(lc.model))
    lc.mu = 1.0
    record = lc.step()
    assert record.gap == pytest.approx(0, abs=1e-9)


def test_the_embedding_that_the_head_shares_is_solved_as_the_head():
    model = net()
    lc = leco.LC(model, {"embed": leco.Task("embed.weight", leco.Rows(), leco.Uniform(2))})
    result = calibrate(lc)
    (record,) = result.records
    assert record.steps > 3  # an embedding alone takes none

    untied = net()
    untied.head = nn.Linear(8, 12, bias=False).double()
    lc = leco.LC(untied, {"embed": leco.Task("embed.weight", leco.Rows(), leco.Uniform(2))})
    (record,) = calibrate(lc).records
    assert record.steps == 0


def test_what_comes_after_sees_the_compressed_blocks():
    seen = []
    for compressed in ("layers.*.weight", "head.weight"):
        model = net()
        model.head = nn.Linear(8, 12, bias=False).double()
        names = [n for n in leco.match(model, compressed) if "norm" not in n]
        names = sorted({*names, "head.weight"})
        lc = leco.LC(model, leco.each(names, leco.Groups(8), leco.Binary()))
        seen.append(calibrate(lc).records[-1])
    assert [record.task for record in seen] == ["head.weight"] * 2
    assert seen[0].error != seen[1].error


def test_the_blocks_see_the_compressed_embedding():
    errors = []
    for first in ([], ["embed.weight"]):
        model = net()
        model.head = nn.Linear(8, 12, bias=False).double()
        names = [*first, "layers.0.query.weight"]
        lc = leco.LC(model, leco.each(names, leco.Rows(), leco.Binary()))
        errors.append(calibrate(lc, blocks=model.layers).records[-1].direct)
    assert errors[0] != pytest.approx(errors[1], rel=1e-6)


def test_a_task_over_several_blocks():
    model = net()
    names = leco.match(model, "layers.*.down.weight")
    shared = leco.Task(names, leco.Vector(), leco.Codebook(4))
    rest = leco.each(leco.match(model, "layers.*.up.weight"), leco.Rows(), leco.Binary())
    lc = leco.LC(model, {"shared": shared, **rest})
    result = calibrate(lc)
    assert [r.task for r in result.records] == ["shared", *rest]
    assert result.records[0].error < result.records[0].direct
    assert len(torch.cat([lc.params[n].view(-1) for n in names]).unique()) == 4


def test_one_pass_over_a_net_without_blocks():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)).double()
    x = [torch.randn(8, 1, 6, 6, dtype=DOUBLE) for _ in range(3)]
    lc = leco.LC(model, leco.each(["0.weight", "3.weight"], leco.Rows(), leco.Uniform(2)))
    result = calibrate(lc, x, blocks=())
    assert [r.error < r.direct for r in result.records] == [True, True]
    assert "24 samples are fewer than its 64 inputs" in str(result)


def test_tasks_without_inputs_are_left_and_said():
    model = net()
    model.extra = nn.Linear(4, 4).double()
    tasks = leco.each(["extra.weight", "layers.0.norm.weight"], leco.Vector(), leco.Binary())
    tasks |= leco.each(["layers.1.up.weight"], leco.Rows(), leco.Binary())
    result = calibrate(lc := leco.LC(model, tasks))
    assert result.left == {
        "extra.weight": "no calibration input reaches it",
        "layers.0.norm.weight": "no calibration input reaches it",
    }
    assert "extra.weight: direct compression, no calibration input" in str(result)
    assert len(lc.params["extra.weight"].abs().unique()) == 1


@pytest.mark.parametrize("offload", [None, "cpu", "disk"])
def test_a_calibration_resumes(tmp_path, monkeypatch, offload: str | None):
    whole, options = net(), {"offload": offload, "polish": 2}
    expected = calibrate(problem(whole), **options)

    class CutError(Exception):
        pass

    model, solves = net(), []
    original = solver.solve

    def counted(*args: Any) -> Any:
        solves.append(1)
        if len(solves) == 7:  # in the second block
            raise CutError
        return original(*args)

    monkeypatch.setattr(solver, "solve", counted)
    before = weights(model)
    with pytest.raises(CutError):
        calibrate(problem(model), checkpoint=tmp_path, **options)
    assert torch.equal(weights(model), before)
    result = calibrate(problem(model), checkpoint=tmp_path, **options)
    assert len(solves) == 7 + 8  # the first block's four are not solved again
    assert torch.equal(weights(model), weights(whole))
    assert [r.error for r in result.records] == [r.error for r in expected.records]
    assert result.blocks == expected.blocks

    # another calibration's files are refused
    with pytest.raises(ValueError, match="another net, other tasks or other options"):
        calibrate(problem(net()), checkpoint=tmp_path, steps=9)
    (tmp_path / "block-0000.pt").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"block-0000.pt is damaged"):
        calibrate(problem(net()), checkpoint=tmp_path, **options)


def test_hidden_states_wait_in_files(tmp_path, monkeypatch):
    """As many as there are batches of the compressed and of the dense net, and none at the end."""
    expected, model, seen = net(), net(), []
    calibrate(problem(expected), polish=1)
    original = solver.solve

    def counted(*args: Any) -> Any:
        seen.append(len(list(tmp_path.rglob("*.pt"))))
        return original(*args)

    monkeypatch.setattr(solver, "solve", counted)
    calibrate(problem(model), offload=tmp_path, polish=1)
    assert torch.equal(weights(model), weights(expected))
    count = len(batches())
    assert seen[0] == count  # both nets have the first ones in common
    assert set(seen) == {count, 2 * count}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["nowhere", "cuda:99"])
def test_a_place_to_wait_that_is_none_is_refused(place: str):
    with pytest.raises(ValueError, match=rf'offload = .{place}. is no device here, nor "disk"'):
        calibrate(problem(net()), offload=place)


def test_a_folder_to_wait_in_that_is_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is no folder"):
        calibrate(problem(net()), offload=tmp_path / "nowhere")


def test_the_deltas_of_earlier_blocks_take_no_memory(monkeypatch):
    """Beside Theta, a block holds what it needs itself."""
    held, original = [], Units._take

    def counted(self: Units, thetas: Any) -> None:
        original(self, thetas)
        held.append(sorted(n.split(".")[1] for n in self.changed))

    monkeypatch.setattr(Units, "_take", counted)
    calibrate(problem(net()))
    assert [set(each) for each in held] == [{"0"}, {"1"}, {"2"}]


def test_a_large_embedding_does_not_hide_the_blocks():
    model = net(vocabulary=300)
    names = ["embed.weight", *(n for n in leco.match(model, "layers.*.weight") if "norm" not in n)]
    inside = sum(p.numel() for p in model.layers.parameters())
    assert model.embed.weight.numel() > inside
    lc = leco.LC(model, leco.each(names, leco.Rows(), leco.Binary()))
    assert len(calibrate(lc, polish=1).blocks) == 3


def test_polish_without_blocks_is_refused():
    lc = problem(net())
    with pytest.raises(ValueError, match=r"polish = 1 trains blocks.*none was found; name them"):
        calibrate(lc, polish=1, blocks=())
    assert not lc.thetas


def test_polish_brings_the_outputs_nearer():
    model, dense = net(), output(net())
    plain = net()
    calibrate(problem(plain))
    lc = problem(model)
    result = calibrate(lc, polish=8)
    assert list(result.blocks) == [f"layers.{i}" for i in range(3)]
    assert all(after < before for before, after in result.blocks.values())
    assert (output(model) - dense).norm() < (output(plain) - dense).norm()
    assert not torch.equal(model.layers[0].norm.weight, plain.layers[0].norm.weight)
    for name, p in lc.params.items():
        assert torch.equal(p, lc.delta[name])
        assert len(p.view(-1, 8)[0].unique()) <= 4


def test_polish_counts_each_token_relative_to_its_own_norm():
    generator = torch.Generator().manual_seed(0)
    output, target = torch.randn(2, 2, 5, 8, generator=generator)
    parts = (output - target).square().sum(-1) / target.square().sum(-1)
    assert float(error_of(output, target)) == pytest.approx(float(parts.mean()), rel=1e-6)

    # one of a large norm counts like the others, and one of 0 not at all
    output[0, 0], target[0, 0] = 1000 * output[0, 0], 1000 * target[0, 0]
    assert float(error_of(output, target)) == pytest.approx(float(parts.mean()), rel=1e-6)
    target[0, 0] = 0
    assert float(error_of(output, target)) == pytest.approx(
        float(parts.flatten()[1:].sum()) / parts.numel(), rel=1e-6
    )

    # images have no tokens
    image, wanted = torch.randn(2, 2, 3, 4, 4, generator=generator)
    ratio = (image - wanted).square().sum() / wanted.square().sum()
    assert float(error_of(image, wanted)) == pytest.approx(float(ratio), rel=1e-6)


def test_blocks_without_parameters_have_nothing_to_polish():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)).double()
    lc = leco.LC(model, leco.each(leco.match(model, nn.Linear), leco.Rows(), leco.Binary()))
    result = calibrate(lc, [torch.randn(16, 8, dtype=DOUBLE) for _ in range(2)], polish=2)
    (first, _), (before, after), _ = result.blocks.values()
    assert 0 < before == after < first


def test_the_metric_and_the_cache_of_keys_are_left_alone():
    model = net()
    model.config = type("Config", (), {"use_cache": True})()
    seen = []
    model.register_forward_pre_hook(lambda *_: seen.append(model.config.use_cache))
    lc = problem(model)
    calibrate(lc)
    assert seen
    assert not any(seen)
    assert model.config.use_cache
    assert lc.metric == {}


def twice(count: int) -> Iterator[Any]:
    """A generator, which ends after one pass."""
    yield from batches(count)


class Shuffled(Net):
    def forward(self, tokens: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        x = self.embed(tokens)
        for i in (1, 0, 2):
            x, _ = self.layers[i](hidden_states=x, mask=mask)
        return self.head(x)


class Between(Net):
    def forward(self, tokens: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        x = self.embed(tokens)
        for layer in self.layers:
            x = torch.relu(layer(hidden_states=x, mask=mask)[0])
        return self.head(x)


def failing(kind: str) -> tuple[nn.Module, Any, dict[str, Any]]:
    model, given, options = net(), batches(), dict[str, Any]()
    if kind == "no batches":
        given = []
    elif kind == "generator":
        given = twice(4)
    elif kind == "lists":
        given = [[batch["tokens"], None] for batch in given]
    elif kind == "NaN":
        torch.nn.init.constant_(model.layers[1].norm.weight, torch.nan)
    elif kind in ("order", "between"):
        model = {"order": Shuffled, "between": Between}[kind]().double()
    elif kind == "refused":
        given = [{"tokens": torch.tensor([[99]])}]
    elif kind == "block name":
        options["blocks"] = ["layers.7"]
    else:
        options[kind] = {"steps": 0, "mu": (1.0, 0.1), "damping": 0.0, "polish": -1}[kind]
    return model, given, options


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("no batches", ValueError, "batches is empty"),
        ("generator", ValueError, "batches is a generator or iterator"),
        ("lists", TypeError, "not lists of inputs and targets"),
        ("NaN", ValueError, "the inputs of 'layers.1.query.weight' hold NaN"),
        ("order", ValueError, "must be called once each, in order"),
        ("between", ValueError, "'layers.1' does not take the output of 'layers.0'"),
        ("refused", IndexError, "index out of range"),
        ("block name", AttributeError, "7"),
        ("steps", ValueError, "steps = 0 must be an integer, at least 1"),
        ("mu", ValueError, r"mu = \(1.0, 0.1\) must be positive, finite and not decreasing"),
        ("damping", ValueError, "damping = 0.0 must be positive and finite"),
        ("polish", ValueError, "polish = -1 must be an integer, at least 0"),
    ],
)
def test_bad_input_changes_nothing(kind: str, error: type, message: str):
    model, given, options = failing(kind)
    before = weights(model)
    lc = problem(model)
    with pytest.raises(error, match=message):
        calibrate(lc, given, **options)
    torch.testing.assert_close(weights(model), before, equal_nan=True, rtol=0, atol=0)
    assert model.training
    assert not lc.thetas
    assert all("forward" not in vars(layer) for layer in model.layers)
    with pytest.raises(ValueError, match="no Theta yet"):
        lc.record()


def test_inside_compressed_is_refused():
    lc = problem(net())
    lc.mu = 1.0
    with lc.compressed(), pytest.raises(RuntimeError, match="inside `with lc"):
        calibrate(lc)


def test_adopt_refuses_other_tasks():
    lc = problem(net())
    with pytest.raises(ValueError, match="adopt: Thetas of"):
        lc.adopt({})
