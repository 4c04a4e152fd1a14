"""Loading: names, wrappers, parts, the meta device, files that are replaced, wrong arguments."""

import os
import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn

import leco


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 4))


def saved(path, model) -> leco.LC:
    lc = leco.LC(model, leco.each(leco.match(model, nn.Linear), leco.Rows(), leco.Binary()))
    lc.mu = 1.0
    leco.save(path, lc)
    return lc


def state_after(lc) -> dict[str, torch.Tensor]:
    with lc.compressed():
        return {name: value.clone() for name, value in lc.model.state_dict().items()}


def compiled(model):
    return torch.compile(model, backend="eager")


class Holder(nn.Module):
    """A net inside another module, as in a training framework."""

    def __init__(self):
        super().__init__()
        self.net = net()


# --- names


def test_names_that_differ_by_a_prefix_are_said_so(tmp_path):
    saved(tmp_path / "inner", net())
    saved(tmp_path / "outer", Holder())
    with pytest.raises(
        ValueError,
        match=r"inner: it is of another architecture: the names differ by the prefix 'net\.', "
        r"which only the model has \('net\.0\.weight' in the model, '0\.weight' in the file\)",
    ):
        leco.load(tmp_path / "inner", Holder())
    with pytest.raises(ValueError, match=r"prefix 'net\.', which only the file has"):
        leco.load(tmp_path / "outer", net())


def test_names_that_differ_are_counted_where_they_are_cut(tmp_path):
    saved(tmp_path / "m", net())
    larger = nn.Sequential(*net(), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3))
    with pytest.raises(ValueError) as error:
        leco.load(tmp_path / "m", larger)
    assert str(error.value).endswith(
        "another architecture: the file lacks ['3.weight', '3.bias', '4.weight'] and 3 more"
    )
    with pytest.raises(ValueError) as error:
        leco.load(tmp_path / "m", nn.Sequential(nn.Linear(6, 5)))
    assert str(error.value).endswith(
        "the file has ['2.weight', '1.bias', '2.bias'] and 4 more beside what the model has"
    )
    assert "[]" not in str(error.value)


def test_wrappers_around_the_model_do_not_count(tmp_path):
    lc = saved(tmp_path / "m", net())
    expected = state_after(lc)
    inner = net()
    blocks = nn.Sequential(compiled(inner[0]), inner[1], compiled(inner[2]))
    for wrapped in (compiled(inner), nn.DataParallel(inner), blocks):
        for value in inner.state_dict().values():
            value.zero_()
        assert leco.load(tmp_path / "m", wrapped) is wrapped
        assert all(torch.equal(v, expected[n]) for n, v in inner.state_dict().items())


def test_a_submodule_that_is_called_module_keeps_its_name(tmp_path):
    class Pair(nn.Linear):
        def __init__(self):
            super().__init__(3, 2)
            self.module = nn.Linear(3, 2)

    lc = leco.LC(Pair(), leco.each(["weight", "module.weight"], leco.Vector(), leco.Binary()))
    lc.mu = 1.0
    leco.save(tmp_path / "m", lc)
    other = leco.load(tmp_path / "m", Pair())
    assert torch.equal(other.weight, lc.delta["weight"])
    assert torch.equal(other.module.weight, lc.delta["module.weight"])


def test_a_file_with_the_names_of_a_wrapper_fills_the_bare_net(tmp_path):
    wrapped = nn.Module()
    wrapped.module = net()
    wrapped.module[0] = compiled(wrapped.module[0])
    lc = saved(tmp_path / "m", wrapped)
    model = leco.load(tmp_path / "m", net())
    for name, value in state_after(lc).items():
        plain = name.replace("module.", "").replace("_orig_mod.", "")
        assert torch.equal(model.state_dict()[plain], value)


def test_a_wrapped_net_is_packed(tmp_path):
    lc, x = saved(tmp_path / "m", net()), torch.randn(3, 6)
    packed = leco.load(tmp_path / "m", nn.DataParallel(net()).eval(), packed=True)
    assert type(packed[0]).__name__ == "PackedLinear"
    with lc.compressed():
        assert torch.allclose(packed(x), lc.model.eval()(x))


# --- parts


def test_what_fits_is_loaded_on_request_and_the_rest_is_named(tmp_path):
    lc = saved(tmp_path / "m", net())
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3), nn.Linear(3, 2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="another architecture"):
        leco.load(tmp_path / "m", model)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert leco.load(tmp_path / "m", model, strict=False) is model
    (warning,) = caught
    assert warning.filename == __file__
    assert str(warning.message) == (
        f"leco.load: {tmp_path / 'm'} was loaded in part: "
        "the file lacks ['3.weight', '3.bias']; "
        "'2.weight' is (4, 5) in the file and (3, 5) in the model; "
        "'2.bias' is (4,) in the file and (3,) in the model"
    )
    expected = state_after(lc)
    for name, value in model.state_dict().items():
        source = before if name[0] in "23" else expected
        assert torch.equal(value, source[name]), name


