"""``kits-unet3d predict``"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

HELP = "segment kidneys and tumours in CT scans"
EXAMPLE = "kits-unet3d predict path/to/scan.nii.gz -o path/to/masks --checkpoint path/to/model.pt"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("scan", nargs="+", help="NIfTI, NRRD or MetaImage files, a DICOM folder, or a folder of files")
    parser.add_argument("-o", "--output-dir", required=True, help="folder for the masks")
    parser.add_argument("--checkpoint", default="bundle/models/model.pt", help="trained model")
    parser.add_argument("--device", default="auto", help="auto, cpu, or an accelerator's name")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16", "fp16"), default="fp32", help="of the network")


def run(arguments: argparse.Namespace) -> int:
    from ..device import resolve
    from ..errors import UsageError
    from ..inference import Predictor, find_scans
    from ..inference.scan import scan_name

    scans = [scan for given in arguments.scan for scan in find_scans(given)]
    names = Counter(scan_name(scan) for scan in scans)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise UsageError(
            f"several scans are named {twice[0]}, and their masks would be too; predict them into two folders"
        )
    Path(arguments.output_dir).mkdir(parents=True, exist_ok=True)
    predictor = Predictor(arguments.checkpoint, resolve(arguments.device, arguments.precision), progress=True)
    failed = 0
    for number, path in enumerate(scans, start=1):
        try:
            prediction = predictor.predict(path)
            saved = prediction.save(arguments.output_dir)
        except Exception as error:  # whatever is wrong with one scan, the others are still to be done
            failed += 1
            named = str(error) if str(path) in str(error) else f"{path}: {type(error).__name__}: {error}"
            print(f"failed: {named}", file=sys.stderr)
            continue
        volumes = ", ".join(f"{name} {ml:.1f} mL" for name, ml in prediction.volumes_ml.items())
        print(f"[{number}/{len(scans)}] {saved}: {volumes}")
    return 1 if failed else 0
