"""What a task says of the modules that have its parameters."""

import warnings

import pytest
import torch
from conv1d import Tiny
from torch import nn

import leco


def test_rows_of_a_transposed_layer_are_its_inputs():
    net = Tiny()
    with pytest.warns(UserWarning, match=r"'up.weight' .* of a Conv1D: .*Rows\(1\) has one for"):
        leco.LC(net, leco.each(["up.weight"], leco.Rows(), leco.Binary()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lc = leco.LC(net, leco.each(["up.weight"], leco.Rows(1), leco.Binary()))
    lc.mu = 1.0
    assert lc.thetas["up.weight"].scale.shape == (32,)


PADDED = [
    (leco.Vector(), leco.Binary(), True),
    (leco.Vector(), leco.Codebook(2), True),
    (leco.Groups(8), leco.VectorCodebook(2), True),
    (leco.Vector(), leco.FixedCodebook((-1.0, 1.0)), True),
    (leco.Vector(), leco.FixedCodebook((-1.0, 0.0, 1.0)), False),
    (leco.Vector(), leco.Ternary(), False),
    (leco.Vector(), leco.Uniform(4), False),
    (leco.Vector(), leco.TopK(20), False),
    (leco.Rows(), leco.Binary(), False),
    (leco.Groups(2), leco.Codebook(2), False),
]


@pytest.mark.parametrize(("view", "compression", "moves"), PADDED, ids=str)
def test_a_padding_row_that_does_not_stay_0_is_named(view, compression, moves):
    net = nn.Embedding(9, 8, padding_idx=3)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        lc = leco.LC(net, leco.each(["weight"], view, compression))
    texts = [str(w.message) for w in said]
    assert bool(texts) == moves
    assert all("'weight' is of an Embedding with padding_idx = 3" in text for text in texts)
    lc.mu = 1.0
    assert bool(lc.delta["weight"][3].any()) == moves


def test_a_padding_row_that_is_trained_is_no_matter():
    net = nn.Embedding(9, 8, padding_idx=3)
    with torch.no_grad():
        net.weight[3] = 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        leco.LC(net, leco.each(["weight"], leco.Vector(), leco.Binary()))
