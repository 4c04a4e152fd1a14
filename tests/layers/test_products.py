"""Compiled products with packed weights, and the decoder of symbols, equal the slow ways."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

import leco
from leco.coding import frequencies, symbols
from leco.coding.tensors import decode, encode
from leco.layers import integers
from leco.layers.integers import Integers
from leco.native import build, matrix
from leco.native import digits as native_digits
from leco.native.symbols import on_grid

native = pytest.mark.skipif(build.library() is None, reason="there is no C compiler")


def values(count):
    return tuple(torch.linspace(-0.5, 0.5, count).pow(3).tolist())


FORMS = {
    "1 bit": (leco.Vector(), leco.Codebook(2)),
    "1 bit, rows": (leco.Rows(), leco.Binary()),
    "3 values": (leco.Rows(), leco.Ternary()),
    "4 values, rows": (leco.Rows(), leco.Codebook(4)),
    "6 values": (leco.Vector(), leco.Codebook(6)),
    "16 values": (leco.Rows(), leco.Codebook(16)),
    "4 bits, groups": (leco.Groups(16), leco.Uniform(4)),
    "2 bits, groups": (leco.Groups(32), leco.Uniform(2, zero_point=True)),
    "8 bits": (leco.Rows(), leco.Uniform(8)),
    "8 bits, groups": (leco.Groups(32), leco.Uniform(8, zero_point=True)),
    "3 values, groups": (leco.Groups(16), leco.Ternary()),
    "4 values, groups": (leco.Groups(48), leco.Codebook(4)),
    "2 values, groups of no whole bytes": (leco.Groups(12), leco.Codebook(2)),
    **{f"{k} values": (leco.Vector(), leco.FixedCodebook(values(k))) for k in (40, 100, 200, 256)},
    "40 values, groups with a scale": (leco.Groups(32), leco.FixedCodebook(values(40), scale=True)),
}


def packed(view, compression, columns: int = 96, bias: bool = True):
    torch.manual_seed(0)
    model = nn.Linear(columns, 37, bias=bias)
    lc = leco.LC(model, {"all": leco.Task("weight", view, compression)})
    lc.mu = 1.0
    return leco.pack(model, lc).eval(), lc.delta["weight"].double()


@native
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_products(form, bias):
    net, weight = packed(*FORMS[form], bias=bias)
    b = None if net.bias is None else net.bias.double()
    # few vectors, tiles of each width, several blocks
    for shape in ((96,), (1, 96), (2, 3, 96), (20, 96), (40, 96), (121, 96), (257, 96), (0, 96)):
        x = torch.randn(*shape)
        with torch.no_grad():
            y = net(x)
        expected = nn.functional.linear(x.double(), weight, b)
        assert y.shape == expected.shape
        assert y.dtype == torch.float32
        assert torch.allclose(y.double(), expected, rtol=0, atol=1e-5)
    assert net.packed.matrix() is not None
    # with a gradient the weight is decoded
    x = torch.randn(2, 96, requires_grad=True)
    (grad,) = torch.autograd.grad(net(x).sum(), x)
    assert torch.allclose(grad.double(), weight.sum(0).expand(2, -1), atol=1e-4)


@native
@pytest.mark.parametrize(
    ("form", "columns"),
    [
        *itertools.product(["1 bit", "3 values", "6 values", "8 bits"], [1, 7, 50, 131]),
        ("40 values", 50),
        ("200 values", 131),
    ],
)
def test_rows_that_fill_no_whole_bytes(form, columns):
    net, weight = packed(*FORMS[form], columns=columns)
    for count in (1, 9):
        x = torch.randn(count, columns)
        with torch.no_grad():
            expected = nn.functional.linear(x.double(), weight, net.bias.double())
            assert torch.allclose(net(x).double(), expected, rtol=0, atol=1e-5)


@native
@pytest.mark.parametrize("form", FORMS)
def test_weights_are_decoded_to_the_bit(form):
    for columns in (96, 192):
        net, weight = packed(*FORMS[form], columns)
        assert net.packed.matrix() is not None
        assert torch.equal(net.weight.double(), weight)
        assert torch.equal(net.weight, net.packed.content().view(net.weight.shape))


@native
def test_what_has_no_products_is_decoded():
    for view, compression, columns in (
        (leco.Rows(1), leco.Codebook(4), 96),  # a codebook for each column
        (leco.Vector(), leco.TopK(100), 96),
        (leco.Vector(), leco.Hashed(50), 96),
    ):
        net, weight = packed(view, compression, columns)
        x = torch.randn(3, columns)
        with torch.no_grad():
            assert torch.equal(net(x), nn.functional.linear(x, weight.float(), net.bias))
        assert net.packed.matrix() is None


@native
def test_products_follow_the_buffers():
    net, weight = packed(leco.Vector(), leco.Codebook(4))
    other, _ = packed(leco.Vector(), leco.Codebook(4))
    x = torch.randn(2, 96)
    with torch.no_grad():
        net(x)
        state = {
            name: 2 * t if t.is_floating_point() else t for name, t in net.state_dict().items()
        }
        other(x)
        other.load_state_dict(state)
        assert torch.allclose(other(x), 2 * net(x), atol=1e-5)
        net.double()
        expected = nn.functional.linear(x.double(), weight, net.bias)
        assert torch.allclose(net(x.double()), expected, atol=1e-12)


@native
def test_several_threads_give_the_same():
    torch.manual_seed(0)
    model = nn.Linear(1024, 1030)
    lc = leco.LC(model, leco.each(["weight"], leco.Rows(), leco.Binary()))
    lc.mu = 1.0
    net, x, threads = leco.pack(model, lc).eval(), torch.randn(2, 1024), torch.get_num_threads()
    found = []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            with torch.no_grad():
                found.append(net(x))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*found)


@pytest.mark.parametrize("base", [2, 3, 16, 17, 255, 256, 257, 4096])
def test_symbols_are_those_of_the_slow_decoder(base, monkeypatch):
    generator = np.random.default_rng(base)
    digits = np.minimum(generator.geometric(0.1, 5000) - 1, base - 1).astype(np.uint16)
    digits[:2] = 0, base - 1
    payload = frequencies.encode_entropy(digits, base, 10**9).numpy()
    kind = np.dtype(np.uint16)
    assert np.array_equal(frequencies.decode_entropy(payload, base, 5000, kind), digits)
    for count in (4999, 5001):
        with pytest.raises(ValueError, match="more or fewer"):
            frequencies.decode_entropy(payload, base, count, kind)
    monkeypatch.setattr(symbols, "streams", lambda _: None)
    assert np.array_equal(frequencies.decode_entropy(payload, base, 5000, kind), digits)


@native
@pytest.mark.parametrize("count", [2, 4, 6, 16])
def test_joined_digits_are_those_of_torch(count, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(native_digits, "SHARE", 2**12)
    threads = torch.get_num_threads()
    for shape in ((20_003,), (3, 5001), (2, 4, 2048)):
        x = torch.randint(0, count, shape, dtype=torch.uint8)
        found = []
        try:
            for torch_threads in (1, 3):
                torch.set_num_threads(torch_threads)
                found.append(Integers(x, count))
        finally:
            torch.set_num_threads(threads)
        with monkeypatch.context() as patch:
            patch.setattr(integers, "joined", lambda *_: None)
            expected = Integers(x, count)
        assert all(torch.equal(own.codes, expected.codes) for own in found)
        assert torch.equal(expected(), x)


def test_groups_without_a_compiler(monkeypatch):
    torch.manual_seed(0)
    x = (3 * torch.rand(300_001) ** 2).to(torch.uint8)
    payload, coding = encode(x)
    assert coding["group"] > 1
    assert torch.equal(decode(payload, coding, x.shape, x.dtype), x)
    monkeypatch.setattr(symbols, "streams", lambda _: None)
    assert torch.equal(decode(payload, coding, x.shape, x.dtype), x)


def test_a_missing_compiler_is_said_once(monkeypatch, caplog, tmp_path):
    monkeypatch.setenv("CC", "no-such-compiler")
    build.library.cache_clear()
    try:
        assert build.library() is None
        assert build.library() is None
    finally:
        build.library.cache_clear()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "no-such-compiler" in caplog.text


@native
def test_plain_c_gives_the_same(monkeypatch, tmp_path):
    """The loops for processors without AVX-512."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(build, "FLAGS", ("-O1", "-std=gnu11", "-shared", "-fPIC"))
    build.library.cache_clear()

    matrix._typed.cache_clear()
    try:
        for form in FORMS:
            net, weight = packed(*FORMS[form])
            for count in (1, 9):
                x = torch.randn(count, 96)
                with torch.no_grad():
                    expected = nn.functional.linear(x.double(), weight, net.bias.double())
                    assert torch.allclose(net(x).double(), expected, rtol=0, atol=1e-5), form
    finally:
        build.library.cache_clear()
        matrix._typed.cache_clear()


