"""The page of a batch: what it holds, and that it does what it promises in a real browser."""

import base64
import csv
import html
import io
import json
import sys

import nibabel as nib
import numpy as np
import pytest
from chromium import PROGRAM, Chromium
from niftis import nifti

from kits_unet3d.pipeline.cli import main
from kits_unet3d.pipeline.inference import Grid, Scan
from kits_unet3d.pipeline.report.html_report import (
    HU_OF_GREY,
    MOST_SLICES,
    html_report_wanted,
    read_slices,
    save_slices,
    slices_of,
    write_html_report,
)
from kits_unet3d.pipeline.report.pictures import picture, place_to_show
from kits_unet3d.pipeline.report.summary import Report
from kits_unet3d.pipeline.runtime.errors import UsageError


def scan_of(voxels, spacing=(2.0, 2.0, 5.0)):
    return Scan(Grid("scan", "scan", voxels.shape, np.diag([*spacing, 1.0])), voxels)


def test_slices_run_from_above_and_the_mask_fits_the_image():
    from PIL import Image

    voxels = np.full((600, 40, 3), -1000, np.int16)  # RAS: three columns of the picture for one pixel
    voxels[30:60, 10:20, 2] = 100
    mask = (voxels > 0).astype(np.uint8)
    mask[30:33] *= 2
    content = slices_of(scan_of(voxels), mask)
    assert (content["rows"], content["columns"], content["pixel_mm"]) == (13, 200, [6.0, 6.0])
    top = content["slices"][0]
    assert [s["number"] for s in content["slices"]] == [1, 2, 3] and top["runs"] and not content["slices"][1]["runs"]
    drawn = np.zeros(13 * 200, int)
    for start, length, value in np.reshape(top["runs"], (-1, 3)):
        drawn[start : start + length] = value
    drawn = drawn.reshape(13, 200)
    # The patient's right, where X is large, is on the left, and the front, where Y is large, above.
    assert set(np.flatnonzero((drawn > 0).any(axis=0))) == set(range(180, 190)) and (drawn == 2).any()
    grey = np.asarray(Image.open(io.BytesIO(base64.b64decode(top["image"]))))
    hu = np.interp(grey, [k[1] for k in HU_OF_GREY], [k[0] for k in HU_OF_GREY])
    assert grey.shape == (13, 200) and abs(hu[8, 185] - 100) < 25 and hu[0, 0] < -900


def test_a_long_scan_is_thinned_and_opens_where_most_tumour_is(tmp_path):
    voxels = np.zeros((8, 8, 301), np.int16)
    mask = np.zeros(voxels.shape, np.uint8)
    mask[2:4, 2:4, 200] = 1
    mask[2:3, 2:4, 100] = 2
    content = slices_of(scan_of(voxels), mask)
    numbers = [s["number"] for s in content["slices"]]
    assert len(numbers) == MOST_SLICES and (numbers[0], numbers[-1]) == (1, 301)
    mask[2:4, 2:4, 190:210], mask[2:3, 2:4, 95:105] = 1, 2
    path = save_slices(scan_of(voxels), mask, tmp_path / "a_slices.json")
    for most in (MOST_SLICES, 40):
        content = read_slices(path, most)
        assert len(content["slices"]) == most
        assert 95 < 301 - content["slices"][content["first"]]["number"] < 105
    assert read_slices(save_slices(scan_of(voxels), mask * 0, path), 5)["first"] == 2


def test_the_views_go_through_the_middle_of_the_tumour():
    mask = np.zeros((20, 20, 20), np.uint8)
    assert place_to_show(mask) == (10, 10, 10)
    mask[2:9, 2:9, 2:9] = 1
    mask[3, 4:8, 5:8] = 2
    mask[3, 6, 4:12] = mask[3, 2:10, 7] = 2
    assert place_to_show(mask) == (3, 6, 7)


