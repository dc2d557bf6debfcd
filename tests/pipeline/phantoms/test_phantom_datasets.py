"""Data sets of phantoms: files in KiTS19's layout, resumed runs, bodies, splits and classes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from phantom_cases import TINY, two_kidneys

from kits_unet3d.pipeline.data import classes_in
from kits_unet3d.pipeline.phantoms import write_dataset
from kits_unet3d.pipeline.phantoms.kidneys import CYST, KIDNEY


def digest(directory: Path) -> dict[str, str]:
    files = sorted(p for p in directory.rglob("*.nii.gz") if p.is_file())
    return {str(p.relative_to(directory)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_dataset_has_kits19_files_and_does_not_depend_on_count_or_workers(tmp_path):
    seen = []
    directories = write_dataset(tmp_path / "a", 1, seed=4, progress=lambda *news: seen.append(news), **TINY)
    assert [f.name for f in directories] == ["case_00000"]
    assert seen == [("case_00000", 1, 1)]
    write_dataset(tmp_path / "b", 2, seed=4, workers=2, **TINY)
    few, many = digest(tmp_path / "a"), digest(tmp_path / "b")
    assert set(few) == {f"case_00000/{name}.nii.gz" for name in ("imaging", "segmentation")}
    assert few.items() <= many.items()
    assert many["case_00000/imaging.nii.gz"] != many["case_00001/imaging.nii.gz"]
    image = nib.load(directories[0] / "imaging.nii.gz")
    label = nib.load(directories[0] / "segmentation.nii.gz")
    assert image.get_data_dtype() == np.int16 and label.get_data_dtype() == np.uint8
    assert int(image.header["sform_code"]) > 0
    assert nib.aff2axcodes(image.affine) == ("I", "P", "L")
    np.testing.assert_array_equal(image.affine, label.affine)
    np.testing.assert_allclose(image.header.get_zooms(), TINY["spacing_mm"])


def test_rerun_keeps_finished_cases_and_completes_an_interrupted_one(tmp_path):
    write_dataset(tmp_path, 2, **TINY)
    whole = digest(tmp_path)
    finished = tmp_path / "case_00000" / "imaging.nii.gz"
    stamp = finished.stat().st_mtime_ns
    (tmp_path / "case_00001" / "imaging.nii.gz").unlink()
    leftover = tmp_path / "case_00001" / ".part-imaging.nii.gz"
    leftover.write_bytes(b"half a file")
    write_dataset(tmp_path, 2, **TINY)
    assert not leftover.exists()
    assert finished.stat().st_mtime_ns == stamp
    assert digest(tmp_path) == whole


def test_dataset_around_labels_keeps_names_voxels_and_affines(tmp_path):
    label, affine = two_kidneys()
    for number in (7, 12):
        directory = tmp_path / "labels" / f"case_{number:05d}"
        directory.mkdir(parents=True)
        nib.save(nib.Nifti1Image(label.astype(np.uint16), affine), directory / "segmentation.nii.gz")
    directories = write_dataset(tmp_path / "out", None, labels=tmp_path / "labels")
    assert [f.name for f in directories] == ["case_00007", "case_00012"]
    assert len(write_dataset(tmp_path / "out", 1, labels=tmp_path / "labels")) == 1
    source = nib.load(tmp_path / "labels" / "case_00012" / "segmentation.nii.gz")
    written = nib.load(directories[1] / "segmentation.nii.gz")
    np.testing.assert_array_equal(np.asanyarray(written.dataobj), label)
    np.testing.assert_array_equal(written.affine, source.affine)


def test_training_labels_get_several_bodies_and_evaluation_labels_one(tmp_path):
    label, affine = two_kidneys()
    for number in (0, 4):  # KiTS19 evaluates on case 0
        directory = tmp_path / "labels" / f"case_{number:05d}"
        directory.mkdir(parents=True)
        nib.save(nib.Nifti1Image(label, affine), directory / "segmentation.nii.gz")
    directories = write_dataset(tmp_path / "out", labels=tmp_path / "labels", bodies=3)
    assert [f.name for f in directories] == ["case_00000", "case_00004", "case_10004", "case_20004"]
    split = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert split["evaluation"] == ["case_00000"] and split["training"] == ["case_00004", "case_10004", "case_20004"]
    images, labels = (
        [(directory / f"{name}.nii.gz").read_bytes() for directory in directories[1:]]
        for name in ("imaging", "segmentation")
    )
    assert len(set(images)) == 3 and len(set(labels)) == 1
    with pytest.raises(ValueError, match="bodies must be"):
        write_dataset(tmp_path / "none", 2, bodies=2)


def test_other_settings_into_the_same_directory_are_refused(tmp_path):
    write_dataset(tmp_path, 1, **TINY)
    with pytest.raises(ValueError, match="choose another directory"):
        write_dataset(tmp_path, 1, seed=5, **TINY)


def test_write_dataset_says_what_is_wrong(tmp_path):
    with pytest.raises(ValueError, match="cases must be at least 1"):
        write_dataset(tmp_path, 0)
    with pytest.raises(ValueError, match="cases must be given"):
        write_dataset(tmp_path)
    with pytest.raises(ValueError, match="workers must be at least 1"):
        write_dataset(tmp_path, 1, workers=0)
    with pytest.raises(ValueError, match="no case_XXXXX"):
        write_dataset(tmp_path / "out", labels=tmp_path)
    with pytest.raises(ValueError, match="come from the label maps"):
        write_dataset(tmp_path / "out", labels=tmp_path, shape=(8, 8, 8))


def test_phantoms_around_kits23_name_its_four_classes(tmp_path):
    label, affine = two_kidneys()
    for number, value in ((4, KIDNEY), (7, CYST)):
        label[18:22, 85:95, 60:70] = value
        path = tmp_path / "labels" / f"case_{number:05d}" / "segmentation.nii.gz"
        path.parent.mkdir(parents=True)
        nib.save(nib.Nifti1Image(label, affine), path)
    write_dataset(tmp_path / "out", labels=tmp_path / "labels")
    assert classes_in(tmp_path / "out") == ("background", "kidney", "tumour", "cyst")
    assert classes_in(tmp_path / "labels") == classes_in(tmp_path / "out")
    write_dataset(tmp_path / "drawn", 1, **TINY)
    assert "classes" not in json.loads((tmp_path / "drawn" / "dataset.json").read_text())
