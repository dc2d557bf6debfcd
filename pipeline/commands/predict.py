"""``kits-unet3d predict``"""

from __future__ import annotations

import argparse
import sys

HELP = "segment kidneys and tumours in CT scans"
EXAMPLE = "kits-unet3d predict path/to/scan.nii.gz -o path/to/masks --checkpoint path/to/model.pt"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("scan", nargs="+", help="NIfTI, NRRD or MetaImage files, a DICOM folder, or a folder of files")
    parser.add_argument("-o", "--output-dir", required=True, help="folder for the masks")
    parser.add_argument("--checkpoint", default="bundle/models/model.pt", help="trained model")
    parser.add_argument("--device", default="auto", help="auto, cpu, or an accelerator's name")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32", help="of the network")


def run(arguments: argparse.Namespace) -> int:
    from ..device import resolve
    from ..errors import CaseError
    from ..inference import Predictor, find_scans

    scans = [scan for given in arguments.scan for scan in find_scans(given)]
    predictor = Predictor(arguments.checkpoint, resolve(arguments.device, arguments.precision), progress=True)
    failed = 0
    for number, path in enumerate(scans, start=1):
        try:
            prediction = predictor.predict(path)
        except CaseError as error:
            failed += 1
            print(f"failed: {error}", file=sys.stderr)
            continue
        saved = prediction.save(arguments.output_dir)
        volumes = ", ".join(f"{name} {ml:.1f} mL" for name, ml in prediction.volumes_ml.items())
        print(f"[{number}/{len(scans)}] {saved}: {volumes}")
    return 1 if failed else 0
