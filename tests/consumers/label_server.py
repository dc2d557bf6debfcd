"""MONAI Label's stock server and application with the bundle: a mask from it is the one of our own command.

label_server.py ENVIRONMENT BUNDLE SCAN MASK
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from pathlib import Path

import nibabel as nib
import numpy as np

environment, bundle, scan, mask = map(Path, sys.argv[1:])
PORT = 8765
ADDRESS = f"http://127.0.0.1:{PORT}"


def wait_for(server: subprocess.Popen, seconds: int = 300) -> None:
    for _ in range(seconds):
        if server.poll() is not None:
            raise SystemExit(f"the server ended with {server.returncode}")
        try:
            urllib.request.urlopen(f"{ADDRESS}/info/", timeout=30).read()
            return
        except OSError:
            time.sleep(1)
    raise SystemExit("the server does not answer")


with tempfile.TemporaryDirectory() as directory:
    application, studies = Path(directory) / "application", Path(directory) / "studies"
    shutil.copytree(environment / "monailabel" / "sample-apps" / "monaibundle", application)
    shutil.copytree(bundle, application / "model" / bundle.name)
    studies.mkdir()
    shutil.copy(scan, studies / "scan.nii.gz")
    command = [sys.executable, "-m", "monailabel.main", "start_server", "--app", str(application), "--port", str(PORT)]
    command += ["--studies", str(studies), "--conf", "models", bundle.name, "--conf", "zoo_source", "ngc_private"]
    server = subprocess.Popen([*command, "--conf", "sam2", "false"])
    try:
        wait_for(server)
        parameters = urllib.parse.urlencode({"params": json.dumps({"device": "cpu"})}).encode()
        request = f"{ADDRESS}/infer/{bundle.name}?image=scan&output=image"
        answer = Path(directory) / "answer.nii.gz"
        answer.write_bytes(urllib.request.urlopen(request, data=parameters, timeout=600).read())
    finally:
        server.terminate()
        server.wait(60)
    ours, theirs = nib.load(mask), nib.load(answer)
    assert np.allclose(ours.affine, theirs.affine), (ours.affine, theirs.affine)
    assert np.array_equal(np.asarray(ours.dataobj), np.asarray(theirs.dataobj).astype(np.uint8))
    print("the same voxels and affine, from the server")
