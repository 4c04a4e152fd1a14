"""What an LC remembers: the compression that each Theta is of, and the weights that it is of."""

import copy

import pytest
import torch
from small_nets import network, one_weight, tasks, train

import leco

W = torch.linspace(-3, 4, 100, dtype=torch.float64)


def kept(lc: leco.LC) -> int:
    return int(lc.delta["w"].count_nonzero())


def changed() -> leco.LC:
    """Theta keeps 60 weights, and the next C step may keep 10."""
    lc = one_weight(W, leco.Compose(leco.TopK(60), leco.Codebook(2)))
    lc.mu = 1.0
    lc.set_compressions({"w": leco.Compose(leco.TopK(10), leco.Codebook(2))})
    assert kept(lc) == 60
    return lc


@pytest.mark.parametrize(
    "between",
    [
        lambda lc: None,
        lambda lc: lc.load_state_dict(lc.state_dict()),
        lambda lc: lc.load_state_dict(copy.deepcopy(lc.state_dict())),
        lambda lc: lc.set_thetas(lc.thetas),
        lambda lc: lc.restore_(lc.snapshot()),
    ],
)
def test_a_changed_compression_is_not_forgotten(between):
    lc = changed()
    between(lc)
    w = lc.params["w"]
    with torch.no_grad():
        w.copy_(W)
    lc.c_step()
    assert kept(lc) == 10


def test_another_lc_learns_it_from_the_state():
    lc = changed()
    other = one_weight(W, leco.Compose(leco.TopK(10), leco.Codebook(2)))
    other.load_state_dict(lc.state_dict())
    assert kept(other) == 60
    other.c_step()
    assert kept(other) == 10


def test_a_restored_snapshot_of_older_compressions_is_not_a_warm_start():
    lc = one_weight(W, leco.Compose(leco.TopK(60), leco.Codebook(2)))
    lc.mu = 1.0
    old = lc.snapshot()
    lc.set_compressions({"w": leco.Compose(leco.TopK(10), leco.Codebook(2))})
    lc.c_step()
    lc.restore_(old)
    assert kept(lc) == 60
    with torch.no_grad():
        lc.params["w"].copy_(W)
    lc.c_step()
    assert kept(lc) == 10


# --- weights that Theta does not belong to


def trained() -> tuple[leco.LC, torch.optim.Optimizer]:
    lc = leco.LC(network(), tasks())
    optimizer = torch.optim.SGD(lc.model.parameters(), lr=0.1)
    lc.attach(optimizer)
    lc.mu = 0.1
    train(lc.model, optimizer)
    lc.step()
    return lc, optimizer


def older(lc, optimizer):
    lc.model.load_state_dict({n: t + 1 for n, t in lc.model.state_dict().items()})


@pytest.mark.parametrize("change", [older, lambda lc, optimizer: train(lc.model, optimizer)])
def test_save_warns_of_weights_changed_since_the_c_step(tmp_path, change):
    lc, optimizer = trained()
    leco.save(tmp_path / "a", lc)
    change(lc, optimizer)
    with pytest.warns(UserWarning, match=r"changed since the last C step.*call lc.step\(\)"):
        leco.save(tmp_path / "b", lc)


@pytest.mark.parametrize(
    "cure",
    [
        lambda lc, kept: lc.step(),
        lambda lc, kept: lc.project_(),
        lambda lc, kept: lc.restore_(kept),
        lambda lc, kept: lc.load_state_dict(lc.state_dict()),
    ],
)
def test_what_brings_them_together_is_silent(tmp_path, cure):
    lc, _ = trained()
    kept = lc.snapshot()
    older(lc, None)
    lc.model.zero_grad()
    cure(lc, kept)
    leco.save(tmp_path / "a", lc)


def test_evaluation_in_the_middle_of_training_is_silent_and_hides_nothing(tmp_path):
    lc, optimizer = trained()
    with lc.compressed():
        leco.save(tmp_path / "a", lc)
    leco.save(tmp_path / "b", lc)
    train(lc.model, optimizer)
    with lc.compressed():
        lc.model(torch.ones(1, 5, dtype=torch.float64))
    with pytest.warns(UserWarning, match="changed since the last C step"):
        leco.save(tmp_path / "c", lc)


# --- inside compressed()


def test_what_cannot_be_right_inside_compressed_is_refused():
    lc, _ = trained()
    state = lc.state_dict()
    with lc.compressed():
        for verb in (
            lambda: lc.delta,
            lc.penalty,
            lc.record,
            lc.step,
            lc.c_step,
            lc.multipliers_step,
            lc.project_,
            lambda: lc.compressed().__enter__(),
            lambda: lc.curvature(lambda: None),
            lambda: lc.set_thetas(lc.thetas),
            lambda: lc.restore_(lc.snapshot()),
            lambda: lc.load_state_dict(state),
        ):
            with pytest.raises(RuntimeError, match=r"inside `with lc.compressed\(\)`"):
                verb()


@pytest.mark.parametrize("fused", [False, True])
def test_training_inside_compressed_is_said_and_undone(fused):
    lc, _ = trained()
    w = {n: p.detach().clone() for n, p in lc.params.items()}
    delta = {n: d.clone() for n, d in lc.delta.items()}
    other = torch.optim.SGD(lc.params.values(), lr=0.1, fused=fused)
    with pytest.warns(UserWarning, match="the change is lost"), lc.compressed():
        train(lc.model, other)
    for name, p in lc.params.items():
        assert torch.equal(p, w[name])
        assert torch.equal(lc.delta[name], delta[name])


# --- names and dtypes of parameters


def test_lazy_parameters_are_named():
    model = torch.nn.Sequential(torch.nn.LazyLinear(3))
    task = {"t": leco.Task("0.weight", leco.Vector(), leco.Binary())}
    with pytest.raises(ValueError, match=r"task 't': parameter '0.weight' has no shape yet"):
        leco.LC(model, task)


def test_float8_parameters_are_named():
    model = torch.nn.Linear(3, 3)
    model.weight = torch.nn.Parameter(model.weight.detach().to(torch.float8_e4m3fn), False)
    task = {"t": leco.Task("weight", leco.Vector(), leco.Binary())}
    with pytest.raises(
        ValueError, match=r"'weight' has dtype torch.float8_e4m3fn; only weights in"
    ):
        leco.LC(model, task)


@pytest.mark.parametrize("compression", [leco.Binary(), leco.Ternary(), leco.Codebook(2)])
def test_the_largest_weights_have_finite_thetas(compression):
    w = torch.tensor([3e38, -3e38, 2.9e38, -3.1e38, 3e38])
    lc = one_weight(w, compression)
    lc.mu = 1.0
    expected = one_weight(w / 1e38, compression)
    expected.mu = 1.0
    torch.testing.assert_close(lc.delta["w"] / 1e38, expected.delta["w"])


def test_bits_are_counted_on_demand(monkeypatch):
    lc, _ = trained()
    calls = []
    monkeypatch.setattr("leco.algorithm.variables.bits", lambda theta: calls.append(theta) or 7)
    assert lc.step().bits is None
    assert not calls
    assert lc.bits() == lc.record().bits == 14
