"""Singular vectors from Gram matrices against `torch.linalg.svd` in float64."""

import pytest
import torch
from torch import Tensor

import leco
from leco.compressions import svd

SHAPES = [(40, 30), (30, 40), (35, 35), (2000, 16), (16, 2000), (3, 20, 12), (3, 12, 20)]


def draw(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def matrices(shape: tuple[int, ...]) -> dict[str, Tensor]:
    """Singular values that fall slowly, over 12 decades, to 0 after the fifth, in pairs."""
    u, _, vh = torch.linalg.svd(draw(*shape), full_matrices=False)
    k = torch.arange(u.shape[-1], dtype=torch.float64)
    spectra = {
        "slow": 1 / (1 + k),
        "fast": 10.0 ** (-12 * k / len(k)),
        "of rank 5": (k < 5).double(),
        "nearly of rank 5": torch.where(k < 5, 1.0, 1e-7),
        "in pairs": 2.0 ** -(k // 2),
        "one": (k == 0).double(),
        "zero": 0 * k,
    }
    return {name: (u * s) @ vh for name, s in spectra.items()} | {"normal": draw(*shape)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_truncations_have_the_least_error(shape, dtype):
    """As close to it as the rounding of x in this type."""
    for name, x in matrices(shape).items():
        x = x.to(dtype)
        total = float(x.double().square().sum())
        s = torch.linalg.svdvals(x.double())
        found = svd.spectrum(x)
        eps = torch.finfo(dtype).eps
        assert (found.s.double() - s).abs().max() <= 50 * eps * float(s.max()), name
        for rank in range(0, s.shape[-1] + 1, 3):
            u, v = found.factors(rank)
            assert u.isfinite().all()
            assert v.isfinite().all()
            error = float((x.double() - (u @ v).double()).square().sum())
            least = float(s[..., rank:].square().sum())
            # the error of rounding adds to the root of the least one
            assert error**0.5 <= least**0.5 + 20 * eps * total**0.5, (name, rank)


@pytest.mark.parametrize("shape", [(40, 30), (30, 40)])
def test_float32_is_as_exact_as_its_own_svd(shape):
    for name, x in matrices(shape).items():
        x = x.float()
        own_u, own_s, own_vh = torch.linalg.svd(x, full_matrices=False)
        for rank in (1, 4, 5, 8, 20):
            u, v = svd.spectrum(x).factors(rank)
            error = float((x.double() - u.double() @ v.double()).norm())
            theirs = (own_u[:, :rank] * own_s[:rank]).double() @ own_vh[:rank].double()
            allowed = float((x.double() - theirs).norm()) + 1e-6 * float(x.norm())
            assert error <= allowed, (name, rank)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES[:5])
def test_left_vectors_are_orthonormal_and_span_the_leading_space(shape, dtype):
    eps = torch.finfo(dtype).eps
    for name, x in matrices(shape).items():
        x = x.to(dtype)
        s = torch.linalg.svdvals(x.double())
        for rank in (1, 4, 7, min(shape), shape[0]):
            q = svd.left_vectors(x, rank).double()
            assert q.shape == (shape[0], rank)
            assert (q.mT @ q - torch.eye(rank, dtype=torch.float64)).norm() <= 50 * eps * rank
            rest = float((x.double() - q @ (q.mT @ x.double())).norm())
            assert rest <= float(s[rank:].norm()) + 20 * eps * float(x.norm()), (name, rank)


def test_parts_of_the_rows_change_nothing(monkeypatch):
    x = draw(500, 8).float()
    whole = svd.spectrum(x).s
    monkeypatch.setattr(svd, "PART", 64)
    torch.testing.assert_close(svd.spectrum(x).s, whole, rtol=1e-6, atol=0)


def test_factors_are_balanced():
    for shape in ((40, 30), (30, 40)):
        theta = leco.LowRank(7).compress(draw(*shape).float(), 1.0)
        torch.testing.assert_close(theta.u.norm(dim=0), theta.v.norm(dim=1))
