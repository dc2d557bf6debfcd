"""Run the command ``kits-unet3d export``."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..runtime.files import require_writable, writing_into
from ..runtime.paths import bundle_directory, config_file
from . import Outcome, require_checkpoints, require_existing

HELP = "write a trained model as a MONAI bundle, TorchScript, ONNX or OpenVINO, or a data set for nnU-Net"
EXAMPLE = "kits-unet3d export bundle --checkpoint path/to/model.pt -o path/to/kits_unet3d.zip"
#: File ending of each kind, so that other programs recognise it.
ENDINGS = {"bundle": ".zip", "torchscript": ".ts", "onnx": ".onnx", "openvino": ".xml"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", choices=(*ENDINGS, "nnunet-dataset"), help="what to write")
    parser.add_argument("--checkpoint", default=None, help="trained model")
    parser.add_argument(
        "-o", "--output", required=True, help="file to write: .zip, .ts, .onnx or .xml; for a data set its directory"
    )
    parser.add_argument("--data-dir", default=None, help="for a data set: raw cases, or a data list, as for `prepare`")
    parser.add_argument(
        "--config", type=config_file, default=None, help="for a data set: configuration that names other classes"
    )
    parser.add_argument("--link", action="store_true", help="for a data set: link to the files instead of copying them")
    parser.add_argument(
        "--bundle", default=str(bundle_directory()), help="directory of the bundle with the configurations to include"
    )
    parser.add_argument(
        "--without", nargs="+", choices=("torchscript", "onnx"), default=(), help="what to leave out of the bundle"
    )


def run(arguments: argparse.Namespace) -> Outcome:
    from ..runtime.errors import UsageError

    data_set = arguments.kind == "nnunet-dataset"
    needed, other = ("--data-dir", "--checkpoint") if data_set else ("--checkpoint", "--data-dir")
    given = {"--data-dir": arguments.data_dir, "--checkpoint": arguments.checkpoint}
    if given[needed] is None or given[other] is not None:
        raise UsageError(f"`export {arguments.kind}` needs {needed}, and takes no {other}")
    for option in ("link", "config"):
        if getattr(arguments, option) and not data_set:
            raise UsageError(f"--{option} applies only to a data set; leave it out")
    if arguments.without and arguments.kind != "bundle":
        raise UsageError("--without applies only to a bundle; leave it out")
    if data_set:
        return _write_data_set(arguments)

    # Checked before torch is imported, which takes seconds.
    require_checkpoints([arguments.checkpoint])

    from ..export import describe, export_bundle, export_onnx, export_openvino, export_torchscript

    ending = ENDINGS[arguments.kind]
    if Path(arguments.output).suffix != ending:
        raise UsageError(f"{arguments.output}: must end in {ending}, so that other programs recognise it")
    require_writable(Path(arguments.output).parent)
    described = describe(arguments.checkpoint, arguments.bundle)
    with writing_into(arguments.output):
        if arguments.kind == "bundle":
            path = export_bundle(described, arguments.output, arguments.without)
        else:
            exports = {"torchscript": export_torchscript, "onnx": export_onnx, "openvino": export_openvino}
            path = exports[arguments.kind](described, arguments.output)
    print(path)
    return Outcome({"file": str(path)})


def _write_data_set(arguments: argparse.Namespace) -> Outcome:
    # Checked before torch is imported, which takes seconds.
    require_existing(arguments.data_dir, arguments.config)
    require_writable(arguments.output)

    from ..data import classes_in, find_cases
    from ..data.nnunet import write_nnunet
    from ..runtime.configuration import parameters_of

    name, cases = find_cases(arguments.data_dir)
    classes = parameters_of(arguments.config, classes_in(arguments.data_dir)).classes
    with writing_into(arguments.output):
        path = write_nnunet(cases, arguments.output, name, classes, arguments.link)
    print(path)
    return Outcome({"file": str(path), "cases": [case.case_id for case in cases]})
