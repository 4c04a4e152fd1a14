"""Second moments of the inputs: the squared change of a layer's outputs is tr(E H E')."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from leco.layerwise.moments import Recorder, all_finite, whole
from tests.conv1d import Conv1D

DOUBLE = torch.float64


class Experts(nn.Module):
    """Stacked weights, of which each row of x takes one."""

    def __init__(self, turned: bool):
        super().__init__()
        shape = (3, 4, 5) if turned else (3, 5, 4)
        self.weight, self.turned = nn.Parameter(torch.randn(shape)), turned

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        groups = x.split([2, 1, len(x) - 3])
        if self.turned:
            return torch.cat([g @ self.weight[e] for e, g in enumerate(groups)])
        return torch.cat([functional.linear(g, self.weight[e]) for e, g in enumerate(groups)])


class Batched(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.bmm(x, self.weight)


LAYERS = {
    "Linear": (lambda: nn.Linear(4, 5), (2, 7, 4)),
    "Conv1D": (lambda: Conv1D(5, 4), (2, 7, 4)),
    "Conv1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=2, dilation=2), (2, 4, 11)),
    "Conv2d": (lambda: nn.Conv2d(4, 6, (3, 2), stride=(1, 2), padding=(1, 0)), (2, 4, 5, 6)),
    "Conv2d, groups": (lambda: nn.Conv2d(4, 6, 3, groups=2, padding="same"), (2, 4, 5, 6)),
    "Conv2d, depthwise": (lambda: nn.Conv2d(4, 4, 3, groups=4), (2, 4, 5, 6)),
    "Conv2d, even, same": (lambda: nn.Conv2d(4, 6, (2, 4), padding="same"), (2, 4, 5, 6)),
    "Conv2d, circular": (
        lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"),
        (2, 4, 5, 6),
    ),
    "Conv2d, one image": (lambda: nn.Conv2d(4, 6, 3), (4, 5, 6)),
    "Conv3d": (lambda: nn.Conv3d(2, 3, (1, 2, 3), padding=(0, 1, 1)), (1, 2, 3, 4, 5)),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(4, 6, 3, stride=2, padding=1), (2, 4, 5)),
    "ConvTranspose2d": (
        lambda: nn.ConvTranspose2d(
            4, 6, (3, 2), stride=2, padding=(1, 0), output_padding=1, groups=2, dilation=(1, 2)
        ),
        (2, 4, 4, 5),
    ),
    "ConvTranspose3d": (lambda: nn.ConvTranspose3d(2, 3, 2, stride=2), (1, 2, 2, 3, 2)),
    "experts": (lambda: Experts(False), (9, 4)),
    "experts, turned": (lambda: Experts(True), (9, 4)),
    "batched products": (Batched, (3, 7, 4)),
}


def squared_change(layer: nn.Module, x: torch.Tensor, change: torch.Tensor) -> float:
    """||f(x; W + E) - f(x; W)||^2, by running the layer."""
    with torch.no_grad():
        before = layer(x)
        layer.weight += change
        after = layer(x)
        layer.weight -= change
    return float((after - before).square().sum())


def by_moments(p: nn.Parameter, recorder: Recorder, change: torch.Tensor) -> float:
    """n tr(E H E'), or n sum of counts times E^2 for an embedding."""
    found = whole(p, recorder.seen["weight"])
    assert not isinstance(found, str), found
    e = found.layout.matrices(change)
    if found.h.dim() == 2:
        return found.samples * float((e.square() * found.h.unsqueeze(1)).sum())
    return found.samples * float(((e @ found.h) * e).sum())


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("name", LAYERS)
def test_the_moments_give_the_change_of_the_outputs(name: str):
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    layer = make().double()
    batches = [torch.randn(shape, dtype=DOUBLE) for _ in range(2)]
    with torch.no_grad(), Recorder({"weight": layer.weight}) as recorder:
        for x in batches:
            layer(x)
    change = torch.randn_like(layer.weight)
    expected = sum(squared_change(layer, x, change) for x in batches)
    assert by_moments(layer.weight, recorder, change) == pytest.approx(expected, rel=1e-10)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("name", LAYERS)
def test_a_layout_gives_the_weight_back(name: str):
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    layer = make().double()
    with torch.no_grad(), Recorder({"weight": layer.weight}) as recorder:
        layer(torch.randn(shape, dtype=DOUBLE))
    found = whole(layer.weight, recorder.seen["weight"])
    assert not isinstance(found, str)
    back = found.layout.weight(found.layout.matrices(layer.weight), layer.weight.shape)
    assert torch.equal(back, layer.weight)


def test_an_embedding_counts():
    layer = nn.Embedding(6, 3).double()
    x = torch.tensor([[0, 1, 1], [5, 1, 0]])
    with torch.no_grad(), Recorder({"weight": layer.weight}) as recorder:
        layer(x)
    change = torch.randn_like(layer.weight)
    found = by_moments(layer.weight, recorder, change)
    assert found == pytest.approx(squared_change(layer, x, change), rel=1e-12)


@pytest.mark.parametrize("kind", ["self", "cross", "separate"])
def test_attention(kind: str):
    """Each projection, by what it is given."""
    torch.manual_seed(0)
    sizes = {"kdim": 6, "vdim": 5} if kind == "separate" else {}
    layer = nn.MultiheadAttention(8, 2, batch_first=True, **sizes).double().eval()
    q = torch.randn(2, 4, 8, dtype=DOUBLE)
    k, v = q, q
    if kind != "self":
        k = torch.randn(2, 3, sizes.get("kdim", 8), dtype=DOUBLE)
        v = torch.randn(2, 3, sizes.get("vdim", 8), dtype=DOUBLE)
    params = {n: p for n, p in layer.named_parameters() if p.dim() == 2}
    plain = layer(q, k, v)[0]
    with torch.no_grad(), Recorder(params) as recorder:
        output = layer(q, k, v)[0]
    torch.testing.assert_close(output, plain, rtol=1e-12, atol=1e-12)

    given = {"q_proj_weight": q, "k_proj_weight": k, "v_proj_weight": v}
    for name, p in params.items():
        found = whole(p, recorder.seen[name])
        assert not isinstance(found, str), (name, found)
        if name in given:
            x = given[name].reshape(-1, p.shape[1])
            torch.testing.assert_close(found.h[0], x.mT @ x / len(x))
        elif name == "in_proj_weight" and kind == "cross":
            for h, x in zip(found.h, (q, k, v), strict=True):
                x = x.reshape(-1, 8)
                torch.testing.assert_close(h * found.samples, x.mT @ x)
        elif name == "in_proj_weight":
            torch.testing.assert_close(found.h[0], q.view(-1, 8).mT @ q.view(-1, 8) / 8)
        else:  # out_proj: the change of its outputs
            change = torch.randn_like(p)
            with torch.no_grad():
                layer.out_proj.weight += change
                moved = (layer(q, k, v)[0] - plain).square().sum()
            by_h = found.samples * ((change @ found.h[0]) * change).sum()
            torch.testing.assert_close(by_h, moved)


def test_layers_that_share_their_inputs_have_the_same_moments():
    a, b = nn.Linear(4, 3), nn.Linear(4, 2)
    with torch.no_grad(), Recorder({"a": a.weight, "b": b.weight}) as recorder:
        for shared in (True, False):  # in one batch they do not
            x = torch.randn(5, 4)
            a(x)
            b(x if shared else x + 1)
    one, two = (whole(p.weight, recorder.seen[n]) for n, p in (("a", a), ("b", b)))
    assert not isinstance(one, str)
    assert not isinstance(two, str)
    assert one.samples == two.samples == 10
    assert not torch.allclose(one.h, two.h)


def test_a_tied_weight_counts_as_the_linear_layer():
    embedding, head = nn.Embedding(6, 3), nn.Linear(3, 6, bias=False)
    head.weight = embedding.weight
    with torch.no_grad(), Recorder({"weight": head.weight}) as recorder:
        head(embedding(torch.tensor([[0, 1]])))
    found = whole(head.weight, recorder.seen["weight"])
    assert not isinstance(found, str)
    assert found.h.shape == (1, 3, 3)


def test_what_has_no_moments_says_why():
    layer, x = nn.Linear(4, 4), torch.randn(5, 4)
    with torch.no_grad(), Recorder({"weight": layer.weight}) as recorder:
        pass
    assert whole(layer.weight, recorder.seen["weight"]) == "no calibration input reaches it"
    with torch.no_grad(), Recorder({"weight": layer.weight}) as recorder:
        functional.linear(x, layer.weight)
        x @ layer.weight
    assert "used both as" in whole(layer.weight, recorder.seen["weight"])
    with torch.no_grad(), Recorder({"weight": layer.weight}) as recorder:
        functional.linear(x[:, :2], layer.weight[:, :2])
    assert "no run of its entries" in whole(layer.weight, recorder.seen["weight"])


def test_nan_names_the_weight():
    layer = nn.Linear(4, 4)
    with torch.no_grad(), Recorder({"fc.weight": layer.weight}) as recorder:
        layer(torch.full((2, 4), torch.nan))
    with pytest.raises(ValueError, match=r"inputs of 'fc.weight' hold NaN"):
        all_finite(recorder.seen.items())
