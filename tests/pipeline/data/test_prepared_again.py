"""What a second preparation keeps, makes again, forgets and refuses."""

import gzip
import json
import os
import resource
import shutil
import subprocess
import sys
import threading

import nibabel as nib
import numpy as np
import pytest
from conftest import TINY

from kits_unet3d.pipeline.cli import main
from kits_unet3d.pipeline.data import Index, RawCase, preprocess_dataset, verify
from kits_unet3d.pipeline.data.preprocessing import preprocess_case
from kits_unet3d.pipeline.runtime.errors import CaseError, UsageError
from kits_unet3d.pipeline.runtime.files import file_hash, only_run


@pytest.fixture
def raw(tmp_path, raw_phantoms):
    for number in range(3):
        target = tmp_path / "raw" / f"case_{number:05d}"
        target.mkdir(parents=True)
        for name in ("imaging.nii.gz", "segmentation.nii.gz"):
            (target / name).write_bytes((raw_phantoms / target.name / name).read_bytes())
    list_cases(tmp_path / "raw", [0, 1], [2])
    (tmp_path / "tiny.json").write_text(json.dumps(TINY))
    return tmp_path / "raw"


def list_cases(raw, training, evaluation):
    names = {"training": training, "evaluation": evaluation}
    content = {split: [f"case_{number:05d}" for number in numbers] for split, numbers in names.items()}
    (raw / "dataset.json").write_text(json.dumps({"name": "phantoms", **content}))


def test_a_case_that_is_not_listed_any_more_leaves_the_index(raw, tmp_path, tiny_parameters, caplog):
    out = tmp_path / "out"
    preprocess_dataset(raw, out, tiny_parameters)
    (raw / "case_00001").rename(tmp_path / "case_00001")
    list_cases(raw, [0], [2])
    assert preprocess_dataset(raw, out, tiny_parameters) == {}
    assert list(Index.read(out).cases) == ["case_00000", "case_00002"]
    assert any("case_00001 is not listed any more" in message for message in caplog.messages)
    outcomes = {verdict.file: verdict.outcome for verdict in verify(out)}
    assert outcomes["case_00001_x.npy"] == outcomes["case_00001_y.npy"] == "unknown"
    (tmp_path / "case_00001").rename(raw / "case_00001")
    list_cases(raw, [0, 1], [2])
    preprocess_dataset(raw, out, tiny_parameters)
    assert len(Index.read(out).cases) == 3 and {verdict.outcome for verdict in verify(out)} == {"right"}


def test_a_case_that_turned_bad_leaves_the_index(raw, tmp_path, tiny_parameters):
    preprocess_dataset(raw, tmp_path / "out", tiny_parameters)
    label = raw / "case_00001" / "segmentation.nii.gz"
    image = nib.load(label)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj) * np.uint8(0), image.affine), label)
    assert list(preprocess_dataset(raw, tmp_path / "out", tiny_parameters)) == ["case_00001"]
    assert "case_00001" not in Index.read(tmp_path / "out").cases


def test_a_scan_in_both_splits_under_two_names_is_refused(raw, tmp_path, tiny_parameters, caplog):
    for name in ("imaging.nii.gz", "segmentation.nii.gz"):
        (raw / "case_00002" / name).write_bytes((raw / "case_00000" / name).read_bytes())
    with pytest.raises(UsageError, match="case_00000 is for training and case_00002 for evaluation; keep one"):
        preprocess_dataset(raw, tmp_path / "out", tiny_parameters)
    assert not (tmp_path / "out").exists()
    list_cases(raw, [0, 2], [1])
    assert preprocess_dataset(raw, tmp_path / "out", tiny_parameters) == {}
    assert any("is the same scan as" in message for message in caplog.messages)


def test_a_scan_in_both_splits_is_refused_if_it_was_compressed_again(raw, tmp_path, tiny_parameters):
    for name in ("imaging.nii.gz", "segmentation.nii.gz"):
        stored = gzip.decompress((raw / "case_00000" / name).read_bytes())
        (raw / "case_00002" / name).write_bytes(gzip.compress(stored, 1))
    with pytest.raises(UsageError, match="case_00000 and case_00002 are the same scan"):
        preprocess_dataset(raw, tmp_path / "out", tiny_parameters)


def test_a_second_run_into_the_directory_is_kept_apart(raw, tmp_path, tiny_parameters):
    with only_run(tmp_path / "out"), pytest.raises(UsageError, match="another run is writing there; wait for it"):
        preprocess_dataset(raw, tmp_path / "out", tiny_parameters)
    assert preprocess_dataset(raw, tmp_path / "out", tiny_parameters) == {}
    assert not (tmp_path / "out" / ".lock").exists()


