"""Bytes, load time and latency of a net in several runtimes, in one process and in turns.

    python -m benchmarks.serving.runtimes [--nets smollm2 minilm resnet20]
        [--rows 'torch, dense' 'leco, packed'] [--record]

Each net is compressed directly to a grid of 4 bits, in groups of 32 neighbouring weights where they
divide a row, else by rows. SmolLM2 has the grids of llama.cpp's Q4_0, and of Q8_0 in its embedding,
which is the output layer too. Every variant is loaded from its file first, and its outputs are
compared with those of the dense net at Delta(Theta). The nets run in float32 with one thread. Times
are of the processor, the least of the repeats.
"""

import argparse
import copy
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import onnxruntime
import openvino  # pyright: ignore[reportMissingImports]
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass as is_wrapper

import leco
from benchmarks import nets, records, timing
from benchmarks.file import lengths
from benchmarks.layerwise import smollm2
from benchmarks.serving import llama_cpp
from benchmarks.serving.kernels import least
from leco.algorithm.compressed import compressed_tasks
from leco.views import View

Runs = Callable[[Tensor], Any]
Grid = tuple[View, leco.Compression[Any]]
Writer = Callable[[nn.Module, leco.LC, Path, Tensor], tuple[Path, Callable[[], Runs]]]
"""Writes a variant's file; gives its path, and what makes a callable of it."""
MOST_ERROR = 5e-3  # of the largest output: products in another order, or of 8 bits


class Logits(nn.Module):
    """A language model's logits of the last token: what a step of generation needs."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, ids: Tensor) -> Tensor:
        return self.net(input_ids=ids, use_cache=False, logits_to_keep=1).logits[:, 0]


class Sentence(nn.Module):
    """The mean of a text model's last states."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, ids: Tensor) -> Tensor:
        return self.net(input_ids=ids).last_hidden_state.mean(1)


def smol() -> nn.Module:
    return Logits(smollm2.model())


def sentences() -> nn.Module:
    return Sentence(nets.minilm())


TEMPLATES: dict[str, Callable[[], nn.Module]] = {
    "smollm2": smol,
    "minilm": sentences,
    "resnet20": lambda: nets.resnet(20).eval(),
}


def inputs(net: str, batch: int) -> Tensor:
    """One token for each sequence, sixteen for MiniLM; images of CIFAR-10."""
    generator = torch.Generator().manual_seed(0)
    if net == "resnet20":
        return torch.randn(batch, 3, 32, 32, generator=generator)
    return torch.randint(1000, (batch, 1 if net == "smollm2" else 16), generator=generator)


def compressed(model: nn.Module) -> leco.LC:
    """Directly, a language model to the types of llama.cpp, others to 4 bits."""
    grid = of_llama if isinstance(model, Logits) else four_bits
    tasks = dict[str, leco.Task]()
    for name in lengths.layer_weights(model, nn.Linear, nn.Conv2d, nn.Embedding):
        tasks[name] = leco.Task(name, *grid(name, model.get_parameter(name).shape))
    lc = leco.LC(model, tasks)
    lc.mu = 1.0
    return lc


def four_bits(name: str, shape: torch.Size) -> Grid:
    """By groups of 32 where they divide a row."""
    grouped = len(shape) == 2 and shape[1] % 32 == 0
    return leco.Groups(32) if grouped else leco.Rows(), leco.Uniform(4)


def of_llama(name: str, shape: torch.Size) -> Grid:
    """More bits for the embedding and the output layer."""
    return leco.gguf_grid("Q8_0" if "embed" in name or "lm_head" in name else "Q4_0")


def in_onnxruntime(path: Path) -> Runs:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options)
    name = session.get_inputs()[0].name
    return lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0])


