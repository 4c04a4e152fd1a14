"""Tensor decompositions against tensorly, the SVD, brute force over ranks, and tensors that have an
exact one."""

import itertools
from unittest import mock

import numpy as np
import pytest
import tensorly
import torch
from labels import label
from tensorly.decomposition import parafac, partial_tucker, tensor_train, tucker

import leco
from leco.compressions import tensors
from leco.compressions import tucker as tucker_file
from leco.theta import CPFactors, Dense, TrainFactors, TuckerFactors
from leco.theta.tree import leaves

SHAPE = (12, 8, 3, 3)
EQUAL = 1 + 1e-9


def outer(*factors: torch.Tensor) -> torch.Tensor:
    letters = "abcd"[: len(factors)]
    return torch.einsum(",".join(f"{m}r" for m in letters) + "->" + letters, *factors)


def kernel(structured: bool, seed: int) -> torch.Tensor:
    torch.manual_seed(seed)
    x = torch.randn(SHAPE, dtype=torch.float64)
    return (
        outer(*(torch.randn(n, 5, dtype=torch.float64) for n in SHAPE)) + 0.1 * x
        if structured
        else x
    )


KERNELS = [
    pytest.param(kernel(structured, seed), id=f"{'structured' if structured else 'random'} {seed}")
    for structured in (0, 1)
    for seed in (0, 1, 2)
]


def error(x: torch.Tensor, theta) -> float:
    return float(torch.linalg.vector_norm(x - theta.decompress()))


def theirs(x: torch.Tensor, reconstruction: np.ndarray) -> float:
    return float(np.linalg.norm(x.numpy() - reconstruction))


@pytest.mark.parametrize("x", KERNELS)
class TestAgainstTensorly:
    def test_tucker_2(self, x):
        (core, factors), _ = partial_tucker(x.numpy(), (5, 4), modes=[0, 1])
        reached = theirs(x, tensorly.tenalg.multi_mode_dot(core, factors, modes=[0, 1]))
        assert error(x, leco.Tucker2((5, 4)).compress(x, 1.0)) <= 1.0001 * reached

    def test_tucker(self, x):
        reached = theirs(x, tensorly.tucker_to_tensor(tucker(x.numpy(), (5, 4, 2, 3))))
        assert error(x, leco.Tucker((5, 4, 2, 3)).compress(x, 1.0)) <= 1.0001 * reached

    @pytest.mark.filterwarnings("ignore:Trying to compute SVD")
    @pytest.mark.parametrize("rank", [1, 3, 5, 10])
    def test_cp(self, x, rank):
        reached = theirs(x, tensorly.cp_to_tensor(parafac(x.numpy(), rank, random_state=0)))
        assert error(x, leco.CP(rank).compress(x, 1.0)) <= 1.001 * reached

    def test_tensor_train(self, x):
        reached = theirs(x, tensorly.tt_to_tensor(tensor_train(x.numpy(), (1, 5, 6, 2, 1))))
        assert error(x, leco.TensorTrain((5, 6, 2)).compress(x, 1.0)) <= EQUAL * reached


