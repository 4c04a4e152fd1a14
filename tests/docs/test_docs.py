"""Each page's ```python blocks run, in order, in one namespace; those of the tutorials are parts of
their scripts, which `make examples` runs. Lists and links are complete."""

import re
from pathlib import Path
from textwrap import indent

import pytest

from leco.compressions import ALL

ROOT = Path(__file__).parents[2]
NAMES = (
    "index",
    "algorithm",
    "compressions",
    "your-own-compression",
    "training-loops",
    "trainers",
    "file",
    "export",
    "how-to",
    "tutorial-vision",
    "tutorial-language-model",
    "tutorial-compression",
)
PAGES = [
    path for path in (*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md") if path.exists()
]
TUTORIALS = [path for path in PAGES if path.stem.startswith("tutorial-")]
RUN = [path for path in PAGES if path not in TUTORIALS]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SOURCE = re.compile(r"`((?:leco|tests|examples|benchmarks)/[\w/.-]+\.py)`")
ANCHOR = re.compile(r"\]\(([\w./-]*)#([\w-]+)\)")
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


def blocks(path: Path) -> list[str]:
    """The page's blocks, each padded with empty lines so that a traceback names the page's line."""
    text = path.read_text(encoding="utf-8")
    return ["\n" * text.count("\n", 0, match.start(1)) + match[1] for match in BLOCK.finditer(text)]


def test_every_page_has_blocks():
    assert {path.stem for path in PAGES} >= set(NAMES)
    for name in NAMES:
        assert blocks(ROOT / "docs" / f"{name}.md"), name


@pytest.mark.filterwarnings("ignore:.*LeafSpec", "ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:Checkpoint directory")  # Lightning's own
@pytest.mark.parametrize("path", RUN, ids=lambda path: path.name)
def test_blocks_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "page"}
    for block in blocks(path):
        exec(compile(block, path, "exec"), namespace)


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.name)
def test_tutorials_show_their_scripts(path: Path):
    name = f"examples/{path.stem.replace('-', '_')}.py"
    assert f"`{name}`" in path.read_text(encoding="utf-8")
    script = (ROOT / name).read_text(encoding="utf-8")
    shown = [block.lstrip("\n") for block in blocks(path)]
    assert [b for b in shown if b not in script and indent(b, "    ") not in script] == []


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = BLOCK.sub("", path.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_and_files_exist(path: Path):
    text = path.read_text(encoding="utf-8")
    targets = [target for target in LINK.findall(text) if "://" not in target]
    assert [target for target in targets if not (path.parent / target).exists()] == []
    assert [file for file in SOURCE.findall(text) if not (ROOT / file).exists()] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_anchors_exist(path: Path):
    found = ANCHOR.findall(path.read_text(encoding="utf-8"))
    pages = [(path.parent / page if page else path, anchor) for page, anchor in found]
    assert [anchor for page, anchor in pages if anchor not in anchors(page)] == []


def test_readme_is_short():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    start, end = lines.index("<!-- results -->"), lines.index("<!-- end of results -->")
    assert len(lines) <= 120
    assert 1 <= len(lines[start + 1 : end]) - 2 <= 10  # rows below the heading
    assert sum(line.startswith("![") for line in lines) == 1


def test_map_names_every_room():
    page = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    rooms = [path for path in (ROOT / "leco").iterdir() if path.is_dir() and path.stem[0] != "_"]
    names = [f"leco/{room.name}/" for room in rooms]
    names += [f"leco/{path.name}" for path in (ROOT / "leco").glob("[a-z]*.py")]
    assert len(rooms) > 5
    assert [name for name in names if f"`{name}`" not in page] == []


def test_table_names_every_compression():
    page = (ROOT / "docs" / "compressions.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert [
        c.__name__ for c in ALL if not any(row.startswith(f"| `{c.__name__}(") for row in rows)
    ] == []
