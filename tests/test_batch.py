"""Batches that are continued, interrupted, killed, shared out, and measured."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import nibabel as nib
import numpy as np
import pytest

from kits_unet3d.pipeline.cli import main
from kits_unet3d.pipeline.device import resolve
from kits_unet3d.pipeline.errors import CaseError, UsageError
from kits_unet3d.pipeline.inference import Grid, Scan
from kits_unet3d.pipeline.inference.masks.measures import longest_axial_mm, measure
from kits_unet3d.pipeline.inference.memory import needed_bytes, parse_memory, require_memory
from kits_unet3d.transforms import Recipe


def scan_file(path, seed=0):
    voxels = np.random.default_rng(seed).integers(-1000, 400, (16, 16, 12)).astype(np.int16)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, np.diag([-6.0, -6.0, 8.0, 1.0])), path)
    return path


@pytest.fixture
def model(model_file):
    return model_file


@pytest.fixture
def scans(tmp_path):
    for number in range(4):
        scan_file(tmp_path / "in" / f"scan{number}.nii.gz", number)
    return tmp_path / "in"


def run(scans, out, model, *more):
    return main(["predict", str(scans), "-o", str(out), "--checkpoint", str(model), *more])


def cases(out):
    return json.loads((out / "summary.json").read_text())["cases"]


def test_a_rerun_does_only_what_is_missing_changed_or_damaged(tmp_path, scans, model, capsys):
    out = tmp_path / "out"
    assert run(scans, out, model) == 0
    first = {name: (out / f"{name}_seg.nii.gz").read_bytes() for name in cases(out)}
    capsys.readouterr()
    assert run(scans, out, model) == 0
    assert "4 of 4 are finished already" in capsys.readouterr().out
    (out / "scan0_seg.nii.gz").unlink()
    (out / "scan1_seg.nii.gz").write_bytes(b"damaged")
    scan_file(scans / "scan2.nii.gz", seed=9)
    assert run(scans, out, model) == 0
    printed = capsys.readouterr().out
    assert "1 of 4 are finished already" in printed and "[3/3]" in printed and "scan3_seg" not in printed
    again = {name: (out / f"{name}_seg.nii.gz").read_bytes() for name in cases(out)}
    assert [name for name in first if first[name] != again[name]] == ["scan2"]
    assert run(scans, out, model, "--overwrite") == 0 and "[4/4]" in capsys.readouterr().out


def test_other_postprocessing_does_everything_again(tmp_path, scans, model, capsys):
    out = tmp_path / "out"
    assert run(scans, out, model) == 0
    before = cases(out)
    for options in (["--keep-kidneys"], ["--tumour-touches-kidney"], ["--min-tumour-mm3", "1000000"]):
        capsys.readouterr()
        assert run(scans, out, model, *options) == 0 and "[4/4]" in capsys.readouterr().out
    assert before["scan0"]["volumes_ml"]["tumour"] > 0
    assert cases(out)["scan0"]["volumes_ml"]["tumour"] == 0
    assert run(scans, out, model, "--min-tumour-mm3=-1") == 2


def test_another_scans_result_of_the_same_name_is_kept(tmp_path, scans, model, capsys):
    out = tmp_path / "out"
    assert run(scans / "scan0.nii.gz", out, model) == 0
    before = (out / "scan0_seg.nii.gz").read_bytes()
    other = scan_file(tmp_path / "other" / "scan0.nii.gz", seed=5)
    assert run(other, out, model) == 1
    assert "another scan's result" in capsys.readouterr().err
    assert (out / "scan0_seg.nii.gz").read_bytes() == before


def test_the_report_and_the_table_tell_of_every_case(tmp_path, scans, model, caplog):
    caplog.set_level("INFO", "kits_unet3d")
    (scans / "bad.nii.gz").write_bytes(b"no image")
    assert run(scans, tmp_path / "out", model) == 1
    report = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert report["summary"] == {"done": 4, "failed": 1} and report["device"] == resolve("auto").describe()
    assert f"device: {report['device']}" in caplog.messages
    assert "bad.nii.gz" in report["cases"]["bad"]["error"]
    done = report["cases"]["scan0"]
    mask = nib.load(tmp_path / "out" / "scan0_seg.nii.gz").get_fdata()
    voxel_ml = 6 * 6 * 8 / 1000
    assert done["volumes_ml"] == pytest.approx(
        {"kidney": (mask == 1).sum() * voxel_ml, "tumour": (mask == 2).sum() * voxel_ml}
    )
    with open(tmp_path / "out" / "summary.csv", newline="") as stream:
        rows = {row["case"]: row for row in csv.DictReader(stream)}
    assert rows["bad"]["outcome"] == "failed" and float(rows["scan0"]["kidney_ml"]) == pytest.approx(
        done["volumes_ml"]["kidney"], abs=1e-3
    )


def test_the_page_is_one_file_with_every_case_and_escapes_what_it_is_told(tmp_path, scans, model):
    (scans / "bad<script>.nii.gz").write_bytes(b"no image")
    assert run(scans, tmp_path / "out", model, "--page") == 1
    page = (tmp_path / "out" / "report.html").read_text()
    assert "4 scans done, 1 failed" in page and page.count('src="data:image/jpeg;base64,') == 4
    assert "bad&lt;script&gt;" in page and "bad<script>" not in page
    assert "http" not in page and 'src="data' in page
    volume = cases(tmp_path / "out")["scan2"]["volumes_ml"]["tumour"]
    assert f"{volume:.1f}" in page


@pytest.mark.slow
def test_of_40_inputs_15_bad_ones_are_told_in_15_lines_and_25_masks_are_right(tmp_path, model, capsys):
    for index in range(25):
        scan_file(tmp_path / "in" / f"good{index:02d}.nii.gz", index)
    for index in range(15):
        content = (tmp_path / "in" / f"good{index:02d}.nii.gz").read_bytes()
        (tmp_path / "in" / f"bad{index:02d}.nii.gz").write_bytes(content[: index * 100])
    assert run(tmp_path / "in", tmp_path / "all", model) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("failed: ")]
    assert len(lines) == 15 and all(f"bad{index:02d}.nii.gz: " in lines[index] for index in range(15))
    for index in range(25):
        name = f"good{index:02d}"
        assert run(tmp_path / "in" / f"{name}.nii.gz", tmp_path / "alone", model) == 0
        alone = (tmp_path / "alone" / f"{name}_seg.nii.gz").read_bytes()
        assert (tmp_path / "all" / f"{name}_seg.nii.gz").read_bytes() == alone


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 130), (signal.SIGKILL, -9)])
def test_ended_at_any_moment_nothing_is_half_written_and_a_rerun_completes(tmp_path, model, number, code):
    for index in range(16):
        scan_file(tmp_path / "in" / f"scan{index:02d}.nii.gz", index)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "kits_unet3d.pipeline.cli", "predict", str(tmp_path / "in"), "-o", str(out)]
    command += ["--checkpoint", str(model), "--device", "cpu"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not list(out.glob("scan0[1-9]_seg.nii.gz")) and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == code
    for path in out.glob("*_seg.nii.gz"):
        assert np.asarray(nib.load(path).dataobj).shape == (16, 16, 12)
    assert len(cases(out)) < 16
    if code == 130:
        assert not list(out.glob(".*"))
    assert main(command[3:]) == 0
    assert len(list(out.glob("*_seg.nii.gz"))) == 16 and len(cases(out)) == 16
    assert not list(out.glob(".*"))


@pytest.mark.slow
def test_processes_share_a_batch_and_make_one_report(tmp_path, scans, model):
    (scans / "bad.nii.gz").write_bytes(b"no image")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += ["-m", "kits_unet3d.pipeline.cli", "predict", str(scans), "-o", str(out)]
    command += ["--checkpoint", str(model), "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 1 and set(cases(out)) == {"bad", "scan0", "scan1", "scan2", "scan3"}
    assert len(list(out.glob("*_seg.nii.gz"))) == 4 and not list(out.glob(".report-*"))


def grid(shape, affine):
    return Grid("scan", "scan", shape, np.asarray(affine, dtype=np.float64))


def test_structures_are_measured_on_each_side():
    """RAS, voxels of 2 x 2 x 4 mm: 8 x 10 x 6 voxels of kidney on the right are 7.68 mL; the left has a tumour."""
    voxels = np.full((40, 40, 20), -1000, np.int16)
    voxels[2:-2, 2:-2] = 40
    mask = np.zeros(voxels.shape, np.uint8)
    mask[28:36, 10:20, 4:10] = 1
    mask[4:12, 10:20, 4:14] = 1
    mask[6:9, 12:16, 6:8] = 2
    voxels[mask == 1], voxels[mask == 2] = 150, 90
    affine = np.diag([2.0, 2.0, 4.0, 1.0])
    for turn in (np.eye(4), np.array([[0, 0, 1, 0], [0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]])):
        order = np.argmax(np.abs(turn[:3, :3]), axis=0)
        stored = affine @ turn
        flips = tuple(slice(None, None, -1) if turn[:3, :3].sum(axis=0)[i] < 0 else slice(None) for i in range(3))
        scan_voxels, scan_mask = (a.transpose(order)[flips] for a in (voxels, mask))
        found = measure(Scan(grid(scan_mask.shape, stored), scan_voxels), scan_mask, ("background", "kidney", "tumour"))
        assert found["volumes_ml"] == pytest.approx({"kidney": (480 + 776) * 0.016, "tumour": 24 * 0.016})
        assert found["sides_ml"]["kidney"] == pytest.approx({"right": 7.68, "left": 776 * 0.016})
        assert found["sides_ml"]["tumour"] == pytest.approx({"right": 0, "left": 24 * 0.016})
        assert found["mean_hu"] == {"kidney": 150, "tumour": 90}
        assert found["counts"] == {"kidney": 2, "tumour": 1}
        left, right, tumour = found["structures"]
        assert (left["side"], right["side"], tumour["side"]) == ("left", "right", "left")
        assert right["volume_ml"] == pytest.approx(7.68) and right["mean_hu"] == 150 and tumour["mean_hu"] == 90
        assert right["longest_axial_mm"] == pytest.approx(np.hypot(16, 20))  # 8 and 10 voxels of 2 mm
        assert tumour["longest_axial_mm"] == pytest.approx(10)  # 3 and 4 voxels of 2 mm
        assert found["flags"] == ["no kidney"]  # both are below 20 mL


def test_flags_tell_what_to_look_at_twice():
    voxels = np.full((40, 40, 20), -200, np.int16)
    mask = np.zeros(voxels.shape, np.uint8)
    mask[5:20, 5:20, 0:10] = 1
    voxels[mask == 1] = 30
    found = measure(Scan(grid(mask.shape, np.diag([2.0, 2, 4, 1])), voxels), mask, ("background", "kidney", "tumour"))
    assert found["flags"] == ["cut by the field of view", "one kidney", "likely no contrast", "unusual HU"]


@pytest.mark.parametrize(("right", "flags"), [(slice(22, 30), []), (slice(20, 21), ["one kidney"])])
def test_two_kidneys_that_are_one_part_are_two(right, flags):
    """The middle plane lies between voxels 19 and 20; 10 x 10 voxels of 32 mm³ in each of the slices along X."""
    voxels = np.full((40, 40, 20), 100, np.int16)
    voxels[0, 0, 0] = -1000
    mask = np.zeros(voxels.shape, np.uint8)
    mask[8:20, 10:20, 5:15] = 1
    mask[20:22, 14:16, 9:11] = 1
    mask[right, 10:20, 5:15] = 1
    found = measure(Scan(grid(mask.shape, np.diag([2.0, 4, 4, 1])), voxels), mask, ("background", "kidney", "tumour"))
    assert found["flags"] == flags and found["counts"]["kidney"] == 1


def test_the_longest_axial_diameter_is_of_one_slice():
    part = np.zeros((3, 5, 5), bool)
    part[0, 0, 0] = part[2, 4, 4] = part[1, 2, 1:4] = True
    assert longest_axial_mm(part, np.diag([5.0, 1.0, 1.0, 1.0])) == pytest.approx(np.hypot(1, 3))


def test_memory_is_estimated_and_refused_with_the_number():
    need = needed_bytes((512, 512, 1059), np.diag([0.78, 0.78, 0.5, 1]), Recipe())
    assert 2e9 < need < 4e9
    turned = needed_bytes((1059, 512, 512), np.diag([0.78, 0.78, 0.5, 1])[:, [2, 0, 1, 3]], Recipe())
    assert turned == pytest.approx(need, rel=1e-6)
    with pytest.raises(CaseError, match=f"scan.nii: needs about {need / 1e9:.1f} GB of memory, more than the 1.0 GB"):
        require_memory(need, parse_memory("1000 MB"), "scan.nii")
    for wrong in ("much", "0", "-3GB"):
        with pytest.raises(UsageError, match="max-memory"):
            parse_memory(wrong)
