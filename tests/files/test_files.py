"""The file: its length, what it gives back, what it refuses."""

import dataclasses
import os
from typing import NamedTuple

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tampering import COMPRESSIONS, Net, nodes, problem, random_floats, take_apart
from torch import nn

import leco
from leco.compressions import ALL
from leco.theta.tree import leaves, with_leaves
from leco.views import array_shape


def test_every_compression_goes_to_a_file():
    assert {type(compression) for _, compression in COMPRESSIONS.values()} == set(ALL)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", COMPRESSIONS)
def test_a_file_gives_delta_back_to_the_bit(tmp_path, name, dtype):
    torch.manual_seed(0)
    net = nn.Linear(12, 9).to(dtype)
    lc = leco.LC(net, {"t": leco.Task("weight", *COMPRESSIONS[name])})
    lc.mu = 1.0
    size = leco.save(tmp_path / "m.safetensors", lc)
    assert size == os.path.getsize(tmp_path / "m.safetensors")
    again = leco.load(tmp_path / "m.safetensors", nn.Linear(12, 9).to(dtype))
    assert torch.equal(again.weight, lc.delta["weight"])
    assert torch.equal(again.bias, net.bias)
    rows = leco.files.inventory.streams(tmp_path / "m.safetensors")
    assert sum(row.bytes for row in rows) == size
    assert 8 * sum(row.bytes for row in rows if row.kind == "theta") == lc.bits()
    thetas = leco.thetas(tmp_path / "m.safetensors")
    assert torch.equal(thetas["t"].deltas()["weight"].to(dtype), lc.delta["weight"])
    assert all(
        torch.equal(a, b)
        for a, b in zip(leaves(thetas["t"].theta), leaves(lc.thetas["t"]), strict=True)
    )


@pytest.mark.parametrize("name", COMPRESSIONS)
def test_forms_know_the_shape_of_delta_without_memory(name):
    lc = leco.LC(nn.Linear(12, 9), {"t": leco.Task("weight", *COMPRESSIONS[name])})
    lc.mu = 1.0
    theta = lc.thetas["t"]
    meta = with_leaves(theta, (leaf.to("meta") for leaf in leaves(theta)))
    assert meta.shape() == theta.shape() == array_shape(theta.decompress())


def test_every_byte_of_a_file_has_its_row(tmp_path):
    _, lc = problem()
    size = leco.save(tmp_path / "m", lc)
    rows = leco.files.inventory.streams(tmp_path / "m")
    assert size == sum(row.bytes for row in rows)
    assert [row.field for row in rows if row.kind == "overhead"] == [
        "header",
        "description",
        "checksums",
    ]
    assert (
        8 * sum(row.bytes for row in rows if row.kind == "theta") == lc.bits() == lc.record().bits
    )
    for task, theta in lc.thetas.items():
        assert 8 * sum(row.bytes for row in rows if row.task == task) == leco.bits(theta)
    (found,) = (row for row in rows if row.field == "theta.values.codebook")
    assert found[:5] == ("biases", "theta.values.codebook", "float32", (2,), 8)
    assert {row.field for row in rows if row.kind == "rest"} == set(lc.rest())
    assert {row.coding for row in rows} >= {"", "raw", "digits", "gaps", "rows"}