def test_decompressions_are_those_of_tensorly():
    x = kernel(False, 3)
    theta = leco.Tucker((5, 4, 2, 3)).compress(x, 1.0)
    assert np.allclose(
        theta.decompress(),
        tensorly.tucker_to_tensor((theta.core.numpy(), [u.numpy() for u in theta.factors])),
    )
    theta = leco.CP(4).compress(x, 1.0)
    assert np.allclose(
        theta.decompress(), tensorly.cp_to_tensor((np.ones(4), [a.numpy() for a in theta.factors]))
    )
    theta = leco.TensorTrain((5, 6, 2)).compress(x, 1.0)
    assert np.allclose(
        theta.decompress(), tensorly.tt_to_tensor([core.numpy() for core in theta.cores])
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("compression", "theta"),
    [
        (
            leco.Tucker2((4, 3)),
            TuckerFactors(torch.empty(4, 3, 3, 3), (torch.empty(12, 4), torch.empty(8, 3))),
        ),
        (
            leco.Tucker2((12, 3)),
            TuckerFactors(torch.empty(12, 3, 3, 3), (torch.empty(12, 12), torch.empty(8, 3))),
        ),
        (
            leco.Tucker((4, 3, 2, 2)),
            TuckerFactors(
                torch.empty(4, 3, 2, 2),
                (torch.empty(12, 4), torch.empty(8, 3), torch.empty(3, 2), torch.empty(3, 2)),
            ),
        ),
        (leco.CP(3), CPFactors(tuple(torch.empty(n, 3) for n in SHAPE))),
        (
            leco.TensorTrain((4, 5, 2)),
            TrainFactors(
                (
                    torch.empty(1, 12, 4),
                    torch.empty(4, 8, 5),
                    torch.empty(5, 3, 2),
                    torch.empty(2, 3, 1),
                )
            ),
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_tensor_of_these_ranks_is_recovered(compression, theta, seed):
    torch.manual_seed(seed)
    drawn = [torch.randn(leaf.shape, dtype=torch.float64) for leaf in leaves(theta)]
    x = leco.theta.tree.with_free_leaves(theta, drawn).decompress()
    found = compression.compress(x, 1.0)
    assert [leaf.shape for leaf in leaves(found)] == [leaf.shape for leaf in drawn]
    tolerance = 1e-3 if isinstance(found, CPFactors) else 1e-12  # ALS converges linearly
    assert error(x, found) <= tolerance * float(torch.linalg.vector_norm(x))


@pytest.mark.parametrize(
    ("compression", "shape"),
    [
        (leco.Tucker2((5, 4)), (5, 4, 3)),
        (leco.Tucker((5, 4, 3)), (5, 4, 3)),
        (leco.TuckerSelection(0.0), (5, 4, 3)),
        (leco.CP(12), (5, 4, 3)),
        (leco.TensorTrain((5, 3)), (5, 4, 3)),
        (leco.TensorTrain((2, 4, 2)), (2, 3, 4, 2)),
    ],
    ids=label,
)
def test_full_ranks_are_the_tensor_itself(compression, shape):
    x = torch.randn(shape)
    if compression == leco.TensorTrain((2, 4, 2)):
        assert not isinstance(compression.compress(x, 1.0), Dense)  # the middle bond could be 6
        compression = leco.TensorTrain((2, 6, 2))
    theta = compression.compress(x, 1.0)
    assert isinstance(theta, Dense)
    assert torch.equal(theta.decompress(), x)


@pytest.mark.parametrize(
    "compression",
    [leco.Tucker2((3, 3)), leco.Tucker((3, 3)), leco.CP(3), leco.TensorTrain((3,))],
    ids=label,
)
def test_a_matrix_gets_its_truncated_svd(compression):
    x = torch.randn(9, 7, dtype=torch.float64)
    least = error(x, leco.LowRank(3).compress(x, 1.0))
    assert error(x, compression.compress(x, 1.0)) <= (1 + 1e-4) * least


@pytest.mark.parametrize("x", KERNELS)
def test_tensor_train_is_within_the_bound_of_its_unfoldings(x):
    ranks = (5, 6, 2)
    tails = [
        np.linalg.svd(x.numpy().reshape(np.prod(SHAPE[: k + 1]), -1), compute_uv=False)[r:]
        for k, r in enumerate(ranks)
    ]
    least, most = max(float((s**2).sum()) for s in tails), sum(float((s**2).sum()) for s in tails)
    with mock.patch.object(tensors, "SWEEPS", 0):
        svd = error(x, leco.TensorTrain(ranks).compress(x, 1.0))
    assert (
        least
        <= error(x, leco.TensorTrain(ranks).compress(x, 1.0)) ** 2 * EQUAL
        <= svd**2 * EQUAL**2
        <= most * EQUAL**3
    )


@pytest.mark.parametrize(
    "compression",
    [leco.Tucker2((5, 4)), leco.Tucker((5, 4, 2, 2)), leco.CP(4), leco.TensorTrain((5, 6, 2))],
    ids=label,
)
class TestDescent:
    def test_more_sweeps_are_never_worse(self, compression):
        for x in (kernel(False, 5), kernel(True, 5)):
            last = np.inf
            for sweeps in (1, 2, 3, 5, 10, 30):
                with (
                    mock.patch.multiple(tensors, SWEEPS=sweeps, FLAT=-1.0),
                    mock.patch.multiple(tucker_file, SWEEPS=sweeps, FLAT=-1.0),
                ):
                    now = error(x, compression.compress(x, 1.0))
                # CP: another start may come to be the best
                assert now <= last * (1 + 1e-6 if isinstance(compression, leco.CP) else EQUAL)
                last = now

    def test_a_retrained_theta_is_where_it_goes_on_from(self, compression):
        x = kernel(False, 6)
        for noise in (0.003, 0.1, 1.0):
            good = compression.compress(x, 1.0)
            moved = leco.theta.tree.with_free_leaves(
                good, [leaf + noise * leaf.std() * torch.randn_like(leaf) for leaf in leaves(good)]
            )
            before = [leaf.clone() for leaf in leaves(moved)]
            again = compression.compress(x, 1.0, moved)
            assert error(x, again) <= error(x, moved)
            if noise == 0.003:
                assert error(x, again) <= error(x, good) * (1 + 1e-5)
            assert all(torch.equal(a, b) for a, b in zip(before, leaves(moved), strict=True))

    def test_one_sweep_from_a_retrained_theta_is_better_than_it_and_than_one_from_cold(
        self, compression
    ):
        x = kernel(False, 6)
        good = leaves(compression.compress(x, 1.0))
        # the same tensor, its factors no longer orthonormal
        scales = [2.0 ** (len(good) - 1), *[0.5] * (len(good) - 1)]
        near = [
            scale * (leaf + 0.003 * leaf.std() * torch.randn_like(leaf))
            for scale, leaf in zip(scales, good, strict=True)
        ]
        start = leco.theta.tree.with_free_leaves(compression.compress(x, 1.0), near)
        with mock.patch.object(tensors, "SWEEPS", 1), mock.patch.object(tucker_file, "SWEEPS", 1):
            again, cold = compression.compress(x, 1.0, start), compression.compress(x, 1.0)
        assert error(x, again) < min(error(x, start), error(x, cold))

    def test_a_good_theta_is_kept_with_no_sweeps(self, compression):
        x = kernel(False, 7)
        good = compression.compress(x, 1.0)
        with mock.patch.object(tensors, "SWEEPS", 1), mock.patch.object(tucker_file, "SWEEPS", 1):
            assert error(x, compression.compress(x, 1.0, good)) <= error(x, good)

    def test_a_theta_of_other_ranks_or_form_is_no_start(self, compression):
        x = kernel(False, 8)
        cold = compression.compress(x, 1.0)
        for other in (leco.Tucker2((2, 2)), leco.CP(2), leco.TensorTrain((2, 2, 2))):
            warm = compression.compress(x, 1.0, other.compress(x, 1.0))
            assert [leaf.shape for leaf in leaves(warm)] == [leaf.shape for leaf in leaves(cold)]
            assert torch.equal(warm.decompress(), cold.decompress())


def test_more_ranks_are_never_worse():
    x = kernel(False, 9)
    for grow in (
        lambda r: leco.Tucker2((r, r)),
        leco.CP,
        lambda r: leco.TensorTrain((r, r, min(r, 3))),
    ):
        errors = [error(x, grow(r).compress(x, 1.0)) for r in range(1, 9)]
        assert errors == sorted(errors, reverse=True)


# --- ranks by a price


def brute_force(
    x: torch.Tensor, modes: int, alpha: float, mu: float, cost
) -> tuple[tuple[int, ...], float]:
    """The ranks of least objective with the HOSVD's bases, each tuple's projection made and
    measured."""
    a = x.numpy()
    bases = [
        np.linalg.svd(np.moveaxis(a, k, 0).reshape(a.shape[k], -1), full_matrices=True)[0]
        for k in range(modes)
    ]
    found, least = (0,) * modes, np.inf
    for ranks in itertools.product(*(range(n + 1) for n in a.shape[:modes])):
        projected = a
        for k, r in enumerate(ranks):
            projector = bases[k][:, :r] @ bases[k][:, :r].T
            projected = np.moveaxis(np.tensordot(projector, projected, (1, k)), 0, k)
        objective = alpha * cost(ranks) + mu / 2 * float(((a - projected) ** 2).sum())
        if objective < least - 1e-9:
            found, least = ranks, objective
    return found, least


def parameters(shape: tuple[int, ...]):
    def cost(ranks: tuple[int, ...]) -> float:
        factored = sum(r * n for r, n in zip(ranks, shape, strict=False)) + np.prod(
            ranks
        ) * np.prod(shape[len(ranks) :])
        return min(factored, np.prod(shape))

    return cost


@pytest.mark.parametrize("alpha", [0.001, 0.02, 0.1, 0.4, 1.0, 1000.0])
@pytest.mark.parametrize("modes", [1, 2, None])
@pytest.mark.parametrize("structured", [False, True])
def test_ranks_are_those_of_brute_force(structured, modes, alpha):
    x = kernel(structured, 10)[:6, :5, :3, :2]
    selection = leco.TuckerSelection(alpha, modes=modes)
    theta = selection.compress(x, 0.7)
    ranks, objective = brute_force(x, modes or 4, alpha, 0.7, parameters(tuple(x.shape)))
    assert (
        tuple(theta.core.shape[:modes])
        if isinstance(theta, TuckerFactors)
        else tuple(x.shape[:modes])
    ) == ranks
    reached = 0.35 * error(x, theta) ** 2 + selection.price(theta)
    assert reached <= objective * EQUAL
    assert selection.usage(theta) == pytest.approx(parameters(tuple(x.shape))(ranks))


def test_any_cost_is_a_price():
    x = kernel(True, 11)
    table = {(r, s): (r * 7 + s * s * 3) % 11 for r in range(13) for s in range(9)}
    selection = leco.TuckerSelection(0.5, cost=lambda shape, ranks: table[ranks])
    theta = selection.compress(x, 1.0)
    ranks, _ = brute_force(x, 2, 0.5, 1.0, table.__getitem__)
    assert (
        tuple(theta.core.shape[:2]) == ranks
        if isinstance(theta, TuckerFactors)
        else ranks == (12, 8)
    )


def test_a_family_is_its_c_steps_and_a_higher_price_buys_less():
    x = kernel(True, 12)
    family = leco.TuckerSelection(0.0).family(x, 1.0)
    spent = []
    for alpha in (0.0, 0.001, 0.02, 0.1, 1.0, 100.0):
        selection = leco.TuckerSelection(alpha)
        assert torch.equal(family(alpha).decompress(), selection.compress(x, 1.0).decompress())
        spent.append(selection.usage(family(alpha)))
    assert spent == sorted(spent, reverse=True)
    assert spent[0] == x.numel()
    assert spent[-1] == 0
    assert len(set(spent)) > 3


@pytest.mark.parametrize(
    "start", [leco.Tucker2((2, 2)), leco.Tucker2((9, 7)), leco.Tucker2((12, 8))], ids=label
)
def test_ranks_of_the_last_theta_are_a_candidate(start):
    x = kernel(False, 13)
    for alpha in (0.01, 0.3, 2.0):
        selection, last = leco.TuckerSelection(alpha), start.compress(x, 1.0)
        reached = [
            0.5 * error(x, theta) ** 2 + selection.price(theta)
            for theta in (selection.compress(x, 1.0, last), last)
        ]
        assert reached[0] <= reached[1] * EQUAL
        cold = selection.compress(x, 1.0)
        assert reached[0] <= (0.5 * error(x, cold) ** 2 + selection.price(cold)) * EQUAL


def test_the_last_theta_stays_where_rounding_makes_the_new_one_worse():
    x = kernel(False, 14)
    good, other = leco.CP(3).compress(x, 1.0), leco.CP(2).compress(x, 1.0)
    worse = CPFactors(tuple(1.1 * a for a in good.factors))
    kept = tensors.no_worse(x, worse, good)
    assert torch.equal(kept.decompress(), good.decompress())
    assert kept.factors[0].data_ptr() != good.factors[0].data_ptr()
    assert tensors.no_worse(x, worse, other) is worse
    assert tensors.no_worse(x, good, worse) is good


# --- through the driver and the file


def test_a_net_of_tensors_trains_saves_and_loads(tmp_path):
    torch.manual_seed(0)

    def build() -> torch.nn.Module:
        layers = (
            torch.nn.Conv2d(2, 6, 3),
            torch.nn.ReLU(),
            torch.nn.Conv2d(6, 8, 3),
            torch.nn.Flatten(),
            torch.nn.Linear(32, 12),
        )
        return torch.nn.Sequential(*layers, torch.nn.Linear(12, 3))

    tasks = {
        "conv": leco.Task("0.weight", leco.Kernel(), leco.CP(3)),
        "kernel": leco.Task("2.weight", leco.Kernel((0, 2, 3, 1)), leco.TensorTrain((4, 5, 3))),
        "matrix": leco.Task("4.weight", leco.Reshape((3, 4, 4, 8)), leco.TensorTrain((3, 5, 4))),
        "last": leco.Task("5.weight", leco.Kernel(), leco.TuckerSelection(0.001)),
    }
    model = build()
    lc = leco.LC(model, tasks)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    lc.attach(optimizer)
    x, y = torch.randn(64, 2, 6, 6), torch.randint(3, (64,))
    for mu in leco.exponential(0.1, 2.0, 8):
        lc.mu = mu
        optimizer.param_groups[0]["lr"] = leco.stable_lr(0.05, mu)
        for _ in range(5):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        record = lc.step()
    assert record.relative_gap < 0.1
    other = leco.LC(build(), tasks)
    other.load_state_dict(lc.state_dict())
    assert all(
        torch.equal(leaf, again)
        for a, b in zip(lc.thetas.values(), other.thetas.values(), strict=True)
        for leaf, again in zip(leaves(a), leaves(b), strict=True)
    )
    leco.save(tmp_path / "net.safetensors", lc)
    loaded = leco.load(tmp_path / "net.safetensors", build())
    assert all(torch.equal(loaded.get_parameter(name), delta) for name, delta in lc.delta.items())
    free = leco.Retraining(lc)
    assert len(list(free.parameters())) >= sum(len(leaves(theta)) for theta in lc.thetas.values())
    with lc.compressed():
        dense = model(x)
    assert torch.allclose(leco.factorize(model, lc)(x), dense, atol=1e-5)


# --- errors


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (lambda: leco.Tucker2((3,)), ValueError, ("Tucker2: ranks = (3,)", "2 numbers")),
        (lambda: leco.Tucker2((3, 0)), ValueError, ("Tucker2: ranks[1] = 0", "at least 1")),
        (lambda: leco.Tucker2(3), TypeError, ("Tucker2: ranks = 3", "tuple")),
        (lambda: leco.Tucker(()), ValueError, ("Tucker: ranks = ()", "at least 1")),
        (lambda: leco.Tucker((1, 2.0)), TypeError, ("Tucker: ranks[1] = 2.0", "integer")),
        (
            lambda: leco.TensorTrain((1, -1)),
            ValueError,
            ("TensorTrain: ranks[1] = -1", "at least 1"),
        ),
        (lambda: leco.CP(0), ValueError, ("CP: rank = 0", "at least 1")),
        (lambda: leco.CP(True), TypeError, ("CP: rank = True", "integer")),
        (
            lambda: leco.TuckerSelection(-1.0),
            ValueError,
            ("TuckerSelection: alpha = -1.0", "at least 0"),
        ),
        (
            lambda: leco.TuckerSelection(1.0, modes=0),
            ValueError,
            ("TuckerSelection: modes = 0", "at least 1"),
        ),
        (
            lambda: leco.Tucker2((13, 2)).check(torch.Size(SHAPE)),
            ValueError,
            ("Tucker2: ranks[0] = 13", "at most 12"),
        ),
        (
            lambda: leco.Tucker2((1, 1)).check(torch.Size((5,))),
            ValueError,
            ("Tucker2", "(5,)", "Kernel()"),
        ),
        (
            lambda: leco.Tucker((1, 2)).check(torch.Size(SHAPE)),
            ValueError,
            ("Tucker: ranks = (1, 2)", "4 numbers", "(12, 8, 3, 3)"),
        ),
        (
            lambda: leco.Tucker((1, 2, 3, 4)).check(torch.Size(SHAPE)),
            ValueError,
            ("Tucker: ranks[3] = 4", "at most 3"),
        ),
        (
            lambda: leco.TuckerSelection(1.0, modes=3).check(torch.Size((5, 4))),
            ValueError,
            ("TuckerSelection: modes = 3", "(5, 4)"),
        ),
        (lambda: leco.CP(73).check(torch.Size(SHAPE)), ValueError, ("CP: rank = 73", "at most 72")),
        (lambda: leco.CP(1).check(torch.Size((5,))), ValueError, ("CP", "(5,)", "Kernel()")),
        (
            lambda: leco.TensorTrain((1, 2)).check(torch.Size(SHAPE)),
            ValueError,
            ("TensorTrain: ranks = (1, 2)", "3 numbers"),
        ),
        (
            lambda: leco.TensorTrain((13, 9, 3)).check(torch.Size(SHAPE)),
            ValueError,
            ("TensorTrain: ranks[0] = 13", "at most 12"),
        ),
        (
            lambda: leco.TensorTrain((1, 9, 3)).check(torch.Size(SHAPE)),
            ValueError,
            ("TensorTrain: ranks[1] = 9", "at most 8"),
        ),
        (
            lambda: leco.TensorTrain((5, 5, 4)).check(torch.Size(SHAPE)),
            ValueError,
            ("TensorTrain: ranks[2] = 4", "at most 3"),
        ),
    ],
)
def test_an_option_out_of_range_is_named(make, kind, words):
    with pytest.raises(kind) as caught:
        make()
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_ranks_on_the_bound_fit():
    leco.Tucker2((12, 8)).check(torch.Size(SHAPE))
    leco.CP(72).check(torch.Size(SHAPE))
    leco.TensorTrain((12, 9, 3)).check(torch.Size(SHAPE))
    leco.TensorTrain((1, 8, 3)).check(torch.Size(SHAPE))
    assert leco.Tucker2([3, 2]) == leco.Tucker2((3, 2))
