"""Compressed nets for other runtimes: ONNX, OpenVINO, GGUF, torchao, compressed-tensors. Each
exporter says what it did with each parameter.

The packages that they write for are optional, and imported when an exporter is called: pip install
leco[export] for ONNX, leco[openvino], leco[gguf], leco[torchao], leco[compressed-tensors].
"""

from leco.export.compressed_tensors import export_compressed_tensors
from leco.export.gguf import export_gguf
from leco.export.onnx import export_onnx
from leco.export.openvino import export_openvino
from leco.export.torchao import export_torchao

__all__ = [
    "export_compressed_tensors",
    "export_gguf",
    "export_onnx",
    "export_openvino",
    "export_torchao",
]