def test_a_figure_has_three_views_with_outlines_sides_and_scale():
    voxels = np.full((100, 100, 40), -50, np.int16)
    mask = np.zeros(voxels.shape, np.uint8)
    mask[20:40, 20:40, 10:20], mask[25:30, 25:30, 12:15] = 1, 2
    for ground_truth, columns in ((None, 2), (mask, 3)):
        figure = picture(scan_of(voxels), mask, ground_truth)
        assert len(figure.axes) == 3 * columns
        for axes in figure.axes:
            texts = {text.get_text() for text in axes.texts}
            assert texts == ({"A", "P", "50 mm"} if "sagittal" in axes.get_title() else {"R", "L", "50 mm"})
            (bar,) = axes.lines
            assert np.ptp(bar.get_xdata()) == pytest.approx(25)  # of 2 mm
            assert len(axes.collections) == (0 if "scan" in axes.get_title() else 2)


@pytest.fixture(scope="module")
def page(tmp_path_factory, raw_phantoms, tiny_checkpoint):
    """Of two phantoms and a scan that failed."""
    directory = tmp_path_factory.mktemp("page")
    for number in (0, 1):
        case = raw_phantoms / f"case_{number:05d}"
        (directory / f"case_{number}.nii.gz").symlink_to(case / "imaging.nii.gz")
    (directory / "bad<b>.nii.gz").write_bytes(b"nothing")
    out = directory / "out"
    assert main(["predict", str(directory), "-o", str(out), "--checkpoint", str(tiny_checkpoint)]) == 1
    return out / "report.html"


def test_each_scan_has_a_report_of_its_own(page):
    report = json.loads(page.with_name("case_1_report.json").read_text())
    summary = json.loads(page.with_name("summary.json").read_text())["cases"]["case_1"]
    assert summary["files"].keys() == {f"case_1_{e}" for e in ("seg.nii.gz", "seg.png", "slices.json", "report.json")}
    for key in ("volumes_ml", "sides_ml", "counts", "structures", "mean_hu", "flags", "warnings"):
        assert report[key] == summary[key]
    assert report["shape"] == list(nib.load(page.with_name("case_1_seg.nii.gz")).shape)


@pytest.mark.skipif(PROGRAM is None, reason="needs Chromium")
def test_in_a_browser_the_table_sorts_and_slices_are_looked_through(page, tmp_path):
    names = "[...document.querySelectorAll('#cases tbody tr')].map(row => row.cells[0].textContent)"
    view = "#viewer [data-part={}]"
    where = "document.querySelector('#viewer [data-part=where]').textContent"
    mask = "document.querySelector('#viewer [data-part=mask]').checked"
    # A sum over the pixels changes whenever the picture does; colour is only where the mask is.
    pixels = (
        "(c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data])(document.querySelector('canvas'))"
    )
    total = f"{pixels}.reduce((a, b) => a + b)"
    coloured = f"{pixels}.some((v, i, all) => i % 4 == 0 && (v != all[i + 1] || v != all[i + 2]))"
    with Chromium(tmp_path / "profile", page) as browser:
        assert browser.value(names) == ["bad<b>", "case_0", "case_1"]
        browser.click("#cases th")
        browser.click("#cases th")
        assert browser.value(names) == ["case_1", "case_0", "bad<b>"]
        browser.click("button[data-name=case_1]")
        browser.wait(f"{where}.includes(' of 40')")
        opened, before = browser.value(where), browser.value(total)
        assert browser.value(coloured)
        browser.press("ArrowDown")
        browser.wait(f"{where} != '{opened}' && {total} != {before}")
        browser.wheel(view.format("canvas"), -100)
        browser.wait(f"{where} == '{opened}' && {total} == {before}")
        browser.click(view.format("mask"))
        browser.wait(f"!{coloured}")
        without = browser.value(total)
        for key, name in (("4", "lung"), ("3", "bone"), ("2", "soft tissue"), ("1", "abdomen")):
            shown = browser.value(total)
            browser.press(key)
            browser.wait(f"{total} != {shown}")
            assert browser.value("document.querySelector('#viewer [data-part=window]').value") == name
        browser.wait(f"{total} == {without}")
        browser.press("m")
        browser.wait(f"{mask} && {total} == {before}")
        browser.press("Escape")
        browser.wait("!document.querySelector('#viewer').open")
        assert not browser.errors and not browser.value("performance.getEntriesByType('resource').length")


