"""Tensors for the tests of coding, and the check that they come back."""

import json
from typing import Any

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from leco.coding.tensors import decode, encode, size

quick = settings(max_examples=80, deadline=None, derandomize=True)
seeds = st.integers(0, 2**31)


def comes_back(x: Tensor) -> int:
    """The bytes it took, after all checks."""
    payload, coding = encode(x)
    assert payload.dtype == torch.uint8
    assert payload.dim() == 1
    assert size(x) == len(payload)
    back = decode(payload, coding, x.shape, x.dtype)
    assert back.dtype == x.dtype
    assert torch.equal(back, x)
    return len(payload)


def digits(base: int, shape, seed: int, dtype: torch.dtype) -> Tensor:
    """Random integers below `base`, with base - 1 among them."""
    x = torch.randint(base, shape, generator=torch.Generator().manual_seed(seed))
    if x.numel():
        x.view(-1)[seed % x.numel()] = base - 1
    return x.to(dtype)


def sparse_mask() -> Tensor:
    """100 True entries at equal distances, the last at 9999."""
    mask = torch.zeros(100_000, dtype=torch.bool)
    mask[99:10_000:100] = True
    return mask


def sparse(m: int, n: int, share: float, seed: int) -> Tensor:
    """Random rows and columns of a random matrix have entries, of 1 to 5."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = (torch.rand(k, generator=generator) for k in (m, n))
    return (
        torch.rand(m, n, generator=generator) < 4 * share * rows.square().unsqueeze(1) * columns
    ).int() * torch.randint(1, 6, (m, n), generator=generator)


def kernels(base: int, count: int) -> Tensor:
    """3 x 3 kernels whose rows are mostly of one value each, as those of trained nets almost
    are."""
    generator = torch.Generator().manual_seed(base)
    rows = torch.randint(base, (count, 3, 1), generator=generator).expand(-1, -1, 3)
    noise = torch.rand(count, 3, 3, generator=generator) < 0.05
    return torch.where(noise, torch.randint(base, rows.shape, generator=generator), rows).to(
        torch.uint8
    )


PINNED = [
    (
        torch.tensor(
            [[(i == 3 and j < 15) + 2 * (i in (20, 21)) for j in range(30)] for i in range(40)],
            dtype=torch.uint8,
        ),
        {
            "name": "rows",
            "transposed": 0,
            "parts": [
                [12, {"name": "entropy", "base": 6}],
                [12, {}],
                [10, {"name": "digits", "base": 2}],
            ],
        },
        "ff000000abbb34111369ff02" + "7ef6ffff0c11784037c3c8e6" + "0080ffffffffffffff07",
    ),
    (
        (torch.arange(400) ** 2 // 7 % 11 % 3 * (torch.arange(400) % 9 == 0)).to(torch.uint8),
        {"name": "entropy", "base": 3},
        "ffadb3" + "a6a2cd8da391020ddcfc562acfc65308a5ab755414e58e",
    ),
]


def damaged(coding: dict[str, Any], place: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """A copy with one entry changed."""
    copied = json.loads(json.dumps(coding))
    inner = copied
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return copied
