"""Masks say what their values mean: names, colours and terms, read back by other programs' libraries."""

import json
from xml.etree import ElementTree

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicoms import write_series
from niftis import AFFINE, ct, nifti

from kits_unet3d.pipeline.cli import main
from kits_unet3d.pipeline.evaluation.directories import find_masks
from kits_unet3d.pipeline.io.dicom.segmentation import write_segmentation
from kits_unet3d.pipeline.io.labels import read_labels
from kits_unet3d.pipeline.io.mask import write_mask
from kits_unet3d.pipeline.io.scan import read_scan
from kits_unet3d.pipeline.io.segments import COLOURS, segments_of, with_unnamed

CLASSES = ("background", "kidney", "tumour")


def mask_of(scan):
    mask = np.zeros(scan.voxels.shape, np.uint8)
    mask[2:6, 3:8, 2:5], mask[3:5, 4:6, 3:4] = 1, 2
    return mask


@pytest.fixture
def scan(tmp_path):
    return read_scan(nifti(tmp_path / "a.nii.gz"))


def test_a_nifti_mask_holds_names_and_colours(tmp_path, scan):
    path = write_mask(mask_of(scan), scan.grid, tmp_path, CLASSES)
    image = nib.load(path)
    (extension,) = image.header.extensions
    labels = ElementTree.fromstring(extension.get_content()).findall("VolumeInformation/LabelTable/Label")
    assert [(label.get("Key"), label.text) for label in labels] == [("1", "kidney"), ("2", "tumour")]
    for label, colour in zip(labels, COLOURS, strict=False):
        shares = [float(label.get(name)) for name in ("Red", "Green", "Blue")]
        np.testing.assert_allclose(shares, np.array(list(bytes.fromhex(colour[1:]))) / 255, atol=1e-6)
    np.testing.assert_array_equal(np.asarray(image.dataobj), mask_of(scan))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))).transpose(2, 1, 0), mask_of(scan))
    np.testing.assert_array_equal(read_labels(path).voxels, mask_of(scan))
    assert np.array_equal(image.affine, nib.load(tmp_path / "a.nii.gz").affine)


def test_a_segmentation_for_slicer_holds_names_colours_and_terms(tmp_path, scan):
    path = write_mask(mask_of(scan), scan.grid, tmp_path, CLASSES, "seg-nrrd")
    assert path.name == "a.seg.nrrd"
    image = sitk.ReadImage(str(path))
    assert image.GetMetaData("Segment0_Name") == "kidney" and image.GetMetaData("Segment1_LabelValue") == "2"
    assert "SCT^126880001^Neoplasm of kidney" in image.GetMetaData("Segment1_Tags")
    assert image.GetMetaData("Segmentation_MasterRepresentation") == "Binary labelmap"
    assert image.GetMetaData("Segment0_Extent") == " ".join(f"0 {n - 1}" for n in scan.voxels.shape)
    np.testing.assert_allclose(
        [float(part) for part in image.GetMetaData("Segment1_Color").split()], [0.835294, 0.368627, 0], atol=1e-6
    )
    labels = read_labels(path)
    assert labels.grid.same_as(scan.grid) and np.array_equal(labels.voxels, mask_of(scan))
    write_mask(mask_of(scan), scan.grid, tmp_path / "out", CLASSES, "seg-nrrd")
    assert list(find_masks(tmp_path / "out")) == ["a"]


def test_a_dicom_segmentation_has_the_same_names_and_colours_and_sides(tmp_path):
    scan = read_scan(write_series(tmp_path / "series", np.ascontiguousarray(ct((12, 14, 10)).transpose(2, 1, 0))))
    classes = ("background", "kidney_right", "tumour", "kidney_left")
    mask = mask_of(scan)
    mask[8:10, 3:8, 2:5] = 3
    segments = pydicom.dcmread(write_segmentation(mask, scan.grid, tmp_path, classes)).SegmentSequence
    assert [segment.SegmentLabel for segment in segments] == ["kidney_right", "tumour", "kidney_left"]
    kinds = [segment.SegmentedPropertyTypeCodeSequence[0] for segment in segments]
    assert [kind.CodeMeaning for kind in kinds] == ["Kidney", "Neoplasm of kidney", "Kidney"]
    sides = [kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning for kind in (kinds[0], kinds[2])]
    assert sides == ["Right", "Left"]
    assert all("RecommendedDisplayCIELabValue" in segment for segment in segments)


def test_a_cyst_has_its_own_colour_and_term(tmp_path):
    scan = read_scan(write_series(tmp_path / "series", np.ascontiguousarray(ct((12, 14, 10)).transpose(2, 1, 0))))
    classes = ("background", "kidney", "tumour", "cyst")
    mask = mask_of(scan)
    mask[8:10, 3:8, 2:5] = 3
    cyst = pydicom.dcmread(write_segmentation(mask, scan.grid, tmp_path, classes)).SegmentSequence[2]
    kind = cyst.SegmentedPropertyTypeCodeSequence[0]
    assert (cyst.SegmentLabel, kind.CodeValue, kind.CodingSchemeDesignator) == ("cyst", "722223000", "SCT")
    image = sitk.ReadImage(str(write_mask(mask, scan.grid, tmp_path, classes, "seg-nrrd")))
    assert "SCT^722223000^Cyst of kidney" in image.GetMetaData("Segment2_Tags")
    assert len({image.GetMetaData(f"Segment{n}_Color") for n in range(3)}) == 3


