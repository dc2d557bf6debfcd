"""Pictures of files name each class as its own file does."""

import nibabel as nib
import numpy as np
import pytest
from matplotlib.colors import to_hex
from niftis import ct, nifti

from kits_unet3d.pipeline.cli import main
from kits_unet3d.pipeline.io.labels import read_labels
from kits_unet3d.pipeline.io.mask import write_mask
from kits_unet3d.pipeline.io.scan import read_scan
from kits_unet3d.pipeline.io.segments import COLOURS
from kits_unet3d.pipeline.report.pictures import figure_of_files, place_to_show

KITS23 = ("background", "kidney", "tumour", "cyst")
SPLIT = ("background", "kidney_right", "tumour", "kidney_left")


@pytest.fixture
def scan(tmp_path):
    return read_scan(nifti(tmp_path / "a.nii.gz", ct((30, 30, 20))))


def mask_of(*values):
    mask = np.zeros((30, 30, 20), np.uint8)
    for number, value in enumerate(values):
        mask[4 + 8 * number : 10 + 8 * number, 5:15, 4 + 3 * number : 7 + 3 * number] = value
    return mask


def without_table(mask, scan, directory):
    """Write a mask as other programs do."""
    directory.mkdir()
    nib.save(nib.Nifti1Image(mask, scan.affine), directory / "a.nii.gz")
    return directory / "a.nii.gz"


def drawn(scan, mask, ground_truth=None):
    """Return the colours of the legend by name, and those of the outlines by column."""
    figure = figure_of_files(scan.path, mask, ground_truth)
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    lines = [to_hex(line.get_color()) for line in legend.get_lines()]
    outlines = {}
    for axes in figure.axes:
        found = outlines.setdefault(axes.get_title().split(",")[0], set())
        found |= {to_hex(colour) for one in axes.collections for colour in one.get_edgecolor()}
    return dict(zip(names, lines, strict=True)), outlines


@pytest.mark.parametrize("mask_format", ["scan", "seg-nrrd"])
@pytest.mark.parametrize("classes", [KITS23, SPLIT])
def test_a_mask_is_drawn_with_the_names_of_its_own_table(tmp_path, scan, classes, mask_format):
    legend, outlines = drawn(scan, write_mask(mask_of(1, 2, 3), scan.grid, tmp_path / "out", classes, mask_format))
    assert legend == dict(zip(classes[1:], COLOURS, strict=False))
    assert outlines["prediction"] <= set(COLOURS[:3]) and COLOURS[1] in outlines["prediction"]


def test_without_a_table_usual_names_hold_and_others_are_numbered(tmp_path, scan):
    legend, outlines = drawn(scan, without_table(mask_of(3, 9), scan, tmp_path / "one"))
    assert list(legend) == ["kidney", "tumour", "cyst", "label 9"]
    assert outlines["prediction"] <= {legend["cyst"], legend["label 9"]}
    assert list(drawn(scan, without_table(mask_of(1), scan, tmp_path / "two"))[0]) == ["kidney", "tumour"]


def test_the_same_class_has_one_colour_in_ground_truth_and_prediction(tmp_path, scan):
    mask = write_mask(mask_of(1, 2, 3), scan.grid, tmp_path / "out", SPLIT)
    legend, outlines = drawn(scan, mask, without_table(mask_of(3, 2), scan, tmp_path / "truth"))
    assert list(legend) == [*SPLIT[1:], "kidney", "cyst"] and len(set(legend.values())) == 5
    assert legend["cyst"] != legend["kidney_left"] == COLOURS[2]
    assert outlines["ground_truth"] <= {legend["cyst"], legend["tumour"]}


@pytest.mark.parametrize(("classes", "axial"), [(("tumour", "cyst"), 13), (("cyst", "tumour"), 10)])
def test_the_slices_follow_the_tumour_by_its_name(tmp_path, scan, classes, axial):
    path = write_mask(mask_of(1, 2), scan.grid, tmp_path / "out", ("background", *classes))
    labels = read_labels(path)
    facing, _ = labels.grid.facing(labels.voxels)
    assert place_to_show(facing, labels.segments)[0] == axial
    assert COLOURS[classes.index("tumour")] in drawn(scan, path)[1]["prediction"]


def test_a_name_of_a_file_is_plain_text_in_the_legend(tmp_path, scan):
    names = ("background", "$\\frac$", "_nolegend_")
    assert list(drawn(scan, write_mask(mask_of(1, 2), scan.grid, tmp_path / "out", names))[0]) == list(names[1:])


def test_the_legend_of_many_classes_and_of_long_names_is_short(tmp_path, scan):
    mask = np.zeros(scan.voxels.shape, np.uint8)
    mask.flat[:60] = np.arange(1, 61)
    legend, _ = drawn(scan, without_table(mask, scan, tmp_path / "many"))
    assert len(legend) == 20 and list(legend)[-1] == "… and 41 more"
    names = ("background", "n" * 3000)
    legend, _ = drawn(scan, write_mask(mask_of(1, 0), scan.grid, tmp_path / "out", names))
    assert list(legend) == ["n" * 39 + "…"]


def test_of_many_names_the_legend_has_those_in_the_mask(tmp_path, scan):
    names = ("background", *(f"organ_{number}" for number in range(1, 100)))
    mask = write_mask(mask_of(7, 90), scan.grid, tmp_path / "out", names)
    assert list(drawn(scan, mask)[0]) == ["organ_7", "organ_90"]
    assert list(drawn(scan, write_mask(mask_of(), scan.grid, tmp_path / "empty", names))[0]) == []


def test_the_command_draws_masks_with_and_without_a_table(tmp_path, scan):
    mask = write_mask(mask_of(1, 2, 3), scan.grid, tmp_path / "out", SPLIT)
    truth, png = without_table(mask_of(0, 9), scan, tmp_path / "truth"), tmp_path / "a.png"
    assert main(["picture", str(scan.path), "--mask", str(mask), "--ground-truth", str(truth), "-o", str(png)]) == 0
    assert png.stat().st_size > 10_000