def in_openvino(path: Path) -> Runs:
    core = openvino.Core()
    wanted = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "PERFORMANCE_HINT": "LATENCY"}
    wanted |= {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
    net = core.compile_model(core.read_model(path), "CPU", wanted)
    return lambda x: torch.from_numpy(net(x.numpy())[0].copy())


def torch_file(model: nn.Module, lc: leco.LC, folder: Path, x: Tensor) -> tuple[Path, Any]:
    """The dense net's file, and what makes a net of it."""
    path = folder / "dense.pt"
    torch.save(model.state_dict(), path)

    def load() -> Runs:
        net = copy.deepcopy(model)
        net.load_state_dict(torch.load(path, weights_only=True))
        return net

    return path, load


def leco_file(packed: bool) -> Writer:
    """Likewise leco's."""

    def write(model: nn.Module, lc: leco.LC, folder: Path, x: Tensor) -> tuple[Path, Any]:
        path = folder / "ours.safetensors"
        leco.save(path, lc)
        return path, lambda: leco.load(path, copy.deepcopy(model), packed=packed)

    return write


def torchao_file(model: nn.Module, lc: leco.LC, folder: Path, x: Tensor) -> tuple[Path, Any]:
    """Likewise torchao's."""
    path = folder / "torchao.pt"
    torch.save(leco.export_torchao(model, lc)[0].state_dict(), path)

    def load() -> Runs:
        net = copy.deepcopy(model)
        net.load_state_dict(torch.load(path, weights_only=False), assign=True)
        return net

    return path, load


def onnx_file(weights: Any, level: Any, runtime: Callable[[Path], Runs]) -> Writer:
    """Likewise that of ONNX, in a runtime."""

    def write(model: nn.Module, lc: leco.LC, folder: Path, x: Tensor) -> tuple[Path, Any]:
        path = folder / f"{weights}{level}.onnx"
        options = {"accuracy_level": level, "dynamic_shapes": ({0: "batch"},)}
        leco.export_onnx(path, model, lc, x, weights=weights, **options)
        return path, lambda: runtime(path)

    return write


def gguf_file(model: nn.Module, lc: leco.LC, folder: Path, x: Tensor) -> tuple[Path, Any]:
    """Likewise that of llama.cpp."""
    path, net = folder / "net.gguf", cast(nn.Module, model.net)
    own = {
        task: found._replace(shapes={n.removeprefix("net."): s for n, s in found.shapes.items()})
        for task, found in compressed_tasks(lc).items()
    }
    leco.export_gguf(path, net, own)

    def load() -> Runs:
        runtime = llama_cpp.Runtime(path, torch.get_num_threads(), sequences=64)
        return lambda ids: runtime.step(ids[:, 0].tolist())

    return path, load


VARIANTS: dict[str, Writer] = {
    "torch, dense": torch_file,
    "leco, loaded": leco_file(False),
    "leco, packed": leco_file(True),
    "torchao": torchao_file,
    "onnxruntime, MatMulNBits, level 1": onnx_file("nbits", 1, in_onnxruntime),
    "onnxruntime, MatMulNBits, level 4": onnx_file("nbits", 4, in_onnxruntime),
    "OpenVINO, u4": onnx_file("qdq", 1, in_openvino),
    "llama.cpp": gguf_file,
}


def variant_rows(net: str, repeats: int, names: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each variant: bytes, seconds to load, the largest error, latencies."""
    model = TEMPLATES[net]().eval()
    lc = compressed(model)
    found, runs = list[dict[str, Any]](), dict[str, Runs]()
    with tempfile.TemporaryDirectory() as name, torch.inference_mode():
        lc.project_()
        wanted = model(inputs(net, 3))
        for variant in names:
            path, load = VARIANTS[variant](model, lc, Path(name), inputs(net, 2))
            memory = timing.peak_bytes(lambda v=variant, load=load: runs.update({v: load()}))
            seconds = least({variant: load}, 1, time.process_time)[variant]
            error = float((runs[variant](inputs(net, 3)) - wanted).abs().max() / wanted.abs().max())
            row = {"net": net, "variant": variant, "bytes": path.stat().st_size}
            row |= {"held_bytes": held(runs[variant]), "peak_bytes": memory}
            found.append(row | {"load_seconds": seconds, "error": error})
            found[-1]["equal"] = error <= MOST_ERROR
        for batch in (1, 64):
            x = inputs(net, batch)
            calls = {n: lambda run=run, x=x: run(x) for n, run in runs.items()}
            times = least(calls, repeats, time.process_time)
            for row in found:
                row[f"batch {batch} seconds"] = times[row["variant"]]
    return found


def held(run: Any) -> int | None:
    """Bytes of the distinct tensors of a net of torch; None where they have tensors inside."""
    if not isinstance(run, nn.Module) or any(map(is_wrapper, run.parameters())):
        return None
    return leco.dense_bytes(run)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nets", nargs="+", choices=list(TEMPLATES), default=list(TEMPLATES))
    parser.add_argument("--rows", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--record", action="store_true", help="add a line to results/serving.jsonl")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    others = {"onnxruntime": onnxruntime.__version__, "openvino": openvino.__version__}
    for net in args.nets:
        load = os.getloadavg()[0]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            names = [name for name in args.rows if net == "smollm2" or name != "llama.cpp"]
            found = variant_rows(net, args.repeats, names)
        records.show(net, found)
        if args.record:
            how = {"load_average": load, "repeats": args.repeats, "runtimes": others}
            records.append("serving", "runtimes", **how, rows=found)


if __name__ == "__main__":
    main()
