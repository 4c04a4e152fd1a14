"""The table of what several processes cost."""

from benchmarks import records
from benchmarks.report.speed import Row, last


def costs() -> str:
    """A paragraph that says what was measured."""
    run = last("ranks", "cost")
    first = run["rows"][0]
    return (
        f"A transformer of {first['parameters'] / 1e6:.1f} million parameters, "
        f"{first['compressed'] / 1e6:.1f} of them compressed to codebooks of 4 values, a codebook "
        f"for each matrix; AdamW, {run['batch']} x {run['length']} tokens on each process. "
        "Processor seconds of the busiest process, without waiting for the other; "
        f"{records.where(run)} for each process. The machine was busy: 1 % is within the noise."
    )


def rows() -> list[Row]:
    """Optimizer steps with and without the penalty, and C steps."""
    return [
        {
            "processes": str(row["processes"]),
            "optimizer step, s": f"{row['plain_seconds']:.2f}",
            "with leco": f"{100 * (row['ratio'] - 1):+.1f} %",
            "C step of all tasks, s": f"{row['c_step_seconds']:.2f}",
        }
        for row in last("ranks", "cost")["rows"]
    ]