def test_unexpected_names_are_named_and_a_whole_file_does_not_warn(tmp_path):
    lc = saved(tmp_path / "m", net())
    model = nn.Sequential(nn.Linear(6, 5))
    with pytest.warns(UserWarning, match=r"the file has \['2.weight', '1.bias', '2.bias'\] and 4"):
        leco.load(tmp_path / "m", model, strict=False)
    assert torch.equal(model[0].weight, lc.delta["0.weight"])
    leco.load(tmp_path / "m", net(), strict=False)


def test_a_part_is_packed_and_damage_is_refused(tmp_path):
    lc = saved(tmp_path / "m", net())
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    with pytest.warns(UserWarning, match="loaded in part"):
        packed = leco.load(tmp_path / "m", model, packed=True, strict=False)
    assert torch.equal(packed[0].weight, lc.delta["0.weight"])
    assert [type(layer).__name__ for layer in packed] == ["PackedLinear", "BatchNorm1d", "Linear"]
    data = bytearray((tmp_path / "m").read_bytes())
    data[-1] ^= 1
    (tmp_path / "m").write_bytes(data)
    with pytest.raises(ValueError, match="does not have the checksum"):
        leco.load(tmp_path / "m", model, strict=False)


# --- the meta device


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(10, 6)
        self.body = net()
        self.head = nn.Linear(6, 10)
        self.head.weight = self.embed.weight


def tied_file(path) -> leco.LC:
    lc = leco.LC(Tied(), leco.each(["embed.weight", "body.0.weight"], leco.Rows(), leco.Binary()))
    lc.mu = 1.0
    leco.save(path, lc)
    return lc


def test_tensors_on_the_meta_device_are_assigned(tmp_path):
    lc = tied_file(tmp_path / "m")
    with torch.device("meta"):
        model = Tied()
    model.head.bias.requires_grad_(False)
    model.body[2].to(torch.float64)
    leco.load(tmp_path / "m", model)
    expected = state_after(lc)
    for name, value in model.state_dict().items():
        assert value.device.type == "cpu"
        assert torch.equal(value.float(), expected[name].float()), name
    assert model.head.weight is model.embed.weight
    assert isinstance(model.head.weight, nn.Parameter)
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert frozen == ["head.bias"]
    assert model.body[2].weight.dtype == torch.float64
    assert len({p.untyped_storage().data_ptr() for p in model.parameters()}) == 8
    assert all(p.untyped_storage().nbytes() == p.nbytes for p in model.parameters())
    model.embed(torch.tensor([1, 2])).sum().backward()


def test_a_model_that_is_in_part_on_the_meta_device_is_filled(tmp_path):
    lc = tied_file(tmp_path / "m")
    model = Tied()
    kept = model.body[0].weight
    model.embed.to("meta")
    model.head.weight = model.embed.weight
    model.body[1].to("meta")
    leco.load(tmp_path / "m", model)
    assert model.body[0].weight is kept
    assert model.head.weight is model.embed.weight
    for name, value in state_after(lc).items():
        assert torch.equal(model.state_dict()[name], value), name


def test_what_stays_on_the_meta_device_is_named(tmp_path):
    saved(tmp_path / "m", net())
    with torch.device("meta"):
        model = net()
        model[0].register_buffer("scratch", torch.zeros(3), persistent=False)
    with pytest.warns(
        UserWarning, match=r"\['0.scratch'\] are not in the file and stay on the meta"
    ):
        leco.load(tmp_path / "m", model)
    assert not model[0].weight.is_meta


def test_an_uninitialized_parameter_is_named(tmp_path):
    saved(tmp_path / "m", net())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lazy = nn.Sequential(nn.LazyLinear(5), nn.BatchNorm1d(5), nn.Linear(5, 4))
    with pytest.raises(ValueError, match=r"the model's '0\.weight' is an uninitialized parameter"):
        leco.load(tmp_path / "m", lazy)


# --- the file


SAVER = """
import sys, torch, leco
from torch import nn
torch.set_num_threads(1)
net = nn.Linear(64, 64)
lcs = []
for k in (2, 16):
    lc = leco.LC(net, {"a": leco.Task("weight", leco.Vector(), leco.Codebook(k))})
    lc.mu = 1.0
    lcs.append(lc)
leco.save(sys.argv[1], lcs[0])
print("ready", flush=True)
while True:
    for lc in lcs:
        leco.save(sys.argv[1], lc)
"""


