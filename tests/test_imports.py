"""Dependencies point one way."""

import ast
from pathlib import Path

import leco

ROOT = Path(leco.__file__).parent
LAYERS = {  # a file may import those of its set only; those of a folder are one
    "leco.theta": {"leco.theta", "leco.views"},
    "leco.views": set(),
    "leco.match": set(),
    "leco.nested": {"leco.theta", "leco.views"},
    "leco.costs": set(),
    "leco.finite": set(),
    "leco.schedules": set(),
    "leco.coding": {"leco.coding"},
    "leco.batchnorm": set(),
    "leco.compressions": {"leco.compressions", "leco.theta", "leco.views", "leco.nested", "leco.costs", "leco.coding", "leco.finite"},
    "leco.task": {"leco.compressions", "leco.views"},
    "leco.record": {"leco.theta"},
    "leco.penalty": {"leco.algorithm", "leco.batchnorm"},  # LC for its type only
    "leco.algorithm": {
        "leco.batchnorm",
        "leco.coding",
        "leco.compressions",  # the protocol for its type only, as leco.run
        "leco.finite",
        "leco.nested",
        "leco.penalty",
        "leco.record",
        "leco.task",
        "leco.theta",
        "leco.views",
    },
    "leco.compressed": {"leco.algorithm", "leco.theta", "leco.views"},
    "leco.run": {"leco.algorithm", "leco.batchnorm", "leco.compressions", "leco.nested", "leco.record"},
    "leco.retrain": {"leco.nested", "leco.algorithm", "leco.penalty", "leco.record", "leco.theta", "leco.views"},
    "leco.report": {"leco.algorithm", "leco.record"},
    "leco.layers": {"leco.layers", "leco.nested", "leco.algorithm", "leco.compressed", "leco.theta", "leco.views"},
    "leco.artifact": {
        "leco.artifact",
        "leco.algorithm",
        "leco.coding",
        "leco.compressed",
        "leco.layers",
        "leco.nested",
        "leco.record",
        "leco.report",
        "leco.run",
        "leco.theta",
        "leco.views",
    },
    "leco.export": {"leco.export", "leco.algorithm", "leco.compressed", "leco.layers", "leco.run", "leco.theta", "leco.views"},
    "leco.dependency": {"leco.views"},
    "leco.narrow": {"leco.dependency", "leco.costs", "leco.views"},
    "leco.latency": {"leco.compressed", "leco.costs", "leco.layers", "leco.theta", "leco.views"},
    "leco.compare": {"leco.artifact", "leco.costs", "leco.latency", "leco.nested", "leco.report"},
    "leco.cli": {"leco.artifact"},
    "leco.__main__": {"leco.cli"},
}


def imported(path: Path) -> set[str]:
    """Modules of leco that a file imports, those of the compressions as one."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        modules = [node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names] if isinstance(node, ast.Import) else []
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path} has a relative import, which this test would not see"
        names |= {".".join(m.split(".")[:2]) for m in modules if m and m.split(".")[0] == "leco"}
    return names


def test_imports_point_one_way():
    seen = set()
    for path in ROOT.rglob("*.py"):
        module = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts[:2])
        if module == "leco.__init__":
            continue
        seen.add(module)
        assert imported(path) <= LAYERS[module], f"{path} imports {imported(path) - LAYERS[module]}"
    assert seen == set(LAYERS)


def test_public_names_exist_and_are_documented():
    for name in leco.__all__:
        assert getattr(leco, name).__doc__, name
