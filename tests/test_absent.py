"""Optional packages: the message has the real cause."""

import sys

import pytest

from leco.optional import optional

SOURCES = {
    "needs another": "import a_package_that_is_absent",
    "lacks a name": "from json import a_name_that_is_absent",
    "its own part": "import broken_package.absent",
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_a_package_that_fails_is_not_called_absent(source, tmp_path, monkeypatch):
    (tmp_path / "broken_package").mkdir()
    (tmp_path / "broken_package" / "__init__.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        ImportError, match=r"f: the package broken is installed, but .*absent"
    ) as error:
        optional("broken_package", "f", "broken", "extra")
    assert "pip install" not in str(error.value)
    assert isinstance(error.value.__cause__, ImportError)
    sys.modules.pop("broken_package", None)


@pytest.mark.parametrize("module", ["a_package_that_is_absent", "a_package_that_is_absent.part"])
def test_an_absent_package_is_named_with_its_cure(module):
    with pytest.raises(ImportError, match=r"^f needs the package p: pip install leco\[extra\]$"):
        optional(module, "f", "p", "extra")


def test_an_absent_part_of_a_package_is_no_absent_package():
    with pytest.raises(ImportError, match=r"package json is installed, but json.absent can't be"):
        optional("json.absent", "f", "json", "extra")
