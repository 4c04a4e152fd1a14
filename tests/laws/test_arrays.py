"""Every compression that takes one array of floats refuses anything else, and names itself."""

import pytest
import torch

from laws.case import MU, raises
from laws.cases import CASES
from leco.compressions import Additive, Budget, Choice

BLOCKS = (torch.Size([4, 3]), torch.Size([2, 3]))
OF_BLOCKS = (Additive, Budget, Choice)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_single_number_and_blocks_are_refused(case):
    if isinstance(case.compression, OF_BLOCKS):
        return
    name = type(case.compression).__name__
    raises(ValueError, lambda: case.compression.check(torch.Size([])), name, "leco.Vector()")
    raises(ValueError, lambda: case.compression.check(BLOCKS), name, "blocks", "leco.Vector()")
    x = torch.randn(4, 3), torch.randn(2, 3)
    raises(ValueError, lambda: case.compression.compress(x, MU), name, "blocks")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("dtype", [torch.int32, torch.complex64])
def test_what_holds_no_floats_is_refused(case, dtype):
    x = torch.ones(case.shape, dtype=dtype)
    name = type(case.compression).__name__
    raises(TypeError, lambda: case.compression.compress(x, MU), name, "floating-point", str(dtype))
