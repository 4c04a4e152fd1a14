"""What forms tell of themselves, and a form of a user's own that tells it too."""

import math
from typing import NamedTuple

import pytest
import torch
from tampering import COMPRESSIONS
from torch import Tensor, nn

import leco
from leco.algorithm.compressed import Compressed
from leco.export.codes import Coded, Grid, Vectors, quantized
from leco.layers.integers import Levels, Lookup
from leco.layers.memory import decoder_of
from leco.theta import (
    THETAS,
    Affine,
    Checked,
    Codes,
    Fixed,
    GroupSparse,
    IndexCoded,
    NMSparse,
    Scaled,
    Shaped,
    Shifted,
    Sparse,
    Sum,
    Term,
    VectorCodes,
    ZeroCodes,
    index_coded,
    take,
)


def deltas(codes: IndexCoded) -> Tensor:
    """The weights of a description, entry by entry."""
    batch = codes.indices.shape[:-1]
    rows = codes.indices.reshape(math.prod(batch), -1).long()
    out = []
    for p, row in enumerate(rows):
        own = [None if f is None else f[p if len(f) > 1 else 0] for f in codes[1:]]
        values, scale, zero = own
        for index in row.tolist():
            w = torch.tensor(float(index)) if values is None else values[index]
            w = w if zero is None else w - zero
            out.append(w if scale is None else scale * w)
    return torch.stack(out).flatten()


THETAS_OF = {
    name: view.forward([torch.randn(9, 12, generator=torch.Generator().manual_seed(0))])
    for name, (view, _) in COMPRESSIONS.items()
}


@pytest.mark.parametrize("name", COMPRESSIONS)
def test_the_description_by_indices_gives_delta(name):
    theta = COMPRESSIONS[name][1].compress(THETAS_OF[name], 1.0)
    codes = index_coded(theta)
    kinds = (Codes, Fixed, Scaled, ZeroCodes, VectorCodes, Affine, Shifted)
    assert (codes is not None) == isinstance(theta, kinds)
    if codes is not None:
        assert torch.equal(deltas(codes), theta.decompress().flatten())
        # a division once and then a product, or a product of quotients
        torch.testing.assert_close(deltas(codes.over(3.0)), theta.decompress().flatten() / 3)
        assert codes.over(1) is codes


@pytest.mark.parametrize("name", COMPRESSIONS)
def test_some_entries_are_those_of_delta(name):
    theta = COMPRESSIONS[name][1].compress(THETAS_OF[name], 1.0)
    if isinstance(theta.decompress(), tuple):
        assert take(theta, torch.arange(4)) is None
        return
    flat = theta.decompress().flatten()
    for at in (torch.arange(24, 60), torch.arange(60).view(5, 12), torch.tensor([7, 3, 3])):
        found = take(theta, at)
        if found is not None:
            assert type(found) is type(theta)
            assert torch.equal(found.decompress().flatten(), flat[at].flatten())


def test_one_value_for_all_problems_is_taken_for_some_entries():
    indices = torch.tensor([[0, 1, 1], [1, 0, 1], [0, 0, 1]])
    theta = Codes(indices, torch.tensor([[-1.0, 2.0]]))
    assert torch.equal(take(theta, torch.tensor([4, 8])).decompress(), torch.tensor([-1.0, 2.0]))
    assert torch.equal(deltas(index_coded(theta)), theta.decompress().flatten())
    mixed = Codes(indices.view(3, 1, 3), torch.tensor([[[-1.0, 2.0]], [[0.0, 1.0]], [[5.0, 6.0]]]))
    assert torch.equal(deltas(index_coded(mixed)), mixed.decompress().flatten())


@pytest.mark.parametrize("form", THETAS, ids=lambda form: form.__name__)
def test_every_form_tells_its_shape(form):
    assert issubclass(form, Shaped)
    assert form.__doc__


