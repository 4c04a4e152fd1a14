"""The report of a job: an HTML page without other files, and the same in Markdown."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import yaml

from leco.command.charts import Point, bars, line, scatter, short
from leco.command.which import kind_of

MANY = 8  # points of a sweep from which the page shows the best ones first


def write(folder: Path, result: dict[str, Any]) -> None:
    """Write report.html and report.md into a folder."""
    for name, text in render(result).items():
        (folder / name).write_text(text, encoding="utf-8")


def render(result: dict[str, Any]) -> dict[str, str]:
    """Return the two texts of a result, by file name."""
    values = {**result, **_derived(result)}
    return {name: _fill(f"{name}.j2", values) for name in ("report.html", "report.md")}


def sweep(points: Sequence[dict[str, Any]], title: str, measured: str) -> dict[str, str]:
    """Return the two texts of a sweep: a curve of error against bytes, and a table.

    Args:
        points: with word, folder, bytes, ratio and value; those of a search with their choices.
        title: what was swept.
        measured: what the value is.
    """
    points = sorted(points, key=lambda p: p["bytes"])
    best = {id(p) for p in pareto(points)}
    rows = [{**p, "front": id(p) in best} for p in points]
    values = {
        "points": [row for row in rows if row["front"] or len(rows) <= MANY],
        "others": [row for row in rows if not row["front"] and len(rows) > MANY],
        "search": any("choice" in p for p in points),
        "title": "/".join(Path(title).parts[-2:]),
        "measured": measured,
        "chart": _front(rows, measured),
    }
    return {name: _fill(f"{name}.j2", values) for name in ("sweep.html", "sweep.md")}


def _front(rows: Sequence[dict[str, Any]], measured: str) -> str:
    """Draw the points and a line through the best ones. Among many points only these have names."""
    unit, name = (1e6, "MB") if rows[-1]["bytes"] >= 1e6 else (1e3, "kB")
    found, front = list[Point](), list[Point]()
    for row in rows:
        if row["value"] is not None:
            word = row["word"] if row["front"] or len(rows) <= MANY else ""
            found.append(Point(row["bytes"] / unit, row["value"], word))
            front += [found[-1]] if row["front"] else []
    log = bool(found) and max(p.y for p in found) > 5 * min(p.y for p in found) > 0
    return scatter(found, f"{name} of the file", measured, (False, log), front)


def pareto(points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the points that no other one beats in bytes and value."""
    known = [p for p in points if p["value"] is not None]
    return [
        p
        for p in known
        if not any(
            q["bytes"] <= p["bytes"]
            and q["value"] <= p["value"]
            and (q["bytes"], q["value"]) != (p["bytes"], p["value"])
            for q in known
        )
    ]


def _fill(name: str, values: dict[str, Any]) -> str:
    """Fill a template with values. HTML is escaped."""
    texts = files("leco.command").joinpath("templates")
    loader = jinja2.FunctionLoader(lambda n: texts.joinpath(n).read_text(encoding="utf-8"))
    environment = jinja2.Environment(
        loader=loader,
        autoescape=".html" in name,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "bytes": size,
        "short": short,
        "cell": _cell,
        "number": _number,
        "digits": _digits,
        "duration": duration,
        "ms": _ms,
    }
    return environment.get_template(name).render(**values)


def size(count: float) -> str:
    """Return a number of bytes for people.

    >>> from leco.command.report import size
    >>> size(1_234_000), size(950)
    ('1.23 MB', '950 B')
    """
    for one, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= one:
            return f"{count / one:.3g} {unit}"
    return f"{count:,.0f} B"


def duration(seconds: float) -> str:
    """Return a time for people.

    >>> from leco.command.report import duration
    >>> duration(0.4), duration(75), duration(7300)
    ('1 s', '1.2 min', '2.0 h')
    """
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def _digits(value: float | None) -> str:
    """Return a number to three digits."""
    return "" if value is None else f"{value:.3g}"


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:,.0f}" if seconds >= 0.1 else f"{1000 * seconds:.3g}"


def _cell(text: Any) -> str:
    """Return a text for a cell of a Markdown table."""
    return str(text).replace("|", "\\|").replace("\n", " ")


def _derived(result: dict[str, Any]) -> dict[str, Any]:
    """Return the charts and sums of a result."""
    layers = [row for row in result["layers"] if row.get("how")]
    known = [row for row in layers if row.get("error") is not None]
    total = sum(part["bytes"] for part in result["parts"]) or 1
    return {
        "name": "/".join(Path(result["model"]).parts[-2:]),
        "compressed": layers,
        "left": [row for row in result["layers"] if not row.get("how")],
        "kinds": _kinds(layers),
        "worst": sorted(known, key=lambda row: -row["error"])[:5],
        "ratio": result["bytes"]["before"] / max(result["bytes"]["after"], 1),
        "shares": [{**p, "share": 100 * p["bytes"] / total} for p in result["parts"]],
        "errors": bars([r["error"] for r in known], [r["name"] for r in known], "relative error"),
        "curve": _curve(result["records"]),
        "settings": yaml.safe_dump(result["recipe"], sort_keys=False, allow_unicode=True),
    }


def _kinds(layers: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one row for all layers whose names differ only in numbers."""
    kinds = dict[str, list[dict[str, Any]]]()
    for row in layers:
        kinds.setdefault(kind_of(row["name"]), []).append(row)
    found = list[dict[str, Any]]()
    for name, rows in kinds.items():
        errors = [row["error"] for row in rows if row.get("error") is not None]
        before, after = (sum(row[key] for row in rows) for key in ("before", "after"))
        words = sorted({row["word"] for row in rows})
        found.append(
            {
                "name": name,
                "count": len(rows),
                "words": ", ".join(words),
                "before": before,
                "after": after,
                "error": sum(errors) / len(errors) if errors else None,
            }
        )
    return found


def _curve(records: Sequence[dict[str, Any]]) -> str:
    """Draw the error of the compressed net by LC step, or the gap where no error is known."""
    for key, name in (("compressed_error", "error"), ("relative_gap", "relative gap")):
        points = [Point(r["step"], r[key]) for r in records if r.get(key) is not None]
        if len(points) > 1:
            return line(points, "LC step", name)
    return ""
