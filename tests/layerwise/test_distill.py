"""Training the floats of all Thetas towards the dense net's outputs."""

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import leco
from leco.layerwise.distill import EVERY, distance
from leco.layerwise.polish import error_of
from leco.theta.tree import choices
from tests.layerwise.nets import DOUBLE, Net, batches, net


def compressed(model: Net) -> leco.LC:
    """Direct compression of the blocks."""
    names = [n for n in leco.match(model, "layers.*.weight") if "norm" not in n]
    lc = leco.LC(model, leco.each(names, leco.Rows(), leco.Codebook(3)))
    lc.mu = 1.0
    lc.project_()
    return lc


def distill(lc: leco.LC, teacher: nn.Module, given: Any = None, **options: Any) -> list[float]:
    given = batches() if given is None else given
    return leco.distill(lc, teacher, given, **{"progress": False, **options})


def state(model: nn.Module) -> list[Tensor]:
    return [value.clone() for value in model.state_dict().values()]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_scales_of_a_layer_are_those_of_least_squares():
    """Each row's scale a minimises ||x (w0 - a s)||, with s the row's signs."""
    torch.manual_seed(0)
    model, x = nn.Linear(6, 3, bias=False, dtype=DOUBLE), torch.randn(40, 6, dtype=DOUBLE)
    dense = copy.deepcopy(model)
    lc = leco.LC(model, {"w": leco.Task("weight", leco.Rows(), leco.Binary())})
    lc.mu = 1.0
    lc.project_()
    signs = model.weight.detach().sign()
    target, at = x @ dense.weight.detach().mT, x @ signs.mT
    expected = (target * at).sum(0) / at.square().sum(0)
    before = (model.weight.detach().abs()[:, 0] - expected).abs().max()
    losses = distill(lc, dense, [x], epochs=1000)
    assert torch.equal(model.weight.detach(), lc.delta["weight"])
    assert torch.equal(model.weight.detach().sign(), signs)
    torch.testing.assert_close(model.weight.detach().abs()[:, 0], expected, rtol=1e-4, atol=0)
    assert before > 0.01
    least = error_of(at * expected, target)
    assert losses[-1] == pytest.approx(float(least), rel=1e-6)


def test_codes_and_other_matrices_stay_and_norms_move():
    model = net()
    dense, lc = copy.deepcopy(model), compressed(model)
    first = dict(model.named_parameters())
    flags = {n: p.requires_grad_("0.up" not in n).requires_grad for n, p in first.items()}
    codes = [value.clone() for value in choices(lc.thetas.values())]
    losses = distill(lc, dense, epochs=30)
    assert len(losses) == 30 * len(batches())
    assert sum(losses[-4:]) < 0.5 * sum(losses[:4])
    assert same(codes, choices(lc.thetas.values()))
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, dense.get_parameter(n))}
    still = {"embed.weight", *(n for n, p in dense.named_parameters() if not p.any())}
    assert moved == set(flags) - still
    assert all(torch.equal(p, lc.delta[n]) for n, p in lc.params.items())
    assert model.training
    assert {n: p.requires_grad for n, p in model.named_parameters()} == flags
    assert all(p.grad is None for p in model.parameters())


def test_outputs_with_logits_are_compared_by_divergence():
    torch.manual_seed(0)
    ours, theirs = torch.randn(2, 3, 5, dtype=DOUBLE), torch.randn(2, 3, 5, dtype=DOUBLE)
    q, p = ours.softmax(-1), theirs.softmax(-1)
    expected = (p * (p / q).log()).sum(-1).mean()
    found = distance(SimpleNamespace(logits=ours), SimpleNamespace(logits=theirs))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(distance((ours, q), (theirs, p)), error_of(ours, theirs))


def test_it_goes_on_from_its_checkpoint(tmp_path):
    model, dense, epochs = net(), net(), EVERY // len(batches()) + 1
    expected = distill(compressed(model), dense, epochs=epochs)
    again, calls = net(), []
    lc = compressed(again)
    before, thetas = state(again), dict(lc.thetas)

    def loss(ours: Tensor, theirs: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) == EVERY + 2:
            raise KeyboardInterrupt
        return error_of(ours, theirs)

    options: Any = {"epochs": epochs, "checkpoint": tmp_path, "loss": loss}
    with pytest.raises(KeyboardInterrupt):
        distill(lc, dense, **options)
    assert same(state(again), before)
    assert lc.thetas == thetas
    assert distill(lc, dense, **options) == expected
    assert len(calls) == EVERY + 2 + epochs * len(batches()) - EVERY
    assert same(state(again), state(model))
    saved = torch.load(tmp_path / "distill.pt")["records"]["optimizer"]["param_groups"]
    for group in saved:  # the last step's rate
        assert group["lr"] == pytest.approx(group["first"] / (epochs * len(batches())))
    with pytest.raises(ValueError, match=r"distill: checkpoint .* other options"):
        distill(compressed(net()), dense, **{**options, "rate": 0.1})


def test_a_loss_that_is_nan_changes_nothing():
    model = net()
    dense, lc = copy.deepcopy(model), compressed(model)
    before, calls = state(model), []

    def loss(ours: Tensor, theirs: Tensor) -> Tensor:
        calls.append(1)
        return error_of(ours, theirs) * (float("nan") if len(calls) > 1 else 1)

    with pytest.raises(ValueError, match="distill: the loss is NaN at step 1"):
        distill(lc, dense, loss=loss)
    assert same(state(model), before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs = 0 must be an integer, at least 1"),
        ({"rate": 0.0}, "rate = 0.0 must be positive"),
        ({"given": []}, r"the ranks have \[0\] batches"),
        ({"given": iter(batches())}, "ends after one pass"),
        ({"teacher": "itself"}, "the teacher is the net that is compressed"),
        ({"lc": "attached"}, "call lc.detach"),
    ],
)
def test_what_can_not_work_is_refused(options: dict[str, Any], message: str):
    model = net()
    teacher = model if options.pop("teacher", "") else copy.deepcopy(model)
    lc = compressed(model)
    if options.pop("lc", ""):
        lc.attach(torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(ValueError, match=message):
        distill(lc, teacher, **options)


def test_a_problem_without_theta_is_refused():
    model = net()
    lc = leco.LC(model, {"w": leco.Task("layers.0.up.weight", leco.Rows(), leco.Binary())})
    with pytest.raises(Exception, match="Theta"):
        distill(lc, net())