@pytest.mark.skipif(PROGRAM is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [390, 600, 1280])
def test_the_report_is_usable_at_every_width_and_by_keyboard(page, tmp_path, width):
    sideways = f"document.documentElement.scrollWidth <= {width}"
    focused = "document.activeElement"
    with Chromium(tmp_path / "profile", page, (width, 900)) as browser:
        browser.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 1000
        )
        browser.wait(f"innerWidth == {width}")
        assert browser.value(sideways), browser.value("document.documentElement.scrollWidth")
        buttons = "[...document.querySelectorAll('button[data-slices]')].map(b => b.getBoundingClientRect())"
        assert browser.value(f"{buttons}.every(box => box.width > 0 && box.left >= 0 && box.right <= innerWidth)")
        assert browser.value("document.querySelector('.legend').textContent") == "Legend:kidneytumour"
        browser.value("document.querySelector('#cases th button').focus()")
        assert browser.value(f"{focused}.textContent") == "case"
        browser.value(f"{focused}.click()")
        assert browser.value("document.querySelector('#cases th').getAttribute('aria-sort')") == "ascending"
        browser.value("document.querySelector('button.picture').click()")
        assert browser.value("document.querySelector('button.picture').getAttribute('aria-expanded')") == "true"
        assert browser.value(sideways)
        browser.value("document.querySelector('button[data-slices]').click()")
        browser.wait("document.querySelector('#viewer').open")
        box = browser.value(
            "(({left, right}) => [left, right])(document.querySelector('canvas').getBoundingClientRect())"
        )
        assert 0 <= box[0] < box[1] <= width
        browser.press("Escape")
        browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
        dark = browser.value("getComputedStyle(document.body).backgroundColor")
        assert dark == "rgb(22, 22, 22)" and not browser.errors


def test_without_the_extra_there_is_a_note_in_place_of_a_page(monkeypatch, capsys):
    assert html_report_wanted(None) and html_report_wanted(True) and not html_report_wanted(False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert not html_report_wanted(None) and "kits-unet3d[figures]" in capsys.readouterr().out
    with pytest.raises(UsageError, match="figures"):
        html_report_wanted(True)


def test_the_page_stays_of_a_size_that_opens(tmp_path, monkeypatch):
    """With many scans each shows fewer slices."""
    report = Report(tmp_path)
    mask = np.zeros((8, 8, 50), np.uint8)
    for name in "abc":
        save_slices(scan_of(mask.astype(np.int16)), mask, tmp_path / f"{name}_slices.json")
        report.cases[name] = {"outcome": "failed", "files": {f"{name}_slices.json": ""}, "scan": name}
    monkeypatch.setattr("kits_unet3d.pipeline.report.html_report.SLICES_IN_ALL", 31)
    assert write_html_report(report).read_text().count('"image":') == 30


def test_names_with_markup_and_formulas_are_plain_text_in_both_reports(tmp_path, model_file):
    names = ["=1+1", "@sum", "-x&<b>", "a'b\"c<img src=x onerror=y>"]
    scans = [nifti(tmp_path / f"{name}.nii.gz") for name in names]
    scans[2].write_bytes(b"")
    out = tmp_path / "out"
    command = ["predict", "-o", str(out), "--checkpoint", str(model_file), "--html-report", "--", *map(str, scans)]
    assert main(command) == 1
    page = (out / "report.html").read_text()
    assert "<img src=x" not in page and "<b>" not in page
    assert all(html.escape(name, quote=False) in page.replace("&#39;", "'").replace("&#34;", '"') for name in names)
    with open(out / "summary.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["case"] for row in rows} == {"'=1+1", "'@sum", "'-x&<b>", names[3]}
    assert not any(cell.startswith(("=", "@", "-x")) for row in rows for cell in row.values())