def test_two_runs_at_once_lose_no_case(raw, tmp_path):
    command = [sys.executable, "-m", "kits_unet3d.pipeline.cli", "prepare", "--data-dir", str(raw)]
    command += ["-o", str(tmp_path / "out"), "--config", str(tmp_path / "tiny.json")]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [process.communicate()[1] for process in running]
    assert {process.returncode for process in running} <= {0, 2}
    assert all(
        process.returncode == 0 or "another run is writing there" in error
        for process, error in zip(running, errors, strict=True)
    )
    assert len(Index.read(tmp_path / "out").cases) == 3


@pytest.mark.parametrize("damage", ["cut", "flipped", "another shape"])
def test_damaged_arrays_are_made_again(raw, tmp_path, tiny_parameters, damage):
    out = tmp_path / "out"
    preprocess_dataset(raw, out, tiny_parameters)
    path = out / "case_00000_x.npy"
    good = path.read_bytes()
    if damage == "cut":
        path.write_bytes(good[:-1000])
    elif damage == "flipped":
        path.write_bytes(good[:-8] + bytes([good[-8] ^ 1]) + good[-7:])
    else:
        np.save(path, np.zeros((1, 40, 40, 40), np.float32))
    preprocess_dataset(raw, out, tiny_parameters)
    assert path.read_bytes() == good


def test_a_scan_that_is_replaced_while_it_is_read_fails(raw, tmp_path, tiny_parameters):
    directory = raw / "case_00000"
    image, label = directory / "imaging.nii.gz", directory / "segmentation.nii.gz"
    first = file_hash(image)
    stop = threading.Event()

    def replace():
        while not stop.is_set():
            (directory / "new").write_bytes((raw / "case_00001" / "imaging.nii.gz").read_bytes())
            os.replace(directory / "new", image)

    thread = threading.Thread(target=replace)
    thread.start()
    try:
        with pytest.raises(CaseError, match="was changed while it was read"):
            for _ in range(50):
                preprocess_case(RawCase("case_00000", image, label, "training"), tmp_path, tiny_parameters)
    finally:
        stop.set()
        thread.join()
    assert file_hash(image) != first


def test_a_log_file_tells_what_was_done_with_each_case(raw, tmp_path, capfd):
    (raw / "case_00001" / "imaging.nii.gz").write_bytes(b"")
    command = ["prepare", "--data-dir", str(raw), "-o", str(tmp_path / "out"), "--config", str(tmp_path / "tiny.json")]
    assert main(command) == 1
    log = (tmp_path / "out" / "kits-unet3d.log").read_text()
    assert "case_00000/imaging.nii.gz: {'split': " in log and "case_00001/imaging.nii.gz: the file is empty" in log
    assert "DEBUG" not in capfd.readouterr().err


def limited():
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


def test_a_full_disk_is_blamed_and_not_the_scan(raw, tmp_path):
    command = [sys.executable, "-m", "kits_unet3d.pipeline.cli", "prepare", "--data-dir", str(raw), "--workers", "2"]
    command += ["-o", str(tmp_path / "out"), "--config", str(tmp_path / "tiny.json")]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limited)
    assert done.returncode == 2 and f"{tmp_path / 'out'}: cannot be written" in done.stderr
    assert "export it again" not in done.stderr and "Traceback" not in done.stderr
    assert not [path for path in (tmp_path / "out").iterdir() if path.suffix not in (".json", ".log")]


def test_an_output_that_is_a_file_is_named(raw, tmp_path, capsys):
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        assert main(["prepare", "--data-dir", str(raw), "-o", str(out)]) == 2
        assert f"{out}: nothing can be written there" in capsys.readouterr().err
        assert main(["phantom", "--cases", "1", "-o", str(out)]) == 2
        assert f"{out}: nothing can be written there" in capsys.readouterr().err
        assert main(["download", "--cases", "1", "-o", str(out)]) == 2
        assert f"{out}: cannot be written" in capsys.readouterr().err


def test_a_user_that_the_system_does_not_know_can_prepare():
    """As with `docker run --user 54321`: no name and no home."""
    become = ["setpriv", "--reuid", "54321", "--regid", "54321", "--clear-groups", sys.executable, "-B", "-c"]
    bare = {name: value for name, value in os.environ.items() if name not in ("HOME", "USER", "LOGNAME", "LNAME")}
    if os.geteuid() or not shutil.which("setpriv") or subprocess.run([*become, "import typing"], env=bare).returncode:
        pytest.skip("only root, where it may, can become another user")
    code = "import getpass; from kits_unet3d.pipeline import data; print(getpass.getuser())"
    done = subprocess.run([*become, code], capture_output=True, text=True, env=bare)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "54321", done.stderr
