"""Uses the wheel that is installed: wheel_check.py SOURCE WHEEL SDIST, run from another folder."""

import importlib
import importlib.metadata
import importlib.util
import pkgutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import torch
from torch import nn

import leco

OPTIONAL = (
    "matplotlib",
    "sklearn",
    "onnx",
    "openvino",
    "optuna",
    "torchao",
    "compressed_tensors",
    "gguf",
    "torch_pruning",
)
ROOM = "leco.integrations"
CALLBACKS = (f"{ROOM}.transformers", f"{ROOM}.lightning", f"{ROOM}.pretrained")
DATA = ("command/templates", "command/recipe_files")


def check_contents(source: Path, wheel: Path, sdist: Path) -> None:
    """Both archives have every file of the package, and no package beside it."""
    wanted = {
        path.relative_to(source).as_posix()
        for path in (source / "leco").rglob("*")
        if path.suffix in (".py", ".c", ".h")
        or path.name == "py.typed"
        or path.parent.relative_to(source / "leco").as_posix() in DATA
    }
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    with tarfile.open(sdist) as archive:
        unpacked = {name.split("/", 1)[-1] for name in archive.getnames()}
    assert packed == wanted, f"the wheel differs by {sorted(packed ^ wanted)}"
    missing = (wanted | {"pyproject.toml", "README.md", "LICENSE"}) - unpacked
    assert not missing, f"the sdist lacks {sorted(missing)}"


def check_modules(source: Path) -> None:
    """Every module imports, from the fresh environment, with no optional package there; the
    callbacks of trainers name the extra that they need."""
    installed = Path(leco.__file__).resolve()
    assert installed.is_relative_to(Path(sys.prefix).resolve()), installed
    assert not installed.is_relative_to(source), installed
    assert (installed.parent / "py.typed").is_file()
    assert importlib.metadata.version("leco") == leco.__version__
    here = [name for name in OPTIONAL if importlib.util.find_spec(name)]
    assert not here, f"{here} must not be installed with the core"
    for module in pkgutil.walk_packages(leco.__path__, "leco."):
        if module.name == "leco.__main__":
            continue
        try:
            importlib.import_module(module.name)
        except ImportError as error:
            if module.name not in CALLBACKS or "leco[trainers]" not in str(error):
                raise


def check_use() -> None:
    """A small net is compressed, saved, loaded and inspected."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2))
    lc = leco.LC(model, leco.each(leco.match(model, "*.weight"), leco.Rows(), leco.Binary()))
    lc.mu = 1.0
    record = lc.step()
    assert record.step == 1, record
    leco.save("net.safetensors", lc)
    fresh = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2))
    leco.load("net.safetensors", fresh)
    assert torch.equal(fresh.state_dict()["0.weight"], lc.delta["0.weight"])
    script = str(Path(sys.executable).parent / "leco")
    for command in ([script], [sys.executable, "-m", "leco"]):
        found = subprocess.run(
            [*command, "inspect", "net.safetensors"], capture_output=True, text=True, check=True
        )
        assert "0.weight" in found.stdout, found.stdout
    Path("nets.py").write_text("import torch\ndef net():\n    return torch.nn.Linear(64, 32)\n")
    made = [script, "compress", "nets:net", "--to", "2bit", "--out", "small"]
    subprocess.run(made, capture_output=True, text=True, check=True)
    assert "0.weight" not in Path("small/report.html").read_text()
    assert "weight" in Path("small/report.md").read_text()
    listed = subprocess.run([script, "recipes"], capture_output=True, text=True, check=True)
    assert "language-model-3bit" in listed.stdout, listed.stdout


def check_extras() -> None:
    """A call that needs an optional package names the extra that installs it."""
    model, x = nn.Linear(4, 4), torch.randn(2, 4)
    lc = leco.LC(model, leco.each(["weight"], leco.Rows(), leco.Binary()))
    lc.mu = 1.0
    calls = {
        "export": lambda: leco.export_onnx("net.onnx", model, lc, x),
        "openvino": lambda: leco.export_openvino("net.xml", model, lc, x),
        "torchao": lambda: leco.export_torchao(model, lc),
        "compressed-tensors": lambda: leco.export_compressed_tensors("folder", model, lc),
        "gguf": lambda: leco.export_gguf("net.gguf", model, lc),
        "structured": lambda: leco.coupled(model, x),
    }
    for extra, call in calls.items():
        message = ""
        try:
            call()
        except ImportError as error:
            message = str(error)
        assert f"leco[{extra}]" in message, f"{extra}: {message}"


if __name__ == "__main__":
    source, wheel, sdist = map(Path, sys.argv[1:])
    check_contents(source, wheel, sdist)
    check_modules(source)
    check_use()
    check_extras()
    print(f"wheel: {wheel.name} installs, imports, compresses, saves, loads and inspects")
