"""The file: its length, what it gives back, what it refuses."""

import dataclasses
import os
from typing import NamedTuple

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import leco
from leco.compressions import ALL


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(10, 12)
        self.conv = nn.Conv2d(3, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.a = nn.Linear(12, 9)
        self.b = nn.Linear(9, 8)
        self.head = nn.Linear(12, 10, bias=False)
        self.head.weight = self.embed.weight


def problem(seed: int = 0):
    torch.manual_seed(seed)
    net = Net()
    tasks = {
        "embed": leco.Task("embed.weight", leco.Groups(6), leco.Ternary()),
        "conv": leco.Task("conv.weight", leco.Kernel(), leco.ConvRankSelection(0.02)),
        "a": leco.Task("a.weight", leco.Matrix(), leco.LowRank(3)),
        "b": leco.Task("b.weight", leco.Vector(), leco.TopK(7)),
    }
    lc = leco.LC(net, tasks)
    lc.mu = 0.5
    return net, lc


KERNEL = leco.Reshape((3, 3, 4, 3))
COMPRESSIONS = {
    "codebook": (leco.Vector(), leco.Codebook(5)),
    "large codebook": (leco.Vector(), leco.Codebook(100)),
    "codebook per row": (leco.Rows(), leco.Codebook(3)),
    "fixed": (leco.Vector(), leco.FixedCodebook((-0.1, 0.2))),
    "binary": (leco.Rows(), leco.Binary()),
    "ternary": (leco.Vector(), leco.Ternary(scale=False)),
    "powers": (leco.Vector(), leco.PowersOfTwo(3, scale=True)),
    "uniform": (leco.Rows(), leco.Uniform(4, zero_point=True)),
    "sparse": (leco.Vector(), leco.TopK(0.05)),
    "nothing kept": (leco.Vector(), leco.TopK(0)),
    "ball": (leco.Vector(), leco.L2Ball(0.5)),
    "ranks": (leco.Matrix(), leco.RankSelection(1e-4)),
    "rank 0": (leco.Matrix(), leco.LowRank(0)),
    "full rank": (leco.Matrix(), leco.LowRank(9)),
    "codewords": (leco.Groups(4), leco.VectorCodebook(5)),
    "product": (leco.Subvectors(3), leco.VectorCodebook(2)),
    "hashed": (leco.Vector(), leco.Hashed(10)),
    "entropy": (leco.Vector(), leco.EntropyCodebook(1e-5, 4)),
    "entropy, rows": (leco.Rows(), leco.EntropyCodebook(1e-6, 4)),
    "entropy, all 0": (leco.Vector(), leco.EntropyCodebook(1e3)),
    "entropy, no 0": (leco.Vector(), leco.EntropyCodebook(1e-5, 4, zero=False)),
    "entropy, matrix": (leco.Matrix(), leco.EntropyMatrix(1e-5, 4)),
    "l1 ball": (leco.Vector(), leco.L1Ball(1.0)),
    "l0": (leco.Vector(), leco.L0Penalty(0.01)),
    "l1": (leco.Vector(), leco.L1Penalty(0.1)),
    "groups": (leco.Rows(), leco.GroupTopK(4)),
    "groups, l0": (leco.Groups(3), leco.GroupL0Penalty(0.03)),
    "groups, l1": (leco.Tiles(3, 3), leco.GroupL1Penalty(0.2)),
    "2:4": (leco.Rows(), leco.NM(2, 4)),
    "kernel": (KERNEL, leco.ConvRankSelection(0.01)),
    "tucker-2": (KERNEL, leco.Tucker2((2, 2))),
    "tucker": (KERNEL, leco.Tucker((2, 2, 3, 2))),
    "tucker ranks": (KERNEL, leco.TuckerSelection(0.01)),
    "cp": (KERNEL, leco.CP(2)),
    "train": (KERNEL, leco.TensorTrain((2, 3, 2))),
    "sum": (leco.Vector(), leco.Additive([(leco.Vector(), leco.Binary()), (leco.Vector(), leco.TopK(5))])),
    "sum with low rank": (leco.Matrix(), leco.Additive([(leco.Matrix(), leco.LowRank(1)), (leco.Rows(), leco.Ternary())])),
    "quantized kept weights": (leco.Vector(), leco.Compose(leco.TopK(0.3), leco.Codebook(4))),
    "quantized factors": (leco.Matrix(), leco.Compose(leco.LowRank(2), leco.Uniform(4), leco.Rows())),
    "budget": (leco.Blocks(), leco.Budget((leco.Part(leco.Matrix(), leco.RankSelection(0), (0,), 4),), 200)),
    "choice": (leco.Blocks(), leco.Choice(1e-6, [(leco.Vector(), leco.Codebook(4)), (leco.Rows(), leco.Ternary())])),
    "choice of none": (leco.Kernel(), leco.Choice(0, [(leco.Vector(), leco.Codebook(4)), (leco.Kernel(), leco.Uncompressed())])),
    "uncompressed": (leco.Vector(), leco.Uncompressed()),
}


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
    _, content, tensors = leco.artifact._read(tmp_path / "m.safetensors")
    assert not tensors
    assert 8 * (content.numel() - net.bias.nbytes) == lc.bits()


def test_the_coded_payload_has_exactly_the_bits_that_are_reported(tmp_path):
    _, lc = problem()
    leco.save(tmp_path / "m.safetensors", lc)
    _, content, tensors = leco.artifact._read(tmp_path / "m.safetensors")
    assert not tensors
    description = leco.describe(tmp_path / "m.safetensors")
    rest = sum(node["t"][2] for node in description["rest"].values())
    assert 8 * (content.numel() - rest) == lc.bits() == lc.record().bits


def test_large_floats_stand_in_the_file_as_they_are(tmp_path):
    net = nn.Linear(64, 32)
    net.register_buffer("leco", torch.randn(2000))
    lc = leco.LC(net, {"a": leco.Task("weight", leco.Matrix(), leco.LowRank(20))})
    lc.mu = 1.0
    leco.save(tmp_path / "m", lc)
    with safe_open(tmp_path / "m", framework="pt") as file:
        assert set(file.keys()) == {"leco", "leco_", "a.v"}
        assert torch.equal(file.get_tensor("a.v"), lc.thetas["a"].v)
    other = nn.Linear(64, 32)
    other.register_buffer("leco", torch.zeros(2000))
    leco.load(tmp_path / "m", other)
    assert torch.equal(other.leco, net.leco)
    assert torch.equal(other.weight, lc.delta["weight"])


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
    wanted = {name: value.clone() for name, value in lc.delta.items()} | {"b.bias": net.b.bias.detach().clone()}
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
    assert leco.dense_bytes(net) == sum(t.nbytes for t in distinct.values()) == sum(t.nbytes for t in net.state_dict().values()) - 480


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
    """A form of a user's own, with negative integers."""

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
    assert torch.equal(leco.load(tmp_path / "m", nn.Linear(5, 4), views=[Halves]).bias, lc.delta["bias"])


def test_negative_integers_are_refused_when_saving(tmp_path):
    lc = leco.LC(nn.Linear(5, 4), {"a": leco.Task("weight", leco.Vector(), SignOnly())})
    with pytest.raises(ValueError, match="must be at least 0 to be coded; the least is -1"):
        lc.mu = 1.0
        leco.save(tmp_path / "m", lc)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    _, lc = problem()
    path = tmp_path / "m.safetensors"
    leco.save(path, lc)
    before = path.read_bytes()

    def half(tensors, file):
        with open(file, "wb") as out:
            out.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("leco.artifact.save_file", half)
    with pytest.raises(OSError, match="disk full"):
        leco.save(path, lc)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_saving_before_a_c_step_is_refused(tmp_path):
    lc = leco.LC(nn.Linear(2, 2), {"t": leco.Task("weight", leco.Vector(), leco.Binary())})
    with pytest.raises(ValueError, match="no Theta yet"):
        leco.save(tmp_path / "m.safetensors", lc)


def rewrite(path, change) -> None:
    description, content, tensors = leco.artifact._read(path)
    change(description, tensors)
    head = torch.frombuffer(bytearray(leco.artifact._deflate(description)), dtype=torch.uint8)
    save_file({"leco": torch.cat([head, content]), **tensors}, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d, t: d.update(version=99), "format version 99"),
        (lambda d, t: d.pop("version"), "description is damaged"),
        (
            lambda d, t: d["tasks"]["a"].update(theta={"Evil": []}),
            r"task 'a' is damaged: unknown form of Theta 'Evil'",
        ),
        (lambda d, t: d["tasks"]["a"].update(view=["Evil", {}]), r"task 'a' is damaged: unknown view 'Evil'"),
        (lambda d, t: d["tasks"]["a"]["theta"].update(Factors=["gone", "gone"]), r"task 'a' is damaged"),
        (lambda d, t: d["tasks"]["embed"]["theta"]["Scaled"][0]["t"].__setitem__(1, [20, 7]), r"task 'embed' is damaged: .*140"),
        (lambda d, t: d["tasks"]["a"]["theta"]["Factors"][0]["t"].__setitem__(2, 10**9), r"task 'a' is damaged: a tensor of 1000000000 bytes is cut"),
        (lambda d, t: d["tasks"]["a"]["theta"]["Factors"][0]["t"].__setitem__(1, [9, 4]), r"task 'a' is damaged: 108 bytes do not hold"),
        (lambda d, t: d["rest"].popitem(), r"tensors in no task are damaged: \d+ bytes are left over"),
        (lambda d, t: d["rest"]["b.bias"]["t"].__setitem__(1, [2, 4]), r"'b.bias' is \(2, 4\) in the file and \(8,\) in the model"),
        (lambda d, t: d["rest"].update({"c.bias": d["rest"].pop("b.bias")}), r"(lacks|damaged)"),
    ],
)
def test_damaged_files_are_refused_and_the_model_stays(tmp_path, change, message):
    _, lc = problem()
    path = tmp_path / "m.safetensors"
    leco.save(path, lc)
    rewrite(path, change)
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
    assert leco.describe(tmp_path / "m.safetensors")["tasks"]["b"]["view"] == ["Vector", {}]
