"""Names do not have the parts of wrappers, and the wrapped net is the net."""

import pytest
import torch
from small_nets import X, network, tasks, train
from torch import nn

import leco
from leco.names import known, named_parameters, named_state, parameter_at, unwrapped

# torch's own, on the first torch.compile
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")


def compiled_inside(net: nn.Sequential) -> nn.Module:
    net[0] = torch.compile(net[0])
    return net


def parallel(net: nn.Module) -> nn.Module:
    return nn.DataParallel(net)


def compiled(net: nn.Module) -> nn.Module:
    return torch.compile(net)


WRAPPERS = {
    "bare": lambda net: net,
    "DataParallel": parallel,
    "compiled": compiled,
    "compiled inside": compiled_inside,
    "all": lambda net: compiled(parallel(compiled_inside(net))),
}
PREFIXES = {
    "DataParallel": "module.",
    "compiled": "_orig_mod.",
    "all": "_orig_mod.module.",
    "bare": "",
    "compiled inside": "",
}


@pytest.mark.parametrize("wrap", WRAPPERS)
@pytest.mark.parametrize("prefixed", [False, True])
def test_an_lc_of_a_wrapped_net_is_that_of_the_net_inside(tmp_path, wrap, prefixed):
    inner, plain = network(), network()
    model = WRAPPERS[wrap](inner)
    made = tasks()
    if prefixed:
        prefix = PREFIXES[wrap]
        made = {
            name: leco.Task([prefix + p for p in task.params], task.view, task.compression)
            for name, task in made.items()
        }
    lcs = leco.LC(model, made), leco.LC(plain, tasks())
    assert lcs[0].model is inner
    assert list(lcs[0].params) == ["0.weight", "2.weight"]
    assert list(lcs[0].rest()) == ["0.bias", "2.bias"]
    for lc in lcs:
        lc.mu = 1.0
        lc.step()
        leco.save(tmp_path / "net", lc)
        lc.restore_(lc.snapshot())
    for name, value in lcs[1].delta.items():
        assert torch.equal(lcs[0].delta[name], value)


@pytest.mark.parametrize("wrap", ["bare", "DataParallel", "compiled"])
def test_a_file_of_a_wrapped_net_loads_into_the_bare_one(tmp_path, wrap):
    lc = leco.LC(WRAPPERS[wrap](network()), tasks())
    lc.mu = 1.0
    leco.save(tmp_path / "net", lc)
    bare = network()
    leco.load(tmp_path / "net", bare)
    assert torch.equal(bare[0].weight, lc.delta["0.weight"])
    assert torch.equal(bare[0].bias, lc.model[0].bias)


def test_names_inside_compiled_modules_as_torch_gives_them():
    net = compiled_inside(network())
    torch_names = [name for name, _ in net.named_parameters()]
    assert torch_names[0] == "0._orig_mod.weight"
    task = leco.Task("0._orig_mod.weight", leco.Vector(), leco.Binary())
    lc = leco.LC(net, {"t": task})
    assert list(lc.params) == ["0.weight"]
    assert parameter_at(net, "0.weight") is lc.params["0.weight"]


def test_a_module_that_is_called_module_keeps_its_name():
    net = nn.ModuleDict({"module": nn.Linear(2, 2), "other": nn.Linear(2, 2)})
    assert unwrapped(net) is net
    assert list(named_parameters(net))[0] == "module.weight"  # noqa: RUF015
    assert known("module.weight", named_parameters(net)) == "module.weight"
    assert set(named_state(net)) == set(net.state_dict())


def test_an_attached_wrapped_net_trains_as_the_bare_one():
    weights = []
    for wrap in (WRAPPERS["bare"], parallel):
        inner = network()
        model = wrap(inner)
        lc = leco.LC(model, tasks())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        lc.attach(optimizer)
        lc.mu = 1.0
        train(inner, optimizer, 2)
        lc.step()
        with lc.compressed():
            weights.append(model(X).detach())
    assert torch.equal(*weights)
