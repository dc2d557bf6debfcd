"""Time and memory of one large scan: ``python tests/large_scan.py DIRECTORY``; takes minutes and a gigabyte of disk."""

import resource
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from kits_unet3d.networks import UNet3D

SHAPE, SPACING_MM = (512, 512, 1059), (0.78, 0.78, 0.5)


def main(directory: Path) -> int:
    directory.mkdir(parents=True, exist_ok=True)
    scan, model = directory / "large.nii", directory / "model.pt"
    if not scan.exists():
        voxels = np.random.default_rng(0).integers(-1000, 1000, SHAPE, dtype=np.int16)
        nib.save(nib.Nifti1Image(voxels, np.diag([*SPACING_MM, 1.0])), scan)
        del voxels
    torch.manual_seed(0)
    network = {"_target_": "kits_unet3d.networks.UNet3D", "channels": [4, 8]}
    content = {
        "model": UNet3D(channels=(4, 8)).state_dict(),
        "network": network,
        "preprocessing_parameters": {"roi_size": [64, 64, 64]},
    }
    torch.save(content, model)
    command = [
        sys.executable,
        "-m",
        "kits_unet3d.pipeline.cli",
        "predict",
        scan,
        "-o",
        directory / "out",
        "--overwrite",
    ]
    began = time.monotonic()
    done = subprocess.run([*map(str, command), "--checkpoint", str(model), "--device", "cpu", *sys.argv[2:]])
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6  # Linux counts in kB
    print(f"{(time.monotonic() - began) / 60:.1f} minutes, {peak:.2f} GB of resident memory at most")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
