"""Run the command ``kits-unet3d export``."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..runtime.environment import bundle_directory
from . import Outcome

HELP = "write a trained model as a MONAI bundle, TorchScript, ONNX or OpenVINO"
EXAMPLE = "kits-unet3d export bundle --checkpoint path/to/model.pt -o path/to/kits_unet3d.zip"
#: File ending of each kind, so that other programs recognise it.
ENDINGS = {"bundle": ".zip", "torchscript": ".ts", "onnx": ".onnx", "openvino": ".xml"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", choices=tuple(ENDINGS), help="what to write")
    parser.add_argument("--checkpoint", required=True, help="trained model")
    parser.add_argument("-o", "--output", required=True, help="file to write: .zip, .ts, .onnx or .xml")
    parser.add_argument(
        "--bundle", default=str(bundle_directory()), help="directory of the bundle with the configurations to include"
    )
    parser.add_argument(
        "--without", nargs="+", choices=("torchscript", "onnx"), default=(), help="what to leave out of the bundle"
    )


def run(arguments: argparse.Namespace) -> Outcome:
    from ..runtime.paths import require_checkpoints

    # Checked before torch is imported, which takes seconds.
    require_checkpoints([arguments.checkpoint])

    from ..export import describe, export_bundle, export_onnx, export_openvino, export_torchscript
    from ..runtime.errors import UsageError

    ending = ENDINGS[arguments.kind]
    if Path(arguments.output).suffix != ending:
        raise UsageError(f"{arguments.output}: must end in {ending}, so that other programs recognise it")
    if arguments.without and arguments.kind != "bundle":
        raise UsageError("--without applies only to a bundle; leave it out")
    described = describe(arguments.checkpoint, arguments.bundle)
    if arguments.kind == "bundle":
        path = export_bundle(described, arguments.output, arguments.without)
    else:
        exports = {"torchscript": export_torchscript, "onnx": export_onnx, "openvino": export_openvino}
        path = exports[arguments.kind](described, arguments.output)
    print(path)
    return Outcome({"file": str(path)})
