"""Bytes, load time and latency of a net in several runtimes, in one process and in turns.

    python -m benchmarks.serving.runtimes [--nets smollm2 minilm resnet20] [--record]

Each net is compressed directly to a grid of 4 bits, in groups of 32 neighbouring weights where they
divide a row, else by rows. Every variant is loaded from its file first, and its outputs are
compared with those of the dense net at Delta(Theta). The nets run in float32 with one thread. Times
are of the processor, the least of the repeats.
"""

import argparse
import copy
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import openvino  # pyright: ignore[reportMissingImports]
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass as is_wrapper

import leco
from benchmarks import nets, records, timing
from benchmarks.file import lengths
from benchmarks.layerwise import smollm2
from benchmarks.serving.kernels import least

Runs = Callable[[Tensor], Any]
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
    """Directly, to 4 bits: by groups of 32 where they divide a row."""
    tasks = dict[str, leco.Task]()
    for name in lengths.layer_weights(model, nn.Linear, nn.Conv2d, nn.Embedding):
        shape = model.get_parameter(name).shape
        grouped = len(shape) == 2 and shape[1] % 32 == 0
        view = leco.Groups(32) if grouped else leco.Rows()
        tasks[name] = leco.Task(name, view, leco.Uniform(4))
    lc = leco.LC(model, tasks)
    lc.mu = 1.0
    return lc


def empty(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return make()


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


def readers(model: nn.Module, lc: leco.LC, folder: Path, x: Tensor) -> dict[str, Any]:
    """For each variant the path of its file and what makes a callable of it."""
    dense, ours = folder / "dense.pt", folder / "ours.safetensors"
    leco.save(ours, lc)
    lc.project_()
    torch.save(model.state_dict(), dense)

    def torch_load() -> Runs:
        net = copy.deepcopy(model)
        net.load_state_dict(torch.load(dense, weights_only=True))
        return net

    def torchao_load() -> Runs:
        net = copy.deepcopy(model)
        net.load_state_dict(torch.load(theirs, weights_only=False), assign=True)
        return net

    theirs = folder / "torchao.pt"
    torch.save(leco.export_torchao(model, lc)[0].state_dict(), theirs)
    found: dict[str, Any] = {
        "torch, dense": (dense, torch_load),
        "leco, loaded": (ours, lambda: leco.load(ours, copy.deepcopy(model))),
        "leco, packed": (ours, lambda: leco.load(ours, copy.deepcopy(model), packed=True)),
        "torchao": (theirs, torchao_load),
    }
    kinds: tuple[tuple[Any, Any], ...] = (("nbits", 1), ("nbits", 4), ("qdq", 1))
    for weights, level in kinds:
        path = folder / f"{weights}{level}.onnx"
        leco.export_onnx(
            path,
            model,
            lc,
            x,
            weights=weights,
            accuracy_level=level,
            dynamic_shapes=({0: "batch"},),
        )
        if weights == "nbits":
            name = f"onnxruntime, MatMulNBits, level {level}"
            found[name] = (path, lambda path=path: in_onnxruntime(path))
        else:
            found["OpenVINO, u4"] = (path, lambda path=path: in_openvino(path))
    return found


def variant_rows(net: str, repeats: int) -> list[dict[str, Any]]:
    """A row for each variant: bytes, seconds to load, the largest error, latencies."""
    model = TEMPLATES[net]().eval()
    lc = compressed(model)
    found, runs = list[dict[str, Any]](), dict[str, Runs]()
    with tempfile.TemporaryDirectory() as name, torch.inference_mode():
        ways = readers(model, lc, Path(name), inputs(net, 2))
        wanted = model(inputs(net, 3))
        for variant, (path, load) in ways.items():
            memory = timing.peak_bytes(lambda v=variant, load=load: runs.update({v: load()}))
            seconds = least({variant: load}, 1, time.process_time)[variant]
            error = float((runs[variant](inputs(net, 3)) - wanted).abs().max() / wanted.abs().max())
            own = runs[variant]
            row = {"net": net, "variant": variant, "bytes": path.stat().st_size}
            row |= {"held_bytes": held(own), "peak_bytes": memory, "load_seconds": seconds}
            found.append(row | {"error": error, "equal": error <= MOST_ERROR})
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
            found = variant_rows(net, args.repeats)
        records.show(net, found)
        if args.record:
            how = {"load_average": load, "repeats": args.repeats, "runtimes": others}
            records.append("serving", "runtimes", **how, rows=found)


if __name__ == "__main__":
    main()
