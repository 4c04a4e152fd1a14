"""Rows about speed and files: C steps, lengths, and what takes how long beside what."""

import textwrap
from statistics import mean
from typing import Any

from benchmarks import records
from benchmarks.report.cells import FROM_DELTA, TITLES, of

Row = dict[str, Any]
FILES = ("resnet20", "minilm")
KINDS = ("1 bit", "16 values", "5 % of the weights, 16 values", "learned ranks")  # on the page
AIMS = (  # net, how the variant's name begins, at least so many times faster at batch 64
    ("Linear 2048 x 2048", "pair of rank 64", 8.0),
    ("resnet56", "half of the", 1.5),
)


def last(name: str, benchmark: str) -> Row:
    """The newest record."""
    return records.read(name, benchmark)[-1]


def c_steps() -> list[Row]:
    """The C steps that have an aim, and whether it is met."""
    return [
        {
            "C step": row["c_step"],
            "seconds": f"{row['seconds']:.3f}",
            "against": row["yardstick"],
            "ratio": f"{row['ratio']:.2f}",
            "at most": f"{row['bound']:g}",
            "": "met" if row["ratio"] <= row["bound"] else "missed",
            "memory, copies of the input": f"{row['copies']:.2f}",
        }
        for row in last("csteps", "speed")["rows"]
        if row["bound"] is not None
    ]


def many() -> list[Row]:
    """Many small problems, in units of a sort: cold, warm, and warm in a metric."""
    found: dict[tuple[str, str], Row] = {}
    for row in last("csteps", "many")["rows"]:
        name, size, how = row["c_step"].rsplit(", ", 2)
        line = found.setdefault((name, size), {"C step": name, "weights": size})
        line[f"{how}, sorts"] = f"{row['ratio']:.2f}"
        if row["bound"] < row["ratio"]:
            line[f"{how}, sorts"] += f" (aim {row['bound']:g})"
    return list(found.values())


def steps() -> list[Row]:
    """Whole LC steps of a transformer."""
    return [
        {
            "compression": row["scheme"],
            "cold, s": f"{row['cold']['seconds']:.1f}",
            "warm, s": f"{row['warm']['seconds']:.1f}",
            "memory, copies of the weights": f"{row['copies']:.2f}",
        }
        for row in last("csteps", "step")["rows"]
    ]


def lengths() -> list[Row]:
    """The files of two nets, against the entropy bound and zstd."""
    return [
        {
            "net": TITLES[row["net"]],
            "compression": row["compression"],
            "file bytes": f"{row['bytes']:,}",
            "32-bit weights / file": f"{row['dense_bytes'] / row['bytes']:.1f}",
            "over the entropy bound": f"{row['bytes'] / row['entropy_bound'] - 1:+.1%}",
            "zstd of the weights / file": f"{row['zstd_of_weights'] / row['bytes']:.2f}",
            "zstd of packed codes / file": f"{row['zstd_of_packed'] / row['bytes']:.2f}",
        }
        for row in last("file", "lengths")["rows"]
        if row["net"] in FILES and row["compression"] in KINDS
    ]


def costs() -> list[Row]:
    """Whole LC runs beside plain training of as many epochs, and the memory of both."""
    found = []
    for net in ("lenet300", "resnet20"):
        (plain,) = of(net=net, group="cost", method="plain training")
        whole = of(net=net, group="cost", method="LC")
        whole = whole or of(net=net, group="", method=FROM_DELTA, compression="binary, channels")
        for cell in whole:
            row = {"net": net, "compression": cell["compression"], "note": cell["note"]}
            for key in ("seconds", "peak_bytes"):
                row |= {f"plain_{key}": plain["row"][key], f"lc_{key}": cell["row"][key]}
                row[f"{key}_ratio"] = cell["row"][key] / plain["row"][key]
            found.append(row)
    return found


def authors() -> list[Row]:
    """LeNets by the authors' settings, and the digits of `make demo`: a row for each run."""
    found = []
    for benchmark in ("authors", "short", "tensors", "bytes", "demo"):
        for run in records.read("authors", benchmark):
            keys = ("benchmark", "net", "init", "seed", "reference")
            found += [{key: run.get(key) for key in keys} | row for row in run["rows"]]
    return found


def damaged() -> list[Row]:
    """Of each kind of damage, how many files came to what."""
    rows = last("file", "fuzz")["rows"]
    return [{**row, "failures": sum(row["failures"].values())} for row in rows]


def fuzz() -> str:
    """How many damaged files there were, and what came of them."""
    run = last("file", "fuzz")
    keys = ("inputs", "refused", "the_same", "loaded", "failures")
    every = damaged()
    inputs, refused, same, loaded, failures = (sum(row[key] for row in every) for key in keys)
    memory, slowest = (max(r[key] for r in every) for key in ("largest_bytes", "slowest_seconds"))
    return textwrap.fill(
        f"{inputs:,} files were damaged at random in {run['seconds']:.0f} s. `load` refused "
        f"{refused:,} with a ValueError; {same:,} loaded the right weights; {loaded:,} with right "
        "checksums loaded other weights of the right shapes, which no check can tell. Failures: "
        f"{failures}. The slowest took {slowest:.2f} s, the largest {memory / 2**20:.1f} MB.",
        138,
    )


def speeds() -> list[Row]:
    """How long things take beside others: training and serving."""
    runs: dict[str, list[float]] = {}
    for row in costs():
        start = row["note"] or "L steps from the last w"
        name = f"LC run, {TITLES[row['net']]}, {row['compression']}, {start}"
        runs.setdefault(name, []).append(row["seconds_ratio"])
    found = [_row(name, "plain training", mean(ratios), 1.1) for name, ratios in runs.items()]
    for row in last("csteps", "lstep")["rows"]:
        found.append(_row(f"L step, ResNet-20, {row['method']}", "plain step", row["ratio"], 1.1))
    return found + _served()


def _served() -> list[Row]:
    """Nets that ought to be faster, and packed ones, at batch 64."""
    found = []
    for row in last("serving", "latency")["rows"]:
        net, variant = row["net"], row["variant"]
        aims = [a for name, start, a in AIMS if name == net and variant.startswith(start)]
        packed = net == "minilm" and variant.startswith("packed, 16 values")
        if row["batch"] == 64 and (aims or packed):
            least = min(row["times_faster"], row["least_times_faster"])
            most = 1 / aims[0] if aims else None
            name = f"{TITLES.get(net, net)}, {variant}"
            found.append(_row(name, "dense", 1 / row["times_faster"], most, 1 / least))
    return found


def _row(
    what: str, beside: str, ratio: float, most: float | None = None, worst: float | None = None
) -> Row:
    """Time as a ratio; the aim is met where the worse of median and minima is."""
    verdict = "" if most is None else "met" if (worst or ratio) <= most else "missed"
    aim = "" if most is None else f"{most:.3g}"
    return {"what": what, "beside": beside, "time": f"{ratio:.3f}", "at most": aim, "": verdict}
