"""Names of parameters by patterns, and what a pattern passes over."""

import re
import warnings

import pytest
from conv1d import Tiny
from torch import nn
from torch.nn.utils import parametrizations, prune

import leco


def model() -> nn.Module:
    return nn.ModuleDict(
        {
            "conv": nn.Conv2d(3, 4, 3),
            "norm": nn.BatchNorm2d(4),
            "layers": nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)),
        }
    )


def test_match_takes_globs_regular_expressions_and_module_types():
    net = model()
    assert leco.match(net, "layers.*.weight") == ("layers.0.weight", "layers.1.weight")
    assert leco.match(net, re.compile(r"layers\.\d\..*")) == (
        "layers.0.weight",
        "layers.0.bias",
        "layers.1.weight",
        "layers.1.bias",
    )
    assert leco.match(net, nn.Linear, nn.Conv2d) == (
        "conv.weight",
        "layers.0.weight",
        "layers.1.weight",
    )
    assert leco.match(net, "*.weight", exclude=[nn.BatchNorm2d, "layers.1.*"]) == (
        "conv.weight",
        "layers.0.weight",
    )


def test_match_says_what_matched_nothing():
    net = model()
    with pytest.raises(
        ValueError,
        match=r"'layer.*.weight' matches none of the model's 8 parameters \(there are .*layers",
    ):
        leco.match(net, "layer.*.weight")
    with pytest.raises(ValueError, match=r"Conv1d.* matches none"):
        leco.match(net, nn.Conv1d)
    with pytest.raises(ValueError, match=r"leaves none of the 1 parameters"):
        leco.match(net, "conv.weight", exclude=["conv.*"])
    with pytest.raises(ValueError, match="at least one pattern"):
        leco.match(net)


def test_an_exact_name_wins_over_a_glob():
    net = nn.ModuleDict({"layers[0]": nn.Linear(3, 2), "layers0": nn.Linear(3, 2)})
    assert leco.match(net, "layers[0].weight") == ("layers[0].weight",)
    assert leco.match(net, "layers[01].weight") == ("layers0.weight",)


def test_an_exact_name_may_be_any_of_a_tied_weight():
    assert leco.match(Tiny(), "head.weight") == ("embed.weight",)


def test_a_function_chooses_by_name_and_parameter():
    net = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 4), nn.Linear(4, 3))

    def fits(name, p):
        return name != "2.weight" and p.ndim == 2 and p.shape[-1] % 4 == 0

    assert leco.match(net, fits) == ("1.weight",)
    assert leco.match(net, "*.weight", exclude=[fits]) == ("0.weight", "2.weight")
    with pytest.raises(ValueError, match="matches none"):
        leco.match(net, lambda name, p: False)
    with pytest.raises(TypeError, match="pattern 3 is a int, must be a string"):
        leco.match(net, 3)


def test_linear_stands_for_transposed_layers_too():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert leco.match(Tiny(), nn.Linear) == ("embed.weight", "up.weight", "down.weight")


@pytest.mark.parametrize(
    ("change", "by", "cure"),
    [
        (nn.utils.spectral_norm, "spectral_norm", "remove_spectral_norm"),
        (lambda m: prune.l1_unstructured(m, "weight", 0.5), "pruning", "prune.remove"),
        (parametrizations.weight_norm, "a parametrization", "remove_parametrizations"),
        (parametrizations.spectral_norm, "a parametrization", "remove_parametrizations"),
    ],
)
def test_a_warning_names_layers_with_a_computed_weight(change, by, cure):
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5))
    change(net[1])
    with pytest.warns(UserWarning, match=rf"Linear passes over .* 1 \({by}; .*{cure}\(module"):
        assert leco.match(net, nn.Linear) == ("0.weight",)
    with pytest.raises(ValueError, match=f"matches none .* in the model itself .*{cure}"):
        leco.match(net[1], nn.Linear)
    assert leco.match(net, "*.bias", exclude=[nn.Linear]) == ("0.bias", "1.bias")


def test_old_weight_norm_is_named_too():
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5))
    with pytest.warns(FutureWarning):
        nn.utils.weight_norm(net[0])
    with pytest.warns(UserWarning, match=r" 0 \(weight_norm; .*remove_weight_norm\(module"):
        assert leco.match(net, nn.Linear) == ("1.weight",)


def test_a_warning_says_that_all_are_tied_to_others():
    net = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5, bias=False), nn.Linear(5, 4))
    net[1].weight = net[0].weight
    assert leco.match(net, nn.Linear) == ("0.weight", "2.weight")
    net = net[:2]
    with pytest.warns(UserWarning, match="matches only weights that are tied .* types: 1"):
        assert leco.match(net, nn.Linear) == ("0.weight",)