def test_small_tensors_of_one_kind_are_coded_as_one(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(*(nn.BatchNorm1d(16 + n) for n in range(12)), nn.Linear(27, 300))
    for p in net.state_dict().values():
        p.copy_(1 + torch.randn(p.shape)) if p.is_floating_point() else p.fill_(700)
    lc = leco.LC(net, {"a": leco.Task("12.weight", leco.Vector(), leco.Binary())})
    lc.mu = 1.0
    leco.save(tmp_path / "m", lc)
    rows = [row for row in leco.files.inventory.streams(tmp_path / "m") if row.kind == "rest"]
    assert {row.coding for row in rows if row.field != "12.bias"} == {"pool"}
    assert len(rows) == 12 * 5 + 1
    assert sum(row.bytes for row in rows if "num" in row.field) == 0
    means = [row for row in rows if "mean" in row.field]
    assert sum(row.bytes for row in means) < 0.9 * sum(4 * row.shape[0] for row in means)
    again = nn.Sequential(*(nn.BatchNorm1d(16 + n) for n in range(12)), nn.Linear(27, 300))
    leco.load(tmp_path / "m", again)
    for (name, value), other in zip(
        again.state_dict().items(), net.state_dict().values(), strict=True
    ):
        assert name == "12.weight" or torch.equal(value, other), name


def test_thetas_come_without_a_model(tmp_path):
    _, lc = problem()
    leco.save(tmp_path / "m", lc)
    thetas = leco.thetas(tmp_path / "m")
    assert list(thetas) == list(lc.tasks)
    for task in thetas.values():
        for name, delta in task.deltas().items():
            assert torch.equal(delta, lc.delta[name])
            assert task.shapes[name] == delta.shape
    assert thetas["embed"].view == leco.Groups(6)


def test_large_floats_that_no_coding_makes_shorter_stand_in_the_file_as_they_are(tmp_path):
    def architecture():
        net = nn.Linear(64, 32)
        # "leco.2" is the name of the file's own entry
        net.leco = nn.ParameterList([random_floats(2000) for _ in range(3)])
        return net

    net = architecture()
    with torch.no_grad():
        net.weight.copy_(random_floats(32, 64))
    lc = leco.LC(net, {"a": leco.Task("weight", leco.Vector(), leco.Uncompressed())})
    lc.mu = 1.0
    leco.save(tmp_path / "m", lc)
    with safe_open(tmp_path / "m", framework="pt") as file:
        assert set(file.keys()) == {"leco.2", "leco.0", "leco.1", "leco.2_", "a.values"}
        assert torch.equal(file.get_tensor("a.values").view(32, 64), lc.delta["weight"])
    other = leco.load(tmp_path / "m", architecture())
    assert all(
        torch.equal(a, b)
        for a, b in zip(net.state_dict().values(), other.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_rest_may_be_rounded(tmp_path, dtype):
    net, lc = problem()
    net.large.copy_(torch.randn(1100))
    assert leco.save(tmp_path / "half", lc, dtype=dtype) < leco.save(tmp_path / "whole", lc) - 1100
    again = leco.load(tmp_path / "half", problem(seed=1)[0])
    for name, value in lc.rest().items():
        expected = value.to(dtype).to(value.dtype) if value.is_floating_point() else value
        assert torch.equal(again.state_dict()[name], expected)
    for name, delta in lc.delta.items():
        assert torch.equal(again.state_dict()[name], delta)
    with torch.no_grad():
        net.norm.running_var[2] = 65520.0 if dtype == torch.float16 else 3.4e38
        net.norm.running_mean[0] = torch.inf  # is one already
    with pytest.raises(
        ValueError,
        match=rf"'norm.running_var' has the entry (65520|3.4e\+38); "
        rf"{dtype} holds at most (65504|3.38953e\+38)",
    ):
        leco.save(tmp_path / "half", lc, dtype=dtype)
    with pytest.raises(
        ValueError, match=r"dtype = torch.int8 must be torch.float16, torch.bfloat16 or None"
    ):
        leco.save(tmp_path / "half", lc, dtype=torch.int8)


def test_what_a_file_cannot_hold_is_refused_when_saving(tmp_path):
    net, lc = problem()
    net.register_buffer("waves", torch.zeros(2, dtype=torch.complex64))
    with pytest.raises(ValueError, match=r"'waves' is of torch\.complex64; a file holds bool, "):
        leco.save(tmp_path / "m", lc)
    assert list(tmp_path.iterdir()) == []


def test_everything_else_comes_back_too_and_tied_weights_stay_tied(tmp_path):
    net, lc = problem()
    net.norm.running_mean.uniform_()
    leco.save(tmp_path / "m.safetensors", lc)
    other = problem(seed=1)[0]
    same = leco.load(tmp_path / "m.safetensors", other)
    assert same is other
    assert other.head.weight is other.embed.weight
    with lc.compressed():
        for (name, p), q in zip(net.state_dict().items(), other.state_dict().values(), strict=True):
            assert torch.equal(p, q), name


def test_weights_that_are_tied_in_the_file_fill_a_net_where_they_are_not(tmp_path):
    _, lc = problem()
    leco.save(tmp_path / "m", lc)
    apart, tied = Net(), Net()
    apart.head.weight = nn.Parameter(torch.zeros(10, 12))
    leco.load(tmp_path / "m", apart)
    assert torch.equal(apart.head.weight, lc.delta["embed.weight"])
    parts = take_apart(tmp_path / "m")
    parts.description["tied"] = {"head.weight": "norm.bias"}
    parts.write(tmp_path / "m")
    with pytest.raises(
        ValueError, match=r"another architecture: 'head\.weight' is tied to 'norm\.bias'"
    ):
        leco.load(tmp_path / "m", apart)
    lc = leco.LC(apart, {"a": leco.Task("a.weight", leco.Vector(), leco.Binary())})
    lc.mu = 1.0
    leco.save(tmp_path / "m", lc)
    with pytest.raises(
        ValueError, match="another architecture: it has two tensors for one that the model has tied"
    ):
        leco.load(tmp_path / "m", tied)


def test_a_packed_net_computes_what_the_dense_one_does(tmp_path):
    class Autoencoder(Net):
        def forward(self, x):
            return self.b(self.a(self.head.weight[self.head(self.embed(x)).argmax(-1)]))

    torch.manual_seed(0)
    net, tokens = Autoencoder(), torch.arange(10)
    tasks = {
        "tied": leco.Task("embed.weight", leco.Groups(6), leco.Ternary()),
        "a": leco.Task("a.weight", leco.Matrix(), leco.LowRank(2)),
        "b": leco.Task("b.weight", leco.Vector(), leco.TopK(7)),
    }
    lc = leco.LC(net, tasks)
    lc.mu = 1.0
    leco.save(tmp_path / "m", lc)
    dense = leco.load(tmp_path / "m", Autoencoder())
    model = Autoencoder()
    packed = leco.load(tmp_path / "m", model, packed=True)
    assert packed is not model
    assert not torch.equal(net(tokens), dense(tokens))
    torch.testing.assert_close(packed(tokens), dense(tokens))
    size = sum(
        value.nbytes
        for value in {id(v): v for v in packed.state_dict(keep_vars=True).values()}.values()
    )
    assert size < leco.dense_bytes(net) - 4 * 10 * 12 + 200  # the tied weight at 1.6 bits, once


def test_a_tied_weight_in_no_task_is_written_once(tmp_path):
    torch.manual_seed(0)
    net = Net()
    lc = leco.LC(net, {"a": leco.Task("a.weight", leco.Vector(), leco.Binary())})
    lc.mu = 1.0
    for number, snapshot in enumerate((None, lc.snapshot())):
        path = tmp_path / f"{number}.safetensors"
        leco.save(path, lc, snapshot)
        description = leco.describe(path)
        assert sum("embed" in name or "head" in name for name in description["rest"]) == 1
        assert description["tied"] == {"head.weight": "embed.weight"}
        other = leco.load(path, Net())
        assert torch.equal(other.head.weight, net.embed.weight)


def test_a_snapshot_is_saved_as_it_was(tmp_path):
    net, lc = problem()
    kept = lc.snapshot()
    wanted = {name: value.clone() for name, value in lc.delta.items()} | {
        "conv.bias": net.conv.bias.detach().clone()
    }
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(2).add_(0.1)
    lc.c_step()
    leco.save(tmp_path / "m.safetensors", lc, kept)
    other = leco.load(tmp_path / "m.safetensors", Net())
    for name, value in wanted.items():
        assert torch.equal(other.get_parameter(name), value)


def test_a_binary_layer_takes_a_thirtieth(tmp_path):
    net = nn.Linear(1000, 300)
    lc = leco.LC(net, {"t": leco.Task("weight", leco.Vector(), leco.Binary())})
    lc.mu = 1.0
    assert leco.save(tmp_path / "m.safetensors", lc) < leco.dense_bytes(net) / 29


def test_dense_bytes_count_a_tied_weight_once():
    net = Net()
    distinct = {id(t): t for t in net.state_dict(keep_vars=True).values()}
    assert (
        leco.dense_bytes(net)
        == sum(t.nbytes for t in distinct.values())
        == sum(t.nbytes for t in net.state_dict().values()) - 480
    )


def test_equal_nets_give_equal_files_that_say_what_compressed_them(tmp_path):
    net = nn.Linear(5, 4)
    files = []
    for number in range(2):
        costs = leco.Table([0.0, 1.0, 2.0, 3.0, 4.0])
        lc = leco.LC(net, {"a": leco.Task("weight", leco.Matrix(), leco.RankSelection(0.1, costs))})
        lc.mu = 1.0
        leco.save(tmp_path / f"{number}", lc)
        files.append((tmp_path / f"{number}").read_bytes())
    assert files[0] == files[1]
    lc = leco.LC(net, {"a": leco.Task("weight", leco.Matrix(), leco.RankSelection(0.1))})
    lc.mu = 1.0
    leco.save(tmp_path / "named", lc)
    described = leco.describe(tmp_path / "named")["tasks"]["a"]["compression"]
    assert described == ["RankSelection", {"alpha": 0.1, "cost": "storage"}]


@dataclasses.dataclass(frozen=True)
class Halves:
    """A view of a user's own: the second half of a vector before the first."""

    def shape(self, shapes):
        return shapes[0]

    def forward(self, tensors):
        return tensors[0].roll(len(tensors[0]) // 2)

    def backward(self, x, shapes):
        return [x.roll(-(len(x) // 2))]


class Signed(NamedTuple):
    """A form of a user's own, with negative integers, that does not tell its shape."""

    signs: torch.Tensor

    def decompress(self):
        return self.signs.float()

    def free(self):
        return ()


class SignOnly(leco.Compression):
    def compress(self, x, mu, theta=None):
        return Signed(x.sign().to(torch.int8))


def test_views_of_ones_own_are_passed_by_their_class(tmp_path):
    net = nn.Linear(5, 4)
    lc = leco.LC(net, {"a": leco.Task("bias", Halves(), leco.Binary())})
    lc.mu = 1.0
    leco.save(tmp_path / "m", lc)
    with pytest.raises(ValueError, match="task 'a' is damaged: unknown view 'Halves'"):
        leco.load(tmp_path / "m", nn.Linear(5, 4))
    assert torch.equal(
        leco.load(tmp_path / "m", nn.Linear(5, 4), views=[Halves]).bias, lc.delta["bias"]
    )


def test_forms_of_ones_own_are_passed_by_their_class(tmp_path):
    lc = leco.LC(nn.Linear(5, 4), {"a": leco.Task("weight", leco.Vector(), SignOnly())})
    lc.mu = 1.0
    leco.save(tmp_path / "m", lc)
    with pytest.raises(ValueError, match="task 'a' is damaged: unknown form of Theta 'Signed'"):
        leco.load(tmp_path / "m", nn.Linear(5, 4))
    assert torch.equal(
        leco.load(tmp_path / "m", nn.Linear(5, 4), forms=[Signed]).weight, lc.delta["weight"]
    )
    assert [row.field for row in leco.files.inventory.streams(tmp_path / "m", forms=[Signed])][
        3:
    ] == ["theta.signs", "bias"]


class Scalar(NamedTuple):
    """A form that gives one number for all."""

    value: torch.Tensor

    def decompress(self):
        return self.value

    def free(self):
        return ()


def test_forms_of_ones_own_are_held_to_the_shape_and_to_floats(tmp_path):
    lc = leco.LC(nn.Linear(5, 4), {"a": leco.Task("weight", leco.Kernel(), SignOnly())})
    lc.mu = 1.0
    for value, message in (
        (torch.zeros(1), r"torch.float32 of shape .1,."),
        (torch.zeros(4, 5, dtype=torch.int8), r"torch.int8 of shape \(4, 5\)"),
    ):
        lc.thetas["a"] = Scalar(value)
        leco.save(tmp_path / "m", lc)
        model = nn.Linear(5, 4)
        before = model.weight.clone()
        with pytest.raises(
            ValueError,
            match=rf"task 'a' is damaged: theta gives 'weight' as {message}, "
            r"not as floats of \(4, 5\)",
        ):
            leco.load(tmp_path / "m", model, forms=[Scalar])
        assert torch.equal(model.weight, before)


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    _, lc = problem()
    path = tmp_path / "m.safetensors"
    leco.save(path, lc)
    before = path.read_bytes()

    def half(tensors, file):
        with open(file, "wb") as out:
            out.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("leco.files.container.save_file", half)
    with pytest.raises(OSError, match="disk full"):
        leco.save(path, lc)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_on_the_disk_before_it_takes_its_place(tmp_path, monkeypatch):
    path, seen = tmp_path / "m", []
    sync = os.fsync

    def fsync(handle):
        (temporary,) = tmp_path.iterdir()
        seen.append(
            (
                os.fstat(handle).st_ino == temporary.stat().st_ino,
                temporary.stat().st_size,
                path.exists(),
            )
        )
        sync(handle)

    monkeypatch.setattr("os.fsync", fsync)
    size = leco.save(path, problem()[1])
    assert seen == [(True, size, False)]
    (tmp_path / "other").touch()
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode
    with pytest.raises(FileNotFoundError):
        leco.save(tmp_path / "no" / "m", problem()[1])


def test_saving_before_a_c_step_is_refused(tmp_path):
    lc = leco.LC(nn.Linear(2, 2), {"t": leco.Task("weight", leco.Vector(), leco.Binary())})
    with pytest.raises(ValueError, match="no Theta yet"):
        leco.save(tmp_path / "m.safetensors", lc)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda d: d["tasks"]["a"].update(theta={"Evil": []}),
            r"task 'a' is damaged: unknown form of Theta 'Evil'",
        ),
        (
            lambda d: d["tasks"]["a"].update(view=["Evil", {}]),
            r"task 'a' is damaged: unknown view 'Evil'",
        ),
        (
            lambda d: d["tasks"]["a"].pop("view"),
            r"task 'a' is damaged: it must have params, view, compression and theta",
        ),
        (
            lambda d: d["tasks"]["embed"]["theta"].update(Scaled=[]),
            r"task 'embed' is damaged: theta needs the fields indices, values, scale",
        ),
        (
            lambda d: nodes(d["tasks"]["embed"])[0]["t"].__setitem__(1, [20, 7]),
            r"task 'embed' is damaged: theta is of shape .*\[20, 7\]",
        ),
        (
            lambda d: nodes(d["tasks"]["a"])[0]["t"].__setitem__(2, 10**9),
            r"task 'a' is damaged: theta.terms.0.theta.u: 1000000000 bytes",
        ),
        (
            lambda d: nodes(d["tasks"]["a"])[0]["t"].__setitem__(1, [9, 4]),
            r"task 'a' is damaged: theta.terms.0.theta.u: 36 bytes do not hold",
        ),
        (
            lambda d: nodes(d["tasks"]["b"])[0]["t"].__setitem__(1, [10**8, 10**7]),
            r"task 'b' is damaged: a tensor of shape .* makes 1000000000000000 bytes, more than",
        ),
        (
            lambda d: d["rest"].popitem(),
            r"another architecture: the file lacks \['norm.num_batches_tracked'\]",
        ),
        (
            lambda d: d["rest"]["conv.bias"]["p"][1].update({"norm.bias": [2, 3]}),
            r"'norm.bias' is \(2, 3\) in the file and \(6,\) in the model",
        ),
        (
            lambda d: nodes(d["rest"]["norm.num_batches_tracked"])[0]["t"].__setitem__(0, "bool"),
            r"is torch.bool in the file and torch.int64 in the",
        ),
        (
            lambda d: d["rest"]["norm.weight"]["t"].__setitem__(1, [2, 3]),
            r"'norm.weight' is \(2, 3\) in the file and \(6,\) in the model",
        ),
        (
            lambda d: d["rest"]["conv.bias"]["p"][1].update({"norm.bias": [7]}),
            r"conv.bias with 1 others have 13 entries, .* \[12\]",
        ),
        (
            lambda d: d["rest"]["conv.bias"]["p"][1].update({"norm.weight": [0]}),
            r"a parameter stands twice in it",
        ),
        (
            lambda d: d["rest"]["conv.bias"]["p"][1].pop("conv.bias"),
            r"the rest is damaged: conv.bias must be one of several tensors",
        ),
        (lambda d: d["rest"]["conv.bias"].update(p=[1]), r"the rest is damaged"),
        (
            lambda d: d["rest"]["conv.bias"]["p"][1].update(
                {"c.bias": d["rest"]["conv.bias"]["p"][1].pop("norm.bias")}
            ),
            r"lacks \['norm.bias'\] and has \['c.bias'\]",
        ),
        (
            lambda d: d["tied"].update({"head.weight": "norm.bias"}),
            "another architecture: 'head.weight' is tied to 'norm.bias'",
        ),
        (
            lambda d: d["tied"].update({"norm.weight": "norm.bias"}),
            "another architecture: 'norm.weight' is tied to 'norm.bias'",
        ),
    ],
)
def test_damaged_descriptions_are_refused_and_the_model_stays(tmp_path, change, message):
    _, lc = problem()
    path = tmp_path / "m.safetensors"
    leco.save(path, lc)
    parts = take_apart(path)
    change(parts.description)
    parts.write(path)
    other = problem(seed=1)[0]
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        leco.load(path, other)
    for name, value in other.state_dict().items():
        assert torch.equal(value, before[name])


def test_what_is_not_a_file_of_leco_is_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"not a file")
    with pytest.raises(ValueError, match="is not a safetensors file"):
        leco.load(path, Net())
    save_file({"x": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="not one of leco"):
        leco.load(path, Net())
    with pytest.raises(FileNotFoundError):
        leco.load(tmp_path / "none", Net())
    for name, version in (("leco", 1), ("leco.7", 7)):
        save_file({name: torch.zeros(9, dtype=torch.uint8)}, path)
        with pytest.raises(
            ValueError,
            match=f"m.safetensors: it has format version {version}; this leco reads version 2",
        ):
            leco.describe(path)
    _, lc = problem()
    leco.save(path, lc)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ValueError, match="is not a safetensors file, or is damaged"):
        leco.load(path, Net())
    leco.save(path, lc)
    with pytest.raises(ValueError, match="another architecture"):
        leco.load(path, nn.Linear(2, 2))


def test_nothing_is_pickled(tmp_path):
    _, lc = problem()
    leco.save(tmp_path / "m.safetensors", lc)
    assert b"\x80\x02" not in (tmp_path / "m.safetensors").read_bytes()[:8]
    assert leco.describe(tmp_path / "m.safetensors")["tasks"]["b"]["view"] == [
        "Matrix",
        {"rows": [0]},
    ]
