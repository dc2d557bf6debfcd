"""What a file stores is what is read: scaling, padding, lengths and units that decoders pass over in silence."""

import zlib

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from dicoms import write_series, write_slice
from niftis import AFFINE, ct

from kits_unet3d.pipeline.io import ReadOptions
from kits_unet3d.pipeline.io.dicom.segmentation import write_segmentation
from kits_unet3d.pipeline.io.scan import read_scan
from kits_unet3d.pipeline.runtime.errors import CaseError, UsageError


def slices(shape=(12, 14, 10)):
    return np.ascontiguousarray(ct(shape).transpose(2, 1, 0))


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.uint8])
def test_scaled_values_are_read_as_they_were_written(tmp_path, dtype):
    """nibabel scales to the whole range of the type, so that high HU are stored as 60000 and more."""
    written = ct() * np.float32(1.5)
    image = nib.Nifti1Image(written, AFFINE)
    image.set_data_dtype(dtype)
    nib.save(image, tmp_path / "a.nii.gz")
    scan = read_scan(tmp_path / "a.nii.gz")
    expected = np.clip(np.asarray(nib.load(tmp_path / "a.nii.gz").dataobj), -1024, 3071)
    np.testing.assert_allclose(scan.voxels, expected, atol=1e-3)
    assert not any("wrapped" in warning for warning in scan.warnings)


def test_a_padding_tag_that_matches_no_voxel_is_not_announced(tmp_path):
    for number, plane in enumerate(slices()):
        write_slice(tmp_path / f"{number}.dcm", plane, (-30, -50, 5.0 * number), PixelPaddingValue=9999)
    assert not any("PixelPaddingValue" in warning for warning in read_scan(tmp_path).warnings)


def test_slices_that_are_rescaled_differently_are_announced(tmp_path):
    directory = write_series(tmp_path, slices())
    write_slice(directory / "late.dcm", slices()[0], (-30, -50, 60), RescaleIntercept=-1000)
    (told,) = [warning for warning in read_scan(directory).warnings if "Rescale" in warning]
    assert "differs between slices" in told and "(1.0, -1000.0) in 1" in told


@pytest.mark.parametrize(("value", "limit", "signed"), [(63536, None, 0), (4095, None, 0), (63536, None, 1), (1, 9, 0)])
def test_padding_in_dicom_is_read_as_air(tmp_path, value, limit, signed):
    tags = {"PixelPaddingValue": value if not signed else value - 65536, "PixelRepresentation": signed}
    if limit is not None:
        tags["PixelPaddingRangeLimit"] = limit
    planes = slices().astype(np.int32)
    planes[:, :3] = tags["PixelPaddingValue"] - 1024
    for number, plane in enumerate(planes):
        stored = (plane + 1024).astype("<i2" if signed else "<u2").tobytes()
        write_slice(tmp_path / f"{number}.dcm", plane, (-30, -50, 5.0 * number), PixelData=stored, **tags)
    scan = read_scan(tmp_path)
    assert (scan.voxels[:, :3] == -1024).all() and any("PixelPaddingValue" in w for w in scan.warnings)
    np.testing.assert_array_equal(scan.voxels[:, 3:], slices().transpose(2, 1, 0)[:, 3:])


def test_a_slice_without_the_rescaling_of_the_others_is_refused(tmp_path):
    directory = write_series(tmp_path, slices())
    write_slice(directory / "late.dcm", slices()[0], (-30, -50, 60), RescaleSlope=None, RescaleIntercept=None)
    with pytest.raises(CaseError, match=r"late.dcm lacks RescaleSlope"):
        read_scan(directory)


def test_repeated_slices_are_left_out_and_different_ones_refused(tmp_path):
    directory = write_series(tmp_path / "same", slices())
    write_series(directory, slices())
    scan = read_scan(directory)
    assert scan.voxels.shape == (12, 14, 10) and "10 slices repeat others and were left out" in scan.warnings
    write_slice(directory / "x.dcm", slices()[0] + 5, (-30, -50, 10))
    with pytest.raises(CaseError, match="have the same position"):
        read_scan(directory)


def test_a_stray_slice_of_another_size_is_left_out_and_listed(tmp_path):
    directory = write_series(tmp_path, slices())
    write_slice(directory / "small.dcm", slices()[0][:5, :5], (-30, -50, 90))
    scan = read_scan(directory)
    assert scan.voxels.shape == (12, 14, 10)
    assert "left out: 1 slice of another size or orientation" in scan.warnings


def test_a_reformat_in_the_series_is_a_series_of_its_own(tmp_path):
    directory = write_series(tmp_path, slices())
    coronal = [1, 0, 0, 0, 0, -1]
    write_series(directory, slices()[:5], step=(0, 5.0, 0), ImageOrientationPatient=coronal)
    with pytest.raises(CaseError, match="choose with --series"):
        read_scan(directory)
    shapes = {read_scan(directory, ReadOptions(series=f"#{n}")).voxels.shape for n in (1, 2)}
    assert shapes == {(12, 14, 10), (12, 14, 5)}


