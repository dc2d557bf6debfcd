"""Scans are found by path, glob and list."""

from pathlib import Path

import pytest
from niftis import nifti

from kits_unet3d.pipeline.io import find_scans

BRACKETS = [
    ("scan[1].nii.gz", "scan[1].nii.gz"),
    ("study[2]", "study[2]/scan[1].nii.gz"),
    ("study[2]/*.nii.gz", "study[2]/scan[1].nii.gz"),
    ("study[2]/list.txt", "study[2]/scan[1].nii.gz"),
    ("st*[2]/*.gz", "study2/scan1.nii.gz"),
]


@pytest.mark.parametrize(("given", "found"), BRACKETS)
def test_brackets_in_a_name_that_exists_are_no_glob(tmp_path, monkeypatch, given, found):
    monkeypatch.chdir(tmp_path)
    for path in map(Path, ("scan[1].nii.gz", "scan1.nii.gz", "study[2]/scan[1].nii.gz", "study2/scan1.nii.gz")):
        path.parent.mkdir(exist_ok=True)
        nifti(path)
    Path("study[2]/list.txt").write_text("*.nii.gz\n")
    assert [str(scan.path) for scan in find_scans(given)] == [found]
