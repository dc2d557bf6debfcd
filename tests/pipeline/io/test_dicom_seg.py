import json

import highdicom
import numpy as np
import pydicom
import pytest
from dicoms import write_series
from pydicom.uid import CTImageStorage, SegmentationStorage

from kits_unet3d.pipeline.cli import main
from kits_unet3d.pipeline.inference import Grid, ReadOptions, read_scan
from kits_unet3d.pipeline.io.dicom.segmentation import write_segmentation
from kits_unet3d.pipeline.runtime.errors import CaseError

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


def test_what_is_no_dicom_has_none(tmp_path):
    scan = read_scan(write_series(tmp_path / "ct", voxels()))
    nifti = Grid(tmp_path / "x.nii", "x", scan.grid.shape, scan.affine)
    assert write_segmentation(np.ones(scan.grid.shape, np.uint8), nifti, tmp_path, CLASSES) is None


def test_an_empty_mask_and_slices_that_were_filled_in_are_told_of(tmp_path):
    scan = read_scan(write_series(tmp_path / "ct", voxels()))
    with pytest.raises(CaseError, match="its mask is empty"):
        write_segmentation(np.zeros(scan.grid.shape, np.uint8), scan.grid, tmp_path, CLASSES)
    gap = read_scan(write_series(tmp_path / "gap", voxels(), leave_out=[3]), ReadOptions(allow_gaps=True))
    with pytest.raises(CaseError, match="missing or uneven slices were resampled"):
        write_segmentation(np.ones(gap.grid.shape, np.uint8), gap.grid, tmp_path, CLASSES)
    assert not list(tmp_path.glob("*.dcm"))


def test_the_file_has_what_the_standard_demands_of_a_segmentation(tmp_path):
    """Read by pydicom alone: PS3.3, A.51 and C.8.20.2."""
    scan = read_scan(write_series(tmp_path / "ct", voxels()))
    mask = np.zeros(scan.grid.shape, np.uint8)
    mask[2:5, 3:7, 1:4], mask[3, 4, 2] = 1, 2
    seg = pydicom.dcmread(write_segmentation(mask, scan.grid, tmp_path, CLASSES))
    slices = [pydicom.dcmread(file, stop_before_pixels=True) for file in scan.grid.header]
    assert seg.SOPClassUID == seg.file_meta.MediaStorageSOPClassUID == SegmentationStorage
    assert (seg.Modality, seg.SegmentationType, list(seg.ImageType)[:2]) == ("SEG", "BINARY", ["DERIVED", "PRIMARY"])
    for tag in ("ContentLabel", "ContentDate", "ContentTime", "Manufacturer", "ManufacturerModelName", "SeriesNumber",
                "DeviceSerialNumber", "SoftwareVersions", "InstanceNumber", "LossyImageCompression"):  # fmt: skip
        assert seg.get(tag) not in (None, ""), tag
    for tag in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
                "AccessionNumber", "ReferringPhysicianName", "ContentDescription", "ContentCreatorName"):  # fmt: skip
        assert tag in seg, tag
    for tag in ("PatientName", "PatientID", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert seg[tag].value == slices[0][tag].value
    assert seg.SeriesInstanceUID != slices[0].SeriesInstanceUID
    (series,) = seg.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == slices[0].SeriesInstanceUID
    uids = {one.SOPInstanceUID: one for one in slices}
    assert {one.ReferencedSOPInstanceUID for one in series.ReferencedInstanceSequence} <= set(uids)
    codes = [
        (kind.CodeValue, kind.CodingSchemeDesignator, category.CodeValue, segment.SegmentAlgorithmType)
        for segment in seg.SegmentSequence
        for kind in segment.SegmentedPropertyTypeCodeSequence
        for category in segment.SegmentedPropertyCategoryCodeSequence
    ]
    assert codes == [("64033007", "SCT", "123037004", "AUTOMATIC"), ("126880001", "SCT", "49755003", "AUTOMATIC")]
    assert [segment.SegmentNumber for segment in seg.SegmentSequence] == [1, 2]
    (shared,) = seg.SharedFunctionalGroupsSequence
    (measures,), (orientation,) = shared.PixelMeasuresSequence, shared.PlaneOrientationSequence
    assert list(measures.PixelSpacing) == list(slices[0].PixelSpacing) and float(measures.SliceThickness) == 5
    assert list(orientation.ImageOrientationPatient) == list(slices[0].ImageOrientationPatient)
    assert len(seg.PerFrameFunctionalGroupsSequence) == seg.NumberOfFrames == 3 + 1
    for frame in seg.PerFrameFunctionalGroupsSequence:
        (source,) = frame.DerivationImageSequence[0].SourceImageSequence
        position = frame.PlanePositionSequence[0].ImagePositionPatient
        assert list(position) == list(uids[source.ReferencedSOPInstanceUID].ImagePositionPatient)
        assert source.ReferencedSOPClassUID == CTImageStorage
        assert frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber in (1, 2)
        assert len(frame.FrameContentSequence[0].DimensionIndexValues) == len(seg.DimensionIndexSequence)
    assert (seg.BitsAllocated, seg.BitsStored, seg.Rows, seg.Columns) == (1, 1, slices[0].Rows, slices[0].Columns)
    assert seg.pixel_array.sum() == (mask > 0).sum()


def test_slices_without_what_a_segmentation_repeats_are_named(tmp_path):
    scan = read_scan(write_series(tmp_path / "ct", voxels(), StudyInstanceUID=None))
    with pytest.raises(CaseError, match="StudyInstanceUID"):
        write_segmentation(np.ones(scan.grid.shape, np.uint8), scan.grid, tmp_path, CLASSES)
    assert not list(tmp_path.glob("*.dcm"))


def test_the_command_writes_one_beside_the_mask(tmp_path, model_file):
    write_series(tmp_path / "ct", voxels(), StudyID="7")
    command = ["predict", str(tmp_path / "ct"), "-o", str(tmp_path / "out"), "--checkpoint", str(model_file)]
    assert main([*command, "--dicom-seg", "--no-html-report"]) == 0
    assert {path.name for path in (tmp_path / "out").glob("ct_*")} == {"ct_seg.nii.gz", "ct_seg.dcm", "ct_report.json"}


def test_a_series_without_a_uid_gets_a_nifti_mask_and_a_warning(tmp_path, model_file):
    write_series(tmp_path / "ct", voxels(), SeriesInstanceUID="")
    command = ["predict", str(tmp_path / "ct"), "-o", str(tmp_path / "out"), "--checkpoint", str(model_file)]
    assert main([*command, "--dicom-seg"]) == 0
    case = json.loads((tmp_path / "out" / "summary.json").read_text())["cases"]["ct"]
    assert case["outcome"] != "failed" and "no DICOM segmentation" in " ".join(case["warnings"])
    assert (tmp_path / "out" / "ct_seg.nii.gz").is_file() and not list((tmp_path / "out").glob("*.dcm"))
