"""The driver, on problems with known solutions, and its bookkeeping."""

import copy
import math

import pytest
import torch
from torch import nn

import leco


class Weights(nn.Module):
    """A model that is its parameters."""

    def __init__(self, **values: torch.Tensor):
        super().__init__()
        for name, value in values.items():
            self.register_parameter(name, nn.Parameter(value.clone()))


def quadratic(seed: int = 0, n: int = 6):
    """L(w) = (w - c)'A(w - c)/2 with A positive definite: every L step has a closed form."""
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(n, n, generator=generator, dtype=torch.float64)
    return root @ root.T / n + torch.eye(n, dtype=torch.float64), torch.randn(
        n, generator=generator, dtype=torch.float64
    )


def solve_l_step(lc: leco.LC, a: torch.Tensor, c: torch.Tensor) -> None:
    """argmin of L(w) - lambda'(w - Delta) + mu/2 ||w - Delta||^2, exactly."""
    n = len(c)
    pull = lc.mu * lc.delta["w"] + lc.multipliers.get("w", torch.zeros(n, dtype=c.dtype))
    with torch.no_grad():
        lc.params["w"].copy_(
            torch.linalg.solve(a + lc.mu * torch.eye(n, dtype=c.dtype), a @ c + pull)
        )


def known_solution():
    """min L(w) subject to w_i = t for all i, a codebook of one value: t* = 1'Ac / 1'A1, and lambda*
    = dL/dw at t* 1."""
    a, c = quadratic()
    one = torch.ones_like(c)
    t = (one @ a @ c) / (one @ a @ one)
    gradient = a @ (t * one - c)
    assert abs(float(one @ gradient)) < 1e-12  # KKT: orthogonal to the constraint's tangent
    return a, c, t * one, gradient


def test_augmented_lagrangian_converges_to_the_known_weights_and_multipliers():
    a, c, w, gradient = known_solution()
    lc = leco.LC(Weights(w=c), {"w": leco.Task("w", leco.Vector(), leco.Codebook(1))})
    for mu in [1.0] * 50 + [2.0] * 50 + [4.0] * 100:
        lc.mu = mu
        solve_l_step(lc, a, c)
        record = lc.step()
    torch.testing.assert_close(lc.params["w"].detach(), w, rtol=0, atol=1e-10)
    torch.testing.assert_close(lc.delta["w"], w, rtol=0, atol=1e-10)
    torch.testing.assert_close(lc.multipliers["w"], gradient, rtol=0, atol=1e-10)
    assert record.multiplier_norm == pytest.approx(float(gradient.norm()))
    assert record.gap < 1e-10


def test_quadratic_penalty_stays_at_lambda_over_mu_from_the_solution():
    """At the minimum over w and Theta for a given mu, mu (Delta - w) estimates lambda with an error
    of order 1/mu."""
    a, c, w, gradient = known_solution()
    lc = leco.LC(
        Weights(w=c), {"w": leco.Task("w", leco.Vector(), leco.Codebook(1))}, multipliers=False
    )
    errors = []
    for mu in (10.0, 100.0):
        lc.mu = mu
        for _ in range(2000):
            solve_l_step(lc, a, c)
            record = lc.step()
        estimate = mu * (lc.delta["w"] - lc.params["w"].detach())
        errors.append((float((estimate - gradient).norm()), float((lc.delta["w"] - w).norm())))
        assert record.gap == pytest.approx(float(gradient.norm()) / mu, rel=0.5)
    assert lc.multipliers == {}
    assert all(late < 0.15 * early for early, late in zip(*errors, strict=True))


def test_direct_compression_is_the_c_step_of_w_at_the_first_mu():
    w = torch.tensor([0.3, -2.0, 1.0], dtype=torch.float64)
    lc = leco.LC(Weights(w=w), {"w": leco.Task("w", leco.Vector(), leco.L0Penalty(0.5))})
    with pytest.raises(ValueError, match=r"mu is not set"):
        _ = lc.mu
    lc.mu = 4.0  # threshold sqrt(2 * 0.5 / 4) = 0.5
    assert lc.delta["w"].tolist() == [0, -2, 1]
    assert lc.multipliers["w"].tolist() == [0, 0, 0]
    assert lc.params["w"].tolist() == w.tolist()


