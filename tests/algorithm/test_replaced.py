"""A parameter that is not the model's any more is refused, by name, wherever the LC is used."""

import io

import pytest
import torch
from small_nets import backward, network, tasks
from torch import nn
from torch.nn.utils import parametrizations

import leco
from leco.algorithm.compressed import compressed_tasks


def assign(net: nn.Sequential) -> None:
    net.load_state_dict({n: t.clone() for n, t in net.state_dict().items()}, assign=True)


def new_parameter(net: nn.Sequential) -> None:
    net[0].weight = nn.Parameter(torch.randn(7, 5, dtype=torch.float64))


def weight_norm(net: nn.Sequential) -> None:
    parametrizations.weight_norm(net[0])


def another_layer(net: nn.Sequential) -> None:
    net[0] = nn.Linear(5, 7, dtype=torch.float64)


def no_layer(net: nn.Sequential) -> None:
    net[0] = nn.Identity()


def converted(net: nn.Sequential) -> None:
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        net.float()
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)


REPLACEMENTS = [assign, new_parameter, weight_norm, another_layer, no_layer, converted]
VERBS = {
    "step": lambda lc: lc.step(),
    "c_step": lambda lc: lc.c_step(),
    "multipliers_step": lambda lc: lc.multipliers_step(),
    "penalty": lambda lc: lc.penalty(),
    "compressed": lambda lc: lc.compressed().__enter__(),
    "project_": lambda lc: lc.project_(),
    "snapshot": lambda lc: lc.snapshot(),
    "curvature": lambda lc: lc.curvature(lambda: backward(lc.model)),
    "set_thetas": lambda lc: lc.set_thetas(lc.thetas),
    "load_state_dict": lambda lc: lc.load_state_dict(lc.state_dict()),
    "rest": lambda lc: lc.rest(),
    "attach": lambda lc: lc.attach(torch.optim.SGD(lc.params.values(), lr=0.1)),
    "check_current": lambda lc: lc.check_current(),
    "compressed_tasks": lambda lc: compressed_tasks(lc),
}
MESSAGE = r"parameter '0.weight' was replaced in the model since the LC was made"


def problem() -> leco.LC:
    lc = leco.LC(network(), tasks())
    lc.mu = 1.0
    return lc


@pytest.mark.parametrize("replace", REPLACEMENTS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_names_a_replaced_parameter(verb, replace):
    lc = problem()
    replace(lc.model)
    with pytest.raises(ValueError, match=MESSAGE):
        VERBS[verb](lc)


def test_restore_changes_nothing_then():
    lc = problem()
    kept = lc.snapshot()
    new_parameter(lc.model)
    before = {n: p.detach().clone() for n, p in lc.model.named_parameters()}
    with pytest.raises(ValueError, match=MESSAGE):
        lc.restore_(kept)
    assert all(torch.equal(before[n], p) for n, p in lc.model.named_parameters())


def test_an_optimizer_that_holds_the_old_parameter_is_stopped():
    lc = problem()
    optimizer = torch.optim.SGD(lc.model.parameters(), lr=0.1)
    lc.attach(optimizer)
    new_parameter(lc.model)
    with pytest.raises(ValueError, match=MESSAGE):
        optimizer.step()


def test_save_writes_nothing_then(tmp_path):
    lc = problem()
    new_parameter(lc.model)
    with pytest.raises(ValueError, match=MESSAGE):
        leco.save(tmp_path / "net.safetensors", lc)
    assert list(tmp_path.iterdir()) == []


def test_batch_norm_that_is_fused_away_is_noticed():
    net = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)).double().eval()
    lc = leco.LC(net, {"all": leco.Task("0.weight", leco.Vector(), leco.Binary())})
    lc.mu = 1.0
    net[0] = torch.nn.utils.fuse_conv_bn_eval(net[0], net[1])
    with pytest.raises(ValueError, match=MESSAGE):
        lc.step()


def test_weights_that_keep_their_parameter_are_current():
    lc = problem()
    file = io.BytesIO()
    torch.save(lc.model.state_dict(), file)
    file.seek(0)
    lc.model.load_state_dict(torch.load(file))
    lc.model.float().double()
    lc.check_current()
    lc.step()
