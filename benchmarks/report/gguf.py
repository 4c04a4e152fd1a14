"""SmolLM2-135M in the types of GGUF files: the errors of single layers, and whole nets."""

from typing import Any

from benchmarks import records

Row = dict[str, Any]
METHODS = {"ggml": "ggml's quantizer", "direct": "one C step", "LC": "`leco.calibrate`"}


def layers() -> list[Row]:
    """A line for each type: the mean of the layers' relative errors, in percent."""
    found = {run["kind"]: run for run in records.read("serving", "gguf layers")}
    return [
        {
            "type": kind,
            "layers": str(len(run["rows"][0]["errors"])),
            **{row["method"]: _percent(list(row["errors"].values())) for row in run["rows"]},
        }
        for kind, run in found.items()
    ]


def nets() -> list[Row]:
    """A line for each whole net."""
    return [
        {
            "type": run["kind"],
            "method": METHODS[run["method"]],
            "perplexity": f"{run['perplexity']:,.1f}",
            "MB": f"{run['bytes'] / 1e6:.1f}" if "bytes" in run else "the same",
            "seconds of one processor": f"{run['cpu_seconds']:.0f}",
            "tokens a second": f"{run['tokens_a_second']:.1f}" if "bytes" in run else "the same",
        }
        for run in records.read("serving", "gguf")
    ]


def every_layer() -> list[Row]:
    """The errors of single layers, a row for each method of each type."""
    runs = records.read("serving", "gguf layers")
    return [{"kind": run["kind"], **row} for run in runs for row in run["rows"]]


def _percent(errors: list[float]) -> str:
    return f"{100 * sum(errors) / len(errors):.3g}"
