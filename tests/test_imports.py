"""Imports point one way: a file imports from its own room and from the rooms below it."""

import ast
import re
import types
from pathlib import Path

import pytest

import leco

ROOT = Path(leco.__file__).parent
ROOMS = [  # from the bottom up; the rooms of one line may not import one another
    {"atomic", "optional", "modules", "distributed"},
    {"native"},
    {"views", "coding", "names"},
    {"theta", "selection"},
    {"compressions"},
    {"task"},
    {"algorithm"},
    {"layerwise"},
    {"layers"},
    {"files"},
    {"export", "measure"},
    {"integrations", "command"},
    {"__main__"},
]
LEVEL = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}
FILES = [
    path for path in sorted(ROOT.rglob("*.py")) if path.parent != ROOT or path.stem != "__init__"
]


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imported(source: str) -> set[str]:
    """The rooms of leco that a source text imports from; "" stands for the package itself."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, "a relative import, which this test does not follow"
            if node.module == "leco":  # `from leco import room`
                names |= {f"leco.{alias.name}" for alias in node.names}
            else:
                names.add(node.module or "")
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    modules = [name.split(".") for name in names if name.split(".")[0] == "leco"]
    return {module[1] if len(module) > 1 else "" for module in modules}


def wrong(room: str, source: str) -> set[str]:
    """The rooms that a file of `room` imports from and may not."""
    return {
        other
        for other in imported(source)
        if other != room and LEVEL.get(other, len(ROOMS)) >= LEVEL[room]
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path: Path):
    assert wrong(room_of(path), path.read_text()) == set()


def test_an_import_upwards_is_seen():
    assert wrong("compressions", "from leco.algorithm.lc import LC\nimport leco") == {
        "algorithm",
        "",
    }
    assert wrong("files", "import torch\nfrom leco.layers.packed import pack") == set()


def test_torch_distributed_is_imported_in_one_file():
    pattern = re.compile(r"^\s*(from torch\.distributed|import torch\.distributed)", re.MULTILINE)
    importers = {path.stem for path in FILES if pattern.search(path.read_text())}
    assert importers <= {"distributed"}
    assert pattern.search("    from torch.distributed.tensor import DTensor")


def public_names() -> set[str]:
    """The names of leco that are not its modules."""
    return {
        name
        for name, value in vars(leco).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }


def test_public_names_exist_and_are_documented():
    for name in public_names():
        assert getattr(leco, name).__doc__, name


def test_no_public_function_shadows_a_module():
    modules = {path.stem for path in ROOT.glob("*.py")} | {path.parent.name for path in FILES}
    assert modules & public_names() == set()
