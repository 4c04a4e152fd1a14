"""Make the tables of the pages, the figures, and results/*.csv.

    python -m benchmarks.tables [--check]

Everything comes from the records in benchmarks/results/*.jsonl. A table stands between the markers
<!-- NAME --> and <!-- end of NAME -->. The CSV files hold every number; the pages hold a choice.
"""

import argparse
import csv
import io
import re
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks import records
from benchmarks.report import aims, cells, figure, formats, gguf, layerwise, ranks, serving, speed
from benchmarks.report.cells import FROM_DELTA, TITLES, chosen, error, mean, of, others

ROOT = Path(__file__).parent.parent
Row = dict[str, Any]
LONGER = "40 epochs"
METHODS = (  # net, group, compressions of the table of methods
    ("lenet300", "", ("2 values", "ternary", "5% of the weights", "1% of the weights")),
    ("lenet300", "", ("5% in 4 values", "2 values + 1 %", "rank 10")),
    ("lenet300-relu", "", ("1% of the weights", "8000 bytes")),
    ("lenet5", "", ("1% of the weights", "3500 bytes")),
    ("resnet20", "", ("binary, channels", "ternary, channels", "34000 bytes", "11500 bytes")),
    ("resnet20", "", ("5% of the weights", "5% in 4 values", "26.4 M multiply-adds")),
    ("resnet20", LONGER, ("binary, channels",)),
    ("resnet56", LONGER, ("binary + 1 %",)),
    ("vgg16", "", ("68.7 M multiply-adds",)),
)
README = (
    ("lenet300", "", ("2 values", "1% of the weights", "5% of the weights", "5% in 4 values")),
    ("lenet300-relu", "", ("8000 bytes",)),
    ("lenet5", "", ("3500 bytes",)),
    ("resnet20", "", ("ternary, channels", "34000 bytes")),
    ("resnet56", LONGER, ("binary + 1 %",)),
    ("vgg16", "", ("68.7 M multiply-adds",)),
)
ABLATION = {  # net: the compression, and what is different in the rows of the page
    "lenet300": (
        "2 values",
        *("quadratic penalty", "mu constant", "mu grows a thousandfold", "hard targets"),
        *("L steps of 1 iteration", "L steps of 72 iterations", "rate 0.05", "rate 0.2"),
        "AdamW, rate 0.001",
    ),
    "resnet20": (
        "binary, channels",
        *("quadratic penalty", "mu constant", "L steps of 4 iterations"),
        *("L steps of 70 iterations", "AdamW, rate 0.001"),
    ),
}
LAST = {"lenet300": ("10 steps", "160 steps", "start 1", "proximal step"), "resnet20": ()}


def methods(chosen_rows: Iterable[tuple[str, str, tuple[str, ...]]]) -> list[Row]:
    """LC beside its pieces and the best method of others, in % of test error."""
    found = []
    for net, group, compressions in chosen_rows:
        for compression in compressions:
            own = of(net=net, group=group, compression=compression)
            best, lc = others(own), chosen(own)
            errors = {cell["seed"]: cell["reference"]["test_error"] for cell in own}
            row = {
                "net": ", ".join(part for part in (TITLES[net], group) if part),
                "reference": f"{statistics.mean(errors.values()):.2f}",
                "compression": compression,
                "DC": error(of(own, method="DC")),
                "DC + retraining": error(of(own, method="DC + retraining")),
                "LC": error(lc),
                "best method of others": f"{best[0]['method']}, {error(best)}" if best else "",
                "file bytes (LC)": f"{mean(lc, 'bytes'):,.0f}",
                "ratio": f"{mean(lc, 'ratio'):.1f}",
            }
            found.append(row)
    return found


def ablation() -> list[Row]:
    """One change of the settings at a time; the first row of each start has none."""
    found = []
    for net, (compression, *notes) in ABLATION.items():
        own = of(net=net, compression=compression, seed=0)
        tried = of(own, group="ablation")
        base = of(own, group="", method=FROM_DELTA)
        last = of(own, group="", method="LC")
        if net == "resnet20":  # its ablation has fewer epochs, and rows of its own for both starts
            base, last = of(tried, note="from Delta"), [c for c in tried if "last w" in c["note"]]
        found += [_change(net, "Delta", "nothing", base)]
        for note in notes:
            found += [_change(net, "Delta", note, of(tried, note=f"from Delta, {note}"))]
        found += [_change(net, "the last w", "nothing", last)]
        for note in LAST[net]:
            found += [_change(net, "the last w", note, of(tried, note=note))]
        straight = of(tried, method="straight-through")
        found += [_change(net, "", "straight-through estimation", straight)] if straight else []
    return found


def metrics() -> list[Row]:
    """Direct compression and LC with and without the Fisher diagonal as the metric."""
    found = []
    for cell in of(group="metric"):
        row, left = cell["row"], cell["trace"].get("changed", {}).get("last")
        line = {
            "net": TITLES[cell["net"]],
            "compression": cell["compression"],
            "method": cell["method"],
            "metric": cell["note"],
            "validation error %": f"{row['validation_error']:.2f}",
            "test error %": f"{row['test_error']:.2f}",
            "file bytes": f"{row['bytes']:,}",
            "choices that left DC, %": "" if left is None else f"{100 * left:.1f}",
        }
        found.append(line)
    keys = "net", "compression", "method"
    first = {"no metric": ""}
    return sorted(found, key=lambda r: [*(r[k] for k in keys), first.get(r["metric"], r["metric"])])


