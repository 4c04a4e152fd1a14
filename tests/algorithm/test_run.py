"""The loop, its checkpoints and the baselines."""

import copy
import math

import pytest
import torch
from problem import MUS, Problem, X, Y
from torch import nn

import leco
from leco.algorithm.batchnorm import unlike_training
from leco.atomic import atomically
from leco.theta.tree import share_changed


def test_run_records_every_step_and_keeps_the_best():
    problem = Problem()
    result = problem.run(MUS)
    assert problem.calls == list(range(8))
    assert [r.step for r in result.records] == list(range(9))
    assert [r.mu for r in result.records] == [MUS[0], *MUS]
    assert result.stopped == "schedule"
    assert result.records[0].multiplier_norm == 0
    last = result.records[-1]
    assert last.relative_gap < 0.05 < result.records[0].relative_gap
    assert last.multiplier_norm > 0
    assert last.l_seconds > 0
    assert last.c_seconds > 0
    assert last.loss == last.loss
    assert last.bits == sum(leco.bits(theta) for theta in problem.lc.thetas.values())
    least = min((r.compressed_error, r.compressed_loss) for r in result.records)
    assert (
        result.records[result.best_step].compressed_error,
        result.records[result.best_step].compressed_loss,
    ) == least
    problem.lc.restore_(result.best)
    loss, error = problem.evaluate()  # with the batch-norm statistics that were found for it
    assert (error, loss) == pytest.approx(least, abs=1e-12)


def test_run_evaluates_at_every_so_many_steps_and_at_the_last():
    every, rare = Problem().run(MUS), Problem().run(MUS, every=3)
    evaluated = [r.step for r in rare.records if not math.isnan(r.compressed_error)]
    assert evaluated == [0, 3, 6, 8]
    assert [r.changed for r in rare.records] == [r.changed for r in every.records]
    assert [rare.records[k].compressed_error for k in evaluated] == [
        every.records[k].compressed_error for k in evaluated
    ]
    assert rare.best_step in evaluated
    with pytest.raises(ValueError, match="every = 0 must be at least 1"):
        Problem().run(MUS, every=0)
    with pytest.raises(ValueError, match="rounds = 0 must be at least 1"):
        Problem().run(MUS, rounds=0)


def test_rounds_are_l_and_c_steps_at_one_mu_and_from_delta_starts_each_there():
    problem = Problem()
    starts = []

    def l_step(k: int) -> float:
        starts.append(
            all(torch.equal(p, problem.lc.delta[name]) for name, p in problem.lc.params.items())
        )
        return problem.train(k)

    result = leco.run(problem.lc, l_step, MUS, rounds=3, from_delta=True, progress=False)
    assert problem.calls == [k for k in range(8) for _ in range(3)]
    assert starts == [True] * 24
    by_hand, losses = Problem(), []
    for k, mu in enumerate(MUS):
        by_hand.lc.mu = mu
        for _ in range(3):
            by_hand.lc.project_()
            losses.append(by_hand.train(k))
            by_hand.lc.step()
    assert torch.equal(problem.lc.delta["0.weight"], by_hand.lc.delta["0.weight"])
    assert result.records[-1].loss == pytest.approx(sum(losses[-3:]) / 3, abs=1e-12)
    assert len(result.records) == 9


def test_run_stops_when_the_gap_is_small():
    problem = Problem()
    result = problem.run(MUS, tolerance=0.2)
    assert result.stopped == "gap"
    assert result.records[-1].relative_gap < 0.2
    assert all(r.relative_gap >= 0.2 for r in result.records[1:-1])
    assert len(result.records) < 9


def test_run_says_how_many_choices_left_direct_compression_and_warns_where_none_did():
    problem = Problem()
    result = problem.run(MUS)
    assert result.records[0].changed == 0
    start = Problem().lc
    start.mu = MUS[0]
    pairs = [
        (start.thetas[name].indices, theta.indices) for name, theta in problem.lc.thetas.items()
    ]
    share = sum(int((a != b).sum()) for a, b in pairs) / sum(b.numel() for _, b in pairs)
    assert result.records[-1].changed == pytest.approx(share)
    assert 0 < share < 1
    with pytest.warns(
        UserWarning,
        match=r"0.00% of the indices and masks differ from .*start below mu = 1e\+06",
    ):
        Problem().run([1e6, 2e6])


