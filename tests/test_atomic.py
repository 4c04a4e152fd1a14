"""Files that are replaced at once or not at all."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from leco import atomic
from leco.atomic import atomically


def put(text: str):
    return lambda temporary: Path(temporary).write_text(text) and None


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_symbolic_link_stays_one_and_its_target_is_replaced(tmp_path):
    (tmp_path / "runs").mkdir()
    target, link = tmp_path / "runs" / "7.bin", tmp_path / "latest.bin"
    target.write_text("old")
    link.symlink_to(target)
    atomically(link, put("new"))
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert names(tmp_path / "runs") == ["7.bin"]

    waiting = tmp_path / "next.bin"  # a link whose target is not there yet
    waiting.symlink_to(tmp_path / "runs" / "8.bin")
    atomically(waiting, put("first"))
    assert waiting.is_symlink()
    assert (tmp_path / "runs" / "8.bin").read_text() == "first"


@pytest.mark.parametrize("mode", [0o640, 0o600, 0o664])
def test_the_rights_of_a_file_are_kept(tmp_path, mode):
    path = tmp_path / "a.bin"
    path.write_text("old")
    path.chmod(mode)
    atomically(path, put("new"))
    assert path.stat().st_mode & 0o7777 == mode
    assert path.read_text() == "new"


def test_a_new_file_has_the_usual_rights(tmp_path):
    def private(temporary: str) -> None:
        Path(temporary).write_text("new")
        os.chmod(temporary, 0o600)

    (tmp_path / "usual").touch()
    atomically(tmp_path / "a.bin", private)
    assert (tmp_path / "a.bin").stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize("name", ["a" * 250, "a" * 255, "é" * 127, "x" * 251 + ".bin"])
def test_a_long_name_works(tmp_path, name):
    seen = []

    def write(temporary: str) -> None:
        seen.append(Path(temporary).name)
        put("new")(temporary)

    atomically(tmp_path / name, write)
    assert names(tmp_path) == [name]
    assert seen != [name]
    with pytest.raises(KeyError):  # and what a failed write leaves is removed
        atomically(tmp_path / name, lambda temporary: {}["no"])
    assert (tmp_path / name).read_text() == "new"
    assert names(tmp_path) == [name]


KILLED = """
import os, sys
from pathlib import Path
from leco.atomic import atomically

def write(temporary):
    Path(temporary).write_text("half")
    os.kill(os.getpid(), 9)

atomically(Path(sys.argv[1]), write)
"""


@pytest.mark.parametrize("name", ["a.bin", "b" * 250])
def test_the_next_write_removes_what_a_killed_one_left(tmp_path, name):
    (tmp_path / name).write_text("old")
    root = str(Path(atomic.__file__).parents[1])
    command = [sys.executable, "-c", KILLED, str(tmp_path / name)]
    done = subprocess.run(command, cwd=root, check=False)
    assert done.returncode == -9
    assert len(names(tmp_path)) == 2
    assert (tmp_path / name).read_text() == "old"
    other = tmp_path / "other.bin"
    atomically(other, put("other"))  # of another name: left alone
    assert len(names(tmp_path)) == 3
    atomically(tmp_path / name, put("new"))
    assert names(tmp_path) == sorted([name, "other.bin"])
    assert (tmp_path / name).read_text() == "new"


def test_the_file_of_a_writer_at_work_is_left_alone(tmp_path):
    path, kept = tmp_path / "a.bin", []

    def slow(temporary: str) -> None:
        put("slow")(temporary)
        atomically(path, put("quick"))  # meanwhile, here
        kept.append(Path(temporary).exists())

    atomically(path, slow)
    assert kept == [True]
    assert path.read_text() == "slow"

    # Another process of this machine that runs, and one of another machine
    parent = atomic._writer(os.getppid())
    elsewhere = "00000000" + atomic._writer(2**22 + 1)[8:]
    for writer in (parent, elsewhere):
        (tmp_path / f"a.bin.{writer}.tmp").touch()
    (tmp_path / "a.bin.tmp").touch()  # of somebody else
    atomically(path, put("new"))
    assert len(names(tmp_path)) == 4

    # A day later
    long_ago = (tmp_path / f"a.bin.{elsewhere}.tmp").stat().st_mtime - 2 * atomic.DAY
    os.utime(tmp_path / f"a.bin.{elsewhere}.tmp", (long_ago, long_ago))
    atomically(path, put("new"))
    assert names(tmp_path) == sorted(["a.bin", f"a.bin.{parent}.tmp", "a.bin.tmp"])


def test_an_earlier_process_of_the_same_id_is_gone(tmp_path):
    mine = atomic._writer(os.getpid())
    earlier = mine.replace(atomic.THIS_PROCESS, "0" * 6)
    (tmp_path / f"a.bin.{earlier}.tmp").touch()
    atomically(tmp_path / "a.bin", put("new"))
    assert names(tmp_path) == ["a.bin"]


def test_a_folder_and_a_missing_folder_are_refused(tmp_path):
    with pytest.raises(IsADirectoryError, match="is a folder, not a file"):
        atomically(tmp_path, put("new"))
    with pytest.raises(FileNotFoundError):
        atomically(tmp_path / "no" / "a.bin", put("new"))
    assert names(tmp_path) == []
