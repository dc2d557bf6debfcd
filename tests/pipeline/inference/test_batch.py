"""Batches that are continued, and what is told of them."""

import csv
import json
import threading
from contextlib import closing

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from dicoms import write_series
from niftis import nifti
from test_bad_dicom import BAD_DICOM
from test_bad_files import REFUSED
from test_scan_transforms import BrightIsKidney

from kits_unet3d.pipeline.cli import main
from kits_unet3d.pipeline.device import resolve
from kits_unet3d.pipeline.inference import Predictor, ReadOptions, Results, find_scans
from kits_unet3d.pipeline.inference.batch import Batch, start, time_left
from kits_unet3d.pipeline.inference.prefetch import ScansAhead, needed_bytes, require_memory
from kits_unet3d.pipeline.model import Model
from kits_unet3d.pipeline.runtime.errors import CaseError, UsageError
from kits_unet3d.pipeline.runtime.memory import parse_memory
from kits_unet3d.transforms import PreprocessingParameters


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


def test_a_scan_with_new_voxels_beside_its_header_is_predicted_again(tmp_path, model, capsys):
    scan, header = nib.load(scan_file(tmp_path / "scan.nii.gz")), tmp_path / "in" / "scan.mhd"
    header.parent.mkdir()
    image = sitk.GetImageFromArray(np.asarray(scan.dataobj).T)
    image.SetSpacing((6.0, 6.0, 8.0))
    sitk.WriteImage(image, header)
    assert run(header.parent, tmp_path / "out", model) == 0
    voxels = np.fromfile(header.with_suffix(".raw"), np.int16)
    (voxels + 50).astype(np.int16).tofile(header.with_suffix(".raw"))
    capsys.readouterr()
    assert run(header.parent, tmp_path / "out", model) == 0 and "[1/1]" in capsys.readouterr().out


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


def test_a_mask_of_another_origin_is_kept(tmp_path, scans, model, capsys, monkeypatch):
    monkeypatch.chdir(scans)
    mine = scans / "scan1_seg.nii.gz"
    mine.write_bytes(b"drawn by hand")
    assert run(".", ".", model, "--no-html-report") == 1
    error = capsys.readouterr().err
    assert "scan1_seg.nii.gz in . exists already and is not a result of this program; use another dir" in error
    assert mine.read_bytes() == b"drawn by hand" and not (scans / "scan1_report.json").exists()
    assert [name for name, case in cases(scans).items() if case["outcome"] == "failed"] == ["scan1"]
    assert run(".", ".", model, "--no-html-report") == 1 and mine.read_bytes() == b"drawn by hand"
    assert run(".", ".", model, "--no-html-report", "--overwrite") == 0 and nib.load(mine).shape == (16, 16, 12)


def test_results_are_known_without_their_summary(tmp_path, scans, model):
    """A killed run may have written a mask and not yet recorded it."""
    assert run(scans, tmp_path / "out", model, "--probabilities") == 0
    for name in ("summary.json", "summary.csv"):
        (tmp_path / "out" / name).unlink()
    assert run(scans, tmp_path / "out", model, "--probabilities") == 0
    (tmp_path / "out" / "summary.json").unlink()
    (tmp_path / "out" / "scan2_seg.nii.gz").write_bytes(b"drawn by hand")
    assert run(scans, tmp_path / "out", model) == 1
    assert (tmp_path / "out" / "scan2_seg.nii.gz").read_bytes() == b"drawn by hand"


@pytest.mark.parametrize(("name", "content"), [("summary.csv", "id,age\n1,63\n"), ("summary.json", '{"patients": 3}')])
def test_a_report_of_another_origin_is_kept(scans, model, capsys, name, content):
    (scans / name).write_text(content)
    assert run(scans, scans, model, "--no-html-report") == 2
    assert f"{scans / name}: exists already and is not a report of this program" in capsys.readouterr().err
    assert (scans / name).read_text() == content and not list(scans.glob("*_seg*"))


