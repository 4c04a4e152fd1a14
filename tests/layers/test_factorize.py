"""Factorised layers compute what the dense layer computes at Delta(Theta)."""

import copy

import pytest
import torch
from torch import nn

import leco
from leco.layers.factorize import FactoredLinear
from leco.theta import Dense

CONVOLUTIONS = {1: nn.Conv1d, 3: nn.Conv3d}
OPTIONS = [
    {},
    {"stride": 2},
    {"stride": (2, 1), "padding": (0, 2)},
    {"padding": (1, 2), "dilation": (2, 1)},
    {"padding": 1, "stride": (1, 3), "dilation": (1, 2), "bias": False},
    {"padding": "same", "dilation": (1, 2)},
    {"padding": "valid"},
    {"padding": (2, 1), "padding_mode": "reflect"},
    {"padding": (1, 2), "padding_mode": "circular", "stride": 2},
]
FORMS = {
    "scheme 1": (leco.Matrix(), leco.LowRank(3), 2),
    "scheme 2": (leco.Matrix((0, 2)), leco.LowRank(2), 2),
    "rows": (leco.Rows(), leco.LowRank(2), 2),
    "selected, scheme 1": (
        leco.Kernel(),
        leco.ConvRankSelection(1.0, lambda shape, rank: 99 * abs(rank - 2), schemes=(1,)),
        2,
    ),
    "selected, scheme 2": (
        leco.Kernel(),
        leco.ConvRankSelection(1.0, lambda shape, rank: 99 * abs(rank - 2), schemes=(2,)),
        2,
    ),
    "tucker-2": (leco.Kernel(), leco.Tucker2((4, 2)), 3),
    "tucker": (leco.Kernel(), leco.Tucker((4, 2, 1, 1)), 3),
    "one mode": (
        leco.Kernel(),
        leco.TuckerSelection(1.0, lambda shape, ranks: 99 * abs(ranks[0] - 3), modes=1),
        2,
    ),
    "cp": (leco.Kernel(), leco.CP(2), 4),
    "train, reshaped": (leco.Reshape((2, 4, 1)), leco.TensorTrain((2, 2)), 2),
    "train": (leco.Kernel((0, 2, 3, 1)), leco.TensorTrain((2, 2, 2)), 4),
}


def compressed(model: nn.Module, view, compression) -> leco.LC:
    lc = leco.LC(
        model,
        leco.each(
            [name for name, p in model.named_parameters() if name.endswith("weight")],
            view,
            compression,
        ),
    )
    lc.mu = 1.0
    return lc


def same_output(lc: leco.LC, net: nn.Module, x: torch.Tensor) -> bool:
    with lc.compressed():
        expected = lc.model(x)
    found = net(x)
    return found.shape == expected.shape and bool(
        (found - expected).abs().max() <= 1e-10 * expected.abs().max()
    )


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kernel", [(3, 2), (1, 3), (5, 1)], ids=str)
def test_convolution(form, options, kernel):
    view, compression, count = FORMS[form]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, kernel, dtype=torch.float64, **options))
    if isinstance(view, leco.Reshape):
        view = leco.Reshape((2, 4, 3 * kernel[0] * kernel[1]))
    lc = compressed(model, view, compression)
    assert not isinstance(lc.thetas["0.weight"], Dense)
    net = leco.factorize(model, lc)
    assert len(net[0]) == count
    assert same_output(lc, net, torch.randn(2, 3, 13, 12, dtype=torch.float64))
    assert torch.equal(model[0].weight, lc.params["0.weight"])


