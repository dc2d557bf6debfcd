"""Batches that are continued after their scans were edited, touched or moved."""

import os
import shutil
from contextlib import closing

import numpy as np
import pytest
import SimpleITK as sitk
from dicoms import write_series
from niftis import nifti
from test_batch import cases, held, model, run, scans

from kits_unet3d.pipeline.inference import ReadOptions, find_scans
from kits_unet3d.pipeline.inference.prefetch import ScansAhead
from kits_unet3d.pipeline.io.scan_files import files_of
from kits_unet3d.pipeline.report.summary import Report
from kits_unet3d.pipeline.runtime.files import write_json
from kits_unet3d.transforms import PreprocessingParameters

__all__ = ["model", "scans"]


def edit_in_place(path, value=90):
    """Change a voxel, and set the time of modification back."""
    before = path.stat()
    with open(path, "r+b") as stream:
        stream.seek(352 + 2000)
        stream.write(np.full(300, value, np.int16).tobytes())
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def test_a_scan_edited_in_place_is_predicted_again(tmp_path, model, capsys):
    (tmp_path / "in").mkdir()
    scan = nifti(tmp_path / "in" / "a.nii", held(0)[0])
    assert run(scan.parent, tmp_path / "out", model) == 0
    before = cases(tmp_path / "out")["a"]
    edit_in_place(scan)
    capsys.readouterr()
    assert run(scan.parent, tmp_path / "out", model) == 0 and "[1/1]" in capsys.readouterr().out
    after = cases(tmp_path / "out")["a"]
    assert after["content"] != before["content"] and after["made_from"] != before["made_from"]
    os.utime(scan)
    scan.chmod(0o600)
    assert run(scan.parent, tmp_path / "out", model) == 0 and "1 of 1 are finished" in capsys.readouterr().out
    assert cases(tmp_path / "out")["a"]["state"] != after["state"]  # so that it is not read a third time


def test_a_moved_input_directory_is_recognised(tmp_path, scans, model, capsys):
    out, moved = tmp_path / "out", tmp_path / "elsewhere" / "scans"
    write_series(scans / "series", held(1)[0].T, (0, 0, 8.0))
    assert run(scans, out, model) == 0
    moved.parent.mkdir()
    scans.rename(moved)
    capsys.readouterr()
    assert run(moved, out, model) == 0 and "5 of 5 are finished already" in capsys.readouterr().out
    shutil.copytree(moved, tmp_path / "copied")  # other inodes and times
    assert run(tmp_path / "copied", out, model) == 0 and "5 of 5 are finished already" in capsys.readouterr().out
    assert {case["scan"] for case in cases(out).values()} == {
        *(str(tmp_path / "copied" / f"scan{number}.nii.gz") for number in range(4)),
        str(tmp_path / "copied" / "series"),
    }
    assert run(moved, out, model, "--keep-kidneys") == 0 and "[5/5]" in capsys.readouterr().out


def test_another_scan_of_a_moved_directory_is_refused_by_name(tmp_path, scans, model, capsys):
    out, moved = tmp_path / "out", tmp_path / "moved"
    assert run(scans, out, model) == 0
    scans.rename(moved)
    shutil.copy(moved / "scan1.nii.gz", moved / "scan0.nii.gz")
    capsys.readouterr()
    assert run(moved, out, model) == 1
    told = capsys.readouterr()
    assert "3 of 4 are finished already" in told.out
    assert f"{moved / 'scan0.nii.gz'}: " in told.err and "use another directory, or --overwrite" in told.err


@pytest.mark.parametrize(
    "damage",
    [
        {"files": ["a"]}, {"warnings": None}, {"warnings": [1]}, {"scan": None}, {"volumes_ml": "x"},
        {"structures": [{}]}, {"structures": [1]}, {"flags": None}, {"content": 3}, {"state": None}, {"model": "x"},
        {"model": None}, {"model": {"classes": 3}}, {"source": []}, {"counts": 3}, {"volumes_ml": {"kidney": "x"}},
        {"sides_ml": {"kidney": 1}}, {"volumes_ml": {"kidney": 1.0}}, {"contrast": 3}, {"seconds": "x"},
    ],
    ids=str,
)  # fmt: skip
def test_a_damaged_record_is_left_out_alone(tmp_path, damage):
    good = {"outcome": "done", "scan": "a", "files": {}, "content": "", "flags": [], "warnings": [], "structures": []}
    write_json(tmp_path / "summary.json", {"cases": {"a": good, "b": good | damage}})
    report = Report(tmp_path)
    report.take_over({})
    report.write()
    assert set(report.cases) == {"a"}
    (tmp_path / "summary.json").write_text("[" * 100_000)
    Report(tmp_path).take_over({})


def test_a_directory_in_the_place_of_a_mask_is_named(tmp_path, scans, model, capsys):
    out = tmp_path / "out"
    assert run(scans, out, model) == 0
    (out / "scan0_seg.nii.gz").unlink()
    (out / "scan0_seg.nii.gz").mkdir()
    capsys.readouterr()
    assert run(scans, out, model) == 1
    error = capsys.readouterr().err
    assert f"{out / 'scan0_seg.nii.gz'}: is a directory where a file is to be written; remove it" in error
    assert "Errno" not in error and "UsageError" not in error


def test_a_scan_that_changes_while_it_is_read_is_refused(tmp_path):
    class Disturbed(ScansAhead):
        def _read(self, found):
            scan = super()._read(found)
            edit_in_place(found.path)
            return scan

    nifti(tmp_path / "a.nii", held(0)[0])
    found = find_scans(tmp_path)
    with closing(iter(Disturbed(found, ReadOptions(), PreprocessingParameters(), float("inf")))) as ahead:
        _, error = next(ahead)
    assert "a.nii: was changed while it was read" in str(error)


@pytest.mark.parametrize(("ending", "entry"), [(".mhd", b"ElementDataFile = "), (".nhdr", b"data file: ")])
def test_the_files_of_a_scan_include_the_one_its_header_names(tmp_path, ending, entry):
    sitk.WriteImage(sitk.GetImageFromArray(held(0)[0]), str(tmp_path / f"a{ending}"))
    header = tmp_path / f"a{ending}"
    (raw,) = [file for file in tmp_path.iterdir() if file != header]
    raw.rename(tmp_path / "voxels of a.bin")
    header.write_bytes(header.read_bytes().replace(entry + raw.name.encode(), entry + b"voxels of a.bin"))
    assert files_of(header) == [header, tmp_path / "voxels of a.bin"]
    assert files_of(tmp_path / "gone" / f"a{ending}") == [tmp_path / "gone" / f"a{ending}"]