@pytest.mark.parametrize(
    ("theta", "message"),
    [
        (Codes(torch.tensor([0, 2]), torch.zeros(2)), "indices from 0 to 2"),
        (Codes(torch.tensor([-1, 1]), torch.zeros(2)), "indices from -1 to 1"),
        (Fixed(torch.tensor([0, 2]), torch.zeros(2)), "below 2"),
        (Scaled(torch.tensor([0, 2]), torch.zeros(2), torch.ones(())), "below 2"),
        (ZeroCodes(torch.tensor([0, 3]), torch.zeros(2)), "below 3"),
        (VectorCodes(torch.tensor([0, 2]), torch.zeros(2, 5)), "below 2"),
        (NMSparse(torch.tensor([0, 6]), torch.zeros(2, 2), 4), "pattern from 0 to 6"),
        (Sparse(torch.tensor([True, True]), torch.zeros(1)), "2 True entries has 1 values"),
        (GroupSparse(torch.tensor([False, True]), torch.zeros(2, 3)), "1 True entries has 2"),
    ],
    ids=lambda x: type(x).__name__,
)
def test_integers_that_name_no_value_are_found(theta, message):
    assert isinstance(theta, Checked)
    with pytest.raises(ValueError, match=message):
        theta.check()


def test_no_indices_are_no_fault():
    Codes(torch.zeros(0, dtype=torch.uint8), torch.zeros(2)).check()


class Signs(NamedTuple):
    """A form of a user's own: w = scale (2 bits - 1)."""

    bits: Tensor
    scale: Tensor

    def decompress(self):
        return self.scale * (2 * self.bits.float() - 1)

    def free(self):
        return ("scale",)

    def index_coded(self):
        return IndexCoded(self.bits, torch.tensor([[-1.0, 1.0]]), self.scale.view(1))


def test_a_form_of_ones_own_is_packed_and_exported_by_its_description():
    theta = Signs(torch.randint(2, (12,), dtype=torch.uint8), torch.tensor(0.5))
    assert isinstance(decoder_of(theta), Lookup)
    task = Compressed({"weight": torch.Size([3, 4])}, leco.Vector(), theta)
    found = quantized({"a": task})["weight"]
    assert isinstance(found, Coded)
    grid = found.grid()
    assert isinstance(grid, Grid)
    assert torch.equal(grid.weights().view(-1), theta.decompress())
    model = nn.Linear(4, 3)
    packed = leco.pack(model, {"a": task})
    assert torch.equal(packed.weight.view(-1), theta.decompress())
    assert packed.packed.form == "Signs"


class Twice(NamedTuple):
    """A form that tells nothing: w = 2 values."""

    values: Tensor

    def decompress(self):
        return 2 * self.values

    def free(self):
        return ("values",)


def test_a_form_that_tells_nothing_has_a_fallback():
    theta = Twice(torch.randn(12))
    assert torch.equal(decoder_of(theta)(), theta.decompress())
    task = Compressed({"weight": torch.Size([3, 4])}, leco.Vector(), theta)
    assert quantized({"a": task}) == {"weight": "Twice"}
    assert take(theta, torch.arange(3)) is None
    assert torch.equal(
        leco.factorize(nn.Linear(4, 3), {"a": task}).weight.view(-1), 2 * theta.values
    )


def test_a_grid_without_a_zero_point():
    levels = torch.tensor([[0, 3, 17], [9, 1, 2]], dtype=torch.uint8)

    class Steps(Twice):
        def decompress(self):
            return self.values.float() / 2

        def index_coded(self):
            return IndexCoded(self.values, None, torch.tensor([0.5]))

    theta = Steps(levels)
    decoder = decoder_of(theta)
    assert isinstance(decoder, Levels)
    assert torch.equal(decoder(), theta.decompress().flatten())
    task = Compressed({"weight": levels.shape}, leco.Rows(), theta)
    grid = quantized({"a": task})["weight"]
    assert torch.equal(grid.weights().flatten(), theta.decompress().flatten())


def test_the_weights_of_terms_in_terms_are_multiplied():
    """A member of a budget may itself be a sum: its Delta is divided by both weights."""
    codes = Codes(torch.tensor([0, 1, 1, 0]), torch.tensor([-1.0, 3.0]))
    words = VectorCodes(torch.tensor([1, 0]), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    for theta, kind, view in ((codes, Coded, leco.Vector()), (words, Vectors, leco.Groups(2))):
        inner = Sum((Term(theta, view, (0,), weight=2.0),), ((2, 2),), 1)
        outer = Sum((Term(inner, leco.Kernel(), (0,), weight=4.0),), ((2, 2),), 0)
        task = Compressed({"weight": torch.Size([2, 2])}, leco.Blocks(), outer)
        found = quantized({"a": task})["weight"]
        assert isinstance(found, kind)
        assert torch.equal(found.weights().flatten(), theta.decompress().flatten() / 8)
        assert torch.equal(task.deltas()["weight"].flatten(), theta.decompress().flatten() / 8)