def test_a_file_that_is_replaced_meanwhile_is_the_old_one_or_the_new_one(tmp_path):
    path = tmp_path / "m"
    code = [sys.executable, "-c", SAVER, str(path)]
    with subprocess.Popen(code, stdout=subprocess.PIPE, text=True) as saver:
        try:
            assert saver.stdout is not None
            assert saver.stdout.readline() == "ready\n"
            counts = {len(leco.load(path, nn.Linear(64, 64)).weight.unique()) for _ in range(400)}
        finally:
            saver.kill()
    assert counts <= {2, 16}


def test_a_file_is_opened_once(tmp_path, monkeypatch):
    """Replaced right after it was opened, it is the old file throughout."""
    lc, other = saved(tmp_path / "m", net()), saved(tmp_path / "other", net())
    entries = leco.files.reader.Entries

    def replaced(file):
        os.replace(tmp_path / "other", tmp_path / "m")
        return entries(file)

    monkeypatch.setattr("leco.files.reader.Entries", replaced)
    model = leco.load(tmp_path / "m", net())
    assert torch.equal(model[0].weight, lc.delta["0.weight"])
    monkeypatch.undo()
    model = leco.load(tmp_path / "m", net())
    assert torch.equal(model[0].weight, other.delta["0.weight"])


READS = {
    "load": lambda path: leco.load(path, net()),
    "thetas": leco.thetas,
    "describe": leco.describe,
    "breakdown": leco.breakdown,
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_what_is_no_file(tmp_path, read):
    with pytest.raises(ValueError, match=r"it is a folder, not a file of leco\.save") as error:
        read(tmp_path)
    assert str(tmp_path) in str(error.value)
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none")
    (tmp_path / "empty").touch()
    with pytest.raises(ValueError, match="empty: it is not a safetensors file"):
        read(tmp_path / "empty")
    path = tmp_path / ("x" * 250)
    with pytest.raises(FileNotFoundError):
        read(path)
    saved(tmp_path / "m", net())
    os.rename(tmp_path / "m", path)
    read(path)


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_what_is_no_path_is_a_type_error(read):
    with pytest.raises(TypeError, match=r"path must be a string or a Path, not Linear; call \w+\("):
        read(nn.Linear(2, 2))


def test_the_order_of_load_is_said(tmp_path):
    with pytest.raises(
        TypeError,
        match=r"leco.load: path must be a string or a Path, not Linear; call load\(path, model\)",
    ):
        leco.load(nn.Linear(2, 2), str(tmp_path / "m"))
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module, not dict"):
        leco.load(tmp_path / "m", {})


# --- without decoding


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_packed_decodes_no_weight_that_stays_packed(tmp_path, monkeypatch, device):
    lc = tied_file(tmp_path / "m")
    with torch.device(device):
        model = Tied()
    before = model.embed.weight
    form = type(lc.thetas["embed.weight"])
    monkeypatch.setattr(form, "decompress", lambda theta: pytest.fail("it was decoded"))
    net = leco.load(tmp_path / "m", model, packed=True)
    monkeypatch.undo()
    assert model.embed.weight is before
    assert torch.equal(net.embed.weight, lc.delta["embed.weight"])
    assert net.head.packed is net.embed.packed
    assert torch.equal(net.body[0].weight, lc.delta["body.0.weight"])
    assert torch.equal(net.head.bias, lc.model.head.bias)


def test_tensors_on_the_meta_device_do_not_share_memory(tmp_path):
    lc = leco.LC(net(), leco.each(["0.weight"], leco.Vector(), leco.Binary()))
    lc.mu = 1.0
    leco.save(tmp_path / "m", lc)
    with torch.device("meta"):
        model = net()
    leco.load(tmp_path / "m", model)
    starts = [t.data_ptr() for t in model.state_dict().values() if t.numel()]
    assert len(set(starts)) == len(starts)
    assert torch.equal(model[0].weight, lc.delta["0.weight"])


LEAN = """
import sys, torch, leco
from torch import nn
for packed in (False, True):
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 4))
    leco.load(sys.argv[1], model, packed=packed)
    assert "sympy" not in sys.modules, packed
"""


def test_loading_into_the_meta_device_imports_nothing_large(tmp_path):
    """Some operations of torch's meta device import sympy, which takes 30 MB and a second."""
    saved(tmp_path / "m.safetensors", net())
    subprocess.run([sys.executable, "-c", LEAN, str(tmp_path / "m.safetensors")], check=True)