@pytest.mark.parametrize("change", ["short", "rows", "columns"])
def test_pixel_data_unlike_rows_and_columns_is_refused(tmp_path, change):
    def edit(ds):
        if change == "short":
            ds.PixelData = ds.PixelData[:-40]
        else:
            setattr(ds, change.capitalize(), ds.Rows // 2)

    with pytest.raises(CaseError, match="PixelData has|damaged"):
        read_scan(write_series(tmp_path, slices(), change=edit))


def test_slices_with_one_instance_uid_are_refused(tmp_path):
    with pytest.raises(CaseError, match="have one SOPInstanceUID but different positions"):
        read_scan(write_series(tmp_path, slices(), SOPInstanceUID="1.2.3.4"))


HEADER = (
    "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = {}\nCompressedData = True\n{}"
    "TransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 0 0 0\nElementSpacing = 6 6 8\nDimSize = 12 14 10\n"
    "ElementType = MET_SHORT\nElementDataFile = {}\n"
)


@pytest.mark.parametrize("size", ["", "CompressedDataSize = 7\n", "CompressedDataSize = 999999\n"])
@pytest.mark.parametrize("order", ["False", "True"])
@pytest.mark.parametrize("separate", [False, True])
def test_compressed_metaimage_is_read_whatever_size_it_states(tmp_path, size, order, separate):
    voxels = ct()
    packed = zlib.compress(voxels.astype(">i2" if order == "True" else "<i2").tobytes(order="F"))
    if separate:
        (tmp_path / "a.zraw").write_bytes(packed)
        path, content = tmp_path / "a.mhd", HEADER.format(order, size, "a.zraw").encode()
    else:
        path, content = tmp_path / "a.mha", HEADER.format(order, size, "LOCAL").encode() + packed
    path.write_bytes(content)
    np.testing.assert_array_equal(read_scan(path).voxels, voxels)


def test_a_nrrd_without_a_space_or_a_voxel_size_is_not_guessed(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(ct().transpose(2, 1, 0)), tmp_path / "whole.nrrd")
    data = ct().tobytes(order="F")
    start = "NRRD0004\ntype: int16\ndimension: 3\nsizes: 12 14 10\nendian: little\nencoding: raw\n"
    (tmp_path / "a.nrrd").write_bytes(f"{start}spacings: 6 6 8\n\n".encode() + data)
    assert "the header contains no space: left and right are unknown" in read_scan(tmp_path / "a.nrrd").warnings
    assert not any("left and right" in warning for warning in read_scan(tmp_path / "whole.nrrd").warnings)
    for spacing in (
        "spacings: nan 6 8\n",
        'units: "um" "um" "um"\nspacings: 6 6 8\n',
    ):
        (tmp_path / "b.nrrd").write_bytes(f"{start}{spacing}\n".encode() + data)
        with pytest.raises(CaseError, match="--spacing"):
            read_scan(tmp_path / "b.nrrd")


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha"])
def test_no_dicom_segmentation_is_tried_for_other_formats(tmp_path, name):
    sitk.WriteImage(sitk.GetImageFromArray(ct((12, 14, 3)).transpose(2, 1, 0)), tmp_path / name)
    scan = read_scan(tmp_path / name)
    mask = np.ones(scan.voxels.shape, np.uint8)
    assert write_segmentation(mask, scan.grid, tmp_path, ("background", "kidney")) is None


def test_negative_voxel_sizes_and_foreign_units_are_not_taken_as_they_are(tmp_path):
    """A negative PixelSpacing would exchange left and right."""
    right = read_scan(write_series(tmp_path / "right", slices()))
    mirrored = read_scan(write_series(tmp_path / "mirrored", slices(), PixelSpacing=[6.0, -4.0]))
    np.testing.assert_array_equal(mirrored.affine, right.affine)
    assert any("is negative" in warning for warning in mirrored.warnings)
    data = ct().tobytes(order="F")
    header = HEADER.format("False", "", "LOCAL").replace("CompressedData = True\n", "")
    for old, new, message in (
        ("ElementSpacing = 6", "ElementSpacing = -6", "is not positive"),
        ("Offset", "DistanceUnits = um\nOffset", "um is not in mm"),
    ):
        (tmp_path / "a.mha").write_bytes(header.replace(old, new).encode() + data)
        with pytest.raises(CaseError, match=message):
            read_scan(tmp_path / "a.mha")


@pytest.mark.parametrize("offset", [float("nan"), float("inf"), 1e308])
def test_an_offset_is_a_number_of_hu(offset):
    with pytest.raises(UsageError, match="hu-offset must be a number of HU"):
        ReadOptions(hu_offset=offset)


def change_header(path, **entries):
    """Write a text header's entries, before its last line."""
    head, found, voxels = path.read_bytes().partition(b"ElementDataFile")
    path.write_bytes(head + "".join(f"{k} = {v}\n" for k, v in entries.items()).encode() + found + voxels)


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({"ElementToIntensityFunctionSlope": 2}, "ElementToIntensityFunction"),
        ({"ElementToIntensityFunctionOffset": -1024}, "ElementToIntensityFunction"),
        ({"Modality": "MET_MOD_MR"}, "its Modality is MR"),
        ({"HeaderSize": 100}, "HeaderSize contradicts"),
    ],
)
def test_metaimages_that_mean_other_values_are_refused(tmp_path, entries, reason):
    path = tmp_path / "a.mha"
    sitk.WriteImage(sitk.GetImageFromArray(slices()), str(path))
    read_scan(path)
    change_header(path, **entries)
    with pytest.raises(CaseError, match=reason):
        read_scan(path)


