"""Every elementwise compression and every low rank, through the whole driver."""

import pytest
import torch
from torch import nn

import leco

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
