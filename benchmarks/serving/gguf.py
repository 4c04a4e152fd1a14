"""SmolLM2-135M in the types of GGUF files: by calibration onto their grids, by one C step, and by
ggml's own quantizer.

    python -m benchmarks.serving.gguf --data FOLDER --kinds Q4_0 Q2_0 --methods ggml direct LC \\
        --record

FOLDER has wikitext-2/valid.txt.xz, which calibrates, and test.txt.xz, which judges. The matrices of
the blocks are of the type, the embedding (which is the output layer too) of Q8_0. Each file is
written, read back and compared with Delta(Theta) before it is judged. Perplexity is that of torch
at the weights of the file; tokens a second are those of llama.cpp, one token at a time.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import gguf
import torch

import leco
from benchmarks import records
from benchmarks.layerwise import methods, smollm2
from benchmarks.serving import llama_cpp
from leco.algorithm.compressed import compressed_tasks
from leco.export.gguf_blocks import NUMBERS

NAME, KIND = "serving", "gguf"
EMBEDDING = "model.embed_tokens.weight"
KEYS = ("model", "kind", "method", "sequences", "steps")
Found = dict[str, Any]


def problem(net: Any, names: list[str], kind: str) -> leco.LC:
    """Matrices on the grid of a type, at direct compression."""
    lc = leco.LC(net, leco.each(names, *leco.gguf_grid(kind)))
    lc.mu = 1.0
    return lc


def by_ggml_(net: Any, kind: str) -> Found:
    """Replace the weights by those that ggml's own quantizer makes, without calibration."""
    start = time.process_time()
    with torch.no_grad():
        for name in [*methods.matrices(net, net.model.layers), EMBEDDING]:
            weight, own = net.get_parameter(name), "Q8_0" if name == EMBEDDING else kind
            data = llama_cpp.quantized(weight, NUMBERS[own])
            weight.copy_(llama_cpp.decoded(data, own, weight.shape[1]))
    return {"cpu_seconds": time.process_time() - start}


def by_grid_(
    net: Any, kind: str, sequences: torch.Tensor | None, steps: int, kept: Path | None
) -> Found:
    """Replace the weights by Delta(Theta), of direct compression or of calibration; write the file
    and measure it in llama.cpp."""
    start, errors = time.process_time(), {}
    embedding = problem(net, [EMBEDDING], "Q8_0")
    embedding.project_()
    lc = problem(net, list(methods.matrices(net, net.model.layers)), kind)
    if sequences is not None:
        batches = smollm2.batches(sequences)
        found = leco.calibrate(lc, batches, steps=steps, progress=False, checkpoint=kept)
        count = len(found.records)
        errors["error"] = sum(r.error for r in found.records) / count
        errors["direct_error"] = sum(r.direct for r in found.records) / count
    else:
        lc.project_()
    seconds = time.process_time() - start
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.gguf"
        leco.export_gguf(path, net, {**compressed_tasks(embedding), **compressed_tasks(lc)})
        with llama_cpp.Runtime(path) as runtime:
            speed = runtime.speed(64)
        equal = same(path, net)
        size = path.stat().st_size
    if not equal:
        raise SystemExit("the file's weights are not Delta(Theta)")
    return {"cpu_seconds": seconds, "bytes": size, "tokens_a_second": speed, **errors}


def same(path: Path, net: Any) -> bool:
    """Whether the values that ggml decodes are those of the net, matrix by matrix; files with types
    that the package gguf does not know are checked by llama.cpp's loader alone."""
    try:
        tensors = gguf.GGUFReader(path).tensors
    except ValueError:
        return True
    wanted = sorted(float(p.detach().double().sum()) for p in net.parameters())
    found = sorted(
        float(torch.tensor(gguf.quants.dequantize(t.data, t.tensor_type)).double().sum())
        for t in tensors
    )
    return torch.allclose(torch.tensor(wanted), torch.tensor(found), atol=1e-9, rtol=1e-12)


def done() -> set[tuple[Any, ...]]:
    """The cells that are recorded."""
    return {tuple(run[key] for key in KEYS) for run in records.read(NAME, KIND)}


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    recorded = done() if args.record else set()
    test = smollm2.tokens(args.data, "test", args.test)
    for kind in args.kinds:
        for method in args.methods:
            calibrated = method == "LC"
            values = (
                "smollm2-135m",
                kind,
                method,
                *((args.sequences, args.steps) if calibrated else (0, 0)),
            )
            cell = dict(zip(KEYS, values, strict=True))
            if tuple(values) in recorded:
                continue
            net = smollm2.model()
            if method == "ggml":
                found = by_ggml_(net, kind)
            else:
                texts = smollm2.tokens(args.data, "valid", args.sequences) if calibrated else None
                kept = smollm2.CACHE / "gguf" / ", ".join(map(str, values))
                found = by_grid_(net, kind, texts, args.steps, kept if args.record else None)
            found["perplexity"] = smollm2.perplexity(smollm2.losses(net, test))
            records.show(f"{kind}, {method}", [found])
            if args.record:
                records.append(NAME, KIND, **cell, test=args.test, **found)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, help="the folder that has wikitext-2")
    add("--kinds", nargs="+", choices=NUMBERS, required=True)
    add("--methods", nargs="+", choices=("ggml", "direct", "LC"), required=True)
    add("--sequences", type=int, default=32, help="of 512 tokens, for calibration")
    add("--steps", type=int, default=40, help="of LC")
    add("--test", type=int, default=16, help="sequences that judge")
    add("--threads", type=int, default=1)
    add("--record", action="store_true", help="add a line to results/serving.jsonl")
    return parser.parse_args()


if __name__ == "__main__":
    main()
