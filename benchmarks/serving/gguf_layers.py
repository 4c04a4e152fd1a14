"""The error of four layers of a language model in the types of GGUF files, in minutes.

    python -m benchmarks.serving.gguf_layers --kinds Q2_0 Q4_0 --record

By ggml's own quantizer, alone and with the inputs' mean squares (an "importance matrix"), by one C
step in the metric of these mean squares, and by `leco.calibrate`. The layers and the inputs are
those of `benchmarks.layerwise.layers`, which keeps them in the user's cache: run it first. A type
whose runs do not fit a layer's inputs is left out for this layer.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import leco
from benchmarks import records
from benchmarks.baselines.oneshot import layer_error
from benchmarks.layerwise import layers, smollm2
from benchmarks.layerwise.rows import Row, always
from benchmarks.serving import llama_cpp
from leco.compressions.runtime_grids import GGUF
from leco.export.gguf_blocks import NUMBERS

NAME, KIND = "serving", "gguf layers"
Found = dict[str, Any]


def by_ggml(kind: str, weighed: bool) -> Callable[[Tensor, Tensor], Tensor]:
    """ggml's own quantizer."""

    def compress(w0: Tensor, h: Tensor) -> Tensor:
        data = llama_cpp.quantized(w0, NUMBERS[kind], h.diagonal() if weighed else None)
        return llama_cpp.decoded(data, kind, w0.shape[1])

    return compress


def by_c_step(kind: str) -> Callable[[Tensor, Tensor], Tensor]:
    """One C step in the metric diag(H)."""
    view, compression = leco.gguf_grid(kind)

    def compress(w0: Tensor, h: Tensor) -> Tensor:
        metric = view.forward([h.diagonal().expand_as(w0).contiguous()])
        theta = compression.compress(view.forward([w0]), metric)
        return view.backward(theta.decompress(), [w0.shape])[0]

    return compress


def measured(kind: str, problems: dict[str, Any]) -> list[Found]:
    """The errors of the layers that the type fits, and the processor seconds of all."""
    view, compression = leco.gguf_grid(kind)
    row = Row(lambda _: 0.0, view, always(compression))
    ways = {
        "ggml": by_ggml(kind, False),
        "ggml, weighed": by_ggml(kind, True),
        "C step": by_c_step(kind),
        "LC": layers.lc(row),
    }
    found = []
    fits = {n: (w0, h) for n, (w0, h) in problems.items() if not w0.shape[1] % GGUF[kind].size}
    for method, compress in ways.items():
        start = time.process_time()
        errors = {n: layer_error(compress(w0, h), w0, h) for n, (w0, h) in fits.items()}
        seconds = time.process_time() - start
        found.append({"method": method, "cpu_seconds": seconds, "errors": errors})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--kinds", nargs="+", choices=GGUF, default=[*GGUF])
    add("--threads", type=int, default=1)
    add("--record", action="store_true", help="add a line to results/serving.jsonl")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    problems = torch.load(smollm2.CACHE / "smollm2-135m" / "moments.pt", weights_only=True)
    done = {run["kind"] for run in records.read(NAME, KIND)} if args.record else set()
    for kind in (kind for kind in args.kinds if kind not in done):
        rows = measured(kind, problems)
        records.show(kind, rows)
        if args.record:
            records.append(NAME, KIND, kind=kind, sequences=layers.SEQUENCES, rows=rows)


if __name__ == "__main__":
    main()