@native
def test_a_grid_is_decoded_to_the_bit():
    torch.manual_seed(0)
    theta = leco.Uniform(4, zero_point=True).compress(torch.randn(40, 1000), mu=1.0)
    expected = theta.indices.float().sub(theta.zero_point.float().unsqueeze(-1))
    found = on_grid(theta.indices, theta.scale, theta.zero_point)
    assert found is not None
    assert torch.equal(found, expected * theta.scale.unsqueeze(-1))
    assert torch.equal(theta.decompress(), found)
    # what is left to torch
    assert on_grid(theta.indices, theta.scale.double(), theta.zero_point) is None
    assert on_grid(theta.indices, theta.scale.requires_grad_(), theta.zero_point) is None


@native
@pytest.mark.parametrize("bias", [True, False])
def test_many_vectors_with_some_rows_at_a_time(bias, monkeypatch):
    monkeypatch.setattr(matrix, "BLOCK", 96 * 16)
    net, weight = packed(*FORMS["4 bits, groups"], bias=bias)
    x = torch.randn(300, 96)
    b = None if net.bias is None else net.bias.double()
    with torch.no_grad():
        expected = nn.functional.linear(x.double(), weight, b)
        assert torch.allclose(net(x).double(), expected, rtol=0, atol=1e-5)


@native
@pytest.mark.parametrize("form", ["3 values", "16 values", "8 bits", "4 bits, groups of rows"])
def test_a_convolution_is_decoded_to_the_bit(form):
    """Rows of 27 weights, which fill no whole bytes."""
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 10, 3)
    view, compression = {**FORMS, "4 bits, groups of rows": (leco.Vector(), leco.Uniform(4))}[form]
    lc = leco.LC(conv, leco.each(["weight"], view, compression))
    lc.mu = 1.0
    net = leco.pack(conv, lc)
    assert net.packed.matrix() is not None
    assert torch.equal(net.weight, lc.delta["weight"])
    assert torch.equal(net.weight, net.packed.content().view(net.weight.shape))
