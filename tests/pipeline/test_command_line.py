"""What shells and containers do to a command: empty values, other spellings of a path, limits."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import nibabel as nib
import pytest
import torch
from conftest import ROOT
from niftis import ct, nifti

from kits_unet3d.networks import UNet3D
from kits_unet3d.pipeline.cli import build_parser, main
from kits_unet3d.pipeline.io import find_scans
from kits_unet3d.pipeline.report.summary import Report
from kits_unet3d.pipeline.runtime.errors import UsageError
from kits_unet3d.pipeline.runtime.files import write_json
from kits_unet3d.pipeline.runtime.memory import container_bytes, cpu_share

COMMAND = f"{sys.executable} -m kits_unet3d.pipeline.cli"


@pytest.fixture
def tiny_model() -> dict:
    network = {"_target_": "kits_unet3d.networks.UNet3D", "channels": [2, 4]}
    parameters = {"spacing_mm": [16.0, 12.0, 12.0], "roi_size": [16, 16, 16]}
    return {"model": UNet3D(channels=(2, 4)).state_dict(), "network": network, "preprocessing_parameters": parameters}


@pytest.fixture
def scans(tmp_path, tiny_model, monkeypatch) -> list[Path]:
    monkeypatch.chdir(tmp_path)
    torch.save(tiny_model, "model.pt")
    (tmp_path / "scans").mkdir()
    return [nifti(tmp_path / "scans" / f"{name}.nii.gz") for name in "ab"]


def predict(*arguments: object, out: object = "out") -> list[str]:
    fixed = ["--checkpoint", "model.pt", "--device", "cpu", "--no-html-report", "--backend", "eager"]
    return ["predict", *map(str, arguments), "-o", str(out), *fixed]


EMPTY = [["predict", "", "-o", "o"], ["predict", "a", "-o", ""], ["evaluate", "--predictions", "", "--labels", "."]]


@pytest.mark.parametrize("arguments", EMPTY)
def test_an_empty_value_is_refused(tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert "is empty" in capsys.readouterr().err and not list(tmp_path.iterdir())


WRONG_PATHS = [
    (["predict", "nope.nii.gz", "-o", "o"], 2, "nope.nii.gz: no such file"),
    (["predict", "scans", "-o", "o", "--checkpoint", "nope.pt"], 3, "nope.pt: no such checkpoint"),
    (["predict", "scans", "-o", "o", "--checkpoint", "."], 3, ".: is a directory; name the checkpoint in it"),
    (["unpack", "nope.zip", "-o", "o"], 2, "nope.zip: no such file"),
    (["evaluate", "--predictions", "scans", "--labels", "nope"], 2, "nope: no such file or directory"),
    (["picture", "scans/a.nii.gz", "--mask", "nope.nii", "-o", "p.png"], 2, "nope.nii: no such file"),
    (["export", "onnx", "--checkpoint", "nope.pt", "-o", "m.onnx"], 3, "nope.pt: no such checkpoint"),
    (["prepare", "--data-dir", "nope", "-o", "o"], 2, "nope: no such file or directory"),
    (["prepare", "--data-dir", "scans", "-o", "model.pt/o"], 2, "model.pt/o: nothing can be written there"),
    (["train", "--dataset-dir", "nope", "-o", "o"], 2, "nope: no such file or directory"),
    (["folds", "nope", "--data-dir", "scans", "-o", "o"], 2, "nope: no such file or directory"),
    (["export", "nnunet-dataset", "--data-dir", "nope", "-o", "o"], 2, "nope: no such file or directory"),
    (["phantom", "--labels", "nope", "-o", "o"], 2, "nope: no such file or directory"),
    (["weights", "add", "nope.pt"], 3, "nope.pt: no such checkpoint"),
    (["benchmark", "-o", "o", "--checkpoint", "model.pt", "--scans", "nope"], 2, "nope: no such file or directory"),
]
IMPORTED = "import sys; from kits_unet3d.pipeline.cli import main; print(main(sys.argv[1:]), 'torch' in sys.modules)"


@pytest.mark.parametrize(("arguments", "code", "message"), WRONG_PATHS)
def test_a_wrong_path_is_reported_before_torch_is_imported(scans, arguments, code, message):
    done = subprocess.run([sys.executable, "-c", IMPORTED, *arguments], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == [str(code), "False"] and message in done.stderr
    assert not Path("o").exists()


def test_a_bundles_zip_is_no_checkpoint(scans, capsys):
    with zipfile.ZipFile("bundle.zip", "w") as archive:
        archive.writestr("kits_unet3d/configs/metadata.json", "{}")
    assert main([*predict("scans"), "--checkpoint", "bundle.zip"]) == 3
    assert "bundle.zip: is a bundle's zip, not a checkpoint; unpack it" in capsys.readouterr().err


@pytest.mark.parametrize("patch", ["7", "0", "40"])
def test_a_patch_that_the_network_cannot_take_is_one_error(capsys, patch):
    assert main(["device", "--device", "cpu", "--patch", patch]) == 2
    error = capsys.readouterr().err
    assert f"--patch {patch}: the network cannot take such a patch" in error and "\n" not in error.strip()


def test_one_scan_goes_into_one_file(tmp_path, scans, capsys):
    assert main(predict(scans[0], out="masks/mine.nii.gz")) == 0
    assert [path.name for path in (tmp_path / "masks").iterdir()] == ["mine.nii.gz"]
    assert nib.load("masks/mine.nii.gz").shape == ct().shape
    assert main(predict(*scans, out="both.nii.gz")) == 2 and "2 scans; name a directory" in capsys.readouterr().err
    before = Path("masks/mine.nii.gz").read_bytes()
    for more in (["-o", "mine.nrrd"], ["-o", "masks/mine.nii.gz", "--probabilities"]):
        assert main([*predict(scans[0]), *more, "--checkpoint", "none.pt"]) == 2  # before the model is read
    error = capsys.readouterr().err
    assert "ends in .nii.gz" in error and "what --probabilities adds; name a directory" in error
    assert main([*predict(scans[0], out="masks/mine.nii.gz"), "--overwrite", "--max-memory", "1MB"]) == 1
    assert "needs about" in capsys.readouterr().err and Path("masks/mine.nii.gz").read_bytes() == before


def test_one_file_never_replaces_what_is_there(scans, capsys):
    whole = scans[0].read_bytes()
    assert main(predict(scans[0], out=scans[0])) == 2 and "exists already" in capsys.readouterr().err
    assert main([*predict(scans[0], out=scans[0]), "--overwrite"]) == 2
    assert "is a file that is read" in capsys.readouterr().err and scans[0].read_bytes() == whole


def test_results_do_not_replace_a_device(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(UsageError, match="is a device or pipe"):
        write_json(tmp_path / "pipe.json", {})


def test_a_batch_goes_on_under_another_spelling_of_its_path(tmp_path, scans, capsys):
    (tmp_path / "link").symlink_to("scans")
    assert main(predict("scans")) == 0
    for spelling in (tmp_path / "scans", "link", "./scans/../scans", "scans/*.nii.gz"):
        capsys.readouterr()
        assert main(predict(spelling)) == 0
        assert "2 of 2 are finished already" in capsys.readouterr().out


BRACKETS = [
    ("scan[1].nii.gz", "scan[1].nii.gz"),
    ("study[2]", "study[2]/scan[1].nii.gz"),
    ("study[2]/*.nii.gz", "study[2]/scan[1].nii.gz"),
    ("study[2]/list.txt", "study[2]/scan[1].nii.gz"),
    ("st*[2]/*.gz", "study2/scan1.nii.gz"),
]


@pytest.mark.parametrize(("given", "found"), BRACKETS)
def test_brackets_in_a_name_that_exists_are_no_glob(tmp_path, monkeypatch, given, found):
    monkeypatch.chdir(tmp_path)
    for path in map(Path, ("scan[1].nii.gz", "scan1.nii.gz", "study[2]/scan[1].nii.gz", "study2/scan1.nii.gz")):
        path.parent.mkdir(exist_ok=True)
        nifti(path)
    Path("study[2]/list.txt").write_text("*.nii.gz\n")
    assert [str(scan.path) for scan in find_scans(given)] == [found]


def test_failed_scans_are_counted_in_order(scans, capsys):
    scans[0].write_bytes(b"nothing")
    assert main(predict("scans")) == 1
    printed = capsys.readouterr()
    assert "[1/2] failed: " in printed.err
    assert re.search(r"\[2/2\]( review:)? out/b_seg.nii.gz", printed.out)  # random weights give any mask
    first, second, *_ = printed.out.splitlines()
    assert first.startswith("model: model.pt: training data unknown") and second.startswith("device: ")


def test_a_person_sees_results_and_details_only_on_demand(scans):
    lines = {}
    for more in ((), ("--debug", "--overwrite")):
        command = [*COMMAND.split(), *predict("scans"), *more]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        lines[bool(more)] = done.stdout.splitlines(), done.stderr.splitlines()
    shown, errors = lines[False]
    words = [line.split()[0] for line in shown if "need a review" not in line]  # random weights
    assert words == ["model:", "device:", "[1/2]", "[2/2]"] and errors == []
    assert lines[True][0] == shown and any("'threads':" in line for line in lines[True][1])


@pytest.mark.parametrize("output", ["out", "a_seg.nii.gz"])
def test_the_first_line_names_the_model_before_any_warning(scans, tiny_model, output):
    torch.save({**tiny_model, "configuration": {"dataset": "phantoms"}}, "model.pt")
    command = [*COMMAND.split(), *predict(scans[0], out=output)]
    lines = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120).stdout
    first, second, third, *rest = lines.splitlines()
    assert first.startswith("model: model.pt: trained on phantoms") and third.startswith("device: ")
    assert second.startswith("model.pt: this model was trained on phantoms") and second not in rest


def test_an_output_that_is_not_finite_is_no_empty_mask(tmp_path, scans, tiny_model, capsys):
    """Weights that are finite, and whose products overflow."""
    last = [name for name in tiny_model["model"] if name.endswith("weight")][-1]
    torch.save({**tiny_model, "model": {**tiny_model["model"], last: torch.full((3, 2, 1, 1, 1), 3e38)}}, "model.pt")
    assert main(predict("scans")) == 1
    assert "output is not finite" in capsys.readouterr().err and not list(tmp_path.glob("out/*_seg*"))


def limits(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


def test_cached_files_do_not_count_as_memory_of_a_container(tmp_path):
    two = {"memory.max": "1000\n", "memory.current": "900\n", "memory.stat": "anon 200\ninactive_file 600\n"}
    one = {
        "memory/memory.limit_in_bytes": "1000\n",
        "memory/memory.usage_in_bytes": "900\n",
        "memory/memory.stat": "cache 1\ntotal_inactive_file 500\n",
    }
    assert container_bytes(limits(tmp_path / "two", two)) == 700
    assert container_bytes(limits(tmp_path / "one", one)) == 600
    assert container_bytes(limits(tmp_path / "none", {**two, "memory.max": "max\n"})) == float("inf")


def test_the_limits_of_a_batch_systems_job_count_too(tmp_path):
    """The job's own group has no limit; the one above it has."""
    (tmp_path / "groups").write_text("5:cpu,cpuacct:/slurm/job_1\n4:memory:/slurm/job_1/step_0\n0::/jobs/1\n")
    files = {
        "jobs/memory.max": "1000\n",
        "jobs/memory.current": "900\n",
        "jobs/memory.stat": "inactive_file 100\n",
        "jobs/1/memory.max": "max\n",
        "cpu/slurm/job_1/cpu.cfs_quota_us": "200000\n",
        "cpu/slurm/job_1/cpu.cfs_period_us": "100000\n",
        "cpu/cpu.cfs_quota_us": "-1\n",
        "cpu/cpu.cfs_period_us": "100000\n",
    }
    root = limits(tmp_path / "cgroup", files)
    assert container_bytes(root, tmp_path / "groups") == 200
    assert cpu_share(root, tmp_path / "groups") == 2


