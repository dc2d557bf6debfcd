"""The command predict: one file, continued batches, and what it prints."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import nibabel as nib
import pytest
import torch
from niftis import ct

from kits_unet3d.pipeline.cli import main

COMMAND = f"{sys.executable} -m kits_unet3d.pipeline.cli"


def predict(*arguments: object, out: object = "out") -> list[str]:
    fixed = ["--checkpoint", "model.pt", "--device", "cpu", "--no-html-report", "--backend", "eager"]
    return ["predict", *map(str, arguments), "-o", str(out), *fixed]


def test_a_bundles_zip_is_no_checkpoint(scans, capsys):
    with zipfile.ZipFile("bundle.zip", "w") as archive:
        archive.writestr("kits_unet3d/configs/metadata.json", "{}")
    assert main([*predict("scans"), "--checkpoint", "bundle.zip"]) == 3
    assert "bundle.zip: is a bundle's zip, not a checkpoint; unpack it" in capsys.readouterr().err


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


def test_a_batch_goes_on_under_another_spelling_of_its_path(tmp_path, scans, capsys):
    (tmp_path / "link").symlink_to("scans")
    assert main(predict("scans")) == 0
    for spelling in (tmp_path / "scans", "link", "./scans/../scans", "scans/*.nii.gz"):
        capsys.readouterr()
        assert main(predict(spelling)) == 0
        assert "2 of 2 are finished already" in capsys.readouterr().out


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
def test_the_first_line_names_the_model_before_any_warning(scans, output):
    model = torch.load("model.pt", weights_only=True)
    torch.save({**model, "configuration": {"dataset": "phantoms"}}, "model.pt")
    command = [*COMMAND.split(), *predict(scans[0], out=output)]
    lines = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120).stdout
    first, second, third, *rest = lines.splitlines()
    assert first.startswith("model: model.pt: trained on phantoms") and third.startswith("device: ")
    assert second.startswith("model.pt: this model was trained on phantoms") and second not in rest


def test_an_output_that_is_not_finite_is_no_empty_mask(tmp_path, scans, capsys):
    """Weights that are finite, and whose products overflow."""
    model = torch.load("model.pt", weights_only=True)
    last = [name for name in model["model"] if name.endswith("weight")][-1]
    torch.save({**model, "model": {**model["model"], last: torch.full((3, 2, 1, 1, 1), 3e38)}}, "model.pt")
    assert main(predict("scans")) == 1
    assert "output is not finite" in capsys.readouterr().err and not list(tmp_path.glob("out/*_seg*"))