@pytest.mark.parametrize("dims", [1, 3])
@pytest.mark.parametrize("form", ["scheme 1", "tucker-2", "cp", "train"])
def test_convolution_of_other_dimensions(form, dims):
    view, compression = FORMS[form][:2]
    if form == "train":
        view, compression = (
            leco.Kernel((0, *range(2, dims + 2), 1)),
            leco.TensorTrain((4, 2) if dims == 1 else (4, 6, 4, 2)),
        )
    model = nn.Sequential(
        CONVOLUTIONS[dims](
            3, 8, 2 if dims == 3 else 4, stride=2, padding=1, dilation=2, dtype=torch.float64
        )
    )
    lc = compressed(model, view, compression)
    net = leco.factorize(model, lc)
    assert len(net[0]) == {"scheme 1": 2, "tucker-2": 3, "cp": 2 + dims, "train": 2 + dims}[form]
    assert same_output(lc, net, torch.randn(2, 3, *(9,) * dims, dtype=torch.float64))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("view", "compression", "count"),
    [
        (leco.Matrix(), leco.LowRank(2), 2),
        (leco.Kernel(), leco.LowRank(2), 2),
        (leco.Kernel(), leco.Tucker2((3, 2)), 3),
        (leco.Kernel(), leco.CP(2), 2),
        (leco.Kernel(), leco.TensorTrain((2,)), 2),
        (leco.Reshape((5, 2, 3)), leco.TensorTrain((2, 2)), 2),
    ],
    ids=str,
)
def test_linear(view, compression, count, bias):
    model = nn.Linear(6, 5, bias=bias, dtype=torch.float64)
    lc = compressed(model, view, compression)
    net = leco.factorize(model, lc)
    assert [type(layer) for layer in net] == [nn.Linear] * count
    assert (net[-1].bias is None) != bias
    assert same_output(lc, net, torch.randn(3, 4, 6, dtype=torch.float64))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(2, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 8, 3),
            nn.AdaptiveAvgPool2d(2),
        )
        self.again = self.body[3]  # one layer under two names
        self.head = nn.Linear(32, 8)
        self.tied = nn.Linear(32, 8)
        self.tied.weight = self.head.weight
        self.transposed = nn.Linear(8, 8)
        self.reshaped = nn.Linear(8, 8)
        self.last = nn.Linear(8, 3)

    def forward(self, x):
        x = self.body(x).flatten(1)
        return self.last(self.reshaped(self.transposed(self.head(x) * self.tied(x))))


def net_and_lc() -> tuple[nn.Module, leco.LC]:
    torch.manual_seed(0)
    model = Net().double().eval()
    tasks = {
        "conv": leco.Task("body.3.weight", leco.Kernel(), leco.Tucker2((3, 2))),
        "tied": leco.Task("head.weight", leco.Matrix(), leco.LowRank(2)),
        "transposed": leco.Task("transposed.weight", leco.Matrix((1,)), leco.LowRank(2)),
        "reshaped": leco.Task("reshaped.weight", leco.Reshape((4, 4, 4)), leco.TensorTrain((2, 2))),
        "signs": leco.Task("body.0.weight", leco.Vector(), leco.Binary()),
        "last": leco.Task("last.weight", leco.Matrix(), leco.LowRank(1)),
        "bias": leco.Task("last.bias", leco.Vector(), leco.Binary()),
    }
    lc = leco.LC(model, tasks)
    lc.mu = 1.0
    return model, lc


def test_a_net_keeps_its_other_layers_at_delta():
    model, lc = net_and_lc()
    before = copy.deepcopy(model.state_dict())
    net = leco.factorize(model, lc)
    assert same_output(lc, net, torch.randn(2, 2, 8, 8, dtype=torch.float64))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [type(m) for m in (net.body[3], net.last)] == [nn.Sequential, FactoredLinear]
    assert net.again is net.body[3]
    kinds = [type(m) for m in (net.body[0], net.head, net.transposed, net.reshaped)]
    assert kinds == [nn.Conv2d, nn.Linear, nn.Linear, nn.Linear]
    assert net.head.weight is net.tied.weight
    assert not any(m.training for m in net.modules())
    assert torch.equal(net.body[0].weight, lc.delta["body.0.weight"])


def test_tasks_by_themselves():
    model, lc = net_and_lc()
    net = leco.factorize(model, leco.algorithm.compressed.compressed_tasks(lc))
    x = torch.randn(2, 2, 8, 8, dtype=torch.float64)
    assert torch.equal(net(x), leco.factorize(model, lc)(x))


