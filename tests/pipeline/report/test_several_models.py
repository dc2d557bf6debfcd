"""Masks of several models in one directory: each keeps its own model, classes and colours."""

import csv
import html
import json
import re
import shutil

import pytest
import torch
from chromium import PROGRAM, Chromium
from niftis import ct, nifti

from kits_unet3d.networks import UNet3D
from kits_unet3d.pipeline.cli import main
from kits_unet3d.pipeline.io.segments import COLOURS
from kits_unet3d.pipeline.report.summary import Report

CLASSES, TWO = ["background", "spleen", "kidney", "tumour"], ["background", "kidney", "tumour"]
WARNING = "this model was trained on phantoms"


def model_with(path, classes, dataset):
    """Write a checkpoint with fresh weights that predicts the classes of value 1 and 2."""
    torch.manual_seed(0)
    network = UNet3D(channels=(2, 4), out_channels=len(classes))
    network.output.conv.bias.data[3:] = -100
    arguments = {"channels": [2, 4], "out_channels": len(classes)}
    parameters = {"spacing_mm": [16.0, 12.0, 12.0], "roi_size": [16, 16, 16], "classes": classes}
    content = {"model": network.state_dict(), "preprocessing_parameters": parameters}
    content["network"] = {"_target_": "kits_unet3d.networks.UNet3D", **arguments}
    torch.save({**content, "configuration": {"dataset": dataset}}, path)
    return path


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """Predict one scan with a model of three classes, then another with one of two, into one directory."""
    directory = tmp_path_factory.mktemp("several")
    three = model_with(directory / "three.pt", CLASSES, "phantoms")
    two = model_with(directory / "two.pt", TWO, "KiTS19")
    for name, model in (("a", three), ("b", two)):
        scan = nifti(directory / f"{name}.nii.gz", ct((24, 24, 16)))
        command = ["predict", str(scan), "-o", str(directory / "out"), "--checkpoint", str(model), "--device", "cpu"]
        assert main(command) == 0
    return directory / "out"


def rows_of(page):
    return re.findall(r'<tr class="(?:done|review)">.*?</tr>', page, re.DOTALL)


def test_the_html_report_shows_the_classes_of_each_case(out):
    page = (out / "report.html").read_text()
    assert "Legend:" not in page
    for row, classes in zip(rows_of(page), (CLASSES, TWO), strict=True):
        legend = re.findall(r'background:(#\w+)"></span>(\w+)', row)
        assert legend == list(zip(COLOURS, classes[1:], strict=False))
        content = json.loads(re.search(r'id="slices-\d">(.*?)</script>', row)[1])
        assert [(one["colour"], one["name"]) for one in content["classes"]] == legend


def test_the_summary_names_the_model_of_each_case(out):
    summary = json.loads((out / "summary.json").read_text())
    first, second = (summary["cases"][name]["model"] for name in "ab")
    assert first["description"].startswith("three.pt: trained on phantoms") and first["classes"] == CLASSES
    assert first["warning"].startswith(WARNING) and first["datasets"] == ["phantoms"]
    assert second["description"].startswith("two.pt") and second["warning"] is None
    assert summary["model"] == second
    with open(out / "summary.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["model"].split(":")[0] for row in rows] == ["three.pt", "two.pt"]


def test_the_html_report_shows_the_model_of_each_case(out):
    page = (out / "report.html").read_text()
    assert f"Warning for a: {WARNING}" in page and "Warning for b" not in page
    for row, name in zip(rows_of(page), ("three.pt", "two.pt"), strict=True):
        assert html.unescape(row).count(f"model: {name}: trained on") == 1
    assert "Model of 1 of the masks: three.pt" in page and "Options of the last run:" in page


def test_a_case_that_fails_keeps_the_model_of_its_files(out, tmp_path):
    scan, copied = out.parent / "a.nii.gz", shutil.copytree(out, tmp_path / "out")
    content = scan.read_bytes()
    scan.write_bytes(b"")
    try:
        assert main(["predict", str(scan), "-o", str(copied), "--checkpoint", str(out.parent / "two.pt")]) == 1
    finally:
        scan.write_bytes(content)
    case = json.loads((copied / "summary.json").read_text())["cases"]["a"]
    assert case["outcome"] == "failed" and case["model"]["description"].startswith("three.pt")
    report = Report(copied)
    report.take_over({})
    assert [names for _, names in report.models] == [["a"], ["b"]]


@pytest.mark.skipif(PROGRAM is None, reason="needs Chromium")
def test_the_viewer_has_the_classes_and_colours_of_the_case(out, tmp_path):
    legend = "document.querySelector('#viewer [data-part=legend]')"
    colours = f"[...{legend}.querySelectorAll('.colour')].map(square => getComputedStyle(square).backgroundColor)"
    with Chromium(tmp_path / "profile", out / "report.html") as browser:
        assert browser.value("document.documentElement.scrollWidth <= innerWidth")
        for name, classes in (("a", CLASSES), ("b", TWO)):
            browser.value(f"document.querySelector('button[data-name={name}]').click()")
            browser.wait("document.querySelector('#viewer').open")
            assert browser.value(f"{legend}.textContent") == "Mask:" + "".join(classes[1:])
            expected = [f"rgb({', '.join(map(str, bytes.fromhex(colour[1:])))})" for colour in COLOURS]
            assert browser.value(colours) == expected[: len(classes) - 1]
            browser.press("Escape")
            browser.wait("!document.querySelector('#viewer').open")
        assert not browser.errors
