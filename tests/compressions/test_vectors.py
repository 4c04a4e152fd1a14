"""Codewords of several weights and values shared by position, against brute force and other
people's k-means."""

import itertools
import warnings

import kmeans1d
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from torch import Tensor, nn

import leco
from leco.compressions import Codebook, Hashed, VectorCodebook, hashed, vector_cells, vector_starts
from leco.theta import VectorCodes, hashed_positions


def squared_error(compression, x: Tensor, theta=None) -> float:
    return float((x - compression.compress(x, 1.0, theta).decompress()).square().sum())


def direct(net: nn.Module, task: leco.Task) -> leco.LC:
    lc = leco.LC(net, {"task": task})
    lc.mu = 1.0
    return lc


def least_error(x: Tensor, k: int) -> float:
    """Over all assignments of the vectors to k cells, numbered as they first appear."""
    least = torch.inf
    for cells in itertools.product(*(range(min(i + 1, k)) for i in range(len(x)))):
        z = torch.tensor(cells)
        least = min(
            least,
            sum(
                float((x[z == j] - x[z == j].mean(0)).square().sum())
                for j in range(k)
                if (z == j).any()
            ),
        )
    return least


@pytest.mark.parametrize(
    ("n", "d", "k"), [(1, 2, 1), (4, 2, 1), (8, 2, 2), (7, 3, 3), (6, 5, 4), (5, 2, 5)]
)
def test_cold_starts_of_tiny_problems_find_the_best_of_all_assignments(n, d, k):
    for x in (
        torch.randn(n, d).double(),
        torch.randn(n, d).double() ** 3,
        torch.randint(-1, 2, (n, d)).double(),
    ):
        assert squared_error(VectorCodebook(k), x) <= least_error(x, k) * (1 + 1e-9) + 1e-12


def digits() -> Tensor:
    return torch.tensor(load_digits().data)


def pieces() -> Tensor:
    """Images in fours of neighbouring pixels."""
    return digits()[:200].reshape(-1, 4)


@pytest.mark.parametrize(
    ("x", "k"),
    [(digits(), 10), (pieces(), 16), (torch.randn(2000, 4, dtype=torch.float64) ** 3, 32)],
    ids=["digits, 10", "pieces, 16", "heavy tails, 32"],
)
def test_errors_are_those_of_ten_runs_of_scikit_learn(x, k):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its thread pools
        theirs = KMeans(k, n_init=10, random_state=0).fit(x.numpy()).inertia_
    assert squared_error(VectorCodebook(k), x) <= 1.02 * theirs


def test_codewords_of_one_weight_are_the_exact_codebook():
    x = torch.randn(2, 200, 1, dtype=torch.float64)
    theta = VectorCodebook(7).compress(x, 1.0)
    assert theta.codebook.shape == (2, 7, 1)
    for own, delta in zip(x, theta.decompress(), strict=True):
        found = kmeans1d.cluster(own[:, 0].tolist(), 7)
        assert torch.allclose(
            delta[:, 0],
            torch.tensor(found.centroids, dtype=torch.float64)[torch.tensor(found.clusters)],
        )


def test_error_falls_with_each_sweep_and_a_warm_start_goes_on():
    x = torch.randn(3000, 4, dtype=torch.float64)
    start = VectorCodes(torch.zeros(3000, dtype=torch.uint8), x[:40].clone())
    errors = [squared_error(VectorCodebook(40, sweeps=sweeps), x, start) for sweeps in range(1, 8)]
    assert all(b < a for a, b in itertools.pairwise(errors))
    one = VectorCodebook(40, sweeps=1)
    theta = start
    for error in errors:
        theta = one.compress(x, 1.0, theta)
        assert float((x - theta.decompress()).square().sum()) == pytest.approx(error)


def test_unused_codewords_go_to_the_farthest_vectors():
    x = torch.randn(500, 3, dtype=torch.float64)
    x[7], x[400] = 30.0, -40.0
    far = torch.full((6, 3), 1e3, dtype=torch.float64)
    theta = VectorCodebook(6, sweeps=2).compress(
        x, 1.0, VectorCodes(torch.zeros(500, dtype=torch.uint8), torch.cat([x[:2], far[2:]]))
    )
    delta = theta.decompress()
    assert torch.equal(delta[7], x[7])
    assert torch.equal(delta[400], x[400])
    assert len(theta.indices.unique()) == 6


