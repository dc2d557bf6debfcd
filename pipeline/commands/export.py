"""``kits-unet3d export``"""

from __future__ import annotations

import argparse

HELP = "write a trained model as a MONAI bundle, TorchScript or ONNX"
EXAMPLE = "kits-unet3d export bundle --checkpoint path/to/model.pt --out path/to/kits_unet3d.zip"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", choices=("bundle", "torchscript", "onnx"), help="what to write")
    parser.add_argument("--checkpoint", required=True, help="trained model")
    parser.add_argument("--out", required=True, help="file to write: .zip, .ts or .onnx")
    parser.add_argument("--bundle", default="bundle", help="folder of the bundle whose configurations go with it")
    parser.add_argument(
        "--without", nargs="+", choices=("torchscript", "onnx"), default=(), help="what to leave out of a bundle"
    )


def run(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from ..errors import UsageError
    from ..export import describe, export_bundle, export_onnx, export_torchscript

    ending = {"bundle": ".zip", "torchscript": ".ts", "onnx": ".onnx"}[arguments.kind]
    if Path(arguments.out).suffix != ending:
        raise UsageError(f"{arguments.out}: must end in {ending}, by which others know what it is")
    if arguments.without and arguments.kind != "bundle":
        raise UsageError("--without leaves something out of a bundle; it means nothing for other kinds")
    described = describe(arguments.checkpoint, arguments.bundle)
    if arguments.kind == "bundle":
        print(export_bundle(described, arguments.out, arguments.without))
    else:
        print((export_onnx if arguments.kind == "onnx" else export_torchscript)(described, arguments.out))
    return 0
