"""Options are stored as plain numbers, whatever kind of number is given."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

import leco
from laws.case import raises
from laws.cases import CASES


class Index:
    """An integer of another library."""

    def __init__(self, value: int):
        self.value = value

    def __index__(self) -> int:
        return self.value


def foreign(value: Any) -> Any:
    """The option as numbers of numpy and torch."""
    if isinstance(value, bool):
        return np.bool_(value)
    if isinstance(value, int):
        return np.int64(value)
    if isinstance(value, float):
        return np.float64(value)
    return tuple(map(foreign, value)) if type(value) is tuple else value


def numbers(value: Any) -> list[Any]:
    if type(value) is tuple:
        return [n for member in value for n in numbers(member)]
    return [value] if isinstance(value, (int, float)) else []


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_options_are_plain_numbers(case):
    fields = [f.name for f in dataclasses.fields(case.compression) if f.init]
    options = {name: getattr(case.compression, name) for name in fields}
    made = type(case.compression)(**{name: foreign(value) for name, value in options.items()})
    assert made == case.compression
    for name in fields:
        assert {type(n) for n in numbers(getattr(made, name))} <= {bool, int, float}, name


@pytest.mark.parametrize("four", [np.int64(4), np.array(4), torch.tensor(4), np.uint8(4), Index(4)])
def test_anything_with_an_index_is_an_integer(four):
    for made in (leco.Codebook(four), leco.LowRank(four), leco.TopK(four)):
        assert type(next(iter(dataclasses.asdict(made).values()))) is int
    assert leco.Codebook(four) == leco.Codebook(4)
    assert leco.Tucker2((four, four)).ranks == leco.Tucker2([four, 4]).ranks == (4, 4)


@pytest.mark.parametrize("value", [np.float32(0.25), torch.tensor(0.25), np.float64(0.25)])
def test_numpy_and_torch_floats_are_shares_and_prices(value):
    assert leco.TopK(value) == leco.TopK(0.25)
    assert leco.L1Ball(value) == leco.L1Ball(0.25)
    assert type(leco.RankSelection(value).alpha) is float


@pytest.mark.parametrize("value", [np.float64(4.0), torch.tensor(4.0), np.bool_(True), "4", [4]])
def test_what_is_no_integer_is_refused(value):
    raises(TypeError, lambda: leco.Codebook(value), "Codebook: k", "integer")
