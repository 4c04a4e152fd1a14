"""Packages that are not required, imported where they are needed."""

import importlib
from typing import Any


def optional(module: str, needed_by: str, package: str, extra: str) -> Any:
    """The module of this name, of an optional package.

    Args:
        module: what is imported, such as "torch_pruning".
        needed_by: the functions that need it, for the message.
        package: its name in the registry.
        extra: leco's extra that installs it.

    Raises:
        ImportError: the package is absent, with the command that installs it; or the package is
            there and its import fails, with the reason.

    >>> from leco.optional import optional
    >>> optional("json", "an example", "json", "none").dumps([1])
    '[1]'
    """
    top = module.partition(".")[0]
    try:
        importlib.import_module(top)
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name == top:
            raise ImportError(
                f"{needed_by} needs the package {package}: pip install leco[{extra}]", name=top
            ) from error
        raise _failed(module, needed_by, package, error) from error
    except ImportError as error:
        raise _failed(module, needed_by, package, error) from error


def _failed(module: str, needed_by: str, package: str, error: ImportError) -> ImportError:
    return ImportError(
        f"{needed_by}: the package {package} is installed, but {module} can't be imported: {error}",
        name=error.name,
    )
