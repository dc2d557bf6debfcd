"""Cases are preprocessed side by side only as far as they fit into memory together."""

import json
import threading
import time

import nibabel as nib
import numpy as np
import pytest
from conftest import TINY

from kits_unet3d.pipeline.cli import main
from kits_unet3d.pipeline.data import Index, RawCase, find_cases, preprocess_dataset
from kits_unet3d.pipeline.data import preprocessing as preprocessing
from kits_unet3d.pipeline.data.case_memory import needed_bytes, run_bounded
from kits_unet3d.pipeline.data.preprocessing import preprocess_case
from kits_unet3d.pipeline.runtime.memory import LIBRARIES
from kits_unet3d.transforms import PreprocessingParameters


def written(directory, shape, image_type=np.int16, label_type=np.uint8, intercept=None):
    """A case of nothing but a block of kidney."""
    directory.mkdir(parents=True)
    affine = np.array([[0, 0, -2.0, 0], [0, -2.0, 0, 0], [-3.0, 0, 0, 0], [0, 0, 0, 1]])
    voxels = np.full(shape, 30, image_type)
    voxels[:1] = np.arange(shape[2]) % 40 - (1000 if intercept is None else 0)  # air
    image = nib.Nifti1Image(voxels, affine)
    if intercept is not None:
        image.header.set_slope_inter(1, intercept)
    label = np.zeros(shape, label_type)
    label[4:8, 4:8, 4:8] = 1
    nib.save(image, directory / "imaging.nii.gz")
    nib.save(nib.Nifti1Image(label, affine), directory / "segmentation.nii.gz")
    return RawCase(directory.name, directory / "imaging.nii.gz", directory / "segmentation.nii.gz", "training")


#: In the order of their names: large ones come first, between and last.
SIZES = {"case_a": 96, "case_b": 96, "case_c": 16, "case_d": 16, "case_e": 96, "case_f": 16}
LARGE = {name for name, size in SIZES.items() if size == 96}


@pytest.fixture
def raw(tmp_path):
    for name, size in SIZES.items():
        written(tmp_path / "raw" / name, (size, 96, 96))
    (tmp_path / "raw" / "dataset.json").write_text(json.dumps({"training": list(SIZES), "evaluation": []}))
    return tmp_path / "raw"


@pytest.fixture
def together(monkeypatch):
    """Sets of cases that were at work at one moment; each stays until another has had time to begin."""
    lock, working, seen = threading.Lock(), set(), []

    def watched(case, directory, parameters):
        with lock:
            working.add(case.case_id)
            seen.append(frozenset(working))
        try:
            time.sleep(0.3)
            return preprocess_case(case, directory, parameters)
        finally:
            with lock:
                working.discard(case.case_id)

    monkeypatch.setattr(preprocessing, "preprocess_case", watched)
    return seen


def needs(raw):
    return {case.case_id: needed_bytes(case, PreprocessingParameters.from_dict(TINY)) for case in find_cases(raw)[1]}


def test_two_large_cases_are_never_at_work_together_and_small_ones_are(raw, together, tmp_path):
    need = needs(raw)
    limit = 1.5 * need["case_a"]
    assert need["case_a"] + need["case_c"] < limit < 2 * need["case_a"]
    assert preprocess_dataset(raw, tmp_path / "out", PreprocessingParameters.from_dict(TINY), 3, limit) == {}
    assert set(Index.read(tmp_path / "out").cases) == set(SIZES)
    assert max(len(at_once & LARGE) for at_once in together) == 1
    assert max(len(at_once - LARGE) for at_once in together) >= 2
    assert all(sum(need[name] for name in at_once) <= limit for at_once in together)


def test_where_memory_suffices_large_cases_are_at_work_together(raw, together, tmp_path):
    preprocess_dataset(raw, tmp_path / "out", PreprocessingParameters.from_dict(TINY), 2)
    assert any(len(at_once & LARGE) == 2 for at_once in together)


def test_a_case_larger_than_all_memory_is_prepared_alone_by_the_command(raw, together, tmp_path):
    """Of what the command is given the libraries take their part."""
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    command = ["prepare", "--data-dir", str(raw), "-o", str(tmp_path / "out"), "--workers", "3"]
    command += ["--config", str(tmp_path / "config.json"), "--max-memory"]
    assert main([*command, f"{(LIBRARIES + 10) / 1e6}MB"]) == 0
    assert [len(at_once) for at_once in together] == [1] * len(SIZES)
    assert main([*command, "much"]) == 2


def test_the_failed_are_told_in_the_order_of_the_cases(raw, tmp_path):
    (raw / "case_e" / "imaging.nii.gz").unlink()
    label = raw / "case_a" / "segmentation.nii.gz"  # found out late
    nib.save(nib.Nifti1Image(np.full((96, 96, 96), 1, np.uint8), nib.load(label).affine), label)
    assert list(preprocess_dataset(raw, tmp_path / "out", PreprocessingParameters.from_dict(TINY), 3)) == [
        "case_a",
        "case_e",
    ]


def test_what_a_case_needs_is_told_from_its_headers(tmp_path):
    shape, voxels = (64, 96, 96), 64 * 96 * 96
    parameters = PreprocessingParameters.from_dict(TINY)
    plain = needed_bytes(written(tmp_path / "int16", shape), parameters)
    assert 4 * voxels <= plain <= 10 * voxels  # read and turned at least
    # A scale makes 8 bytes of two, and so does float64 of a label.
    assert needed_bytes(written(tmp_path / "scaled", shape, intercept=-1024), parameters) >= 16 * voxels
    assert needed_bytes(written(tmp_path / "label", shape, label_type=np.float64), parameters) >= (2 + 16) * voxels
    # 3 x 2 x 2 mm resampled to 1 mm: 12 times the voxels, of 4 bytes, once as before and once as after a step.
    fine = PreprocessingParameters.from_dict({**TINY, "spacing_mm": [1.0, 1.0, 1.0]})
    assert needed_bytes(RawCase("int16", *sorted((tmp_path / "int16").iterdir()), "training"), fine) >= 96 * voxels
    (tmp_path / "int16" / "imaging.nii.gz").write_bytes(b"no scan")
    (tmp_path / "int16" / "segmentation.nii.gz").unlink()
    assert needed_bytes(RawCase("int16", *[tmp_path / "int16" / "imaging.nii.gz"] * 2, "training"), parameters) == 0


def test_what_one_raises_ends_the_rest():
    begun = []

    def work(number):
        begun.append(number)
        raise KeyError(number)

    with pytest.raises(KeyError):
        list(run_bounded(work, range(9), [1.0] * 9, 1, 1.0))
    assert len(begun) < 9
