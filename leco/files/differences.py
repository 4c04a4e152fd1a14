"""What to say where the names in a file and in a model differ."""

from collections.abc import Sequence

SHOWN = 3
"""How many names a message shows."""


def listed(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{list(names[:SHOWN])}{more}"


def differences(
    file: Sequence[str], model: Sequence[str], missing: Sequence[str], unknown: Sequence[str]
) -> str:
    """What to say of a file that does not have the names of the model.

    Args:
        file: the names in the file.
        model: the names in the model.
        missing: those of the model for which the file has nothing.
        unknown: those of the file that the model does not have.
    """
    for prefix, long, where, other in (
        (_prefix(file, model), file, "file", "model"),
        (_prefix(model, file), model, "model", "file"),
    ):
        if prefix:
            name = next(name for name in long if name.startswith(prefix))
            return (
                f"the names differ by the prefix {prefix!r}, which only the {where} has "
                f"({name!r} in the {where}, {name.removeprefix(prefix)!r} in the {other})"
            )
    lacks = [f"lacks {listed(missing)}"] if missing else []
    has = [f"has {listed(unknown)} beside what the model has"] if unknown else []
    return f"the file {' and '.join([*lacks, *has])}"


def _prefix(long: Sequence[str], short: Sequence[str]) -> str:
    """The prefix with which each of the `short` names is one of the `long` ones; "" if none."""
    if not long or not short:
        return ""
    known, name = set(long), min(short)
    ends = (other.removesuffix(name) for other in long if other.endswith(f".{name}"))
    return next((p for p in ends if all(p + own in known for own in short)), "")