def test_c_step_sees_w_less_lambda_over_mu_and_multipliers_step_follows_the_gap():
    w = torch.tensor([1.0, 2.0], dtype=torch.float64)
    lc = leco.LC(Weights(w=w), {"w": leco.Task("w", leco.Vector(), leco.L2Ball(1.0))})
    lc.mu = 2.0
    delta = lc.delta["w"].clone()
    lc.multipliers_step()
    expected = -2.0 * (w - delta)
    torch.testing.assert_close(lc.multipliers["w"], expected)
    lc.mu = 4.0
    lc.c_step()
    x = w - expected / 4
    torch.testing.assert_close(lc.delta["w"], x / x.norm())


def network(dtype=torch.float64) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).to(dtype)


def tasks() -> dict[str, leco.Task]:
    return {
        "first": leco.Task("0.weight", leco.Rows(), leco.Binary()),
        "second": leco.Task("2.weight", leco.Matrix(), leco.LowRank(1)),
    }


DATA = (
    torch.randn(16, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)),
    torch.arange(16) % 3,
)


def sgd_steps(lc: leco.LC, optimizer, steps: int, with_penalty: bool, accumulate: int = 1) -> None:
    x, y = DATA
    for _ in range(steps):
        optimizer.zero_grad()
        for xs, ys in zip(x.chunk(accumulate), y.chunk(accumulate), strict=True):
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
                    loss = nn.functional.cross_entropy(model(DATA[0]), DATA[1])
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


def test_compressed_gives_delta_and_restores_w_even_after_an_exception():
    model = network()
    lc = leco.LC(model, tasks())
    lc.mu = 1.0
    before = copy.deepcopy(model.state_dict())
    delta = {name: value.clone() for name, value in lc.delta.items()}
    with pytest.raises(ZeroDivisionError), lc.compressed() as net:
        assert torch.equal(net[0].weight, delta["0.weight"])
        with pytest.raises(RuntimeError, match="inside"):
            lc.c_step()
        raise ZeroDivisionError
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    for name, value in lc.delta.items():
        assert torch.equal(value, delta[name])


def test_compressed_recalibrates_batchnorm_and_restores_it():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5)).double()
    model.train()
    x = torch.randn(64, 4, dtype=torch.float64)
    model(x)
    model.eval()
    mean = model[1].running_mean.clone()
    lc = leco.LC(model, {"w": leco.Task("0.weight", leco.Vector(), leco.Binary())})
    lc.mu = 1.0
    with lc.compressed([x[:32], (x[32:],)]):
        hidden = model[0](x)
        torch.testing.assert_close(model[1].running_mean, hidden.mean(0))
        variances = (hidden[:32].var(0) + hidden[32:].var(0)) / 2
        torch.testing.assert_close(model[1].running_var, variances)
        assert not model.training
        assert not model[1].training
        assert model[1].momentum == 0.1
    assert torch.equal(model[1].running_mean, mean)
    with pytest.raises(ValueError, match="batches is empty"), lc.compressed([]):
        pass
    assert torch.equal(model[1].running_mean, mean)


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


def test_set_compressions_counts_from_the_next_c_step_and_changes_nothing_where_it_fails():
    lc = leco.LC(
        network(),
        tasks := {
            "a": leco.Task("0.weight", leco.Vector(), leco.TopK(9)),
            "b": leco.Task("2.weight", leco.Rows(), leco.TopK(3)),
        },
    )
    lc.mu = 1.0
    before = lc.delta["0.weight"].clone()
    for wrong, error, message in (
        ({"a": leco.TopK(4), "c": leco.TopK(1)}, ValueError, r"no task 'c'; there are a, b"),
        (
            {"a": leco.TopK(4), "b": leco.Binary()},
            TypeError,
            r"task 'b' .*TopK\(kappa=3.*Binary.* another kind",
        ),
        (
            {"a": leco.TopK(4), "b": leco.TopK(99)},
            ValueError,
            r"task 'b', parameters 2.weight: Rows: TopK: kappa = 99 must be at most 7",
        ),
    ):
        with pytest.raises(error, match=message):
            lc.set_compressions(wrong)
        assert lc.tasks == tasks
    with lc.compressed(), pytest.raises(RuntimeError, match="set_compressions inside"):
        lc.set_compressions({"a": leco.TopK(4)})
    lc.set_compressions({"a": leco.TopK(4)})
    assert torch.equal(lc.delta["0.weight"], before)
    lc.step()
    assert [int(lc.delta[name].count_nonzero()) for name in ("0.weight", "2.weight")] == [
        4,
        3 * len(lc.delta["2.weight"]),
    ]


