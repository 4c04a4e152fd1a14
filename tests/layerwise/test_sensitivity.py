"""The table of layers and candidates, and the choice at a size."""

import itertools
from types import SimpleNamespace

import pytest
import torch

import leco
from leco.layerwise.effects import Alone, effects_of
from tests.layerwise.nets import Block, batches, net

GRIDS = {f"{b} bits": (leco.Groups(8), leco.Uniform(b)) for b in (2, 4, 8)}


def table() -> leco.Sensitivity:
    names = [n for n in leco.match(net(), "layers.*.weight") if "norm" not in n]
    return leco.sensitivity(net(), names, GRIDS, batches(), progress=False)


def test_errors_fall_and_bits_grow_with_the_bits():
    model = net()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    names = [n for n in leco.match(model, "layers.*.weight") if "norm" not in n]
    found = leco.sensitivity(model, names, GRIDS, batches(), progress=False)
    assert list(found.errors) == names
    for errors, sizes in zip(found.errors.values(), found.bits.values(), strict=True):
        assert errors["8 bits"] < errors["4 bits"] < errors["2 bits"] < 1
        assert sizes["8 bits"] > sizes["4 bits"] > sizes["2 bits"]
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    assert model.training
    assert str(found).splitlines()[0].split() == ["layer", "2", "bits", "4", "bits", "8", "bits"]


def test_an_error_is_that_of_calibrating_the_layer_alone():
    found, lc = (
        table(),
        leco.LC(net(), {"down": leco.Task("layers.2.down.weight", *GRIDS["2 bits"])}),
    )
    (record,) = leco.calibrate(lc, batches(), steps=5, progress=False).records
    assert found.errors["layers.2.down.weight"]["2 bits"] == pytest.approx(record.error)
    assert found.bits["layers.2.down.weight"]["2 bits"] == lc.bits()


def test_the_choice_by_brute_force():
    generator = torch.Generator().manual_seed(0)
    for weighed in (False, True):
        draws = torch.rand(4, 3, generator=generator).tolist()
        sizes = torch.randint(50, 900, (4, 3), generator=generator).tolist()
        found = leco.Sensitivity()
        for i, (errors, own) in enumerate(zip(draws, sizes, strict=True)):
            found.errors[f"{i}"] = dict(zip("abc", errors, strict=True))
            found.bits[f"{i}"] = dict(zip("abc", own, strict=True))
            if weighed:
                found.weights[f"{i}"] = 1.0 + i
        least = sum(min(own) for own in sizes) / 8
        for limit in (least + 1, 1.2 * least, 1.5 * least, 2 * least):
            best = min(
                sum(found.weights.get(f"{i}", 1) * draws[i][j] for i, j in enumerate(way))
                for way in itertools.product(range(3), repeat=4)
                if sum(sizes[i][j] for i, j in enumerate(way)) <= 8 * limit
            )
            chosen = found.choose(limit)
            assert sum(found.bits[n][c] for n, c in chosen.items()) <= 8 * limit
            error = sum(found.weights.get(n, 1) * found.errors[n][c] for n, c in chosen.items())
            assert error == pytest.approx(best)


def test_a_size_for_the_whole_model(tmp_path):
    """One size in, a scheme for each layer out, and a file of about that size."""
    found = table()
    found.save(tmp_path / "table.json")
    found = leco.Sensitivity.load(tmp_path / "table.json")
    sizes = [sum(found.bits[n][f"{b} bits"] for n in found.bits) / 8 for b in (2, 4)]
    limit = sum(sizes) / 2
    tasks = found.tasks(GRIDS, limit)
    assert len({task.compression for task in tasks.values()}) > 1
    lc = leco.LC(net(), tasks)
    leco.calibrate(lc, batches(), progress=False)
    assert lc.bits() / 8 == pytest.approx(limit, rel=0.05)


