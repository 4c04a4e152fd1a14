"""Every command that the pages print runs, in order, in one folder."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch

from leco.command.cli import main

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[str]:
    """The commands of a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    lines = [line for block in BLOCK.findall(text) for line in block.splitlines()]
    return [line.partition("  #")[0].strip() for line in lines if line.startswith("leco ")]


@pytest.fixture
def folder(here: Path, language_model: Path) -> Path:
    """A folder with what the commands name."""
    shutil.copytree(language_model / "model", here / "model")
    for name, seed in (("texts", 1), ("test", 2), ("valid", 3)):
        numbers = torch.randint(64, (1100,), generator=torch.Generator().manual_seed(seed))
        (here / f"{name}.txt").write_text(" ".join(f"w{i}" for i in numbers.tolist()))
    (here / "my_nets.py").write_text((here / "nets.py").read_text())
    return here


@pytest.mark.parametrize("page", ["docs/command.md", "README.md"])
def test_commands_of_a_page(page: str, folder: Path, capsys: pytest.CaptureFixture[str]):
    found = commands(page)
    assert found
    for line in found:
        words = shlex.split(line)[1:]
        into = words[words.index(">") + 1] if ">" in words else None
        words = words[: words.index(">")] if into else words
        if "--calibrate" in words:  # to save time
            words += ["--steps", "2", "--length", "128", "--samples", "2"]
        capsys.readouterr()
        assert main(words) == 0, line
        if into:
            (folder / into).write_text(capsys.readouterr().out)