def test_the_first_c_step_of_another_compression_starts_from_no_theta(monkeypatch):
    lc, starts = (
        leco.LC(network(), leco.each(["0.weight", "2.weight"], leco.Vector(), leco.TopK(9))),
        list[bool](),
    )
    compress = leco.TopK.compress
    monkeypatch.setattr(
        leco.TopK,
        "compress",
        lambda self, x, mu, theta=None: (
            starts.append(theta is None),
            compress(self, x, mu, theta),
        )[1],
    )
    lc.mu = 1.0
    # the second is what it was
    lc.set_compressions({"0.weight": leco.TopK(4), "2.weight": leco.TopK(9)})
    lc.step()
    lc.step()
    assert starts == [True, True, True, False, False, False]
    lc.set_compressions({"2.weight": leco.TopK(3)})
    lc.load_state_dict(lc.state_dict())  # its Theta is of TopK(9) still
    lc.step()
    assert starts[6:] == [False, True]


def test_a_tightened_bound_holds_at_once_for_compressions_that_keep_the_better_theta():
    kept, codebook = leco.Vector(), leco.Codebook(2)
    makes = (
        lambda n: leco.Compose(leco.TopK(n), codebook),
        lambda n: leco.Additive([(kept, leco.Binary()), (kept, leco.TopK(n))]),
        lambda n: leco.Compose(leco.TopK(3 * n), leco.Codebook(n)),
    )
    for make in makes:
        lc = leco.LC(network(), {"all": leco.Task("0.weight", kept, make(6))})
        lc.mu = 1.0
        lc.set_compressions({"all": make(2)})
        lc.step()
        fresh = leco.LC(network(), {"all": leco.Task("0.weight", kept, make(2))})
        fresh.mu = 1.0
        assert torch.equal(lc.delta["0.weight"], fresh.delta["0.weight"])


def test_load_state_dict_refuses_another_problem_and_changes_nothing():
    lc, other = (
        leco.LC(network(), tasks()),
        leco.LC(network(), {"a": leco.Task("0.weight", leco.Vector(), leco.Binary())}),
    )
    lc.mu = other.mu = 1.0
    for wrong, message in (
        (other.state_dict(), r"tasks \['a'\]"),
        ({**lc.state_dict(), "multipliers": {}}, "multipliers"),
        (
            {
                **lc.state_dict(),
                "thetas": {**lc.state_dict()["thetas"], "first": other.state_dict()["thetas"]["a"]},
            },
            r"'first' has shape \(7, 5\)",
        ),
        (
            {
                **lc.state_dict(),
                "thetas": {**lc.state_dict()["thetas"], "first": {"form": "Evil", "fields": {}}},
            },
            "unknown form",
        ),
    ):
        before = lc.delta["0.weight"].clone()
        with pytest.raises(ValueError, match=message):
            lc.load_state_dict(wrong)
        assert torch.equal(lc.delta["0.weight"], before)


def test_joint_task_prunes_over_all_layers():
    model = Weights(a=torch.tensor([5.0, 4.0, 3.0]), b=torch.tensor([[1.0, 2.0]]))
    lc = leco.LC(model, {"all": leco.Task(("a", "b"), leco.Vector(), leco.TopK(2))})
    lc.mu = 1.0
    assert lc.delta["a"].tolist() == [5, 4, 0]
    assert lc.delta["b"].tolist() == [[0, 0]]


