"""Norms of many tensors."""

import math
import weakref
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from leco.algorithm.record import differences, norm


def test_the_norm_of_all_entries():
    tensors = [torch.randn(shape, dtype=torch.float64) for shape in ((3, 4), (7,), ())]
    whole = torch.cat([t.reshape(-1) for t in tensors])
    assert norm(tensors) == pytest.approx(float(whole.norm()), rel=1e-14)
    assert norm([]) == 0


def test_many_entries_are_summed_in_double_precision():
    x = torch.full((3 * 2**20 + 5,), 0.1)
    exact = math.sqrt(x.numel()) * float(x[0])
    assert norm([x]) == pytest.approx(exact, rel=1e-10)


def test_one_tensor_is_held_at_a_time():
    """Differences that are made one after the other take the memory of one."""
    made = list[weakref.ref[Tensor]]()

    def differences() -> Iterator[Tensor]:
        for _ in range(3):
            assert all(ref() is None for ref in made)
            difference = torch.ones(5)
            made.append(weakref.ref(difference))
            yield difference
            del difference

    assert norm(differences()) == pytest.approx(math.sqrt(15))
    assert len(made) == 3


def test_differences_are_those_of_the_whole_tensors():
    torch.manual_seed(0)
    shapes = (3 * 2**19 + 7,), (5, 4, 3), ()
    a, b = ([torch.randn(shape) for shape in shapes] for _ in range(2))
    a[1], b[1] = a[1].transpose(0, 2), b[1].transpose(0, 2)
    whole = torch.cat([(x - y).reshape(-1) for x, y in zip(a, b, strict=True)])
    parts = list(differences(a, b))
    assert torch.equal(torch.cat(parts), whole)
    assert max(map(len, parts)) == 2**20
