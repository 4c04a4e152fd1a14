"""The methods that LC is compared with, each against its paper's formula or what it must do."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from points import cell, loss
from torch import nn

import benchmarks.proof.__main__ as proof
import leco
from benchmarks.baselines import decomposition, deep_compression, latent, magnitude
from benchmarks.data import Data
from benchmarks.proof import methods
from benchmarks.proof.cell import Cell, Settings
from benchmarks.proof.trainer import Trainer


def test_straight_through_moves_latent_weights_by_the_gradient_at_the_compressed_ones(
    tmp_path: Path,
):
    found: Any = cell(tmp_path, leco.Binary(), epochs=0.25)  # one iteration
    start = [p.detach().clone() for p in found.model.parameters()]
    parts = found.trainer().chosen()
    at = [p.abs().mean() * p.sign() if p.ndim > 1 else p for p in start]
    at = [p.requires_grad_() for p in at]
    x, y = found.data.train[0][parts], found.data.train[1][parts]
    value = nn.functional.cross_entropy(torch.tanh(x @ at[0].T + at[1]) @ at[2].T + at[3], y)
    gradients = torch.autograd.grad(value, at)
    trainer = found.trainer()
    trainer.bfloat16 = False
    found.trainer = lambda: trainer
    latent.straight_through(found)
    for p, u, g in zip(found.model.parameters(), start, gradients, strict=True):
        torch.testing.assert_close(p.detach(), u - 0.05 * 1.9 * g)  # Nesterov's first step: 1 + 0.9


def test_the_relaxation_grows_as_the_paper_says_and_ends_exact():
    weights = [latent.relaxation(0.8 * k / 320) for k in range(321)]
    ratios = [(b / (1 - b)) / (a / (1 - a)) for a, b in itertools.pairwise(weights[:-1])]
    assert weights[0] == 0.5
    assert ratios == pytest.approx([1.02] * len(ratios), rel=1e-4)
    assert weights[-1] == latent.relaxation(1.0) == 1.0


@pytest.mark.filterwarnings("ignore:leco.run")  # a run of 28 iterations moves no index
@pytest.mark.parametrize(
    "method", ["straight-through", "BinaryRelax", "PARQ", "LC", "DC + retraining"]
)
@pytest.mark.parametrize("compression", [leco.Binary(), leco.Ternary()])
def test_quantized_training_ends_in_the_set_and_better_than_direct_compression(
    tmp_path: Path, method: str, compression
):
    if method == "PARQ":
        pytest.importorskip("torchao")
    found = cell(tmp_path, compression, leco.Rows())
    start = loss(methods.direct(found), found)
    found = cell(tmp_path, compression, leco.Rows())
    lc = proof.METHODS[method](found)
    assert loss(lc, found) < start
    lc.project_()
    assert all(len(row.unique()) <= 3 for p in lc.params.values() for row in p)
    assert found.curve


def test_parq_quantizes_kernels_that_have_channels_last(tmp_path: Path):
    pytest.importorskip("torchao")
    torch.manual_seed(0)
    x = torch.randn(128, 3, 4, 4)
    y, same = (x[:, 0].mean((1, 2)) > 0).long(), lambda images: images
    data = Data("noise", (x, y), (x, y), (x, y), same, same, False)
    model: Any = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2))
    model = model.to(memory_format=torch.channels_last)
    tasks = leco.each(leco.match(model, "*.weight"), leco.Rows(), leco.Binary())
    settings = Settings(epochs=6, batch=32, lr=0.05, steps=1)
    found = Cell(model, tasks, data, settings, 0, tmp_path / "cell.checkpoint")
    latent.parq(found)  # which raises where it ends off the set
    assert [len(filters.abs().unique()) for filters in model[0].weight] == [1] * 8


def test_the_cubic_schedule():
    assert magnitude.cubic(0.0, 0.1) == 1
    assert magnitude.cubic(0.375, 0.1) == pytest.approx(1 - 0.9 * 7 / 8)
    assert magnitude.cubic(0.75, 0.1) == magnitude.cubic(1.0, 0.1) == pytest.approx(0.1)


@pytest.mark.parametrize("method", ["gradual magnitude", "magnitude, rewound"])
def test_magnitude_pruning_ends_with_as_many_weights_as_asked_and_never_revives_one(
    tmp_path: Path, method: str
):
    found = cell(tmp_path, leco.TopK(0.25))
    start = loss(methods.direct(found), found)
    found, counts = cell(tmp_path, leco.TopK(0.25)), []
    run = Trainer.run

    def counting(self, model, *rest, **options):
        counts.append([p != 0 for p in model.parameters() if p.ndim > 1])
        return run(self, model, *rest, **options)

    Trainer.run = counting
    try:
        lc = proof.METHODS[method](found)
    finally:
        Trainer.run = run
    assert sum(int((d != 0).sum()) for d in lc.delta.values()) == 16
    assert loss(lc, found) < start
    masks = [*counts, [d != 0 for d in lc.delta.values()]]
    assert all(
        not (after & ~before).any()
        for old, new in itertools.pairwise(masks)
        for before, after in zip(old, new, strict=True)
    )
    assert len({sum(int(m.sum()) for m in mask) for mask in masks}) >= 4


def test_greedy_ranks_are_the_best_of_all_at_equal_costs_and_uniform_ones_fill_the_limit():
    generator = torch.Generator().manual_seed(0)
    singular = {
        name: torch.rand(4, generator=generator).sort(descending=True).values for name in "abc"
    }
    costs = dict.fromkeys(singular, float)
    found = decomposition.greedy(singular, costs, 7)

    def left(ranks: dict[str, int]) -> float:
        return sum(float(singular[n][r:].square().sum()) for n, r in ranks.items())

    every = [
        dict(zip("abc", r, strict=True))
        for r in itertools.product(range(1, 5), repeat=3)
        if sum(r) <= 7
    ]
    assert left(found) == pytest.approx(min(map(left, every)))
    assert decomposition.uniform(singular, costs, 7) == {"a": 2, "b": 2, "c": 2}


def test_ranks_are_fine_tuned_at_the_cost_of_lc(tmp_path: Path):
    found = cell(tmp_path, leco.RankSelection(1e-3, leco.storage), leco.Matrix())
    found.tasks = {"0.weight": found.tasks["0.weight"]}
    found.limit = leco.storage(torch.Size([16, 2]), 1)
    lc = decomposition.greedy_ranks(found)
    assert torch.linalg.matrix_rank(lc.delta["0.weight"]) == 1
    found.limit = None
    with pytest.raises(ValueError, match="run the method LC"):
        decomposition.uniform_ranks(found)


@pytest.mark.parametrize(
    ("limit", "ranks"), [(18 + 18, [1, 1]), (18 + 32, [1, 2]), (32 + 32, [2, 2])]
)
def test_ranks_are_fine_tuned_within_a_budget_and_a_full_rank_leaves_the_matrix(
    tmp_path: Path, limit: int, ranks: list[int]
):
    found = cell(tmp_path, leco.Binary())
    members = [leco.Part(leco.Matrix(), leco.RankSelection(0.0), (i,)) for i in range(2)]
    found.tasks = {
        "all": leco.Task(("0.weight", "2.weight"), leco.Blocks(), leco.Budget(members, limit))
    }
    with torch.no_grad():
        # its second singular value is the last to be bought
        found.model.get_parameter("0.weight").div_(100)
    lc = decomposition.greedy_ranks(found)
    assert [int(torch.linalg.matrix_rank(d)) for d in lc.delta.values()] == ranks
    assert (
        sum(
            array.numel()
            for theta in lc.thetas.values()
            for array in theta
            if isinstance(array, torch.Tensor)
        )
        == limit
    )
    found = cell(
        tmp_path,
        leco.RankSelection(0.0, lambda shape, rank: 5.0 * (rank > 0)),
        leco.Matrix(),
    )
    found.limit = 10.0
    assert all(
        torch.linalg.matrix_rank(d) == 2 for d in decomposition.uniform_ranks(found).delta.values()
    )


def test_deep_compression_prunes_all_layers_and_shares_values_in_each(tmp_path: Path):
    compression = leco.Compose(leco.TopK(0.5), leco.Codebook(4))
    start = loss(
        methods.direct(cell(tmp_path, compression)),
        found := cell(tmp_path, compression, epochs=80, retrain_lr=0.01),
    )
    lc = deep_compression.deep_compression(found)
    kept = [d[d != 0] for d in lc.delta.values()]
    assert sum(values.numel() for values in kept) == 32
    assert [len(values.unique()) for values in kept] == [4, 4]
    assert not set(kept[0].tolist()) & set(kept[1].tolist())
    assert loss(lc, found) < start
    assert found.curve[0]["epoch"] == 1.0
    assert found.curve[-1]["epoch"] == found.settings.epochs / 2


def test_deep_compression_leaves_a_layer_of_few_weights_its_own_values(tmp_path: Path):
    found = cell(tmp_path, leco.Compose(leco.TopK(0.5), leco.Codebook(20)))
    with torch.no_grad():
        found.model.get_parameter("0.weight")[4:].mul_(1e-3)
    lc = deep_compression.deep_compression(found)
    thetas: list[Any] = list(lc.thetas.values())
    assert [type(theta.values).__name__ for theta in thetas] == ["Tensor", "Codes"]
    found = cell(tmp_path, leco.TopK(0.5))
    with pytest.raises(ValueError, match="must be one Compose"):
        deep_compression.deep_compression(found)
