"""The tables of docs/trainers.md: the cost of several processes, and a net from a Trainer."""

from benchmarks import records
from benchmarks.report.speed import Row


def costs() -> str:
    """A paragraph that says what was measured."""
    run = _runs()[-1]
    first = run["rows"][0]
    return (
        f"A transformer of {first['parameters'] / 1e6:.1f} million parameters, "
        f"{first['compressed'] / 1e6:.1f} of them compressed to codebooks of 4 values, a codebook "
        f"for each matrix; AdamW, sequences of {run['length']} tokens. "
        "Processor seconds of the busiest process, without waiting for the other; "
        f"{records.where(run)} for each process. The machine was busy: ratios of single runs "
        "differ by a few percent."
    )


def rows() -> list[Row]:
    """Optimizer steps with and without the penalty, and C steps."""
    return [
        {
            "processes": str(row["processes"]),
            "tokens on each": f"{run['batch']} x {run['length']}",
            "optimizer step, s": f"{row['plain_seconds']:.2f}",
            "with leco": f"{100 * (row['ratio'] - 1):+.1f} %",
            "C step of all tasks, s": f"{row['c_step_seconds']:.2f}",
        }
        for run in _runs()
        for row in run["rows"]
    ]


def minilm() -> list[Row]:
    """all-MiniLM-L6-v2: the newest record of each row and method, with LC's settings."""
    newest = {(run["row"], run["method"]): run for run in records.read("trainers", "minilm")}
    return [
        {
            "format": run["row"],
            "method": run["method"] + (f", {run['steps']:,} steps" if "steps" in run else ""),
            "file bytes": f"{run['bytes']:,}",
            "mean cosine": f"{run['cosine']:.3f}",
            "least cosine": f"{run['least_cosine']:.3f}",
            "same nearest sentence, %": f"{run['same_nearest']:.1f}",
            "processor s": f"{run['cpu_seconds']:.0f}",
        }
        for run in (newest[key] for key in sorted(newest))
    ]


def _runs() -> list[Row]:
    """The newest record of each batch size."""
    newest = {run["batch"]: run for run in records.read("ranks", "cost")}
    return [newest[batch] for batch in sorted(newest)]
