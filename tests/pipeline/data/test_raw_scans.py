"""Scans for training are read as for prediction: with the same checks, corrections and ways out."""

import json

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from conftest import TINY
from niftis import AFFINE, ct, nifti

from kits_unet3d.pipeline.cli import main
from kits_unet3d.pipeline.data import Index, find_cases, preprocess_dataset
from kits_unet3d.pipeline.data.cases import RawCase, read_case, read_volume
from kits_unet3d.pipeline.runtime.errors import CaseError, UsageError

SHAPE = (24, 28, 20)


def label_map(shape=SHAPE):
    labels = np.zeros(shape, np.uint8)
    labels[4:10, 4:10, 4:10], labels[6:8, 6:8, 6:8] = 1, 2
    return labels


def scan(seed):
    voxels = ct(SHAPE)
    voxels[2, 2] = seed
    return voxels


@pytest.fixture
def raw(tmp_path):
    """Three cases; the first is changed by each test."""
    for number in range(3):
        directory = tmp_path / "raw" / f"case_{number:05d}"
        directory.mkdir(parents=True)
        nifti(directory / "imaging.nii.gz", scan(number))
        nifti(directory / "segmentation.nii.gz", label_map())
    listed = {"name": "made", "training": ["case_00000", "case_00001"], "evaluation": ["case_00002"]}
    (tmp_path / "raw" / "dataset.json").write_text(json.dumps(listed))
    (tmp_path / "tiny.json").write_text(json.dumps(TINY))
    return tmp_path / "raw"


def prepare(raw, *more):
    out = raw.parent / "out"
    return main(
        ["prepare", "--data-dir", str(raw), "-o", str(out), "--config", str(raw.parent / "tiny.json"), *more]
    ), out


def first(out):
    return np.load(out / "case_00000_x.npy"), np.load(out / "case_00000_y.npy")


def sform_against_qform(header):
    header.set_qform(np.diag([-6.0, 6.0, 8.0, 1.0]), 1)


def test_hu_plus_1024_is_refused_and_can_be_corrected(raw, capsys):
    good, out = prepare(raw)
    expected = first(out)
    nifti(raw / "case_00000" / "imaging.nii.gz", (scan(0) + 1024).astype(np.uint16))
    assert good == 0 and prepare(raw)[0] == 1
    error = capsys.readouterr().err
    assert "case_00000/imaging.nii.gz" in error and "--hu-offset=-1024" in error
    assert "case_00000" not in Index.read(out).cases
    for number in (1, 2):
        nifti(raw / f"case_0000{number}" / "imaging.nii.gz", (scan(number) + 1024).astype(np.uint16))
    assert prepare(raw, "--hu-offset=-1024")[0] == 0
    assert all(np.array_equal(a, b) for a, b in zip(first(out), expected, strict=True))


def test_wrapped_negative_values_are_corrected(raw, capsys, caplog):
    _, out = prepare(raw)
    expected = first(out)
    nifti(raw / "case_00000" / "imaging.nii.gz", scan(0).view(np.uint16))
    assert prepare(raw)[0] == 0
    assert all(np.array_equal(a, b) for a, b in zip(first(out), expected, strict=True))
    assert any("wrapped negative values" in message for message in caplog.messages)


def test_sform_and_qform_apart_are_refused_and_one_can_be_chosen(raw, capsys):
    for name, voxels in (("imaging", scan(0)), ("segmentation", label_map())):
        nifti(raw / "case_00000" / f"{name}.nii.gz", voxels, change=sform_against_qform)
    code, out = prepare(raw)
    assert code == 1 and "--trust sform or qform" in capsys.readouterr().err
    assert prepare(raw, "--trust", "sform")[0] == 0
    one = first(out)
    assert prepare(raw, "--trust", "qform")[0] == 0
    assert Index.read(out).cases["case_00000"]["reading"] == {"trust": "qform"}
    assert not np.array_equal(one[0], first(out)[0])


def test_another_voxel_size_in_pixdim_can_be_overruled(raw, capsys):
    nifti(raw / "case_00000" / "imaging.nii.gz", scan(0), pixdim=[1, 7, 6, 8, 0, 0, 0, 0])
    assert prepare(raw)[0] == 1 and "--trust sform" in capsys.readouterr().err
    code, out = prepare(raw, "--trust", "sform")
    assert code == 0 and Index.read(out).cases["case_00000"]["source_spacing_mm"] == [8, 6, 6]