def test_a_retrained_codebook_in_any_order_is_a_warm_start():
    x = torch.randn(300, 3, dtype=torch.float64)
    for _ in range(20):
        values = 2 * torch.randn(5, 3, dtype=torch.float64)
        start = VectorCodes(torch.cdist(x, values).argmin(-1).to(torch.uint8), values)
        before = float((x - start.decompress()).square().sum())
        assert squared_error(VectorCodebook(5, sweeps=1), x, start) <= before


def test_cold_starts_of_many_problems_are_as_of_each(monkeypatch):
    x = torch.randn(7, 60, 2, dtype=torch.float64)
    each = torch.stack([VectorCodebook(6).compress(own, 1.0).decompress() for own in x])
    for least, work in ((2**20, 2**25), (2 * 60 * 64, 2**25), (1, 60 * 6 * 2 * 3)):
        monkeypatch.setattr(vector_starts, "START_VECTORS", least)
        monkeypatch.setattr(vector_starts, "START_WORK", work)
        if work < 2**25:
            each = torch.stack([VectorCodebook(6).compress(own, 1.0).decompress() for own in x])
        assert torch.allclose(VectorCodebook(6).compress(x, 1.0).decompress(), each)


@pytest.mark.parametrize("k", [1, 5, 300])
def test_arrays_in_parts_are_as_in_one(k, monkeypatch):
    x = torch.randn(3, 700, 2, dtype=torch.float64)
    start = VectorCodes(torch.zeros(3, 700, dtype=torch.int32), x[:, :k].clone())
    whole = VectorCodebook(k, sweeps=3).compress(x, 1.0, start)
    for chunk in (1, 100 * k, 800 * k, 1500 * k):
        monkeypatch.setattr(vector_cells, "CHUNK", chunk)
        parts = VectorCodebook(k, sweeps=3).compress(x, 1.0, start)
        assert torch.equal(parts.indices, whole.indices)
        assert torch.allclose(parts.codebook, whole.codebook)
    assert whole.indices.dtype == (torch.uint8 if k <= 256 else torch.int32)


def test_cold_starts_on_a_sample_and_with_several_draws_a_round(monkeypatch):
    x = torch.randn(1500, 3, dtype=torch.float64)
    whole = squared_error(VectorCodebook(15), x)
    monkeypatch.setattr(vector_starts, "LEAST_SAMPLE", 200)
    monkeypatch.setattr(vector_starts, "SAMPLE", 10)
    assert whole * 0.9 < squared_error(VectorCodebook(15), x) < whole * 1.05
    monkeypatch.setattr(vector_starts, "ROUNDS", 7)
    assert whole * 0.9 < squared_error(VectorCodebook(15), x) < whole * 1.05


def test_of_several_codewords_a_round_none_is_one_of_an_earlier_round(monkeypatch):
    monkeypatch.setattr(vector_starts, "ROUNDS", 6)
    x = torch.randn(1, 40, 2, dtype=torch.float64)
    draws = torch.rand(1, 6, 5, dtype=torch.float64)
    found = vector_starts._plus_plus(vector_cells.Vectors(x, None), draws, 30)
    rounds = found[0].view(6, 5, 2)
    drawn = [{tuple(codeword) for codeword in codewords.tolist()} for codewords in rounds]
    assert len(set().union(*drawn)) == sum(len(codewords) for codewords in drawn)


def test_far_from_0_single_precision_loses_nothing():
    x = torch.randn(400, 4)
    # of which x keeps 11 digits
    near, far = (VectorCodebook(16).compress(y, 1.0) for y in (x, x + 4096.0))
    errors = [
        float((x.double() - theta.decompress().double() + shift).square().sum())
        for theta, shift in ((near, 0), (far, 4096))
    ]
    assert errors[1] < 1.05 * errors[0]


