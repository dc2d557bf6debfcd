"""Values that are not HU, and files whose length or name does not fit: refused by name, with a way out."""

import gzip

import numpy as np
import pytest
import SimpleITK as sitk
from dicoms import write_series
from niftis import ct, nifti
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian

from kits_unet3d.pipeline.inference import find_scans, read_scan, write_mask
from kits_unet3d.pipeline.io import ReadOptions
from kits_unet3d.pipeline.io.dicom import read_slice
from kits_unet3d.pipeline.io.labels import read_labels
from kits_unet3d.pipeline.runtime.errors import CaseError

SCALED = {
    "labels": (ct() > 0).astype(np.uint8),
    "many labels": np.arange(1680).reshape(12, 14, 10).astype(np.uint8) % 90,
    "0 to 1": ((ct() + 1000) / 1200).astype(np.float32),
    "z-scores": ((ct() + 100) / 300).astype(np.float32),
}


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("kind", SCALED)
def test_labels_and_scaled_intensities_are_not_read_as_ct(tmp_path, kind, ending):
    path = write(tmp_path / f"a{ending}", SCALED[kind])
    with pytest.raises(CaseError, match="--hu-offset=0"):
        read_scan(path)
    assert read_scan(path, ReadOptions(hu_offset=0)).voxels.shape == ct().shape


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha", ""])
@pytest.mark.parametrize("levels", [(-1000, 0, 1000), (0, 100, 200, 300), (-3024, -1000, -100, 40, 60, 400)])
def test_few_different_values_are_not_read_as_ct(tmp_path, levels, ending):
    voxels = np.array(levels, np.int16)[np.arange(40 * 36 * 32).reshape(40, 36, 32) // 97 % len(levels)]
    path = tmp_path / f"a{ending}"
    if ending:
        write(path, voxels)
    else:
        write_series(path, np.maximum(voxels, -1024).transpose(2, 1, 0))
    with pytest.raises(CaseError, match=r"voxels have only \d different values.*--hu-offset=0"):
        read_scan(path)
    assert read_scan(path, ReadOptions(hu_offset=0)).voxels.shape == (40, 36, 32)
    with pytest.raises(CaseError, match="different values"):
        read_scan(path, ReadOptions(hu_offset=-1024))


@pytest.mark.parametrize("noise_hu", [0, 5])
def test_air_and_uniform_phantoms_with_noise_are_ct(tmp_path, noise_hu):
    noise = np.random.default_rng(0).normal(0, noise_hu, (40, 36, 32))
    voxels = (noise if noise_hu else np.full(noise.shape, -1000)).astype(np.int16)
    voxels[:, :4] = -1024
    assert read_scan(nifti(tmp_path / "a.nii", voxels)).voxels.shape == voxels.shape


def test_a_water_phantom_in_air_needs_no_option(tmp_path):
    voxels = np.where(ct() > -1000, 3, -1000).astype(np.int16)
    assert (read_scan(nifti(tmp_path / "a.nii", voxels)).voxels == voxels).all()


def test_label_maps_beside_a_data_sets_images_are_skipped(tmp_path):
    for name in ("imagesTr/a_0000.nii.gz", "imagesTs/b_0000.nii.gz", "labelsTr/a.nii.gz", "other/a.seg.nrrd"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        nifti(tmp_path / name)
    skipped = {}
    found = find_scans(tmp_path, skipped=skipped)
    assert [scan.path.parent.name for scan in found] == ["imagesTr", "imagesTs"]
    assert sorted(skipped) == [str(tmp_path / "labelsTr/a.nii.gz"), str(tmp_path / "other/a.seg.nrrd")]


def with_tail(path, count):
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + b"\1" * count, 1))
    else:
        raw = path.with_suffix(".raw")
        data = raw if raw.exists() else path
        data.write_bytes(data.read_bytes() + b"\1" * count)
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd", "a.nhdr", "a.mha", "a.mhd"])
@pytest.mark.parametrize(("read", "voxels"), [(read_scan, ct()), (read_labels, np.ones((12, 14, 10), np.int16))])
def test_more_voxels_than_the_header_declares_are_refused(tmp_path, name, read, voxels):
    path = write(tmp_path / name, voxels)
    volume = read(with_tail(path, 20))
    assert (volume.voxels == voxels).all() and "20 bytes after the voxels are ignored" in volume.warnings
    with pytest.raises(CaseError, match="but 3696 follow"):
        read(with_tail(path, 316))


def write(path, voxels, compressed=False):
    if "nii" in path.name:
        return nifti(path, voxels)
    sitk.WriteImage(sitk.GetImageFromArray(voxels.transpose(2, 1, 0)), str(path), useCompression=compressed)
    return path


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_compressed_voxels_beyond_the_header_are_refused(tmp_path, ending):
    path = write(tmp_path / f"a{ending}", ct(), compressed=True)
    content = path.read_bytes()
    assert content.count(b"12 14 10") == 1
    path.write_bytes(content.replace(b"12 14 10", b"12 14 09"))
    with pytest.raises(CaseError, match="more than the 3024 bytes"):
        read_scan(path)


def test_a_nifti_2_header_that_is_cut_is_refused(tmp_path):
    (tmp_path / "a.nii").write_bytes((540).to_bytes(4, "little") + b"n+2\0\r\n\x1a\n" + b"\0" * 400)
    with pytest.raises(CaseError, match="its header ends after 412 bytes"):
        read_scan(tmp_path / "a.nii")


def test_a_long_file_name_leaves_room_for_the_masks_name(tmp_path):
    for last in "ab":
        nifti(tmp_path / f"{'x' * 237}{last}.nii.gz")
    names = [scan.name for scan in find_scans(tmp_path)]
    assert len(set(names)) == 2 and max(map(len, names)) <= 200
    scan = read_scan(find_scans(tmp_path)[0])
    assert write_mask((scan.voxels > 0).astype(np.uint8), scan.grid, tmp_path / "out").name == f"{names[0]}_seg.nii.gz"


def test_monochrome1_is_refused_by_name(tmp_path):
    voxels = np.ascontiguousarray(ct((8, 14, 10)).transpose(0, 2, 1))
    write_series(tmp_path / "ct", voxels, PhotometricInterpretation="MONOCHROME1")
    with pytest.raises(CaseError, match="PhotometricInterpretation is MONOCHROME1"):
        read_scan(tmp_path / "ct")


@pytest.mark.parametrize("unknown_length", [False, True])
@pytest.mark.parametrize("syntax", [None, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_a_modality_lut_is_refused_by_name(tmp_path, syntax, unknown_length):
    def with_table(ds, tag="ModalityLUTSequence"):
        item = Dataset()
        item.LUTDescriptor, item.ModalityLUTType = [4096, 0, 16], "HU"
        item[0x0028, 0x3006] = DataElement(0x00283006, "OW", np.arange(4096, dtype="<u2").tobytes())
        del ds.RescaleSlope, ds.RescaleIntercept
        setattr(ds, tag, Sequence([item]))
        ds[tag].is_undefined_length = unknown_length
        if syntax is not None:
            ds.file_meta.TransferSyntaxUID = syntax

    voxels = np.ascontiguousarray(ct((8, 14, 10)).transpose(0, 2, 1))
    write_series(tmp_path / "ct", voxels, change=with_table)
    with pytest.raises(CaseError, match="a Modality LUT Sequence, which is not supported; apply it"):
        read_scan(tmp_path / "ct")
    write_series(tmp_path / "voi", voxels, change=lambda ds: with_table(ds, "VOILUTSequence"))
    assert not [one for one in (tmp_path / "voi").iterdir() if read_slice(one).error]  # a table for display
