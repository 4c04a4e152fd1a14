"""What an LC refuses when it is made, and values of mu that it refuses."""

import pytest
import torch
from small_nets import network, tasks
from torch import nn

import leco


def broken(name: str):
    model = network()
    binary = leco.Binary()
    if name == "meta":
        model = nn.Linear(2, 2, device="meta")
    if name == "nan":
        with torch.no_grad():
            model[0].weight[1, 2] = float("inf")
    weight = "weight" if name == "meta" else "0.weight"
    params = {"unknown": "0.weigth", "twice": ("0.weight", "0.weight")}.get(name, weight)
    made = {"t": leco.Task(params, leco.Vector(), leco.TopK(36) if name == "kappa" else binary)}
    if name == "two tasks":
        made["u"] = leco.Task(("2.weight", "0.weight"), leco.Vector(), binary)
    if name == "rank":
        made = {"t": leco.Task("0.weight", leco.Matrix(), leco.LowRank(6))}
    if name == "k":
        made = {"t": leco.Task("2.weight", leco.Rows(), leco.Codebook(8))}
    if name == "view":
        made = {"t": leco.Task(("0.weight", "2.weight"), leco.Rows(), binary)}
    return model, {} if name == "empty" else made


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("unknown", r"task 't': the model has no parameter '0.weigth' \(there are \['0.weight'"),
        ("twice", r"task 't': parameter '0.weight' stands in it twice"),
        ("two tasks", r"task 'u': parameter '0.weight' is in task 't' already"),
        ("kappa", r"task 't', parameters 0.weight: .*kappa = 36 must be at most 35"),
        ("rank", r"task 't', parameters 0.weight: .*rank = 6 must be at least 0 and at most 5"),
        ("k", r"task 't', parameters 2.weight: .*k = 8 must be at most 7"),
        ("view", r"task 't', parameters 0.weight, 2.weight: Rows: rows of lengths \[5, 7\]"),
        ("nan", r"task 't': parameter '0.weight' has 1 NaN or infinite entries of 35"),
        ("meta", r"task 't': parameter 'weight' is on the meta device"),
        ("empty", r"tasks is empty"),
    ],
)
def test_construction_names_what_is_wrong(name, message):
    with pytest.raises(ValueError, match=message):
        leco.LC(*broken(name))


def test_task_checks_its_arguments():
    with pytest.raises(TypeError, match=r"the order is Task\(params, view, compression\)"):
        leco.Task("w", leco.Binary(), leco.Vector())
    with pytest.raises(TypeError, match="not an instance of a compression"):
        leco.Task("w", leco.Vector(), leco.Binary)
    with pytest.raises(ValueError, match="params is empty"):
        leco.Task((), leco.Vector(), leco.Binary())


@pytest.mark.parametrize("mu", [0.0, -1.0, float("nan"), float("inf")])
def test_mu_must_be_positive(mu):
    lc = leco.LC(network(), tasks())
    with pytest.raises(ValueError, match="must be positive and finite"):
        lc.mu = mu
    with pytest.raises(ValueError, match="mu is not set"):
        lc.step()


def test_decreasing_mu_warns():
    lc = leco.LC(network(), tasks())
    lc.mu = 1.0
    with pytest.warns(UserWarning, match=r"goes down from 1.0 to 0.5"):
        lc.mu = 0.5


def test_frozen_parameters_warn_at_construction_and_fail_at_attach():
    model = network()
    model[0].weight.requires_grad_(False)
    with pytest.warns(UserWarning, match=r"task 'first': parameter '0.weight' is frozen"):
        lc = leco.LC(model, tasks())
    with pytest.raises(ValueError, match=r"'0.weight' of task 'first' is frozen"):
        lc.attach(torch.optim.SGD(model.parameters(), lr=0.1))