def test_the_share_of_changed_choices_by_hand():
    before = [
        torch.tensor([0, 1, 2, 3], dtype=torch.uint8),
        torch.tensor([True, True, False, False]),
    ]
    after = [
        torch.tensor([0, 1, 2, 0], dtype=torch.uint8),
        torch.tensor([True, False, True, False]),
    ]
    assert share_changed(before, after) == (1 + 1) / (4 + 2)
    assert share_changed(before, [after[0], torch.ones(3, dtype=torch.uint8)]) == (1 + 3) / (4 + 3)
    assert math.isnan(share_changed([], []))


def test_run_warns_of_batches_unlike_those_of_training():
    def augmented():
        return (
            X
            * (
                2.0
                * torch.rand(64, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
            ).round()
        )

    problem = Problem()
    problem.model.train()
    for _ in range(100):
        problem.model(augmented())
    before = copy.deepcopy(problem.model.state_dict())
    assert unlike_training(problem.model, [augmented()]) is None
    ratio = problem.model[0](10 * X).var(0) / problem.model[1].running_var
    factor = ratio.log().square().mean().sqrt().exp().item()
    assert (
        f"batch norm '1' the variances differ from those of training by a factor of {factor:.2f}"
        in str(unlike_training(problem.model, [10 * X]))
    )
    for name, value in problem.model.state_dict().items():
        assert torch.equal(value, before[name])
    with pytest.warns(
        UserWarning, match="leco.run: batches: in batch norm '1' the variances differ"
    ):
        problem.run(MUS, batches=lambda: [10 * X])


def test_run_warns_when_mu_ended_too_early():
    with pytest.warns(UserWarning, match=r"mu ended at 0.001 with .* still \d\d"):
        Problem().run([0.0005, 0.001])


@pytest.mark.parametrize(
    "compression", [leco.Binary(), leco.TopK(0.25), leco.Codebook(3, exact=False), leco.Uniform(3)]
)
def test_six_steps_are_three_and_a_checkpoint_and_three(tmp_path, compression):
    mus = leco.exponential(0.3, 5.0, 6)
    whole = Problem(compression)
    expected = whole.run(mus)

    path = tmp_path / "run.checkpoint"
    first = Problem(compression)
    train, first.train = first.train, None  # type: ignore[assignment]

    def interrupted(k: int) -> float:
        if k == 3:
            raise KeyboardInterrupt
        return train(k)

    first.train = interrupted  # type: ignore[assignment]
    with pytest.warns(UserWarning, match="interrupted in LC step 3"):
        partial = first.run(mus, checkpoint=path)
    assert partial.stopped == "interrupted"
    assert len(partial.records) == 4
    assert [p.name for p in tmp_path.iterdir()] == ["run.checkpoint"]

    second = Problem(compression)
    torch.manual_seed(99)  # the generator's state comes from the checkpoint
    result = second.run(mus, checkpoint=path)
    assert second.calls == [3, 4, 5]
    for p, q in zip(
        whole.model.state_dict().values(), second.model.state_dict().values(), strict=True
    ):
        assert torch.equal(p, q)
    timeless = [
        [r._replace(c_seconds=0.0, l_seconds=0.0, loss=r.loss if r.step else 0.0) for r in records]
        for records in (expected.records, result.records)
    ]
    assert timeless[0] == timeless[1]
    assert result.best_step == expected.best_step
    third = Problem(compression)
    # a finished run is only read
    assert third.run(mus, checkpoint=path).records[1:] == result.records[1:]
    assert third.calls == []


def tightening(problem: Problem, steps: int):
    """Half of the weights of each layer, then less, down to an eighth from the last step but
    `steps` on."""
    return lambda k: dict.fromkeys(problem.lc.tasks, leco.TopK(max(0.125, 0.5 - 0.375 * k / steps)))


def test_compressions_that_tighten_and_the_best_net_of_the_last_ones():
    problem = Problem(leco.TopK(0.5))
    errors = iter([0.0, 1.0, 2.0, 50.0, 40.0, 45.0, 60.0])
    result = problem.run(
        leco.exponential(0.3, 3.0, 6),
        compressions=tightening(problem, 2),
        evaluate=lambda: (0.0, next(errors)),
    )
    kept = [sum(int(value.count_nonzero()) for value in problem.lc.delta.values())]
    assert kept == [6 + 2]  # an eighth of 48 and of 16
    assert result.best_step == 4
    assert sum(int(theta.mask.sum()) for theta in result.best.thetas.values()) == 8
    bits = [record.bits for record in result.records]
    assert bits[1] > bits[2] > bits[3]
    assert result.records[3].changed == 0  # the first with an eighth


def test_a_small_gap_stops_no_run_whose_compressions_will_tighten():
    problem = Problem(leco.TopK(0.5))
    result = problem.run(MUS, compressions=tightening(problem, 4), tolerance=1e9)
    assert (result.stopped, len(result.records) - 1) == ("gap", 5)
    problem = Problem(leco.TopK(0.5))
    result = problem.run(MUS, compressions=tightening(problem, 4), tolerance=1e9, every=3)
    assert len(result.records) - 1 == result.best_step == 6  # the first that is evaluated


def fewer_values(problem: Problem, steps: int):
    """Codebooks whose C step depends on the last Theta, of 6 values, then less, down to 2."""
    return lambda k: dict.fromkeys(
        problem.lc.tasks, leco.Codebook(max(2, 6 - 4 * k // steps), exact=False)
    )


@pytest.mark.parametrize("tightening", [tightening, fewer_values])
def test_tightening_resumes_exactly(tmp_path, tightening):
    mus, path = leco.exponential(0.3, 5.0, 8), tmp_path / "run.checkpoint"
    loosest = leco.TopK(0.5) if tightening is not fewer_values else leco.Codebook(6, exact=False)
    whole, first, second = (Problem(loosest) for _ in range(3))
    for problem in (whole, first, second):
        torch.manual_seed(3)
        problem.model.load_state_dict(whole.model.state_dict())
    torch.manual_seed(3)
    expected = whole.run(mus, compressions=tightening(whole, 4), evaluate=whole.evaluate)
    train = first.train

    def interrupted(k: int) -> float:
        if k == 6:
            raise KeyboardInterrupt
        return train(k)

    first.train = interrupted  # type: ignore[assignment]
    torch.manual_seed(3)
    with pytest.warns(UserWarning, match="interrupted"):
        first.run(mus, compressions=tightening(first, 4), checkpoint=path)
    result = second.run(mus, compressions=tightening(second, 4), checkpoint=path)
    assert second.calls == [6, 7]
    assert [r[:7] for r in result.records] == [r[:7] for r in expected.records]
    assert [r.changed for r in result.records] == pytest.approx(
        [r.changed for r in expected.records]
    )
    assert result.best_step == expected.best_step
    third = Problem(loosest)
    third.run(mus, compressions=tightening(third, 4), checkpoint=path)
    assert third.lc.tasks == second.lc.tasks != Problem(loosest).lc.tasks


def test_checkpoint_of_something_else_is_refused(tmp_path):
    path = tmp_path / "run.checkpoint"
    Problem().run(MUS, checkpoint=path)
    with pytest.raises(ValueError, match="another schedule"):
        Problem().run([2 * mu for mu in MUS], checkpoint=path)
    # a longer schedule goes on
    assert len(Problem().run([*MUS, 2 * MUS[-1]], checkpoint=path).records) == 10
    with pytest.raises(ValueError, match=r"state of \['optimizer'\]"):
        Problem().run([*MUS, 2 * MUS[-1]], checkpoint=path, stateful={})
    with pytest.raises(ValueError, match=r"multipliers|tasks|Theta"):
        other = Problem()
        other.lc = leco.LC(other.model, {"a": leco.Task("0.weight", leco.Vector(), leco.Binary())})
        other.run([*MUS, 2 * MUS[-1]], checkpoint=path)


def test_a_failed_write_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "run.checkpoint"
    problem = Problem()
    problem.run(MUS, checkpoint=path)
    before = path.read_bytes()
    monkeypatch.setattr(
        torch, "save", lambda state, file: (_ for _ in ()).throw(OSError("disk full"))
    )
    with pytest.raises(OSError, match="disk full"):
        atomically(path, lambda file: torch.save({}, file))
    with pytest.raises(OSError, match="disk full"):
        Problem().run(MUS, checkpoint=tmp_path / "new.checkpoint")
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["run.checkpoint"]  # no temporary left


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ([], "schedule is empty"),
        ([1.0, 0.5], r"schedule\[1\] = 0.5 is below schedule\[0\] = 1.0"),
        ([0.0, 1.0], r"schedule\[0\] = 0.0 must be positive"),
        ([1.0, float("nan")], r"schedule\[1\] = nan must be positive"),
    ],
)
def test_schedules_are_checked_before_anything_runs(schedule, message):
    problem = Problem()
    with pytest.raises(ValueError, match=message):
        problem.run(schedule)
    assert problem.lc.thetas == {}


def test_run_keeps_the_last_net_without_evaluation():
    problem = Problem()
    result = leco.run(problem.lc, problem.train, MUS, progress=False)
    assert result.best_step == 8
    assert torch.equal(
        result.best.thetas["0.weight"].indices, problem.lc.thetas["0.weight"].indices
    )


def test_a_diverged_net_is_never_best():
    problem = Problem()
    errors = iter([5.0] + [float("nan")] * 20)
    result = problem.run(MUS, evaluate=lambda: (0.0, next(errors)))
    assert result.best_step == 0


# --- retraining


@pytest.mark.parametrize(
    "compression",
    [
        leco.Codebook(3),
        leco.Binary(),
        leco.TopK(0.3),
        leco.PowersOfTwo(2, scale=True),
        leco.Uniform(3),
    ],
)
def test_retraining_moves_only_what_is_free_and_lowers_the_loss(compression):
    problem = Problem(compression)
    problem.lc.detach()
    problem.lc.mu = 1.0
    before = copy.deepcopy(problem.lc.thetas)
    free = leco.Retraining(problem.lc)
    problem.optimizer = torch.optim.SGD(free.parameters(), lr=0.01)
    start = problem.evaluate()[0]
    free.attach(problem.optimizer)
    for k in range(20):
        problem.train(k)
    assert problem.evaluate()[0] < start
    for name, theta in problem.lc.thetas.items():
        for field, old, new in zip(theta._fields, before[name], theta, strict=True):
            assert torch.equal(old, new) == (field not in theta.free()), field
        assert torch.equal(
            theta.decompress(), problem.model.get_parameter(name).detach().reshape(-1)
        )
    free.detach()


def test_retraining_gradient_is_the_chain_rule():
    """d L/d codebook_k is the sum of d L/d w over the weights of entry k: the gradient of a net
    that shares them."""
    problem = Problem(leco.Codebook(2))
    problem.lc.detach()
    problem.lc.mu = 1.0
    free = leco.Retraining(problem.lc)
    optimizer = torch.optim.SGD(free.parameters(), lr=0.0)
    free.attach(optimizer)
    problem.model.eval()
    loss = nn.functional.cross_entropy(problem.model(X), Y)
    gradient = torch.autograd.grad(loss, problem.model[0].weight, retain_graph=True)[0].reshape(-1)
    loss.backward()
    indices = problem.lc.thetas["0.weight"].indices
    optimizer.step()
    expected = torch.stack([gradient[indices == k].sum() for k in range(2)])
    torch.testing.assert_close(free.parameters()[0].grad, expected)
    assert problem.model[0].weight.grad is None


@pytest.mark.parametrize("mode", ["accumulated", "closure", "scaled"])
def test_retraining_works_with_accumulation_closures_and_loss_scaling(mode):
    """Each gives the step that the plain loop gives; with a closure, the joint task has a parameter
    that the loss does not reach."""

    whole = mode != "closure"

    def step(mode: str) -> torch.Tensor:
        torch.manual_seed(0)
        model = nn.ModuleDict({"a": nn.Linear(6, 2), "unused": nn.Linear(3, 3)}).double()
        lc = leco.LC(
            model,
            {
                "all": leco.Task(
                    leco.match(model, "a.weight" if whole else "*.weight"),
                    leco.Vector(),
                    leco.Codebook(3),
                )
            },
        )
        lc.mu = 1.0
        free = leco.Retraining(lc)
        optimizer = torch.optim.SGD(free.parameters(), lr=0.1)
        free.attach(optimizer)

        def backward(scale: float = 1.0, parts: int = 1) -> None:
            for x, y in zip(X.chunk(parts), Y.chunk(parts), strict=True):
                (nn.functional.cross_entropy(model["a"](x), y) * scale / parts).backward()

        for _ in range(3):
            optimizer.zero_grad()
            if mode == "closure":
                optimizer.step(lambda: (optimizer.zero_grad(), backward())[1])
            elif mode == "scaled":
                backward(scale=128.0)
                for p in free.parameters():
                    p.grad = None if p.grad is None else p.grad / 128.0
                optimizer.step()
            else:
                backward(parts=4 if mode == "accumulated" else 1)
                optimizer.step()
        return lc.thetas["all"].codebook

    plain = step("plain")
    torch.testing.assert_close(step(mode), plain, rtol=0, atol=1e-12)
    assert step("plain").equal(plain)


def test_fixed_values_have_nothing_free():
    problem = Problem(leco.Binary(scale=False))
    problem.lc.detach()
    problem.lc.mu = 1.0
    free = leco.Retraining(problem.lc)
    problem.optimizer = torch.optim.SGD(free.parameters(), lr=0.1)
    free.attach(problem.optimizer)
    problem.train(0)
    assert problem.model[0].weight.unique().tolist() == [-1.0, 1.0]


def test_retraining_refuses_what_would_not_work():
    problem = Problem()
    with pytest.raises(ValueError, match="no Theta yet"):
        leco.Retraining(problem.lc)
    problem.lc.mu = 1.0
    free = leco.Retraining(problem.lc)
    good = torch.optim.SGD(free.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"call lc.detach"):
        free.attach(good)
    problem.lc.detach()
    with pytest.raises(ValueError, match=r"does not hold the Theta of task '0.weight'"):
        free.attach(problem.optimizer)
    both = torch.optim.SGD([*free.parameters(), problem.model[0].weight], lr=0.1)
    with pytest.raises(ValueError, match="holds compressed parameters"):
        free.attach(both)
    free.attach(good)
    with pytest.raises(ValueError, match="attached already"):
        free.attach(good)


def test_iterated_direct_compression_trains_from_each_projection():
    problem = Problem(leco.TopK(0.25))
    starts = []

    def train(k: int) -> None:
        starts.append(int(problem.model[0].weight.count_nonzero()))
        problem.train(k)

    with pytest.raises(ValueError, match=r"call lc.detach"):
        leco.iterated_direct_compression(problem.lc, train, 3, mu=1.0)
    problem.lc.detach()
    records = leco.iterated_direct_compression(problem.lc, train, 3, mu=1.0)
    assert starts == [12, 12, 12]
    assert [r.step for r in records] == [1, 2, 3]
    assert all(r.gap > 0 and r.multiplier_norm == 0 for r in records)
    assert int(problem.model[0].weight.count_nonzero()) == 12


# --- tables


def test_plan_names_every_parameter_with_its_task_or_none():
    problem = Problem()
    text = leco.plan(problem.lc)
    lines = {
        name: next(line for line in text.splitlines() if f" {name} " in line)
        for name, _ in problem.model.named_parameters()
    }
    assert "Vector()" in lines["0.weight"]
    assert "(8, 6)" in lines["0.weight"]
    assert "(48,)" in lines["0.weight"]
    assert "not compressed" in lines["0.bias"]
    assert "64 of 90 weights (71.11%)" in text


def test_history_has_a_line_a_step():
    problem = Problem()
    result = problem.run(MUS, tolerance=0.0)
    lines = leco.history(result.records).splitlines()
    assert sum(line.split()[1].isdigit() for line in lines if line.startswith("│")) == 9


def test_l_steps_start_at_delta_for_sets_and_at_the_last_w_for_prices():
    problem = Problem()
    assert leco.Run(problem.lc, [1.0]).from_delta
    priced = Problem(leco.L0Penalty(1e-9))
    run = leco.Run(priced.lc, [1.0])
    assert not run.from_delta
    assert run.tolerance == 0  # ranks and supports change with mu, at any gap
    assert leco.Run(problem.lc, [1.0], from_delta=False).tolerance == 1e-4
    assert leco.Run(priced.lc, [1.0], from_delta=True).from_delta
