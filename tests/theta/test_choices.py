"""The share of choices that changed, from one Theta to another."""

import math

import torch

from leco.theta import Codes, Sparse, ZeroCodes
from leco.theta.tree import choices, share_changed


def share(before, after) -> float:
    return share_changed(choices([before]), choices([after]))


def zero_codes(indices, codebook) -> ZeroCodes:
    return ZeroCodes(
        torch.tensor(indices, dtype=torch.uint8), torch.tensor(codebook, dtype=torch.float64)
    )


def test_a_dropped_value_changes_only_its_own_weights():
    before = zero_codes([0, 1, 2, 3, 3, 3, 2, 0, 0, 3], [-1.0, 0.5, 2.0])
    after = zero_codes([0, 0, 1, 2, 2, 2, 1, 0, 0, 2], [0.6, 2.1])  # -1 is gone
    assert share(before, after) == 1 / 10
    assert share(after, before) == 1 / 10


def test_values_dropped_down_to_one_and_to_none():
    before = zero_codes([0, 1, 2, 2], [-1.0, 2.0])
    assert share(before, zero_codes([0, 0, 1, 1], [2.1])) == 1 / 4
    assert share(before, zero_codes([0, 0, 0, 0], [])) == 3 / 4
    assert share(zero_codes([0, 0, 0, 0], []), before) == 3 / 4


def test_codebooks_by_row_drop_values_by_row():
    before = zero_codes([[0, 1, 2, 2], [1, 2, 2, 0]], [[-1.0, 2.0], [1.0, 3.0]])
    after = zero_codes([[0, 0, 1, 1], [0, 1, 1, 0]], [[2.1], [3.1]])
    assert share(before, after) == 2 / 8


def test_values_that_move_change_nothing():
    before = zero_codes([0, 1, 2, 2], [-1.0, 2.0])
    assert share(before, zero_codes([0, 1, 2, 2], [3.0, 7.0])) == 0
    codes = Codes(torch.tensor([0, 1, 1]), torch.tensor([0.0, 1.0]))
    assert share(codes, Codes(torch.tensor([0, 1, 0]), torch.tensor([5.0, 9.0]))) == 1 / 3


def test_masks_count_what_is_kept_anew():
    keep = torch.tensor([True, True, False, False])
    other = torch.tensor([True, False, True, False])
    assert share(Sparse(keep, torch.ones(2)), Sparse(other, torch.ones(2))) == 1 / 2
    assert math.isnan(share_changed([], []))
