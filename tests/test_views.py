"""Views are bijections; `match` finds parameters."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import leco
from leco.views import VIEWS

CASES = {
    "vector": (leco.Vector(), [(2, 3), (4,), ()]),
    "vector of one": (leco.Vector(), [(2, 3, 2)]),
    "rows": (leco.Rows(), [(4, 3, 2, 2), (5, 12)]),
    "rows of a transposed convolution": (leco.Rows(1), [(3, 4, 2, 2)]),
    "groups": (leco.Groups(3), [(2, 3), (9,)]),
    "subvectors": (leco.Subvectors(2), [(4, 6)]),
    "subvectors of kernels": (leco.Subvectors(6), [(4, 3, 2, 2), (5, 12)]),
    "matrix": (leco.Matrix(), [(4, 6)]),
    "matrices stacked": (leco.Matrix(), [(4, 6), (2, 3, 2)]),
    "scheme 1": (leco.Matrix((0,)), [(4, 3, 5, 2)]),
    "scheme 2": (leco.Matrix((0, 2)), [(4, 3, 5, 2)]),
    "tiles": (leco.Tiles(2, 3), [(4, 6), (2, 3, 2)]),
    "tiles that are rows": (leco.Tiles(1, 6), [(4, 6)]),
    "channels": (leco.Channels(4, (0, 0, 1)), [(4, 3, 2, 2), (4,), (3, 4, 2)]),
    "channels of one tensor": (leco.Channels(3, (1,)), [(2, 3, 2)]),
    "heads": (leco.Channels(2, (0, 0, 1)), [(6, 3), (6,), (4, 6)]),
    "heads of stacked queries, keys and values": (
        leco.Channels(2, (0, 0, 1), (3, 3, 1)),
        [(12, 4), (12,), (4, 4)],
    ),
    "kernel": (leco.Kernel(), [(4, 3, 5, 2)]),
    "kernel, channels last": (leco.Kernel((0, 2, 3, 1)), [(4, 3, 5, 2)]),
    "matrix of four modes": (leco.Reshape((2, 3, 2, 5)), [(6, 10)]),
    "kernel as a vector": (leco.Reshape((24,)), [(4, 3, 2)]),
}


def numbered(shapes):
    """Tensors whose entries are all different."""
    sizes = [math.prod(s) for s in shapes]
    return [
        part.reshape(s)
        for part, s in zip(
            torch.arange(sum(sizes), dtype=torch.float64).split(sizes), shapes, strict=True
        )
    ]


@pytest.mark.parametrize("case", CASES)
def test_backward_undoes_forward_and_forward_undoes_backward(case):
    view, shapes = CASES[case]
    shapes = [torch.Size(s) for s in shapes]
    tensors = numbered(shapes)
    x = view.forward(tensors)
    assert x.shape == view.shape(shapes)
    assert sorted(x.reshape(-1).tolist()) == sorted(
        v for t in tensors for v in t.reshape(-1).tolist()
    )
    back = view.backward(x, shapes)
    assert all(torch.equal(a, b) for a, b in zip(back, tensors, strict=True))
    y = torch.randn_like(x)
    assert torch.equal(view.forward(view.backward(y, shapes)), y)


def test_every_view_is_tried():
    assert {type(view) for view, _ in CASES.values()} | {leco.Blocks} == set(VIEWS)


def test_blocks_are_the_tensors_themselves():
    shapes = [torch.Size(shape) for shape in [(2, 3), (4,), (1, 1, 2)]]
    tensors = numbered(shapes)
    blocks = leco.Blocks().forward(tensors)
    assert type(blocks) is tuple
    assert leco.Blocks().shape(shapes) == tuple(shapes)
    assert all(a is b for a, b in zip(leco.Blocks().backward(blocks, shapes), tensors, strict=True))


@given(st.lists(st.integers(1, 4), min_size=2, max_size=4), st.data())
def test_matrix_is_a_bijection_for_any_rows(shape, data):
    rows = data.draw(
        st.lists(st.integers(0, len(shape) - 1), min_size=1, max_size=len(shape), unique=True)
    )
    view, shapes = leco.Matrix(tuple(rows)), [torch.Size(shape)]
    tensors = numbered(shapes)
    assert torch.equal(view.backward(view.forward(tensors), shapes)[0], tensors[0])


def test_rows_are_output_channels_and_scheme_2_is_out_height_by_in_width():
    kernel = torch.randn(4, 3, 5, 2)
    assert torch.equal(leco.Rows().forward([kernel])[2], kernel[2].reshape(-1))
    assert torch.equal(leco.Rows(1).forward([kernel])[2], kernel[:, 2].reshape(-1))
    matrix = leco.Matrix((0, 2)).forward([kernel])
    assert matrix.shape == (20, 6)
    assert matrix[3 * 5 + 4, 2 * 2 + 1] == kernel[3, 2, 4, 1]


def test_kernel_with_channels_last_is_out_height_width_in():
    kernel = torch.randn(4, 3, 5, 2)
    x = leco.Kernel((0, 2, 3, 1)).forward([kernel])
    assert x.shape == (4, 5, 2, 3)
    assert x[3, 4, 1, 2] == kernel[3, 2, 4, 1]


def test_channels_last_tensors_are_seen_in_logical_order():
    kernel = torch.randn(4, 3, 5, 2)
    for view in (
        leco.Vector(),
        leco.Rows(),
        leco.Matrix((0, 2)),
        leco.Kernel((0, 2, 3, 1)),
        leco.Reshape((8, 15)),
    ):
        assert torch.equal(
            view.forward([kernel.to(memory_format=torch.channels_last)]), view.forward([kernel])
        )


@pytest.mark.parametrize(
    ("view", "shapes", "message"),
    [
        (leco.Rows(), [(2, 3), (2, 4)], r"lengths \[3, 4\]"),
        (leco.Rows(2), [(2, 3)], r"dim = 2 must be at least 0 and below 2"),
        (leco.Groups(4), [(2, 3)], r"size = 4 does not divide the 6 entries"),
        (leco.Subvectors(4), [(4, 6)], r"size = 4 does not divide the rows' length 6"),
        (leco.Subvectors(2), [(4, 6), (4, 8)], r"lengths \[6, 8\] can't be stacked"),
        (leco.Matrix((0, 0)), [(2, 3)], r"rows = \(0, 0\) must be distinct"),
        (leco.Matrix((2,)), [(2, 3)], r"rows = \(2,\)"),
        (leco.Matrix(), [(5,)], r"needs at least 2"),
        (leco.Matrix(), [(2, 3), (2, 4)], "can't be stacked"),
        (leco.Tiles(2, 3), [(4, 4)], r"height = 2, width = 3 must divide the matrix 4 x 4"),
        (leco.Tiles(1, 1), [(4,)], r"must divide the matrix 1 x 0"),
        (leco.Channels(2, (0,)), [(4, 4), (4,)], r"dims = \(0,\) must have 2 numbers"),
        (
            leco.Channels(3, (0, 0)),
            [(6, 4), (4,)],
            r"3 groups, 1 times, must divide dimension 0 of a tensor of shape \(4,\)",
        ),
        (leco.Channels(2, (0,), (3,)), [(8, 4)], r"2 groups, 3 times, must divide dimension 0"),
        (leco.Channels(2, (1,)), [(4,)], r"dimension 1 of a tensor of shape \(4,\)"),
        (leco.Kernel(), [(2, 3), (2, 3)], "takes one parameter, not 2"),
        (
            leco.Kernel((1, 0)),
            [(2, 3, 2)],
            r"order = \(1, 0\) must be the 3 dimensions of \(2, 3, 2\)",
        ),
        (leco.Kernel((1, 1)), [(2, 3)], r"order = \(1, 1\)"),
        (
            leco.Reshape((2, 3)),
            [(2, 4)],
            r"sizes = \(2, 3\) must be positive and have the product 8, the entries of \(2, 4\)",
        ),
        (leco.Reshape((-2, -4)), [(2, 4)], r"sizes = \(-2, -4\) must be positive"),
        (leco.Reshape((6,)), [(2, 3), (2, 3)], "takes one parameter, not 2"),
    ],
)
def test_views_refuse_what_they_can_not_take(view, shapes, message):
    with pytest.raises(ValueError, match=message):
        view.shape([torch.Size(s) for s in shapes])


def test_groups_need_a_positive_size():
    with pytest.raises(ValueError, match="size = 0 must be at least 1"):
        leco.Groups(0)
    with pytest.raises(ValueError, match="Subvectors: size = 0 must be at least 1"):
        leco.Subvectors(0)


def test_subvectors_are_blocks_of_columns_and_kernels():
    kernel = torch.randn(4, 3, 3, 3)
    assert torch.equal(leco.Subvectors(9).forward([kernel])[2, 1], kernel[1, 2].reshape(-1))
    matrix = torch.randn(5, 6)
    assert torch.equal(leco.Subvectors(2).forward([matrix])[1], matrix[:, 2:4])


def test_tiles_and_channels_hold_what_belongs_together():
    matrix = torch.randn(4, 6)
    assert torch.equal(leco.Tiles(2, 3).forward([matrix])[3], matrix[2:, 3:].reshape(-1))
    queries, out = torch.randn(12, 5), torch.randn(5, 4)
    head = leco.Channels(2, (0, 1), (3, 1)).forward([queries, out])[1]
    assert torch.equal(
        head[:30], torch.cat([queries[2:4], queries[6:8], queries[10:12]]).reshape(-1)
    )
    assert torch.equal(head[30:], out[:, 2:].T.reshape(-1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: leco.Tiles(0, 2), "height = 0 and width = 2 must be at least 1"),
        (lambda: leco.Channels(0, (0,)), "groups = 0 and stacked"),
        (lambda: leco.Channels(2, (0,), (0,)), r"stacked = \(0,\) must be at least 1"),
        (lambda: leco.Channels(2, (0,), (1, 1)), r"stacked = \(1, 1\) must have 1 numbers"),
    ],
)
def test_options_of_views_are_checked(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "compression", [leco.Codebook(1), leco.Binary(), leco.TopK(1), leco.Uniform(2)], ids=str
)
def test_a_parameter_without_dimensions(compression):
    scale = nn.ParameterDict({"scale": nn.Parameter(torch.tensor(0.7))})
    lc = leco.LC(scale, leco.each(["scale"], leco.Vector(), compression))
    lc.mu = 1.0
    assert lc.delta["scale"].shape == ()
    assert float(lc.delta["scale"]) == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("view", "message"),
    [
        (leco.Kernel(), "without dimensions can't be kept as it is; take Vector"),
        (leco.Reshape(()), r"sizes = \(\) must be positive"),
        (leco.Rows(), r"dim = 0 must be at least 0 and below 0"),
        (leco.Matrix(), r"rows = \(0,\) must be distinct dimensions of \(\)"),
        (leco.Tiles(1, 1), r"must divide the matrix 1 x 0 of \(\)"),
        (leco.Channels(1, (0,)), "must divide dimension 0 of a tensor of shape"),
    ],
    ids=str,
)
def test_views_of_a_parameter_without_dimensions(view, message):
    scale = nn.ParameterDict({"scale": nn.Parameter(torch.tensor(0.7))})
    with pytest.raises(ValueError, match=f"task 'scale', parameters scale: .*{message}"):
        leco.LC(scale, leco.each(["scale"], view, leco.Binary()))


# --- costs and schedules


def test_multiply_adds_are_positions_times_weights():
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 25, 4)
    )
    counts = leco.multiply_adds(net, torch.zeros(1, 3, 10, 10))
    assert counts == {"0": 8 * 3 * 9 * 25, "3": 8 * 25 * 4}
    assert net.training
    cost = leco.MultiplyAdds(counts["0"] // net[0].weight.numel())
    assert cost(torch.Size([8, 27]), 2) == 2 * (8 + 27) * 25
    assert cost(torch.Size([8, 27]), 8) == 8 * 27 * 25  # dense is cheaper


def test_table_needs_a_value_for_each_rank():
    table = leco.Table([0.0, 1.0, 1.0, 2.0])
    assert table(torch.Size([3, 5]), 2) == 1.0
    with pytest.raises(ValueError, match="4 values must be 5, one for each rank from 0 to 4"):
        table(torch.Size([4, 5]), 2)


def test_exponential_and_its_bounds():
    assert leco.exponential(2.0, 0.5, 3) == [2.0, 1.0, 0.5]
    for bad, message in (
        ((0.0, 1.1, 3), "start = 0.0"),
        ((1.0, -1.0, 3), "factor = -1.0"),
        ((1.0, 1.1, 0), "steps = 0 must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            leco.exponential(*bad)


def test_automatic_goes_from_below_the_curvature_to_above_it():
    mus = leco.automatic(0.5, 9, start=0.01, end=100.0, power=1, from_delta=False)
    assert len(mus) == 9
    assert mus[0] == pytest.approx(0.005)
    assert mus[-1] == pytest.approx(50)
    assert len({round(b / a, 9) for a, b in itertools.pairwise(mus)}) == 1
    assert leco.automatic(0.5, 1, start=0.1, end=1.0, from_delta=False) == [0.05]
    # tenfold in all, from a two-thousandth of the curvature
    near = leco.automatic(0.5, 9)
    assert (near[0], near[4], near[-1]) == pytest.approx((2.5e-4, 2.5e-4 * 10**0.5, 2.5e-3))
    assert leco.automatic(0.5, 9, 0.01, 100.0, 1) == mus
    slow = leco.automatic(0.5, 9, start=0.01, end=100.0, from_delta=False)
    assert slow[4] == pytest.approx(0.005 * 1e4 ** (0.5**1.5))
    assert (slow[0], slow[-1]) == pytest.approx((mus[0], mus[-1]))
    for bad, message in (
        ((-1.0, 3), "curvature = -1.0"),
        ((1.0, 0), "steps = 0"),
        ((1.0, 3, 2.0, 1.0), "start = 2.0"),
        ((1.0, 3, 1.0, 1.0, 0.0), "power = 0.0"),
    ):
        with pytest.raises(ValueError, match=message):
            leco.automatic(*bad)


@pytest.mark.parametrize(
    ("momentum", "nesterov"), [(0.0, False), (0.5, False), (0.9, False), (0.5, True), (0.9, True)]
)
def test_stable_lr_is_half_of_what_sgd_on_the_penalty_bears(momentum, nesterov):
    mu = 3.0
    rate = leco.stable_lr(1e9, mu, momentum, nesterov)

    def end(lr: float) -> float:
        w = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
        optimizer = torch.optim.SGD([w], lr=lr, momentum=momentum, nesterov=nesterov)
        for _ in range(2000):
            w.grad = mu * w.detach()
            optimizer.step()
        return float(w.detach().abs())

    assert end(rate) < 1e-12
    assert end(1.98 * rate) < 1.0
    assert end(2.02 * rate) > 1.0
    assert leco.stable_lr(1e-9, mu, momentum, nesterov) == 1e-9
    with pytest.raises(ValueError, match=r"momentum = 1.0 at least 0 and below 1"):
        leco.stable_lr(0.1, mu, 1.0)