def test_tied_weights_are_compressed_once():
    model = nn.ModuleDict({"embed": nn.Embedding(6, 4), "head": nn.Linear(4, 6, bias=False)})
    model["head"].weight = model["embed"].weight
    assert leco.match(model, "*.weight") == ("embed.weight",)
    lc = leco.LC(
        model, {"w": leco.Task(("head.weight", "embed.weight"), leco.Vector(), leco.Binary())}
    )
    assert list(lc.params) == ["embed.weight"]
    assert lc.rest() == {}
    twice = {
        "a": leco.Task("embed.weight", leco.Vector(), leco.Binary()),
        "b": leco.Task("head.weight", leco.Vector(), leco.Binary()),
    }
    with pytest.raises(
        ValueError, match=r"'head.weight' \(tied to 'embed.weight'\) is in task 'a' already"
    ):
        leco.LC(model, twice)


def test_half_precision_is_compressed_in_float32():
    model = network(torch.bfloat16)
    lc = leco.LC(model, tasks())
    lc.mu = 1.0
    assert lc.delta["0.weight"].dtype == torch.bfloat16
    assert lc.thetas["first"].scale.dtype == torch.float32
    exact = model[0].weight.detach().float().abs().mean(1)
    torch.testing.assert_close(lc.thetas["first"].scale, exact)


def test_a_c_step_that_fails_changes_nothing_and_names_the_parameter():
    model = network()
    lc = leco.LC(model, tasks())
    lc.mu = 1.0
    before = lc.delta["0.weight"].clone()
    with torch.no_grad():
        model[0].weight.mul_(2)
        model[2].weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"task 'second', parameter '2.weight', mu = 1: .*NaN"):
        lc.step()
    assert torch.equal(lc.delta["0.weight"], before)


def test_a_c_step_refuses_nan_in_the_multipliers():
    lc = leco.LC(network(), tasks())
    lc.mu = 1.0
    name = next(iter(lc.multipliers))
    lc.multipliers[name].view(-1)[0] = math.nan
    with pytest.raises(ValueError, match="NaN or infinite"):
        lc.c_step()


def test_memory_is_two_copies_of_the_compressed_weights_or_one():
    for multipliers, copies in ((True, 2), (False, 1)):
        model = network()
        lc = leco.LC(model, tasks(), multipliers=multipliers)
        lc.mu = 1.0
        held = [*lc.delta.values(), *lc.multipliers.values()]
        assert sum(t.untyped_storage().nbytes() for t in held) == copies * sum(
            p.numel() * 8 for p in lc.params.values()
        )


def test_snapshot_is_a_copy_and_restore_makes_the_net():
    model = network()
    lc = leco.LC(model, tasks())
    lc.mu = 1.0
    kept = lc.snapshot()
    with lc.compressed():
        wanted = model(DATA[0]).detach()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1.0)
    lc.c_step()
    lc.restore_(kept)
    assert torch.equal(model(DATA[0]), wanted)


def test_record_counts_gap_price_and_bits():
    model = Weights(w=torch.tensor([3.0, -4.0, 0.1], dtype=torch.float64))
    lc = leco.LC(model, {"w": leco.Task("w", leco.Vector(), leco.L0Penalty(0.5))})
    lc.mu = 1.0
    record = lc.record()
    assert record.gap == pytest.approx(0.1)
    assert record.relative_gap == pytest.approx(0.1 / float(model.w.detach().norm()))
    assert record.price == pytest.approx(1.0)
    assert record.bits == 8 + 2 * 64  # a mask of 3 in a byte, two float64
    assert lc.step().step == 1


# --- bad input