def test_the_report_and_the_table_tell_of_every_case(tmp_path, scans, model, capsys):
    (scans / "bad.nii.gz").write_bytes(b"no image")
    assert run(scans, tmp_path / "out", model) == 1
    report = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert report["summary"]["failed"] == 1 and sum(report["summary"].values()) == 5
    assert report["device"] == resolve("auto").describe()
    assert f"device: {report['device']['name']} (cpu), fp32, torch" in capsys.readouterr().out
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
    assert run(scans, tmp_path / "out", model, "--html-report") == 1
    html_report = (tmp_path / "out" / "report.html").read_text()
    assert ", 1 failed</h1>" in html_report and html_report.count('src="data:image/jpeg;base64,') == 4
    assert "bad&lt;script&gt;" in html_report and "bad<script>" not in html_report
    assert "http" not in html_report and 'src="data' in html_report
    volume = cases(tmp_path / "out")["scan2"]["volumes_ml"]["tumour"]
    assert f"{volume:.1f}" in html_report


def held(number):
    """A body with a kidney and a tumour, elsewhere in every scan, and what is true of it."""
    ground_truth = np.zeros((24, 28, 20), np.uint8)
    ground_truth[4 + number % 5 : 14 + number % 5, 6:20, 5 + number % 3 : 15] = 1
    ground_truth[7 + number % 5 : 11 + number % 5, 9:15, 8:12] = 2
    voxels = np.array([-50, 150, 300], np.int16)[ground_truth]
    voxels[:2] = -1000
    return voxels, ground_truth


@pytest.mark.slow
def test_a_batch_reports_its_15_bad_inputs_and_segments_the_other_25(tmp_path, capsys):
    """Fifteen rows of the catalogue, and among the good ones DICOM."""
    files, series = ({row: rest for row, *rest in reversed(table)} for table in (REFUSED, BAD_DICOM))
    bad = [(row, files[row]) for row in (1, 4, 5, 7, 9, 14, 16, 20, 22, 23)]
    bad += [(row, series[row]) for row in (37, 38, 40, 43, 44)]
    ground_truths = {}
    for number in range(25):
        voxels, ground_truth = held(number)
        name, path = f"good{number:02d}", tmp_path / "in" / f"good{number:02d}"
        ground_truths[name] = ground_truth
        if number % 5:
            nifti(scan_file(path.with_suffix(".nii.gz")), voxels)
        else:
            write_series(path, voxels.T, (0, 0, 8.0), PixelSpacing=[6.0, 6.0], SeriesInstanceUID=f"1.2.3.{number + 10}")
    for row, (make, *_) in bad:
        (tmp_path / "in" / f"row{row}").mkdir()
        make(tmp_path / "in" / f"row{row}")
    parameters = PreprocessingParameters(spacing_mm=(8.0, 6.0, 6.0), roi_size=(32, 32, 32))
    batch = Batch(Predictor(Model(BrightIsKidney(), parameters), "cpu"), tmp_path / "out")
    with pytest.raises(SystemExit) as done:
        start(batch, sorted((tmp_path / "in").iterdir()))  # one by one: the bad series share a UID
    assert done.value.code == 1 and batch.report.summary["failed"] == 15 and len(batch.report.cases) == 40
    lines = [line for line in capsys.readouterr().err.splitlines() if "/40] failed: " in line]
    assert len(lines) == 15
    for row, (_, message, *_) in bad:
        (line,) = (line for line in lines if f"row{row}/bad" in line)
        assert message in line, row
    for name, ground_truth in ground_truths.items():
        mask = np.asarray(nib.load(tmp_path / "out" / f"{name}_seg.nii.gz").dataobj)
        assert mask.shape == ground_truth.shape and (mask != ground_truth).mean() < 1e-3, name