def _change(net: str, start: str, note: str, runs: list[Row]) -> Row:
    (cell,) = runs
    row, left = cell["row"], cell["trace"].get("changed")
    return {
        "net, compression": f"{TITLES[net]}, {cell['compression']}",
        "L steps start at": start,
        "what is different": note,
        "validation error %": f"{row['validation_error']:.2f}",
        "train loss": f"{row['train_loss']:.4f}",
        "choices that left DC, %": f"{100 * left['last']:.1f}" if left else "",
    }


def tables() -> dict[str, str]:
    """The tables of the pages by their markers."""
    made, verdicts = aims.rows(), [row["verdict"] for row in aims.rows()]
    csteps = speed.last("csteps", "speed")
    count = f"{verdicts.count('met')} of {len(verdicts)} rows are met."
    sizes = (
        f"{csteps['weights']:,} float32 weights, a matrix of {csteps['side']} x {csteps['side']}"
    )
    return {
        "aims": f"{markdown(made)}\n\n{count}",
        "methods": markdown(methods(METHODS)),
        "ablation": markdown(ablation()),
        "metric": markdown(metrics()),
        "many": markdown(speed.many()),
        "steps": markdown(speed.steps()),
        "csteps": f"{markdown(speed.c_steps())}\n\n{sizes}; {records.where(csteps)}.",
        "files": markdown(speed.lengths()),
        "speeds": markdown(speed.speeds()),
        "fuzz": speed.fuzz(),
        "trainers": f"{markdown(ranks.rows())}\n\n{ranks.costs()}",
        "minilm": markdown(ranks.minilm()),
        "resnet-formats": markdown(formats.resnet()),
        "layers": markdown(layerwise.layers()),
        "layers-steps": markdown(layerwise.steps()),
        "gguf": markdown(gguf.layers()),
        "gguf-nets": markdown(gguf.nets()),
        "runtimes": markdown(serving.runtimes()),
        "xnnpack": markdown(serving.xnnpack()),
        "kernels": markdown(serving.kernels()),
        "loading": markdown(serving.loading()),
        "smollm2-formats": markdown(formats.smollm2()),
        "smollm2-samples": markdown(formats.smollm2_samples()),
        "minilm-formats": markdown(formats.minilm()),
        "minilm-samples": markdown(formats.minilm_samples()),
        "results": markdown(methods(README)),
    }


def numbers() -> dict[str, list[Row]]:
    """The rows of results/*.csv: all that is recorded."""
    coding, served = speed.last("file", "coding"), records.read("serving", "latency")
    return {
        "proof": cells.summaries(),
        "aims": aims.rows(),
        "costs": speed.costs(),
        "authors": speed.authors(),
        "references": records.read("references", "reference"),
        **{
            name: speed.last("csteps", name)["rows"]
            for name in ("speed", "scaling", "lstep", "many", "step")
        },
        "lengths": speed.last("file", "lengths")["rows"],
        "ranks": speed.last("ranks", "cost")["rows"],
        "minilm": records.read("trainers", "minilm"),
        "fuzz": speed.damaged(),
        "layerwise": formats.every(),
        "layers": layerwise.every_layer(),
        "gguf": gguf.every_layer(),
        "gguf-nets": records.read("serving", "gguf"),
        "runtimes": serving.every(),
        "kernels": serving.products(),
        "loading": serving.loads(),
        "coding": coding["rows"],
        "floats": coding["floats"],
        "latency": [{"run": k} | row for k, run in enumerate(served) for row in run["rows"]],
    }


def markdown(rows: list[Row]) -> str:
    """A table; nothing where nothing is recorded."""
    if not rows:
        return ""
    lines = [[*rows[0]], ["---"] * len(rows[0]), *([*row.values()] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def comma_separated(rows: list[Row]) -> str:
    """One line a row; nested numbers have columns of their own."""
    plain = [{k: written(v) for k, v in records.flat(row).items()} for row in rows]
    columns = list(dict.fromkeys(column for row in plain for column in row))
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(plain)
    return file.getvalue()


def written(value: Any) -> Any:
    return f"{value:.8g}" if isinstance(value, float) else value


def filled(text: str, parts: dict[str, str]) -> str:
    """The text with the parts between their markers, where it has them."""
    for name, part in parts.items():
        between = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)", re.DOTALL)
        text = between.sub(lambda match, part=part: f"{match[1]}{part}\n{match[2]}", text)
    return text


def made() -> dict[Path, str]:
    """What each file must say, but for the figures."""
    names = ("benchmarks", "trainers", "export", "layers", "file")
    pages = [
        *(ROOT / "docs" / f"{name}.md" for name in names),
        ROOT / "README.md",
    ]
    parts = tables()
    found = {page: filled(page.read_text(encoding="utf-8"), parts) for page in pages}
    for name, rows in numbers().items():
        found[records.RESULTS / f"{name}.csv"] = comma_separated(rows)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; fail on old files")
    args = parser.parse_args()
    found = made()
    old = [p for p, text in found.items() if not p.exists() or p.read_text("utf-8") != text]
    if args.check:
        raise SystemExit("\n".join(f"{path} is old" for path in old) or 0)
    for path in old:
        path.write_text(found[path], encoding="utf-8")
    for net, most in (("lenet300", 100.0), ("resnet20", 30.0)):
        figure.draw(net, most, ROOT / "docs" / "figures" / f"proof-{net}.png")
    layerwise.draw(ROOT / "docs" / "figures" / "layerwise.png")


if __name__ == "__main__":
    main()
