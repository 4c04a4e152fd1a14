"""ONNX: the net at w = Delta(Theta) in one file, in which quantized weights are integers that the
graph itself decodes."""

import inspect
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from leco.algorithm.compressed import Compressed
from leco.algorithm.lc import LC
from leco.atomic import atomically
from leco.export.codes import at_delta, quantized
from leco.export.decoder import PREFIX, Decoder
from leco.export.upright import upright
from leco.modules import check_copyable
from leco.optional import optional

LARGEST = 2**31 - 2**24  # bytes of a protobuf, with room for the graph
OPSET = 21  # the first with 4-bit integers


def export_onnx(
    path: str | os.PathLike[str],
    model: nn.Module,
    compressed: LC | Mapping[str, Compressed],
    example_inputs: Tensor | Sequence[Tensor] = (),
    *,
    kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    weights: Literal["codes", "qdq", "nbits", "dense"] = "codes",
    accuracy_level: Literal[0, 1, 2, 3, 4] = 1,
) -> dict[str, str]:
    """Write the net at w = Delta(Theta) as ONNX, and return how each compressed parameter is held.
    By default the first dimension of all inputs is dynamic.

    With `weights="codes"`, codebooks (`Codes`, `Fixed`, `Scaled`, `ZeroCodes`, and `VectorCodes`
    over `Groups`) and uniform grids (`Affine`) are packed integers of 1, 2, 4, 8 or 16 bits in the
    file, and standard operators make the weights of them: shifts, masks, then Gather or
    GatherElements in the codebook, or Cast, Sub and Mul. The weights are equal to Delta(Theta) to
    the bit. onnxruntime computes them once, when the session is made, and runs dense. Of tensors
    that would not be smaller, and of all other forms, the file holds the dense weights.
    A weight (in, out) of transformers' Conv1D in a view such as `Rows(1)` is held as codes (out,
    in), with a Transpose behind. Make low-rank and tensor forms smaller layers by `leco.factorize`
    before: they are exported as they are, and so are the nets of `leco.narrow`.

    Args:
        path: the file; it is replaced at once or not at all. Above 2 GB the weights go to a second
            file, `path` with ".data" behind.
        model: the net of `compressed`, or one with the same parameters; it is not changed. Exported
            in evaluation mode.
        compressed: an `LC` that has its Thetas, or what `leco.thetas` gives; {} for a net that is
            exported as it is.
        example_inputs: a tensor, or the tensors that `model(*example_inputs, **kwargs)` takes,
            batch first.
        kwargs: the arguments by name, tensors and others (`{"input_ids": ids, "use_cache":
            False}`). Others than tensors are fixed in the graph.
        dynamic_shapes: for each argument the dimensions that are free, with their names in the
            graph: `{"input_ids": {0: "batch", 1: "length"}}`, as `torch.onnx.export` takes them. A
            net that computes with a length keeps it free only where its example is longer than 1.
        input_names: of the tensors in the graph, in order; by default the names of the arguments.
        output_names: of the outputs in the graph, in order.
        weights: "codes"; "qdq" for DequantizeLinear of 4 or 8 bits where the grid is uniform, with
            a scale for the tensor, for each index of dimension 0, or for runs of the last: the form
            of quantizers for other runtimes; "nbits" for onnxruntime's MatMulNBits of 2, 4 or 8
            bits for the Linear layers on uniform grids whose runs are multiples of 16: they stay
            packed in memory. Either is "codes" for the other parameters. "dense" for all.
        accuracy_level: of MatMulNBits: 1 computes in float32; 4 rounds the layer's inputs to 8
            bits, with kernels that are much faster.

    Raises:
        ImportError: onnx or onnxscript is not installed, or can't be imported.
        ValueError: an unknown value of `weights` or `accuracy_level`; a parameter that the model
            has not, or of another shape; a weight that weight_norm or pruning computes.

    >>> import leco, os, tempfile, torch
    >>> model = torch.nn.Linear(64, 8)
    >>> lc = leco.LC(model, leco.each(["weight"], leco.Rows(), leco.Binary()))
    >>> lc.mu = 1.0
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     leco.export_onnx(os.path.join(folder, "net.onnx"), model, lc, torch.zeros(2, 64))
    {'weight': 'Gather, 1 bits'}
    """
    if weights not in ("codes", "qdq", "nbits", "dense"):
        raise ValueError(
            f"export_onnx: weights = {weights!r} must be 'codes', 'qdq', 'nbits' or 'dense'"
        )
    if accuracy_level not in range(5):
        raise ValueError(
            f"export_onnx: accuracy_level = {accuracy_level!r} must be 0, 1, 2, 3 or 4"
        )
    ir = optional("onnx_ir", "export_onnx", "onnx-ir", "export")
    optimizer = optional("onnxscript.optimizer", "export_onnx", "onnxscript", "export")
    check_copyable("export_onnx", model)
    net = at_delta("export_onnx", model, compressed)
    inputs = (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
    given = {"input_names": input_names, "output_names": output_names}
    names: dict[str, Any] = {key: list(value) for key, value in given.items() if value is not None}
    program = _traced(net, inputs, dict(kwargs or {}), dynamic_shapes, names)

    held = _decoded(ir, net, program.graph, compressed, weights, accuracy_level)

    # what decodes them stays
    def decodes(node: Any) -> bool:
        return (node.name or "").startswith(PREFIX)

    optimizer.optimize_ir(program, should_fold=lambda node: False if decodes(node) else None)
    _write(ir, Path(path), program)
    return held


def _decoded(
    ir: Any,
    net: nn.Module,
    graph: Any,
    compressed: LC | Mapping[str, Compressed],
    weights: str,
    accuracy_level: int,
) -> dict[str, str]:
    """Replace the weights in the graph by what decodes them; returns how each is held."""
    every = net.named_parameters(remove_duplicate=False)
    aliases = {id(p): name for name, p in every if name in graph.initializers}
    tasks, transposed = upright(net, compressed)
    held: dict[str, str] = {}
    for name, found in quantized(tasks).items():
        p = net.get_parameter(name)
        weight = graph.initializers.get(aliases.get(id(p), ""))
        if isinstance(found, str):
            held[name] = f"dense ({found})"
        elif weights == "dense" or weight is None:
            held[name] = "dense" if weight is not None else "not in the graph"
        else:
            flip = name in transposed
            shape = tuple(p.shape[::-1] if flip else p.shape)
            decoder = Decoder(ir, graph, name, weight, shape, flip)
            held[name] = decoder.replace(found, weights, accuracy_level)
    return held


def _traced(
    net: nn.Module,
    inputs: tuple[Any, ...],
    kwargs: dict[str, Any],
    dynamic_shapes: Any,
    names: Mapping[str, Any],
) -> Any:
    """The net as a model of onnx_ir, by default its first dimension dynamic."""
    shapes = dynamic_shapes or _first_dimensions(net, inputs, kwargs)
    with warnings.catch_warnings():
        # torch's own, in its exporter
        warnings.filterwarnings(
            "ignore", "`isinstance.treespec, LeafSpec.` is deprecated", FutureWarning
        )
        # names are given below
        warnings.filterwarnings("ignore", "# (The axis name|ONNX model has different)", UserWarning)
        program = torch.onnx.export(
            net,
            inputs,
            kwargs=kwargs,
            dynamo=True,
            optimize=False,
            opset_version=OPSET,
            verbose=False,
            dynamic_shapes=_unnamed(shapes),
            **names,
        )
    assert program is not None
    _name_dimensions(program.model.graph, shapes)
    return program.model


def _unnamed(shapes: Any) -> Any:
    """The dynamic shapes without names of dimensions: those of one name need not be equal."""
    if isinstance(shapes, str):
        return torch.export.Dim.DYNAMIC
    if isinstance(shapes, Mapping):
        return {key: _unnamed(value) for key, value in shapes.items()}
    return type(shapes)(map(_unnamed, shapes)) if isinstance(shapes, list | tuple) else shapes


def _name_dimensions(graph: Any, shapes: Any) -> None:
    """Give the free dimensions of the inputs, and all that are equal to them, their names."""
    own = [given for given in _described(shapes) if given is not None]
    if len(own) != len(graph.inputs):
        return
    # which symbol stands for which name
    names = dict[str, str]()
    for value, given in zip(graph.inputs, own, strict=True):
        for dimension, name in given.items():
            if isinstance(name, str):
                names.setdefault(str(value.shape[dimension]), name)
    # in all shapes
    values = (*graph.inputs, *(v for node in graph.all_nodes() for v in node.outputs))
    for value in values:
        for dimension, size in enumerate(value.shape or ()):
            if str(size) in names and not isinstance(size, int):
                value.shape[dimension] = names[str(size)]


def _described(shapes: Any) -> Iterator[Any]:
    """What is said of each input, in order: a dict from dimensions, or None."""
    if isinstance(shapes, Mapping) and not all(isinstance(key, int) for key in shapes):
        shapes = list(shapes.values())
    if isinstance(shapes, list | tuple):
        for shape in shapes:
            yield from _described(shape)
    else:
        yield shapes


def _first_dimensions(net: nn.Module, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The first dimension of each tensor is dynamic. Tensors in dicts, lists and tuples count."""

    def free(value: Any) -> Any:
        return {0: torch.export.Dim.DYNAMIC} if isinstance(value, Tensor) and value.ndim else None

    if not kwargs:
        return tree_map(free, inputs)
    try:
        bound = inspect.signature(net.forward).bind(*inputs, **kwargs)
    except TypeError as error:
        raise TypeError(f"export_onnx: the net does not take these inputs: {error}") from error
    return tree_map(free, dict(bound.arguments))


def _write(ir: Any, path: Path, program: Any) -> None:
    """Write the model, with the weights in a second file where one can't hold them."""
    graph = program.graph
    for part in (*graph.all_nodes(), *graph.initializers.values()):
        # where each came from in the Python source: more bytes than a small net's weights
        part.metadata_props.clear()
    held = (value.const_value for value in graph.initializers.values())
    size = sum(value.nbytes for value in held if value is not None)
    external = path.name + ".data" if size > LARGEST else None
    atomically(path, lambda temporary: ir.save(program, temporary, external_data=external))