def broken(name: str):
    model = network()
    binary = leco.Binary()
    if name == "meta":
        model = nn.Linear(2, 2, device="meta")
    if name == "nan":
        with torch.no_grad():
            model[0].weight[1, 2] = float("inf")
    weight = "weight" if name == "meta" else "0.weight"
    params = {"unknown": "0.weigth", "twice": ("0.weight", "0.weight")}.get(name, weight)
    made = {"t": leco.Task(params, leco.Vector(), leco.TopK(36) if name == "kappa" else binary)}
    if name == "two tasks":
        made["u"] = leco.Task(("2.weight", "0.weight"), leco.Vector(), binary)
    if name == "rank":
        made = {"t": leco.Task("0.weight", leco.Matrix(), leco.LowRank(6))}
    if name == "k":
        made = {"t": leco.Task("2.weight", leco.Rows(), leco.Codebook(8))}
    if name == "view":
        made = {"t": leco.Task(("0.weight", "2.weight"), leco.Rows(), binary)}
    return model, {} if name == "empty" else made


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("unknown", r"task 't': the model has no parameter '0.weigth' \(there are \['0.weight'"),
        ("twice", r"task 't': parameter '0.weight' stands in it twice"),
        ("two tasks", r"task 'u': parameter '0.weight' is in task 't' already"),
        ("kappa", r"task 't', parameters 0.weight: .*kappa = 36 must be at most 35"),
        ("rank", r"task 't', parameters 0.weight: .*rank = 6 must be at least 0 and at most 5"),
        ("k", r"task 't', parameters 2.weight: .*k = 8 must be at most 7"),
        ("view", r"task 't', parameters 0.weight, 2.weight: Rows: rows of lengths \[5, 7\]"),
        ("nan", r"task 't': parameter '0.weight' has 1 NaN or infinite entries of 35"),
        ("meta", r"task 't': parameter 'weight' is on the meta device"),
        ("empty", r"tasks is empty"),
    ],
)
def test_construction_names_what_is_wrong(name, message):
    with pytest.raises(ValueError, match=message):
        leco.LC(*broken(name))


def test_task_checks_its_arguments():
    with pytest.raises(TypeError, match=r"the order is Task\(params, view, compression\)"):
        leco.Task("w", leco.Binary(), leco.Vector())
    with pytest.raises(TypeError, match="not an instance of a compression"):
        leco.Task("w", leco.Vector(), leco.Binary)
    with pytest.raises(ValueError, match="params is empty"):
        leco.Task((), leco.Vector(), leco.Binary())


@pytest.mark.parametrize("mu", [0.0, -1.0, float("nan"), float("inf")])
def test_mu_must_be_positive(mu):
    lc = leco.LC(network(), tasks())
    with pytest.raises(ValueError, match="must be positive and finite"):
        lc.mu = mu
    with pytest.raises(ValueError, match="mu is not set"):
        lc.step()


def test_decreasing_mu_warns():
    lc = leco.LC(network(), tasks())
    lc.mu = 1.0
    with pytest.warns(UserWarning, match=r"goes down from 1.0 to 0.5"):
        lc.mu = 0.5


def test_frozen_parameters_warn_at_construction_and_fail_at_attach():
    model = network()
    model[0].weight.requires_grad_(False)
    with pytest.warns(UserWarning, match=r"task 'first': parameter '0.weight' is frozen"):
        lc = leco.LC(model, tasks())
    with pytest.raises(ValueError, match=r"'0.weight' of task 'first' is frozen"):
        lc.attach(torch.optim.SGD(model.parameters(), lr=0.1))


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


ELEMENTWISE = [
    leco.Codebook(2),
    leco.Codebook(3, exact=False),
    leco.FixedCodebook((-0.5, 0.1, 0.4)),
    leco.FixedCodebook((-0.5, 0.1, 0.4), scale=True),
    leco.Binary(scale=False),
    leco.Binary(),
    leco.Ternary(scale=False),
    leco.Ternary(),
    leco.PowersOfTwo(2),
    leco.PowersOfTwo(2, scale=True),
    leco.Uniform(3),
    leco.Uniform(3, zero_point=True),
    leco.TopK(2),
    leco.TopK(0.3, gamma=0.5),
    leco.L1Ball(0.5),
    leco.L2Ball(0.5),
    leco.L0Penalty(0.01),
    leco.L1Penalty(0.05),
]
KINDS = [
    ("one layer", lambda c: {"a": leco.Task("0.weight", leco.Vector(), c)}),
    ("jointly", lambda c: {"ab": leco.Task(("0.weight", "3.weight"), leco.Vector(), c)}),
    ("a task each", lambda c: leco.each(("0.weight", "3.weight"), leco.Vector(), c)),
    ("rows", lambda c: leco.each(("0.weight", "3.weight"), leco.Rows(), c)),
    ("groups", lambda c: {"ab": leco.Task(("0.weight", "3.weight"), leco.Groups(9), c)}),
]


