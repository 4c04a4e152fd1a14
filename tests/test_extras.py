"""The core works without the optional packages, and a call that needs one names its extra."""

import subprocess
import sys

import pytest

OPTIONAL = {
    "export": ("onnx", "onnxscript", "onnxruntime", "onnx_ir"),
    "torchao": ("torchao",),
    "compressed-tensors": ("compressed_tensors",),
    "gguf": ("gguf",),
    "openvino": ("openvino",),
    "search": ("optuna",),
    "images": ("PIL",),
    "structured": ("torch_pruning",),
    "trainers": ("transformers", "accelerate", "lightning"),
    "bench": ("zstandard", "kmeans1d"),
    "examples": ("matplotlib", "sklearn"),
}
CORE = """
import pkgutil, importlib, sys
sys.modules.update(dict.fromkeys({blocked!r}))
import torch
import leco
ROOM = "leco.integrations."
TRAINERS = f"{{ROOM}}transformers", f"{{ROOM}}lightning", f"{{ROOM}}pretrained"
for module in pkgutil.walk_packages(leco.__path__, "leco."):
    if module.name not in ("leco.__main__", *TRAINERS):
        importlib.import_module(module.name)
model, x = torch.nn.Linear(8, 4), torch.ones(2, 8)
lc = leco.LC(model, leco.each(["weight"], leco.Rows(), leco.Binary()))
lc.mu = 1.0
lc.step()
"""
CALLS = {
    "export": 'leco.export_onnx("net.onnx", model, lc, x)',
    "torchao": "leco.export_torchao(model, lc)",
    "compressed-tensors": 'leco.export_compressed_tensors("folder", model, lc)',
    "openvino": 'leco.export_openvino("net.xml", model, lc, x)',
    "gguf": 'leco.export_gguf("net.gguf", model, lc)',
    "structured": "leco.coupled(model, x)",
    "trainers": "import leco.integrations.transformers",
}


def run(code: str, folder: object) -> subprocess.CompletedProcess[str]:
    blocked = [name for names in OPTIONAL.values() for name in names]
    code = CORE.format(blocked=blocked) + code
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=str(folder)
    )


def test_core_needs_no_optional_package(tmp_path):
    found = run(
        'leco.save("net", lc); leco.load("net", torch.nn.Linear(8, 4)); leco.breakdown("net")',
        tmp_path,
    )
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize("extra", CALLS)
def test_calls_name_their_extra(extra, tmp_path):
    assert_named(extra, CALLS[extra], tmp_path)


def test_a_search_names_its_extra(tmp_path):
    (tmp_path / "nets.py").write_text(
        "import torch\ndef net():\n    return torch.nn.Linear(64, 32)"
    )
    options = ["--optimize", "--to", "2bit", "--to", "3bit", "--evaluate", "nets:net"]
    code = f"from leco.command.cli import main; sys.exit(main({['sweep', 'nets:net', *options]}))"
    found = run(code, tmp_path)
    assert found.returncode == 1
    assert "leco sweep --optimize needs the package optuna" in found.stderr
    assert "pip install leco[search]" in found.stderr
    assert not (tmp_path / "sweep").exists()


def test_pretrained_is_named_with_its_extra(tmp_path):
    assert_named("trainers", "import leco.integrations.pretrained", tmp_path)


def test_lightning_is_named_with_its_extra(tmp_path):
    assert_named("trainers", "import leco.integrations.lightning", tmp_path)


def assert_named(extra, code, tmp_path):
    found = run(code, tmp_path)
    assert found.returncode == 1
    last = found.stderr.strip().splitlines()[-1]
    assert last.startswith(("ImportError: ", "ModuleNotFoundError: "))
    assert f"pip install leco[{extra}]" in last
