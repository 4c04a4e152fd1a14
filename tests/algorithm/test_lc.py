"""The bookkeeping of an LC: Delta(Theta), states, snapshots, records, changed compressions."""

import copy
import math
import pickle

import pytest
import torch
from small_nets import Weights, X, network, tasks
from torch import nn

import leco


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


def test_multipliers_take_no_memory_before_they_move():
    lc = leco.LC(network(), tasks())
    shapes = sorted(tuple(p.shape) for p in lc.params.values())

    def held() -> list[tuple[int, ...]]:
        """The shapes of float64 tensors that the LC refers to, but for the model's."""
        copy = pickle.loads(pickle.dumps(lc))
        del copy.model
        own = {id(p) for p in copy.params.values()}
        found = [t for each in vars(copy).values() if isinstance(each, dict) for t in each.values()]
        return sorted(tuple(t.shape) for t in found if torch.is_tensor(t) and id(t) not in own)

    lc.mu = 1.0
    assert held() == shapes  # Delta(Theta)
    lc.step()
    assert held() == sorted(2 * shapes)
    lc.adopt(lc.thetas)  # they are 0 again
    assert held() == shapes
    assert all(not value.any() for value in lc.multipliers.values())


def test_snapshot_is_a_copy_and_restore_makes_the_net():
    model = network()
    lc = leco.LC(model, tasks())
    lc.mu = 1.0
    kept = lc.snapshot()
    with lc.compressed():
        wanted = model(X).detach()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1.0)
    lc.c_step()
    lc.restore_(kept)
    assert torch.equal(model(X), wanted)


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
