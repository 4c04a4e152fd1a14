"""The penalty's gradient in an optimizer's step is that of the loss term."""

import copy

import pytest
import torch
from small_nets import Weights, X, Y, network, tasks
from torch import nn

import leco


def sgd_steps(lc: leco.LC, optimizer, steps: int, with_penalty: bool, accumulate: int = 1) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        for xs, ys in zip(X.chunk(accumulate), Y.chunk(accumulate), strict=True):
            loss = nn.functional.cross_entropy(lc.model(xs), ys) / accumulate
            loss.backward()
        if with_penalty:
            lc.penalty().backward()
        optimizer.step()


@pytest.mark.parametrize("multipliers", [True, False])
@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
        lambda p: torch.optim.AdamW(p, lr=0.01),
        lambda p: torch.optim.SGD(p, lr=0.1, fused=True),
    ],
)
def test_attach_gives_the_trajectory_of_the_loss_term(make, multipliers):
    models = [network(), network()]
    lcs = [leco.LC(model, tasks(), multipliers=multipliers) for model in models]
    optimizers = [make(model.parameters()) for model in models]
    lcs[0].attach(optimizers[0])
    for mu in (0.1, 0.5, 2.0):
        for lc, optimizer, with_penalty in zip(lcs, optimizers, (False, True), strict=True):
            lc.mu = mu
            sgd_steps(lc, optimizer, 5, with_penalty)
            lc.step()
    for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-12)
    plain = network()
    sgd_steps(leco.LC(plain, tasks()), make(plain.parameters()), 15, False)
    assert (plain[0].weight - models[0][0].weight).abs().max() > 1e-3  # the penalty does something


def test_attach_adds_the_penalty_once_under_accumulation_and_through_a_closure():
    results = []
    for mode in ("plain", "accumulate", "closure"):
        model = network()
        lc = leco.LC(model, tasks())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        lc.attach(optimizer)
        lc.mu = 1.0
        if mode == "closure":
            for _ in range(3):

                def closure(model=model, optimizer=optimizer):
                    optimizer.zero_grad()
                    loss = nn.functional.cross_entropy(model(X), Y)
                    loss.backward()
                    return loss

                optimizer.step(closure)
        else:
            sgd_steps(lc, optimizer, 3, False, accumulate=4 if mode == "accumulate" else 1)
        results.append(model[0].weight.detach())
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-12)
    torch.testing.assert_close(results[0], results[2], rtol=0, atol=1e-12)


def test_attached_penalty_moves_a_parameter_that_the_loss_does_not_reach():
    lc = leco.LC(
        Weights(w=torch.tensor([1.0, 3.0])), {"w": leco.Task("w", leco.Vector(), leco.Codebook(1))}
    )
    optimizer = torch.optim.SGD(lc.model.parameters(), lr=0.5)
    lc.attach(optimizer)
    lc.mu = 1.0
    optimizer.step()
    assert lc.params["w"].tolist() == [1.5, 2.5]


def test_attach_scales_the_penalty_for_fused_optimizers_under_a_gradient_scaler():
    """GradScaler leaves its scale with a fused optimizer, whose step divides the gradients by it:
    the penalty's part must be scaled too."""
    lc = leco.LC(
        Weights(w=torch.tensor([1.0, 3.0])), {"w": leco.Task("w", leco.Vector(), leco.Codebook(1))}
    )
    optimizer = torch.optim.SGD(lc.model.parameters(), lr=0.5, fused=True)
    lc.attach(optimizer)
    lc.mu = 1.0
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(8.0), torch.tensor(0.0)
    optimizer.step()
    assert lc.params["w"].tolist() == [1.5, 2.5]


def test_penalty_is_the_augmented_lagrangian():
    model = Weights(w=torch.tensor([1.0, -2.0], dtype=torch.float64))
    lc = leco.LC(model, {"w": leco.Task("w", leco.Vector(), leco.Binary())})
    lc.mu = 3.0
    lc.multipliers_step()
    gap = model.w.detach() - lc.delta["w"]
    expected = -(lc.multipliers["w"] @ gap) + 1.5 * gap @ gap
    assert float(lc.penalty().detach()) == pytest.approx(float(expected))
    lc.penalty().backward()
    torch.testing.assert_close(model.w.grad, 3.0 * gap - lc.multipliers["w"])


def test_attach_needs_optimizers_that_hold_the_parameters():
    model = network()
    lc = leco.LC(model, tasks())
    with pytest.raises(
        ValueError, match=r"parameter '2.weight' of task 'second' is in none of the 1 optimizers"
    ):
        lc.attach(torch.optim.SGD(model[0].parameters(), lr=0.1))
    with pytest.raises(TypeError, match="LBFGS"):
        lc.attach(torch.optim.LBFGS(model.parameters()))
    both = [
        torch.optim.SGD(model[0].parameters(), lr=0.1),
        torch.optim.SGD(model[2].parameters(), lr=0.1),
    ]
    lc.attach(*both)
    with pytest.raises(ValueError, match="attached already"):
        lc.attach(*both)
    lc.detach()
    assert not lc.attached
    lc.mu = 1.0
    before = model[2].weight.detach().clone()
    both[1].step()
    assert torch.equal(model[2].weight, before)  # detached: no gradient, no step


def test_state_dict_goes_on_exactly():
    """6 steps = 3 + save + load + 3."""

    def go(lc, optimizer, mus):
        for mu in mus:
            lc.mu = mu
            sgd_steps(lc, optimizer, 4, False)
            lc.step()

    def make():
        model = network()
        lc = leco.LC(
            model,
            {
                **tasks(),
                "second": leco.Task("2.weight", leco.Vector(), leco.Codebook(4, exact=False)),
            },
        )
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        lc.attach(optimizer)
        return model, lc, optimizer

    mus = leco.exponential(0.1, 1.5, 6)
    whole = make()
    go(*whole[1:], mus)
    first = make()
    go(*first[1:], mus[:3])
    state = copy.deepcopy([part.state_dict() for part in first])
    second = make()
    for part, saved in zip(second, state, strict=True):
        part.load_state_dict(saved)
    assert second[1].mu == mus[2]
    go(*second[1:], mus[3:])
    for p, q in zip(whole[0].parameters(), second[0].parameters(), strict=True):
        assert torch.equal(p, q)
    for name in whole[1].delta:
        assert torch.equal(whole[1].delta[name], second[1].delta[name])
        assert torch.equal(whole[1].multipliers[name], second[1].multipliers[name])
