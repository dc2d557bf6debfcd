"""Export a trained network as TorchScript, ONNX, OpenVINO, or a whole MONAI bundle in a zip."""

from .bundle import export_bundle, pack, unpack
from .description import Description, describe
from .formats import export_onnx, export_openvino, export_torchscript

__all__ = [
    "Description",
    "describe",
    "export_bundle",
    "export_onnx",
    "export_openvino",
    "export_torchscript",
    "pack",
    "unpack",
]
