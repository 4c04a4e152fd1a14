"""Loading writes straight into parameters where it can: the same weights, to the bit."""

import pytest
import torch
from torch import nn

import leco
from leco.files import contents, load
from leco.native import build

native = pytest.mark.skipif(build.library() is None, reason="there is no C compiler")
FORMS = {
    "grid": (leco.Groups(32), leco.Uniform(4), True),
    "grid with zero points": (leco.Rows(), leco.Uniform(3, zero_point=True), True),
    "codebook": (leco.Vector(), leco.Codebook(16), True),
    "codebook of each row": (leco.Rows(), leco.Codebook(4), True),
    "signs": (leco.Rows(), leco.Binary(), True),
    "given values": (leco.Vector(), leco.FixedCodebook((-0.1, 0.0, 0.2)), True),
    "values beside zero": (leco.Vector(), leco.EntropyCodebook(1e-4, 8), True),
    "sparse": (leco.Vector(), leco.TopK(0.2), False),
    "columns": (leco.Rows(1), leco.Uniform(4), False),
}


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(160, 160), nn.ReLU(), nn.Linear(160, 160))


def saved(path, view, compression, names=("0.weight", "2.weight")) -> leco.LC:
    lc = leco.LC(net(), leco.each(list(names), view, compression))
    lc.mu = 1.0
    leco.save(path, lc)
    return lc


@pytest.fixture
def straight(monkeypatch) -> list[bool]:
    """Whether each task went straight into its parameter."""
    found: list[bool] = []
    known = load.filled_
    monkeypatch.setattr(load, "filled_", lambda *of: (found.append(known(*of)), found[-1])[1])
    return found


@native
@pytest.mark.parametrize("name", FORMS)
def test_weights_are_delta_to_the_bit(name, tmp_path, straight):
    view, compression, expected = FORMS[name]
    lc = saved(tmp_path / "m", view, compression)
    model = net(1)
    kept, version = model[0].weight, model[0].weight._version
    memory = kept.data_ptr()
    leco.load(tmp_path / "m", model)
    assert straight == [expected] * 2
    assert model[0].weight is kept
    assert kept.data_ptr() == memory
    assert kept._version > version
    for own, delta in lc.delta.items():
        assert torch.equal(model.get_parameter(own), delta), own


@native
@pytest.mark.parametrize("name", ["grid with zero points", "codebook", "codebook of each row"])
def test_several_threads_write_the_same(name, tmp_path, monkeypatch):
    view, compression, _ = FORMS[name]
    lc = saved(tmp_path / "m", view, compression)
    monkeypatch.setattr("leco.native.symbols.WEIGHTS", 1000)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        model = leco.load(tmp_path / "m", net(1))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(model.get_parameter(n), delta) for n, delta in lc.delta.items())


@native
def test_other_memory_is_filled_by_a_copy(tmp_path, straight):
    lc = saved(tmp_path / "m", leco.Rows(), leco.Uniform(4))
    model = net(1)
    turned = nn.Parameter(torch.empty(160, 160).T)
    model[0].weight = turned
    model[2].double()
    leco.load(tmp_path / "m", model)
    assert straight == [False, False]
    assert turned.stride() == (1, 160)
    assert torch.equal(turned, lc.delta["0.weight"])
    assert torch.equal(model[2].weight, lc.delta["2.weight"].double())


def test_a_view_that_copies_is_filled_by_a_copy(tmp_path, straight):
    torch.manual_seed(0)
    lc = leco.LC(nn.Conv2d(32, 32, 4), leco.each(["weight"], leco.Rows(1), leco.Uniform(4)))
    lc.mu = 1.0
    leco.save(tmp_path / "m", lc)
    model = leco.load(tmp_path / "m", nn.Conv2d(32, 32, 4))
    assert straight == [False]
    assert torch.equal(model.weight, lc.delta["weight"])


def test_a_joint_task_is_filled_by_a_copy(tmp_path, straight):
    lc = leco.LC(net(), {"a": leco.Task(["0.weight", "2.weight"], leco.Vector(), leco.Codebook(4))})
    lc.mu = 1.0
    leco.save(tmp_path / "m", lc)
    model = leco.load(tmp_path / "m", net(1))
    assert straight == [False]
    assert all(torch.equal(model.get_parameter(n), delta) for n, delta in lc.delta.items())


def test_a_tied_weight_stays_one(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Embedding(200, 100), nn.Linear(100, 200, bias=False)
            self.head.weight = self.embed.weight

    lc = leco.LC(Tied(), leco.each(["embed.weight"], leco.Groups(20), leco.Uniform(4)))
    lc.mu = 1.0
    leco.save(tmp_path / "m", lc)
    model = leco.load(tmp_path / "m", Tied())
    assert model.head.weight is model.embed.weight
    assert torch.equal(model.embed.weight, lc.delta["embed.weight"])


def test_damage_in_the_last_task_leaves_the_model_as_it_was(tmp_path):
    saved(tmp_path / "m", leco.Rows(), leco.Uniform(4))
    data = bytearray((tmp_path / "m").read_bytes())
    data[-1] ^= 1
    (tmp_path / "m").write_bytes(data)
    model = net(1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="does not have the checksum"):
        leco.load(tmp_path / "m", model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("most", [1, 30_000, 2**26])
def test_few_tensors_at_a_time_give_the_same(tmp_path, monkeypatch, most):
    """New tensors are made as soon as their task is read, so that few Thetas are held at once."""
    lc = saved(tmp_path / "m", leco.Rows(), leco.Uniform(4))
    monkeypatch.setattr(contents, "AHEAD", most)
    rounds: list[int] = []
    known = contents.side_by_side

    def counted(every):
        steps = list(every)
        rounds.append(len(steps))
        return known(steps)

    monkeypatch.setattr(contents, "side_by_side", counted)
    with torch.device("meta"):
        model = net()
    leco.load(tmp_path / "m", model)
    assert rounds == ([6] if most == 2**26 else [3, 3])
    assert all(torch.equal(model.get_parameter(n), delta) for n, delta in lc.delta.items())