@pytest.mark.parametrize("compression", ELEMENTWISE, ids=str)
@pytest.mark.parametrize(("kind", "make"), KINDS, ids=[kind for kind, _ in KINDS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_every_elementwise_compression_works_on_layers_jointly_by_row_and_by_group(
    compression, kind, make, dtype
):
    """Through the whole driver, on a convolution in channels_last and a Linear: Delta is what the C
    step makes of each part alone."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.ReLU(), nn.Linear(9, 6)).to(
        dtype, memory_format=torch.channels_last
    )
    lc = leco.LC(model, make(compression))
    lc.mu = 2.0
    wide = torch.float32 if dtype == torch.bfloat16 else dtype
    weights = {
        name: lc.params[name].detach().to(wide).reshape(lc.params[name].shape[0], -1)
        for name in lc.params
    }
    if kind == "jointly":
        parts = [torch.cat([w.flatten() for w in weights.values()])]
    elif kind == "rows":
        parts = [row for w in weights.values() for row in w]
    elif kind == "groups":
        parts = [part for w in weights.values() for part in w.flatten().split(9)]
    else:
        parts = [w.flatten() for w in weights.values()]
    expected = torch.cat([compression.compress(part, 2.0).decompress() for part in parts]).to(dtype)
    found = torch.cat([lc.delta[name].reshape(-1) for name in lc.params])
    torch.testing.assert_close(found, expected)
    record = lc.step()
    assert record.bits is None
    assert lc.bits() > 0
    assert all(torch.isfinite(delta).all() for delta in lc.delta.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_every_low_rank_works_on_linear_and_convolution(dtype):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(12, 10)).to(dtype)
    choices = {
        "given": {
            "c": leco.Task("0.weight", leco.Matrix(), leco.LowRank(2)),
            "l": leco.Task("2.weight", leco.Matrix(), leco.LowRank(2)),
        },
        "scheme 2": {"c": leco.Task("0.weight", leco.Matrix((0, 2)), leco.LowRank(2))},
        "selected": {"l": leco.Task("2.weight", leco.Matrix(), leco.RankSelection(0.03))},
        "scheme and rank": {
            "c": leco.Task("0.weight", leco.Kernel(), leco.ConvRankSelection(0.02))
        },
    }
    for tasks in choices.values():
        lc = leco.LC(model, tasks)
        lc.mu = 3.0
        for name, task in lc.tasks.items():
            matrix = task.view.forward([lc.delta[lc.names[name][0]].double()]).flatten(1)
            theta = lc.thetas[name]
            assert type(theta).__name__ in ("Factors", "ConvFactors")
            assert 0 < theta.u.shape[1] < min(matrix.shape)
            if dtype != torch.bfloat16 and not isinstance(task.view, leco.Kernel):
                assert torch.linalg.matrix_rank(matrix, rtol=1e-5) == theta.u.shape[1]
        lc.step()


def test_curvature_is_that_of_a_quadratic_along_the_distortion_and_leaves_no_trace():
    a, c = quadratic()
    model = Weights(
        w=torch.linspace(-1, 2, 6, dtype=torch.float64), free=torch.zeros(3, dtype=torch.float64)
    )
    model.norm = nn.BatchNorm1d(2).double()
    lc = leco.LC(model, {"all": leco.Task("w", leco.Vector(), leco.Binary())})
    before, kept = (
        {name: value.clone() for name, value in model.state_dict().items()},
        torch.ones(6, dtype=torch.float64),
    )
    model.w.grad = kept
    d = leco.Binary().compress(model.w.detach(), 1.0).decompress() - model.w.detach()
    seen = []

    def backward() -> None:
        seen.append(model.w.detach().clone())
        model.norm(torch.randn(4, 2, dtype=torch.float64))
        gap = model.w - c
        (gap @ a @ gap / 2).backward()

    assert lc.curvature(backward) == pytest.approx(float(d @ a @ d / (d @ d)), rel=1e-12)
    assert torch.equal(seen[0], before["w"])
    assert torch.allclose(seen[1], before["w"] + d)
    assert model.w.grad is kept
    assert model.free.grad is None
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not lc.thetas
    lc.mu = 0.5  # no warning that mu goes down
    assert lc.curvature(backward) == pytest.approx(float(d @ a @ d / (d @ d)), rel=1e-12)
    assert lc.mu == 0.5


def test_curvature_says_what_is_missing():
    model = Weights(w=torch.tensor([1.0, -1.0, 3.0]))
    lc = leco.LC(model, {"all": leco.Task("w", leco.Vector(), leco.Binary())})
    with pytest.raises(ValueError, match=r"are 0; does `backward` call backward\(\)"):
        lc.curvature(lambda: model.w.sum())
    with pytest.raises(ValueError, match="are NaN"):
        lc.curvature(lambda: (model.w.sum() * float("nan")).backward())
    with torch.no_grad():
        model.w.copy_(torch.tensor([1.0, -1.0, 1.0]))
    with pytest.raises(ValueError, match="already"):
        lc.curvature(lambda: model.w.square().sum().backward())
    assert not lc.thetas


@pytest.mark.parametrize("curvature", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("share", [0.5, 0.95, 1.05, 1.2, 1.5, 3.0])
def test_signs_swing_for_ever_exactly_where_steady_mu_says(share, curvature):
    """L = H w^2 / 2, L steps by gradient flow, started on the cycle: it is kept, or left for
    good."""
    iterations, lr, a = 100, 0.01, 1.0
    mu = share * leco.steady_mu(lr, iterations)
    model = Weights(w=torch.zeros(3, dtype=torch.float64))
    lc = leco.LC(model, {"all": leco.Task("w", leco.Vector(), leco.Binary(scale=False))})
    lc.mu = mu
    s = -math.expm1(-lr * (mu + curvature) * iterations)
    pulled = s * mu / (mu + curvature)
    w = -1.5 * pulled * a / (2 - s - pulled / 2)
    with torch.no_grad():
        model.w.fill_(w)
        lc.multipliers["w"].fill_(mu * (a - w) / 2)
    swings, signs = 0, lc.thetas["all"].indices
    for _ in range(20):
        with torch.no_grad():
            target = (mu * lc.delta["w"] + lc.multipliers["w"]) / (mu + curvature)
            model.w.copy_(target + (model.w - target) * (1 - s))
        lc.step()
        swings, signs = (
            swings + int((lc.thetas["all"].indices != signs).any()),
            lc.thetas["all"].indices,
        )
    assert swings == (20 if pulled < 1 - s / 2 else 0)
    if curvature == 0:
        assert (pulled < 1 - s / 2) == (share < 1)


@pytest.mark.parametrize("factor", [1.0, 1.1])
def test_l_steps_of_one_iteration_from_delta_are_straight_through_training(factor):
    torch.manual_seed(0)
    inputs, outputs = (
        torch.randn(40, 12, dtype=torch.float64),
        torch.randn(40, 1, dtype=torch.float64),
    )
    model, binary, lr, mu = nn.Linear(12, 1, bias=False).double(), leco.Binary(), 0.05, 0.1
    latent = model.weight.detach().clone().view(-1)
    lc = leco.LC(model, {"all": leco.Task("weight", leco.Vector(), binary)})
    optimizer = torch.optim.SGD(model.parameters(), lr)
    lc.attach(optimizer)
    lc.mu = mu
    lc.multipliers_step()
    signs = set()
    for _ in range(60):
        lc.mu, before = lc.mu * factor, lc.mu
        lc.project_()
        optimizer.zero_grad()
        nn.functional.mse_loss(model(inputs), outputs).backward()
        gradient = model.weight.grad.clone().view(-1)
        optimizer.step()
        found = (model.weight.detach() - lc.multipliers["weight"] / lc.mu).view(-1)
        lc.step()
        delta = binary.compress(latent, mu).decompress()
        apart = before / lc.mu * (latent - delta)
        latent = delta + apart - lr * (gradient + lc.mu * apart)
        assert torch.allclose(found, latent, rtol=0, atol=1e-12)
        signs.add(tuple((latent >= 0).tolist()))
    assert len(signs) > 2