def test_several_weights_in_one_task_stay_dense():
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(6, 4)).double()
    lc = leco.LC(
        model, {"both": leco.Task(["0.weight", "1.weight"], leco.Matrix(), leco.LowRank(2))}
    )
    lc.mu = 1.0
    net = leco.factorize(model, lc)
    assert [type(m) for m in net] == [nn.Linear] * 2
    assert all(torch.equal(net.get_parameter(name), delta) for name, delta in lc.delta.items())


def test_rank_0_and_full_rank_stay_dense():
    for rank in (0, 4):
        model = nn.Linear(6, 4)
        assert (
            type(leco.factorize(model, compressed(model, leco.Matrix(), leco.LowRank(rank))))
            is nn.Linear
        )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("groups", [2, 4])
def test_groups(form, groups):
    view, compression, count = FORMS[form]
    model = nn.Sequential(
        nn.Conv2d(
            4 * groups,
            8,
            (3, 2),
            groups=groups,
            stride=(1, 2),
            padding=(2, 1),
            dilation=(2, 1),
            dtype=torch.float64,
        )
    )
    if isinstance(view, leco.Reshape):
        view = leco.Reshape((2, 4, 24))
    lc = compressed(model, view, compression)
    net = leco.factorize(model, lc)
    assert len(net[0]) == count
    assert same_output(lc, net, torch.randn(2, 4 * groups, 9, 8, dtype=torch.float64))


def test_depthwise_convolution():
    model = nn.Sequential(nn.Conv2d(6, 6, 5, groups=6, dtype=torch.float64))
    lc = compressed(model, leco.Kernel(), leco.CP(2))
    assert same_output(lc, leco.factorize(model, lc), torch.randn(2, 6, 9, 8, dtype=torch.float64))


def test_state_round_trip_export_and_autocast():
    model, lc = net_and_lc()
    net = leco.factorize(model, lc)
    x = torch.randn(2, 2, 8, 8, dtype=torch.float64)
    other = leco.factorize(Net().double().eval(), lc)
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(x), net(x))
    exported = torch.export.export(net, (x,)).module()
    assert torch.allclose(exported(x), net(x))
    state = torch.get_rng_state()
    leco.factorize(model, lc)
    assert torch.equal(torch.get_rng_state(), state)
    single = net.float()
    with torch.autocast("cpu", torch.bfloat16):
        assert single(x.float()).dtype == torch.bfloat16
    single(x.float()).sum().backward()
    assert all(p.grad is not None for p in single.body[3].parameters())


def test_compile():
    model, lc = net_and_lc()
    net, x = leco.factorize(model, lc), torch.randn(2, 2, 8, 8, dtype=torch.float64)
    assert torch.allclose(
        torch.compile(net, fullgraph=True, backend="aot_eager")(x), net(x), rtol=1e-10
    )


def test_the_fast_path_of_an_encoder_layer_reads_the_weights():
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).double().eval()
    lc = leco.LC(
        model, leco.each(["linear1.weight", "linear2.weight"], leco.Matrix(), leco.LowRank(3))
    )
    lc.mu = 1.0
    with torch.no_grad():
        assert same_output(
            lc, leco.factorize(model, lc), torch.randn(2, 3, 16, dtype=torch.float64)
        )


def test_multiply_adds_are_those_of_the_cost():
    model = nn.Sequential(nn.Conv2d(6, 8, 3, padding=1, stride=2))
    lc = compressed(model, leco.Kernel(), leco.Tucker2((3, 2)))
    counts = leco.multiply_adds(leco.factorize(model, lc), torch.zeros(1, 6, 8, 8))
    assert sum(counts.values()) == leco.TuckerMultiplyAdds(16, 64)(torch.Size([8, 6, 3, 3]), (3, 2))
    assert leco.TuckerMultiplyAdds(16)(torch.Size([8, 6, 3, 3]), (8, 6)) == 8 * 6 * 9 * 16
