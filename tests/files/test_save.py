"""Saving: what a file can't hold or should not hold, and wrong arguments."""

import warnings

import pytest
import torch
from torch import nn

import leco


def made(model, name="0.weight") -> leco.LC:
    lc = leco.LC(model, {"a": leco.Task(name, leco.Vector(), leco.Binary())})
    lc.mu = 1.0
    return lc


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))


class WithState(nn.Linear):
    """A linear layer with extra state."""

    def __init__(self, extra):
        super().__init__(4, 3)
        self.extra = extra

    def get_extra_state(self):
        return self.extra

    def set_extra_state(self, state):
        self.extra = state


# --- extra state


@pytest.mark.parametrize("extra", [{"scale": 2.0}, 3, "text", [torch.zeros(2)]], ids=str)
def test_extra_state_that_is_no_tensor_is_named(tmp_path, extra):
    model = nn.Sequential(WithState(extra))
    with pytest.warns(
        UserWarning,
        match=f"'0._extra_state' is a {type(extra).__name__}, which the file leaves out",
    ):
        leco.save(tmp_path / "m", made(model))
    other = leco.load(tmp_path / "m", nn.Sequential(WithState("own")))
    assert other[0].extra == "own"


def test_no_extra_state_is_nothing_to_say(tmp_path):
    leco.save(tmp_path / "m", made(nn.Sequential(WithState(None))))
    assert leco.load(tmp_path / "m", nn.Sequential(WithState(None)))[0].extra is None


@pytest.mark.parametrize("before", [None, {}, torch.zeros(2), torch.zeros(7, dtype=torch.uint8)])
def test_extra_state_that_is_a_tensor_comes_back(tmp_path, before):
    model = nn.Sequential(WithState(torch.arange(5)))
    lc = made(model)
    for snapshot in (None, lc.snapshot()):
        leco.save(tmp_path / "m", lc, snapshot)
        other = leco.load(tmp_path / "m", nn.Sequential(WithState(before)))
        assert torch.equal(other[0].extra, torch.arange(5))


# --- numbers


def test_nan_and_infinity_outside_the_tasks_are_named(tmp_path):
    model = net()
    with torch.no_grad():
        model[0].bias[1] = torch.nan
        model[2].weight[0, 0] = torch.inf
        model[2].bias[0] = -torch.inf
        model[1].running_var[0] = torch.inf
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        leco.save(tmp_path / "m", made(model))
    (warning,) = caught
    assert warning.filename == __file__
    assert str(warning.message) == (
        "leco.save: ['0.bias', '1.running_var', '2.weight'] and 1 more have NaN or infinite entries"
    )


def test_infinity_in_a_mask_is_not_a_fault(tmp_path):
    model = net()
    model.register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1))
    leco.save(tmp_path / "m", made(model))
    model.mask[0, 0] = torch.nan
    with pytest.warns(UserWarning, match=r"\['mask'\] have NaN or infinite entries"):
        leco.save(tmp_path / "m", made(model))


def test_nan_in_a_theta_is_named(tmp_path):
    lc = made(net())
    theta = lc.thetas["a"]
    lc.thetas["a"] = theta._replace(scale=theta.scale * torch.nan)
    with pytest.warns(UserWarning, match=r"the Thetas of \['a'\] have NaN or infinite entries"):
        leco.save(tmp_path / "m", lc)


# --- what is refused, and nothing is written


def lazy() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.Sequential(nn.Linear(4, 3), nn.LazyLinear(5))


def with_buffer(value) -> nn.Module:
    model = net()
    model.register_buffer("extra", value)
    return model


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lazy, "'1.weight' is an uninitialized parameter of a lazy module"),
        (lambda: with_buffer(torch.zeros(2, device="meta")), "'extra' is on the meta device"),
        (
            lambda: with_buffer(torch.eye(3).to_sparse()),
            r"'extra' is torch.sparse_coo; a file holds dense",
        ),
        (
            lambda: with_buffer(torch.zeros(2).to(torch.float8_e4m3fn)),
            r"'extra' is of torch.float8_e4m3fn; a file holds bool, ",
        ),
    ],
)
def test_a_tensor_that_a_file_cannot_hold_is_named(tmp_path, model, message):
    lc = made(model())
    with pytest.raises(ValueError, match=message):
        leco.save(tmp_path / "m", lc)
    assert list(tmp_path.iterdir()) == []


def test_the_order_of_save_is_said(tmp_path):
    model, path = net(), tmp_path / "m"
    lc = made(model)
    with pytest.raises(
        TypeError,
        match=r"leco.save: path must be a string or a Path, not LC; call save\(path, lc\)",
    ):
        leco.save(lc, path)
    with pytest.raises(TypeError, match=r"lc must be a leco.LC, not Sequential; call save\(path, "):
        leco.save(path, model)
    with pytest.raises(TypeError, match=r"snapshot must be a leco\.Snapshot or None, not dtype"):
        leco.save(path, lc, torch.float16)
    assert list(tmp_path.iterdir()) == []


def test_a_parameter_that_was_replaced_is_named(tmp_path):
    model = net()
    lc = made(model)
    leco.save(tmp_path / "m", lc)
    before, kept = (tmp_path / "m").read_bytes(), lc.snapshot()
    model[0].weight = nn.Parameter(torch.randn(3, 4))
    for snapshot in (None, kept):
        with pytest.raises(ValueError, match=r"parameter '0\.weight' was replaced in the model"):
            leco.save(tmp_path / "m", lc, snapshot)
    assert (tmp_path / "m").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_net_with_compiled_layers_is_saved_under_plain_names(tmp_path):
    model = net()
    model[0] = torch.compile(model[0], backend="eager")
    model[2] = torch.compile(model[2], backend="eager")
    lc = made(model)
    leco.save(tmp_path / "m", lc)
    other = leco.load(tmp_path / "m", net())
    assert torch.equal(other[0].weight, lc.delta["0.weight"])
    assert torch.equal(other[2].weight, model[2].weight)
    assert torch.equal(other[2].bias, model[2].bias)


def test_a_snapshot_is_described_by_the_compression_that_made_it(tmp_path):
    lc = leco.LC(net(), {"a": leco.Task("0.weight", leco.Vector(), leco.TopK(6))})
    lc.mu = 1.0
    kept = lc.snapshot()
    lc.set_compressions({"a": leco.TopK(3)})
    lc.c_step()
    for snapshot, count in ((kept, 6), (None, 3)):
        leco.save(tmp_path / "m", lc, snapshot)
        described = leco.describe(tmp_path / "m")["tasks"]["a"]["compression"]
        assert (described[0], described[1]["kappa"]) == ("TopK", count)
        assert int(leco.thetas(tmp_path / "m")["a"].theta.mask.sum()) == count
