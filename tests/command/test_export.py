"""`leco export`: the runtimes themselves read the files, and give the compressed net's outputs."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from export.language_models import llama, words

import leco
import leco.integrations.pretrained
from leco.command.cli import main

IDS = torch.randint(96, (2, 11), generator=torch.Generator().manual_seed(0))
EXACT = {"EXECUTION_MODE_HINT": "ACCURACY"}  # float32 on processors with bfloat16 too
TEXT = "the law of small nets, and the code."


def logits(folder: Path) -> np.ndarray:
    """Of the compressed net of a folder, loaded by transformers."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(IDS).logits.numpy()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama with a tokenizer of byte-level BPE."""
    folder = tmp_path_factory.mktemp("llama") / "model"
    llama(num_hidden_layers=1).save_pretrained(folder)
    words().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def small(model: Path) -> Path:
    """The model in 4 bits, in groups of 32."""
    out = model.with_name("small")
    assert main(["compress", str(model), "--to", "int4:32", "--out", str(out)]) == 0
    return out


def export(folder: Path, to: str, out: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    capsys.readouterr()
    assert main(["export", str(folder), "--to", to, "--out", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["out"] == str(out)
    return found["held"]


def test_gguf(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from benchmarks.serving import llama_cpp

    small = tmp_path / "small"
    to = ["--to", "*embed*=q8_0", "--to", "others=Q4_0"]
    assert main(["compress", str(model), *to, "--out", str(small)]) == 0
    held = export(small, "gguf", tmp_path / "net.gguf", capsys)
    assert held.pop("model.embed_tokens.weight") == "Q8_0"
    assert set(held.values()) == {"Q4_0"}
    wanted, tokenizer = logits(small), transformers.AutoTokenizer.from_pretrained(small)
    with llama_cpp.Runtime(tmp_path / "net.gguf") as runtime:
        assert runtime.tokenize(TEXT) == tokenizer(TEXT)["input_ids"]
        found = runtime.decode(IDS[0].tolist()).numpy()
    # llama.cpp rounds inputs to 8 bits
    assert np.linalg.norm(found - wanted[0]) <= 0.03 * np.linalg.norm(wanted[0])


def test_openvino(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    openvino = pytest.importorskip("openvino")
    held = export(small, "openvino", tmp_path / "net.xml", capsys)
    assert set(held.values()) == {"DequantizeLinear, 4 bits"}
    read = openvino.Core().read_model(tmp_path / "net.xml")
    fours = [n for n in read.get_ops() if n.get_element_type().get_type_name() == "u4"]
    assert sum(int(np.prod(n.shape)) for n in fours) >= 64 * (2 * 64 + 2 * 32 + 3 * 96)
    assert [name for given in read.inputs for name in given.names] == ["input_ids"]
    found = openvino.compile_model(read, "CPU", EXACT)(IDS.numpy())[0]  # longer than the example
    wanted = logits(small)
    assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_compressed_tensors(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """transformers loads the folder by the package compressed-tensors."""
    held = export(small, "compressed-tensors", tmp_path / "packed", capsys)
    assert all(how == "int4, group of 32" for how in held.values())
    assert np.allclose(logits(tmp_path / "packed"), logits(small), rtol=0, atol=1e-5)
    files = [f / "model.safetensors" for f in (tmp_path / "packed", small.with_name("model"))]
    assert files[0].stat().st_size < 0.5 * files[1].stat().st_size
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "packed")
    assert tokenizer(TEXT)["input_ids"] == words()(TEXT)["input_ids"]


def test_dense(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert set(export(small, "dense", tmp_path / "dense", capsys).values()) == {"dense"}
    assert np.array_equal(logits(tmp_path / "dense"), logits(small))
    config = json.loads((tmp_path / "dense" / "config.json").read_text())
    assert not config.get("quantization_config")
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "dense")(TEXT)
    assert main(["export", str(small), "--to", "dense", "--out", str(tmp_path / "dense")]) == 1
    assert "is there already" in capsys.readouterr().err


def test_a_net_of_a_function(here: Path, capsys: pytest.CaptureFixture[str]):
    import onnxruntime
    from safetensors.torch import load_file

    assert main(["compress", "nets:net", "--to", "ternary", "--out", "small"]) == 0
    import nets

    net = leco.load("small/model.safetensors", nets.net())
    export(Path("small"), "dense", Path("net.safetensors"), capsys)
    dense = load_file("net.safetensors")
    assert all(torch.equal(dense[name], value) for name, value in net.state_dict().items())
    # inputs of a function
    nets.example = lambda: torch.zeros(2, 64)
    assert main(["export", "small", "--to", "onnx", "--out", "net.onnx"]) == 1
    assert "give --inputs package.module:function" in capsys.readouterr().err
    assert main(["export", "small", "--to", "gguf", "--out", "net.gguf"]) == 1
    assert "gguf is for language models" in capsys.readouterr().err
    command = ["export", "small/model.safetensors", "--to", "onnx", "--out", "net.onnx"]
    assert main([*command, "--inputs", "nets:example"]) == 0
    assert "2 parameters: Gather, 2 bits\n" in capsys.readouterr().out
    x = nets.data()[0]
    (found,) = onnxruntime.InferenceSession("net.onnx").run(None, {"input": x.numpy()})
    assert np.abs(found - net(x).detach().numpy()).max() <= 1e-6
    # the net before compression is no folder of leco
    assert main(["export", "nets:net", "--to", "dense", "--out", "x"]) == 1
    assert "give a folder that leco compress made" in capsys.readouterr().err
