"""DICOM series in several directories: copies, halves and damaged ones, each named with its reason."""

import shutil

import numpy as np
import pytest
from dicoms import write_series, write_slice
from niftis import ct

from kits_unet3d.pipeline.io import find_scans
from kits_unet3d.pipeline.io.scan import read_scan
from kits_unet3d.pipeline.runtime.errors import CaseError


def slices():
    return np.ascontiguousarray(ct((8, 14, 10)).transpose(0, 2, 1))


def truncated(path, count=100):
    for file in sorted(path.iterdir())[:count]:
        file.write_bytes(file.read_bytes()[:-200])
    return path


def half(path, places):
    for number in places:
        write_slice(path / f"{number}.dcm", slices()[number], (-30, -50, 5.0 * number))


def found_in(path):
    skipped = {}
    scans = {str(scan.path.relative_to(path)): scan for scan in find_scans(path, skipped=skipped)}
    return scans, skipped


def test_a_copy_is_named_and_other_series_are_kept(tmp_path):
    write_series(tmp_path / "a", slices())
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    truncated(write_series(tmp_path / "c", slices(), SeriesInstanceUID="1.2.3.9"))
    scans, skipped = found_in(tmp_path)
    assert skipped == {str(tmp_path / "b"): f"holds the same DICOM series as {tmp_path / 'a'}"}
    assert set(scans) == {"a", "c"} and read_scan(scans["a"]).voxels.shape == (14, 10, 8)
    with pytest.raises(CaseError, match=r"c: 8 damaged files"):
        read_scan(scans["c"])


def test_a_part_of_a_series_in_another_directory_is_its_copy(tmp_path):
    write_series(tmp_path / "z", slices())
    shutil.copytree(tmp_path / "z", tmp_path / "a")
    for file in sorted((tmp_path / "a").iterdir())[:3]:
        file.unlink()
    scans, skipped = found_in(tmp_path)
    assert set(scans) == {"z"} and set(skipped) == {str(tmp_path / "a")}
    assert read_scan(scans["z"]).voxels.shape == (14, 10, 8)


def test_a_damaged_copy_leaves_the_series_usable(tmp_path):
    write_series(tmp_path / "a", slices())
    truncated(shutil.copytree(tmp_path / "a", tmp_path / "b"), 1)
    scans, skipped = found_in(tmp_path)
    assert set(scans) == {"a"} and set(skipped) == {str(tmp_path / "b")}
    assert any("1 damaged file of a copy" in warning for warning in read_scan(scans["a"]).warnings)


def test_halves_are_one_series_without_what_lies_beside_them(tmp_path):
    half(tmp_path / "a", range(4))
    half(tmp_path / "b", range(4, 8))
    truncated(write_series(tmp_path / "c", slices(), SeriesInstanceUID="1.2.3.9"))
    write_slice(tmp_path / "d" / "scout.dcm", slices()[0], (0, 0, 0), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    scans, skipped = found_in(tmp_path)
    assert set(scans) == {".", "c"} and skipped == {str(tmp_path / "d"): "no CT, only 1 localizer"}
    assert read_scan(scans["."]).voxels.shape == (14, 10, 8)


def test_a_damaged_slice_belongs_to_its_series_wherever_it_is(tmp_path):
    for number in range(8):
        half(tmp_path / str(number), [number])
    truncated(tmp_path / "7")
    scans, _ = found_in(tmp_path)
    assert set(scans) == {"."}
    with pytest.raises(CaseError, match=r"1 damaged files \(7.dcm\)"):
        read_scan(scans["."])