def test_a_containers_share_of_the_cpu_is_known(tmp_path):
    assert cpu_share(limits(tmp_path / "two", {"cpu.max": "150000 100000\n"})) == 1.5
    assert cpu_share(limits(tmp_path / "open", {"cpu.max": "max 100000\n"})) == float("inf")
    old = {"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}
    assert cpu_share(limits(tmp_path / "one", old)) == 4 and cpu_share(tmp_path) == float("inf")


PREDICTOR = """
from kits_unet3d.pipeline.inference import Predictor
from kits_unet3d.pipeline.runtime.files import write_json
write_json("out/summary.json", {"device": Predictor("model.pt", "cpu").accelerator.describe()})
"""
BUNDLE = ["-m", "monai.bundle", "run", "inferring", "--config_file", str(ROOT / "bundle/configs/inference.json"),
          "--input", "scans", "--ckpt_path", "model.pt", "--output_dir", "out", "--device_name", "cpu",
          "--backend", "eager", "--html_report", "false"]  # fmt: skip


@pytest.mark.slow
def test_the_bundle_shows_no_warnings_of_libraries(scans):
    """MONAI warns of eval() before the bundle is read; the launch scripts silence that by the environment."""
    (silence,) = re.findall(r"PYTHONWARNINGS-(\S+)}", (ROOT / "scripts" / "env.sh").read_text())
    environment = {**os.environ, "PYTHONWARNINGS": silence}
    done = subprocess.run([sys.executable, *BUNDLE], env=environment, check=True, capture_output=True, text=True)
    assert not re.search(r"Warning|nvImageCodec|eval\(\)|as written", done.stdout + done.stderr)
    assert "[2/2]" in done.stdout


@pytest.mark.parametrize("program", [["-c", PREDICTOR], pytest.param(BUNDLE, marks=pytest.mark.slow)])
def test_a_predictor_and_the_bundle_use_a_containers_share(tmp_path, scans, program):
    place = limits(tmp_path / "cgroup", {"cpu.max": "100000 100000\n"})
    inside = ["unshare", "-m", "bash", "-c", 'mount --bind "$0" /sys/fs/cgroup && exec "$@"', str(place)]
    if os.cpu_count() == 1 or not shutil.which("unshare") or subprocess.run([*inside, "true"]).returncode:
        pytest.skip("needs two processors, and the right to mount the limits of a container")
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    subprocess.run([*inside, sys.executable, *program], env=environment, check=True, capture_output=True)
    assert json.loads(Path("out/summary.json").read_text())["device"]["threads"] == 1


def test_records_of_a_killed_run_are_read_to_the_last_whole_line(tmp_path):
    report = Report(tmp_path)
    report._due = float("inf")  # as if rewriting the summary took long
    for name in ("a", "b"):
        report.add(name, {"outcome": "done", "scan": name, "files": {}})
    part = tmp_path / ".report-0.jsonl"
    part.write_text(part.read_text() + '{"c": {"outcome": "do')
    report.add("d", {"outcome": "done", "scan": "d", "files": {}})  # after a disk that was full for a moment
    assert not (tmp_path / "summary.json").exists()
    again = Report(tmp_path)
    again.take_over({})
    assert list(again.cases) == ["a", "b", "d"] and not part.exists() and (tmp_path / "summary.json").is_file()


def test_names_are_no_formulas_in_the_table(tmp_path):
    Report(tmp_path).add("=1+1", {"outcome": "failed", "scan": "@cmd", "files": {}, "error": "-x"})
    assert (tmp_path / "summary.csv").read_text().splitlines()[1] == "'=1+1,failed,,,'-x,,'@cmd,"


def test_a_cached_network_with_a_flipped_bit_is_made_again(tmp_path, monkeypatch, caplog):
    pytest.importorskip("openvino")
    from kits_unet3d.pipeline.device import resolve
    from kits_unet3d.pipeline.inference.backends import make_backend
    from kits_unet3d.pipeline.inference.openvino import cache_directory

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    network, window = UNet3D(channels=(2, 4)).eval(), torch.rand(1, 1, 16, 16, 16)
    expected = make_backend("openvino", network, resolve("cpu"), window.shape)(window)
    (blob,) = cache_directory().glob("*.blob")
    spoilt = bytearray(blob.read_bytes())
    spoilt[-1000] ^= 64
    blob.write_bytes(spoilt)
    torch.testing.assert_close(make_backend("openvino", network, resolve("cpu"), window.shape)(window), expected)
    assert blob.read_bytes() != spoilt
    blob.parent.chmod(0o777)
    blob.write_bytes(b"planted by another user")
    torch.testing.assert_close(make_backend("openvino", network, resolve("cpu"), window.shape)(window), expected)
    assert blob.read_bytes() == b"planted by another user" and "another user can write it" in caplog.text
    blob.parent.chmod(0o700)
    if os.getuid() == 0:
        os.chown(blob, 12345, -1)
        make_backend("openvino", network, resolve("cpu"), window.shape)
        assert blob.read_bytes() != b"planted by another user" and blob.stat().st_uid == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["prepare", "--data-dir", "a", "-o", "b", "--workers", "-3"],
            "must be a whole number of at least 1, got '-3'",
        ),
        (["phantom", "-o", "b", "--workers", "0"], "must be a whole number of at least 1, got '0'"),
        (["download", "-o", "b", "--timeout", "nan"], "must be a positive number of seconds, got 'nan'"),
        (["weights", "list", "--retries", "-1"], "must be a whole number of at least 0, got '-1'"),
        (["predict", "a", "-o", "b", "--volume", "0"], "must be a whole number of at least 1, got '0'"),
        (["weights", "download", "mlperf-kits19", "--url", "http://[::1"], "is not an http(s) address"),
        (["weights", "download", "mlperf-kits19", "--url", "https:// a/b"], "is not an http(s) address"),
    ],
)
def test_a_number_or_address_that_cannot_be_meant_is_refused(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KITS_UNET3D_HOME", str(tmp_path / "home"))
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_a_home_that_cannot_be_written_is_one_error(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KITS_UNET3D_HOME", str(tmp_path / "file"))
    assert main(["weights", "download", "mlperf-kits19", "--url", "http://127.0.0.1:9/a"]) == 2
    assert f"{tmp_path / 'file'}" in (error := capsys.readouterr().err) and "cannot be written" in error


def test_a_command_builds_the_options_of_no_other(capsys):
    parser = build_parser("verify")
    assert parser.parse_args(["verify", "--dataset-dir", "a"]).dataset_dir == "a"
    with pytest.raises(UsageError, match="invalid choice: 'predikt' .*predict"):
        build_parser().parse_args(["predikt"])