def test_metaimages_of_text_are_refused_by_their_kind(tmp_path):
    path = tmp_path / "a.mha"
    sitk.WriteImage(sitk.GetImageFromArray(slices()), str(path))
    path.write_bytes(path.read_bytes().replace(b"BinaryData = True", b"BinaryData = False"))
    with pytest.raises(CaseError, match="are text"):
        read_scan(path)


def test_compression_is_recognised_in_all_spellings(tmp_path):
    path = tmp_path / "a.mha"
    sitk.WriteImage(sitk.GetImageFromArray(slices()), str(path), useCompression=True)
    path.write_bytes(path.read_bytes().replace(b"CompressedData = True", b"CompressedData = T"))
    np.testing.assert_array_equal(read_scan(path).voxels, slices().transpose(2, 1, 0))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ((b"encoding: raw", b"encoding: bzip2"), "encoding bzip2 cannot be read here; save it as raw or gzip"),
        ((b"encoding: raw", b"old min: -1024\nencoding: raw"), "quantised"),
        ((b"space directions: (1,0,0) (0,1,0) (0,0,1)", b"space directions: none none none"), "no voxel size"),
    ],
)
def test_nrrd_files_that_mean_other_values_are_refused(tmp_path, change, reason):
    path = tmp_path / "a.nrrd"
    sitk.WriteImage(sitk.GetImageFromArray(slices()), str(path), useCompression=False)
    before = path.read_bytes()
    assert change[0] in before
    path.write_bytes(before.replace(*change))
    with pytest.raises(CaseError, match=reason):
        read_scan(path)


def test_a_space_that_is_not_the_body_s_is_reported(tmp_path):
    path = tmp_path / "a.nrrd"
    sitk.WriteImage(sitk.GetImageFromArray(slices()), str(path), useCompression=False)
    assert not read_scan(path).warnings
    path.write_bytes(path.read_bytes().replace(b"left-posterior-superior", b"scanner-xyz"))
    assert any("left and right are unknown" in warning for warning in read_scan(path).warnings)


def test_the_largest_integers_are_not_read_as_negative_ones(tmp_path):
    values = slices().astype(np.int64).astype(np.uint64)  # -1024 becomes 2^64 - 1024
    sitk.WriteImage(sitk.GetImageFromArray(values), str(tmp_path / "a.nrrd"))
    with pytest.raises(CaseError, match="are not HU"):
        read_scan(tmp_path / "a.nrrd")


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"HighBit": 11}, "HighBit 11"),
        ({"ImageOrientationPatient": [1, 0, 0, 0.5, 0.9, 0]}, "perpendicular"),
        ({"ImageOrientationPatient": [2, 0, 0, 0, 1, 0]}, "perpendicular"),
        ({"RescaleSlope": 0}, "RescaleSlope 0"),
        ({"RescaleType": "MGML"}, "RescaleType is MGML, not HU"),
        ({"RescaleSlope": None}, "lacks RescaleSlope or RescaleIntercept"),
    ],
)
def test_dicom_tags_that_contradict_each_other_are_refused(tmp_path, tags, reason):
    for number, plane in enumerate(slices()):
        write_slice(tmp_path / f"{number}.dcm", plane, (-30, -50, 5.0 * number), **tags)
    with pytest.raises(CaseError, match=reason):
        read_scan(tmp_path)


def test_interpolated_slices_hold_no_padding(tmp_path):
    """A gap beside padding of -3024 gave -2024 + x / 2: below air, or a wrong tissue after clipping."""
    planes = np.full((6, 14, 12), 40, np.int16)
    planes[:, :2] = -1000
    planes[2:] = -3024
    for number, plane in enumerate(planes):
        if number != 2:
            stored = (plane + 1024).astype("<i2").tobytes()
            place = (-30, -50, 5.0 * number)
            write_slice(tmp_path / f"{number}.dcm", plane, place, PixelRepresentation=1, PixelData=stored)
    voxels = read_scan(tmp_path, ReadOptions(allow_gaps=True)).voxels
    np.testing.assert_allclose(voxels[:, 5:, 2], (40 - 1024) / 2, atol=1)