def test_weights_are_what_a_layer_alone_does_to_the_output():
    model = net()
    names = [n for n in leco.match(model, "layers.*.weight") if "norm" not in n]
    found = leco.sensitivity(model, names, GRIDS, batches(), effects=2, progress=False)
    with torch.no_grad():
        dense = [net()(**batch) for batch in batches()[:2]]
    for name in ("layers.0.up.weight", "layers.2.query.weight"):
        other = net()
        lc = leco.LC(other, {"one": leco.Task(name, *GRIDS["4 bits"])})
        leco.calibrate(lc, batches(), steps=5, progress=False)
        with torch.no_grad():
            ours = [other(**batch) for batch in batches()[:2]]
        gap = sum((a - b).square().sum() for a, b in zip(ours, dense, strict=True))
        relative = float(gap / sum(b.square().sum() for b in dense))
        expected = relative / found.errors[name]["4 bits"]
        assert found.weights[name] == pytest.approx(expected, rel=1e-4)

    # the model is as before
    same = zip(model.parameters(), net().parameters(), strict=True)
    assert all(torch.equal(p, q) for p, q in same)
    assert table().weights == {}


@pytest.mark.parametrize(
    "wrap",
    [lambda y: (y, None), lambda y: {"loss": None, "y": y}, lambda y: SimpleNamespace(y=y)],
)
def test_effects_take_the_first_tensor_of_an_output(wrap):
    model, x = torch.nn.Linear(8, 4).double(), torch.randn(16, 8).double()
    grids = {"2 bits": (leco.Rows(), leco.Uniform(2))}

    def weight() -> float:
        found = leco.sensitivity(model, ["weight"], grids, [x], effects=1, progress=False)
        return found.weights["weight"]

    expected = weight()
    handle = model.register_forward_hook(lambda _, __, y: wrap(y))
    assert weight() == pytest.approx(expected)
    handle.remove()
    model.register_forward_hook(lambda *_: "text")
    with pytest.raises(ValueError, match="there is no tensor in a str; give effects = 0"):
        weight()


def test_bad_input():
    with pytest.raises(ValueError, match="effects = -1 must be an integer, at least 0"):
        leco.sensitivity(net(), ["head.weight"], GRIDS, batches(), effects=-1)
    with pytest.raises(ValueError, match="candidates is empty"):
        leco.sensitivity(net(), ["head.weight"], {}, batches())
    with pytest.raises(ValueError, match=r"'layers.0.norm.weight': no calibration input"):
        leco.sensitivity(net(), ["layers.0.norm.weight"], GRIDS, batches(), progress=False)
    with pytest.raises(ValueError, match=r"limit = 1 bytes must be at least"):
        table().choose(1)


def test_effects_of_a_layer_take_a_pass_from_its_block_on(monkeypatch: pytest.MonkeyPatch):
    """More layers in the last block make no more passes of the first."""
    calls, plain = list[int](), Block.forward

    def counted(block: Block, *args, **kwargs):
        calls.append(int(block is model.layers[0]))
        return plain(block, *args, **kwargs)

    monkeypatch.setattr(Block, "forward", counted)
    passes = []
    for names in (("up",), ("up", "query", "key")):
        model = net()
        calls.clear()
        names = [f"layers.2.{n}.weight" for n in names]
        options = {"blocks": list(model.layers), "effects": 2, "progress": False}
        leco.sensitivity(model, names, GRIDS, batches(), **options)
        passes.append((sum(calls), len(calls)))
    assert passes[0][0] == passes[1][0]
    assert passes[1][1] - passes[0][1] == 2 * 2  # two layers, two batches, one block


def test_effects_of_tasks_in_several_blocks_and_outside():
    """They equal those of whole passes."""
    model = net()
    head = [leco.Task("head.weight", leco.Rows(), leco.Uniform(3))]
    both = leco.Task(["layers.0.up.weight", "layers.2.up.weight"], leco.Vector(), leco.Ternary())
    inside = leco.Task("layers.1.key.weight", leco.Rows(), leco.Binary())
    every = {}
    for k, task in enumerate([*head, both, inside]):
        params = {n: model.get_parameter(n) for n in task.params}
        x = task.view.forward([p.detach() for p in params.values()])
        every[f"{k}"] = Alone(task, task.compression.compress(x, 1.0), 0.5, params)
    some = batches(2)
    plain = effects_of(model, every, some)
    found = effects_of(model, every, some, list(model.layers))
    assert found.keys() == plain.keys()
    for name, effect in plain.items():
        assert 0 < effect == pytest.approx(found[name], rel=1e-9)
    assert all(
        torch.equal(p, q) for p, q in zip(model.parameters(), net().parameters(), strict=True)
    )
