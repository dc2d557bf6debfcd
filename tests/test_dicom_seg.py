import json

import highdicom
import numpy as np
import pydicom
import pytest
from dicoms import write_series

from kits_unet3d.pipeline.cli import main
from kits_unet3d.pipeline.errors import CaseError
from kits_unet3d.pipeline.inference import Grid, read_scan
from kits_unet3d.pipeline.inference.results.dicom_seg import write_segmentation

CLASSES = ("background", "kidney", "tumour")


def voxels():
    return np.random.default_rng(0).integers(-1000, 1000, (6, 8, 10)).astype(np.int16)


def test_a_segmentation_has_the_masks_voxels_on_the_slices_it_refers_to(tmp_path):
    series = {"StudyID": "7", "StudyDate": "20200101", "StudyTime": "1200", "AccessionNumber": "", "PatientSex": "F"}
    series |= {"PatientBirthDate": "", "ReferringPhysicianName": ""}
    scan = read_scan(write_series(tmp_path / "ct", voxels(), **series))
    mask = np.zeros(scan.grid.shape, np.uint8)
    mask[2:5, 3:7, 1:4], mask[3, 4, 2] = 1, 2
    path = write_segmentation(mask, Grid.from_text(scan.grid.to_text()), tmp_path / "out", CLASSES)
    assert path == tmp_path / "out" / "ct_seg.dcm"
    seg = highdicom.seg.segread(path)
    assert [s.SegmentedPropertyTypeCodeSequence[0].CodeMeaning for s in seg.SegmentSequence] == [
        "Kidney",
        "Neoplasm of kidney",
    ]
    assert str(seg.PatientName) == "Doe^Jane" and seg.StudyInstanceUID == "1.2.3"
    uids = [pydicom.dcmread(file).SOPInstanceUID for file in scan.grid.header]
    frames = seg.get_pixels_by_source_instance(uids, combine_segments=True, assert_missing_frames_are_empty=True)
    assert (frames.transpose(2, 1, 0) == mask).all()
    volume = seg.get_volume(combine_segments=True)
    lps_to_ras = np.diag([-1, -1, 1, 1])
    world = {tuple(np.round((lps_to_ras @ volume.affine @ [*i, 1])[:3], 3)) for i in np.argwhere(volume.array == 2)}
    assert world == {tuple(np.round((scan.affine @ [3, 4, 2, 1])[:3], 3))}


def test_what_is_no_dicom_or_empty_has_none(tmp_path):
    scan = read_scan(write_series(tmp_path / "ct", voxels()))
    empty = np.zeros(scan.grid.shape, np.uint8)
    assert write_segmentation(empty, scan.grid, tmp_path, CLASSES) is None
    nifti = Grid(tmp_path / "x.nii", "x", scan.grid.shape, scan.affine)
    assert write_segmentation(empty + 1, nifti, tmp_path, CLASSES) is None


def test_slices_without_what_a_segmentation_repeats_are_named(tmp_path):
    scan = read_scan(write_series(tmp_path / "ct", voxels(), StudyInstanceUID=None))
    with pytest.raises(CaseError, match="StudyInstanceUID"):
        write_segmentation(np.ones(scan.grid.shape, np.uint8), scan.grid, tmp_path, CLASSES)
    assert not list(tmp_path.glob("*.dcm"))


def test_the_command_writes_one_beside_the_mask(tmp_path, model_file):
    write_series(tmp_path / "ct", voxels(), StudyID="7")
    command = ["predict", str(tmp_path / "ct"), "-o", str(tmp_path / "out"), "--checkpoint", str(model_file)]
    assert main([*command, "--dicom-seg"]) == 0
    assert {path.name for path in (tmp_path / "out").glob("ct_*")} == {"ct_seg.nii.gz", "ct_seg.dcm", "ct_report.json"}


def test_a_series_that_no_segmentation_can_refer_to_keeps_its_mask_with_a_warning(tmp_path, model_file):
    write_series(tmp_path / "ct", voxels(), SeriesInstanceUID="")
    command = ["predict", str(tmp_path / "ct"), "-o", str(tmp_path / "out"), "--checkpoint", str(model_file)]
    assert main([*command, "--dicom-seg"]) == 0
    case = json.loads((tmp_path / "out" / "summary.json").read_text())["cases"]["ct"]
    assert case["outcome"] == "done" and "no DICOM segmentation" in " ".join(case["warnings"])
    assert (tmp_path / "out" / "ct_seg.nii.gz").is_file() and not list((tmp_path / "out").glob("*.dcm"))