def test_a_class_of_another_data_set_is_named_as_it_is():
    (spleen,) = segments_of(("background", "spleen"))
    assert (spleen.name, spleen.kind) == ("spleen", ("spleen", "99KITS-UNET3D", "spleen"))


@pytest.mark.parametrize(("ending", "mask_format"), [("nii.gz", "scan"), ("mha", "scan"), ("nii.gz", "seg-nrrd")])
def test_a_mask_is_read_with_its_names_and_colours(tmp_path, scan, ending, mask_format):
    image = tmp_path / f"b.{ending}"
    sitk.WriteImage(sitk.ReadImage(str(tmp_path / "a.nii.gz")), str(image))
    classes = ("background", "kidney_right", "tumour", "kidney_left")
    path = write_mask(mask_of(scan), read_scan(image).grid, tmp_path / "out", classes, mask_format)
    assert list(read_labels(path).segments) == segments_of(classes)


def test_a_table_of_another_program_is_read_as_far_as_it_can_be_used(tmp_path, scan, caplog):
    def table(content):
        image = nib.load(tmp_path / "a.nii.gz")
        made = nib.Nifti1Image(mask_of(scan), image.affine)
        made.header.extensions += [nib.nifti1.Nifti1Extension(6, b"other"), nib.nifti1.Nifti1Extension(0, content)]
        nib.save(made, tmp_path / "b.nii.gz")
        return [(one.value, one.name, one.colour) for one in read_labels(tmp_path / "b.nii.gz").segments]

    labels = (
        '<Label Key="0" Red="0" Green="0" Blue="0">background</Label>'
        '<Label Key="2" Red="1" Green="0" Blue="0.5"><![CDATA[tumor]]></Label>'
        '<Label Key="4" Red="2" Green="0">spleen</Label><Label Key="x">y</Label><Label Key="5"> </Label>'
    )
    content = f"<LabelTable>{labels}</LabelTable>"
    assert table(content.encode()) == [(2, "tumour", "#ff0080"), (4, "spleen", COLOURS[3])]
    assert table(f'<!DOCTYPE a [<!ENTITY b "c">]>{content}'.encode()) == table(content[:-3].encode()) == []
    assert "cannot be used (it defines a document type)" in caplog.text and caplog.text.count("cannot be used") == 2
    assert table(content.encode("utf-16")) == [] and caplog.text.count("cannot be used") == 3
    twice = '<Label Key=" 1 ">kidney</Label><Label Key="1.0">cyst</Label>'
    assert table(f"<LabelTable>{twice}</LabelTable>".encode()) == [] and "1 is kidney and cyst" in caplog.text
    huge = f'<Label Key="{"1" * 5000}">kidney</Label><Label Key="1000000000000">cyst</Label>'
    assert table(f"<LabelTable>{huge}</LabelTable>".encode()) == []
    assert table(f'<?xml version="1.0" encoding="foo-1"?>{content}'.encode()) == []


def test_a_value_without_a_name_is_a_label_with_its_number():
    named = with_unnamed(segments_of(CLASSES), [0, 2, 7])
    assert [(one.value, one.name) for one in named] == [(1, "kidney"), (2, "tumour"), (7, "label 7")]


@pytest.mark.parametrize(("target", "ending"), [("out", "seg.nrrd"), ("out/mask.seg.nrrd", "seg.nrrd")])
def test_predict_writes_segmentations_with_split_kidneys(tmp_path, model_file, target, ending):
    scan = nifti(tmp_path / "a.nii.gz", ct((40, 40, 30)), AFFINE)
    command = ["predict", str(scan), "-o", str(tmp_path / target), "--checkpoint", str(model_file), "--no-html-report"]
    assert main([*command, "--format", "seg-nrrd", "--split-kidneys"]) == 0
    (path,) = (tmp_path / "out").glob(f"*{ending}")
    image = sitk.ReadImage(str(path))
    assert [image.GetMetaData(f"Segment{n}_Name") for n in range(3)] == ["kidney_right", "tumour", "kidney_left"]
    if target == "out":
        report = json.loads((tmp_path / "out" / "a_report.json").read_text())
        assert report["labels"] == {"background": 0, "kidney_right": 1, "tumour": 2, "kidney_left": 3}
        assert report["volumes_ml"].keys() == {"kidney", "tumour"} and report["model"]
        assert json.loads((tmp_path / "out" / "summary.json").read_text())["options"]["mask_format"] == "seg-nrrd"