def test_the_model_is_loaded_once(tmp_path, scans, model):
    copy = tmp_path / "model.pt"
    copy.write_bytes(model.read_bytes())
    batch = Batch(Predictor(copy, "cpu"), tmp_path / "out", results=Results(html_report=False))
    copy.unlink()
    assert batch.run(find_scans(scans)) == [] and batch.report.summary["failed"] == 0 and len(batch.report.cases) == 4


def test_the_next_scan_is_read_while_one_is_computed(scans):
    class Watched(ScansAhead):
        def _read(self, found):
            scan = super()._read(found)
            read[found.name].set()
            return scan

    found = find_scans(scans)
    read = {one.name: threading.Event() for one in found}
    with closing(iter(Watched(found, ReadOptions(), PreprocessingParameters(), float("inf")))) as ahead:
        next(ahead)
        assert read["scan1"].wait(60) and not read["scan2"].is_set()


def test_the_time_that_is_left_is_told_beyond_a_minute():
    assert time_left(240.0, 2, 5) == "; 6 min left"
    assert time_left(60.0, 3, 4) == "" and time_left(600.0, 4, 4) == ""


def test_a_scan_that_fails_later_keeps_its_earlier_mask_and_says_so(tmp_path, scans, model, capsys):
    out = tmp_path / "out"
    assert run(scans, out, model) == 0
    before = (out / "scan0_seg.nii.gz").read_bytes()
    (scans / "scan0.nii.gz").write_bytes(b"")
    assert run(scans, out, model) == 1
    assert "earlier results of this name are kept" in capsys.readouterr().err
    case = cases(out)["scan0"]
    assert case["outcome"] == "failed" and "scan0_seg.nii.gz" in case["files"]
    assert (out / "scan0_seg.nii.gz").read_bytes() == before


def test_a_case_that_fails_half_way_leaves_no_mask(tmp_path, scans, model):
    out = tmp_path / "out"
    (out / "scan0_report.json").mkdir(parents=True)  # where no file can be written
    assert run(scans, out, model, "--no-html-report") == 1
    assert cases(out)["scan0"]["files"] == {} and not (out / "scan0_seg.nii.gz").exists()


def test_a_run_without_names_keeps_nothing_of_one_with_names(tmp_path, model):
    write_series(tmp_path / "in" / "DOE_JANE", held(0)[0].T)
    assert run(tmp_path / "in", tmp_path / "out", model, "--keep-names") == 0
    assert "DOE_JANE" in cases(tmp_path / "out")
    assert run(tmp_path / "in", tmp_path / "out", model) == 0
    assert len(cases(tmp_path / "out")) == 1
    assert "doe" not in (tmp_path / "out" / "summary.json").read_text().lower()


def test_memory_is_estimated_and_refused_with_the_number():
    need = needed_bytes((512, 512, 1059), np.diag([0.78, 0.78, 0.5, 1]), PreprocessingParameters())
    assert 2e9 < need < 4e9
    turned = needed_bytes((1059, 512, 512), np.diag([0.78, 0.78, 0.5, 1])[:, [2, 0, 1, 3]], PreprocessingParameters())
    assert turned == pytest.approx(need, rel=1e-6)
    oblique = np.diag([0.5, 0.5, 0.5, 1.0])
    oblique[:2, :2] = [[0.4, -0.3], [0.3, 0.4]]
    shape, box = (800, 800, 200), 1400 * 1400 * 200  # its own voxels, and those of 0.4 mm of the box around it
    # As they are stored, as a copy that is turned, and turned.
    assert needed_bytes(shape, oblique, PreprocessingParameters()) > 0.7e9 + 4 * (2 * np.prod(shape) + box)
    with pytest.raises(CaseError, match=f"scan.nii: needs about {need / 1e9:.1f} GB of memory, more than the 1.0 GB"):
        require_memory(need, parse_memory("1000 MB"), "scan.nii")
    for wrong in ("much", "0", "-3GB"):
        with pytest.raises(UsageError, match="max-memory"):
            parse_memory(wrong)
