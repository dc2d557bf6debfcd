"""A wrong checksum behind voxels that all look right, which is found only if a file is read to its end."""

import gzip
import json

import numpy as np
import pytest
from conftest import TINY
from niftis import AFFINE, nifti

from kits_unet3d.pipeline.cli import main
from kits_unet3d.pipeline.data import Index
from kits_unet3d.pipeline.runtime import files as packed

#: Beyond any buffer: 6 MB of voxels, and as they are noise 4 MB in the file.
SHAPE = (160, 160, 128)


@pytest.fixture(params=["the standard library's", "Intel's"])
def reader(request, monkeypatch):
    """Both that :mod:`kits_unet3d.pipeline.runtime.files` may use."""
    if request.param == "Intel's":
        igzip = pytest.importorskip("isal.igzip")
        monkeypatch.setattr(packed, "_open", igzip.open)
    else:
        monkeypatch.setattr(packed, "_open", gzip.open)


def test_a_large_scan_with_a_wrong_checksum_fails_its_case(tmp_path, reader, capsys):
    noise = np.random.default_rng(0).integers(-1000, 600, SHAPE, np.int16)
    label = np.zeros(SHAPE, np.uint8)
    label[40:80, 40:80, 40:80], label[60:70, 60:70, 60:70] = 1, 2
    affine = AFFINE * [[0.5], [0.5], [0.5], [1.0]]
    for case in ("case_00000", "case_00001"):
        (tmp_path / "raw" / case).mkdir(parents=True)
        nifti(tmp_path / "raw" / case / "imaging.nii.gz", noise, affine)
        nifti(tmp_path / "raw" / case / "segmentation.nii.gz", label, affine)
    wrong = tmp_path / "raw" / "case_00000" / "imaging.nii.gz"
    content = bytearray(wrong.read_bytes())
    assert len(content) > 1 << 20
    content[-6] ^= 1  # within the checksum
    wrong.write_bytes(content)
    split = {"training": ["case_00000"], "evaluation": ["case_00001"]}
    (tmp_path / "raw" / "dataset.json").write_text(json.dumps(split))
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    command = ["prepare", "--data-dir", str(tmp_path / "raw"), "-o", str(tmp_path / "out")]
    assert main([*command, "--config", str(tmp_path / "config.json")]) == 1
    error = capsys.readouterr().err
    assert "case_00000/imaging.nii.gz: cannot be read (" in error and "CRC" in error
    assert list(Index.read(tmp_path / "out").cases) == ["case_00001"]  # the same bytes, but for the checksum
