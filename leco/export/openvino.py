"""OpenVINO: the net at w = Delta(Theta) in its IR, whose quantized weights stay integers of 4 or 8
bits."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from leco.algorithm.compressed import Compressed, compressed_tasks
from leco.algorithm.lc import LC
from leco.export.codes import at_delta
from leco.export.onnx import export_onnx
from leco.optional import optional

FUNCTION = "export_openvino"
EXACT = ("runtime_options", "DYNAMIC_QUANTIZATION_GROUP_SIZE")
"""An option in the file. 0: the runtime does not round the inputs of layers to 8 bits."""


def export_openvino(
    path: str | os.PathLike[str],
    model: nn.Module,
    compressed: LC | Mapping[str, Compressed],
    example_inputs: Tensor | Sequence[Any] = (),
    *,
    kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
) -> dict[str, str]:
    """Write OpenVINO's IR of the net, and return how each compressed parameter is held.

    Uniform grids, and codebooks whose values are multiples of one step (binary, ternary), are
    integers of 4 or 8 bits with scales and zero points, which OpenVINO keeps packed in memory. All
    else is dense: OpenVINO 2026.4 computes the shifts that unpack other codes wrongly.

    The file asks the runtime to compute with the inputs as they are, so that the outputs are those
    of Delta(Theta). `compile_model(path, "CPU", {"DYNAMIC_QUANTIZATION_GROUP_SIZE": 32})` overrules
    it: inputs are then rounded to 8 bits. On processors with bfloat16 the runtime computes in that
    type; `{"EXECUTION_MODE_HINT": "ACCURACY"}` makes it float32.

    Args:
        path: the file, "*.xml"; the weights go to the file "*.bin" beside it.
        model, compressed, example_inputs, kwargs, dynamic_shapes, input_names, output_names: as for
            `export_onnx`.

    Raises:
        ImportError: openvino, onnx or onnxscript is not installed.
        ValueError: another ending than ".xml"; as `export_onnx`.
    """
    openvino = optional("openvino", FUNCTION, "openvino", "openvino")
    path = Path(path)
    if path.suffix != ".xml":
        raise ValueError(f"{FUNCTION}: path = {str(path)!r} must end in .xml")
    names = {"input_names": input_names, "output_names": output_names}
    given = {"kwargs": kwargs, "dynamic_shapes": dynamic_shapes, **names}
    tasks, net = compressed_tasks(compressed), at_delta(FUNCTION, model, compressed)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}.") as folder:
        file, own = Path(folder) / "net.onnx", Path(folder) / path.name

        held = _through_onnx(file, net, tasks, example_inputs, given)

        # the weights first, then the file that names them
        found = openvino.Core().read_model(file)  # without the telemetry of convert_model
        found.set_rt_info("0", list(EXACT))
        openvino.save_model(found, str(own), compress_to_fp16=False)
        del found  # it maps the ONNX file
        for ending in (".bin", ".xml"):
            os.replace(own.with_suffix(ending), path.with_suffix(ending))
    return held


def _through_onnx(
    file: Path,
    net: nn.Module,
    tasks: Mapping[str, Compressed],
    example_inputs: Tensor | Sequence[Any],
    given: dict[str, Any],
) -> dict[str, str]:
    """Write an ONNX file without codes that are looked up; return how each parameter is held."""
    held = export_onnx(file, net, tasks, example_inputs, weights="qdq", **given)
    kept = ("DequantizeLinear", "dense", "not in the graph")
    codes = {name for name, how in held.items() if not how.startswith(kept)}
    if not codes:
        return held
    others = {name: c for name, c in tasks.items() if not codes & set(c.shapes)}
    dense = dict.fromkeys(held, "dense (codes that OpenVINO can't unpack)")
    return dense | export_onnx(file, net, others, example_inputs, weights="qdq", **given)