def test_product_quantization_is_a_problem_for_each_block():
    net = nn.Linear(12, 40, dtype=torch.float64)
    theta = direct(net, leco.Task("weight", leco.Subvectors(3), VectorCodebook(5))).thetas["task"]
    assert isinstance(theta, VectorCodes)
    assert theta.codebook.shape == (4, 5, 3)
    for block, delta in zip(net.weight.detach().split(3, dim=1), theta.decompress(), strict=True):
        assert torch.allclose(
            delta, VectorCodebook(5).compress(block.contiguous(), 1.0).decompress()
        )


def test_codebooks_of_groups_are_separate_and_of_a_vector_shared():
    nets = nn.ModuleList([nn.Linear(8, 3), nn.Linear(4, 3)])
    names = leco.match(nets, "*.weight")
    groups = direct(nets, leco.Task(names, leco.Groups(4), Codebook(2))).thetas["task"]
    assert all(len(group.unique()) == 2 for group in groups.decompress())
    shared = direct(nets, leco.Task(names, leco.Groups(4), VectorCodebook(3)))
    assert len(torch.cat([delta.view(-1, 4) for delta in shared.delta.values()]).unique(dim=0)) == 3


@pytest.mark.parametrize(
    ("view", "compression"),
    [(leco.Subvectors(2), VectorCodebook(4)), (leco.Vector(), Hashed(9, seed=5))],
    ids=str,
)
def test_files_and_retraining(tmp_path, view, compression):
    net = nn.Linear(6, 10)
    lc = direct(net, leco.Task("weight", view, compression))
    free = leco.Retraining(lc)
    optimizer = torch.optim.SGD(free.parameters(), 1e-3)
    free.attach(optimizer)
    before = lc.delta["weight"].clone()
    net(torch.randn(7, 6)).square().sum().backward()
    optimizer.step()
    assert not torch.equal(lc.delta["weight"], before)
    leco.save(tmp_path / "net.safetensors", lc)
    loaded = leco.load(tmp_path / "net.safetensors", nn.Linear(6, 10))
    assert torch.equal(loaded.weight, lc.delta["weight"])


# --- hashing


def test_positions_never_change():
    """A file holds no indices: these numbers are part of its format."""
    assert hashed_positions(1000, 0, 0, 8).tolist() == [88, 642, 348, 273, 594, 220, 318, 556]
    assert hashed_positions(1000, 2**32 - 1, 10**10, 10**10 + 4).tolist() == [240, 743, 891, 728]


@pytest.mark.parametrize(("k", "seed"), [(7, 0), (64, 1), (1000, 123456789)])
def test_positions_are_spread_evenly_and_depend_on_the_seed(k, seed):
    n = 200 * k
    cells = hashed_positions(k, seed, 0, n)
    assert torch.equal(cells[50:90], hashed_positions(k, seed, 50, 90))
    counts = cells.bincount(minlength=k)
    assert len(counts) == k
    chi2 = float((counts - 200).square().sum()) / 200
    assert abs(chi2 - (k - 1)) < 5 * (2 * (k - 1)) ** 0.5
    same = (cells[1:] == cells[:-1]).double().mean()
    other = (cells == hashed_positions(k, seed + 1, 0, n)).double().mean()
    assert same < 1 / k + 5 * (1 / k / n) ** 0.5
    assert other < 1 / k + 5 * (1 / k / n) ** 0.5


def test_values_are_means_and_unused_ones_are_0():
    x = torch.randn(3, 30, dtype=torch.float64)
    theta = Hashed(25, seed=3).compress(x, 1.0)
    cells = hashed_positions(25, 3, 0, 30)
    for j in range(25):
        assert torch.allclose(
            theta.values[:, j], x[:, cells == j].mean(1) if (cells == j).any() else x.new_zeros(3)
        )
    assert len(cells.unique()) < 25
    # the normal equations: no direction of the family lowers the error
    patterns = torch.nn.functional.one_hot(cells, 25).double()
    assert ((x - theta.decompress()) @ patterns).abs().max() < 1e-12


def test_hashing_in_parts_is_as_in_one(monkeypatch):
    x = torch.randn(2, 1000, dtype=torch.float64)
    whole = Hashed(10).compress(x, 1.0)
    monkeypatch.setattr(hashed, "CHUNK", 64)
    assert torch.allclose(Hashed(10).compress(x, 1.0).values, whole.values)
    assert leco.bits(whole) == 2 * 10 * 64