def test_a_data_list_gives_each_case_its_own_options(raw, tmp_path, tiny_parameters):
    nifti(raw / "case_00000" / "imaging.nii.gz", (scan(0) + 1024).astype(np.uint16))
    names = {}
    for number in range(3):
        for part in ("imaging", "segmentation"):
            (raw / f"case_0000{number}" / f"{part}.nii.gz").rename(raw / f"{part[0]}{number}.nii.gz")
        names[number] = {"image": f"i{number}.nii.gz", "label": f"s{number}.nii.gz"}
    listed = {"training": [{**names[0], "hu_offset": -1024}, names[1]], "validation": [names[2]]}
    text = json.dumps(listed)
    (raw / "dataset.json").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert preprocess_dataset(raw, tmp_path / "out", tiny_parameters) == {}
    assert "reading" not in Index.read(tmp_path / "out").cases["i1"]
    (raw / "dataset.json").write_text(text.replace("-1024", '"much"'))
    with pytest.raises(UsageError, match=r"dataset\.json: "):
        find_cases(raw)
    (raw / "dataset.json").write_text(text.replace('"hu_offset": -1024', '"trust": "both"'))
    with pytest.raises(UsageError, match="trust must be sform or qform"):
        find_cases(raw)


def test_other_formats_and_a_single_volume_are_read_as_for_prediction(raw, tmp_path, tiny_parameters):
    assert preprocess_dataset(raw, tmp_path / "nifti", tiny_parameters) == {}
    entries = []
    for number in range(3):
        for name in ("imaging", "segmentation"):
            image = sitk.ReadImage(str(raw / f"case_0000{number}" / f"{name}.nii.gz"))
            sitk.WriteImage(image, str(raw / f"{name[0]}{number}.{'mhd' if number else 'nrrd'}"))
        ending = "mhd" if number else "nrrd"
        entries.append({"image": f"i{number}.{ending}", "label": f"s{number}.{ending}"})
    (raw / "list.json").write_text(json.dumps({"training": entries[:2], "validation": entries[2:]}))
    assert preprocess_dataset(raw / "list.json", tmp_path / "itk", tiny_parameters, workers=2) == {}
    for number in range(3):
        for key in "xy":
            expected = np.load(tmp_path / "nifti" / f"case_0000{number}_{key}.npy")
            assert np.array_equal(np.load(tmp_path / "itk" / f"i{number}_{key}.npy"), expected)
    nifti(raw / "case_00000" / "imaging.nii.gz", scan(0)[..., None])
    case = RawCase("a", raw / "case_00000" / "imaging.nii.gz", raw / "case_00000" / "segmentation.nii.gz", "training")
    assert np.array_equal(read_case(case, 3)["image"][0], read_volume(raw / "i0.nrrd")[0])


def test_a_changed_data_file_behind_its_header_is_noticed(raw, tmp_path, tiny_parameters):
    entries = []
    for number in range(2):
        for name in ("imaging", "segmentation"):
            image = sitk.ReadImage(str(raw / f"case_0000{number}" / f"{name}.nii.gz"))
            sitk.WriteImage(image, str(raw / f"{name[0]}{number}.mhd"))
        entries.append({"image": f"i{number}.mhd", "label": f"s{number}.mhd"})
    (raw / "list.json").write_text(json.dumps({"training": entries[:1], "validation": entries[1:]}))
    preprocess_dataset(raw / "list.json", tmp_path / "out", tiny_parameters)
    before = np.load(tmp_path / "out" / "i0_x.npy")
    (raw / "i0.raw").write_bytes(scan(90).tobytes(order="F"))
    preprocess_dataset(raw / "list.json", tmp_path / "out", tiny_parameters)
    assert not np.array_equal(np.load(tmp_path / "out" / "i0_x.npy"), before)


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32, np.float64])
def test_kits19s_values_are_kept_as_they_are_stored(tmp_path, dtype):
    """Padding and metal too: the reference clips after resampling only."""
    voxels = scan(0).astype(dtype)
    voxels[0], voxels[5, 5, 5] = -3024, 20000
    if np.dtype(dtype).kind == "f":
        voxels[6, 6, 6] = 30.123456
    path = nifti(tmp_path / "imaging.nii.gz", voxels)
    oriented = nib.as_closest_canonical(nib.Nifti1Image(voxels, AFFINE))
    expected = np.asarray(oriented.dataobj).astype(np.float32)[::-1, ::-1, ::-1].transpose(2, 1, 0)
    unclipped, _, _ = read_volume(path, unclipped=True)
    assert np.array_equal(unclipped.astype(np.float32), expected)
    clipped, _, _ = read_volume(path)
    assert np.array_equal(clipped.astype(np.float32), expected.clip(-1024, 3071))
    with pytest.raises(CaseError, match="not HU"):
        read_volume(nifti(tmp_path / "imaging.nii.gz", scan(0).astype(np.float64) * 1e5), unclipped=True)
