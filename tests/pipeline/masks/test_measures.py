"""What is measured of a mask."""

import re

import numpy as np
import pytest
from conftest import ROOT, shared

from kits_unet3d.pipeline.inference import Grid, Scan
from kits_unet3d.pipeline.io.labels import read_labels
from kits_unet3d.pipeline.io.scan import read_scan
from kits_unet3d.pipeline.masks.measurements import longest_axial_mm, measure
from kits_unet3d.pipeline.masks.plausibility import RANGES


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
        assert found["flags"][0] == "no kidney"  # both are below 20 mL


def test_flags_tell_what_to_look_at_twice():
    voxels = np.full((40, 40, 20), -200, np.int16)
    mask = np.zeros(voxels.shape, np.uint8)
    mask[5:20, 5:20, 0:10] = 1
    voxels[mask == 1] = 30
    found = measure(Scan(grid(mask.shape, np.diag([2.0, 2, 4, 1])), voxels), mask, ("background", "kidney", "tumour"))
    assert found["flags"][:4] == ["cut by the field of view", "one kidney", "likely no contrast", "unusual HU"]


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
    assert [flag for flag in found["flags"] if "outside" not in flag] == flags and found["counts"]["kidney"] == 1


def test_the_longest_axial_diameter_is_of_one_slice():
    part = np.zeros((3, 5, 5), bool)
    part[0, 0, 0] = part[2, 4, 4] = part[1, 2, 1:4] = True
    assert longest_axial_mm(part, np.diag([5.0, 1.0, 1.0, 1.0])) == pytest.approx(np.hypot(1, 3))


def measured(*parts, hu=150):
    """Measure kidneys at (slice, slice, slice) in a body of voxels of 4 mm, all of it with the same HU or an image."""
    voxels = np.broadcast_to(np.asarray(hu, np.int16), (100, 80, 90)).copy()
    voxels[0, 0, 0] = -1000
    mask = np.zeros(voxels.shape, np.uint8)
    for part in parts:
        mask[part] = 1
    return measure(Scan(grid(mask.shape, np.diag([4.0, 4, 4, 1])), voxels), mask, ("background", "kidney", "tumour"))


LEFT, RIGHT = np.s_[20:35, 30:45, 30:55], np.s_[65:80, 30:45, 30:55]  # 360 mL and 100 mm each


def test_measurements_like_those_of_real_label_maps_pass():
    found = measured(LEFT, np.s_[65:75, 30:45, 30:50])
    assert found["flags"] == [] and all(one["inside"] and not one["grave"] for one in found["checks"])
    values = {one["name"]: one["value"] for one in found["checks"]}
    assert values == {
        "kidney_and_tumour_ml": 552, "kidney_ml": 552, "tumour_ml": 0, "kidney_extent_mm": 100,
        "components_over_1_ml": 2, "kidney_behind_mm": 12, "kidney_distance_mm": 170, "kidney_height_mm": 10,
        "kidney_hu": 150,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("parts", "name", "grave"),
    [
        ((LEFT, RIGHT, np.s_[20:35, 30:45, 10:18]), "kidney_ml", False),
        ((LEFT, RIGHT, np.s_[20:35, 30:45, 5:30]), "kidney_ml", True),
        ((LEFT, np.s_[70:75, 30:40, 5:77]), "kidney_extent_mm", True),
        ((LEFT, np.s_[50:53, 50:53, 50:53], np.s_[5:8, 5:8, 5:8]), "components_over_1_ml", True),
        ((), "kidney_ml", True),
        ((LEFT, np.s_[84:99, 30:45, 30:55]), "kidney_distance_mm", True),
        ((LEFT, np.s_[65:80, 30:45, 10:35]), "kidney_height_mm", True),
    ],
)
def test_measurements_far_from_real_ones_are_flagged_with_range_and_source(parts, name, grave):
    found = measured(*parts)
    (one,) = (one for one in found["checks"] if one["name"] == name)
    assert not one["inside"] and one["grave"] is grave
    assert any(f"outside {one['low']} to {one['high']}" in flag and "72 label maps" in flag for flag in found["flags"])


def test_kidneys_in_front_of_the_body_or_on_one_side_are_flagged():
    front = measured(np.s_[20:35, 55:70, 30:55], np.s_[65:80, 55:70, 30:55])
    (one,) = (one for one in front["checks"] if one["name"] == "kidney_behind_mm")
    assert one["value"] == -88 and one["grave"] and any("middle of the body -88 mm" in flag for flag in front["flags"])
    assert "both kidneys on the left" in measured(LEFT, np.s_[20:35, 60:75, 30:55])["flags"]
    assert not any("both kidneys" in flag for flag in measured(LEFT, RIGHT)["flags"])


@pytest.mark.parametrize(("hu", "grave"), [(-100, True), (30, False), (320, True)])
def test_a_kidney_of_another_tissue_is_flagged_by_its_hu(hu, grave):
    found = measured(LEFT, RIGHT, hu=hu)
    (one,) = (one for one in found["checks"] if one["name"] == "kidney_hu")
    assert (
        one["grave"] is grave
        and any(f"mean of kidney {hu} HU, outside 0 to 252" in flag for flag in found["flags"]) is grave
    )


@pytest.mark.parametrize(
    ("cortex", "medulla", "phase"),
    [
        (180, 90, "corticomedullary"),
        (170, 160, "nephrographic or later"),
        (35, 32, "unenhanced"),
    ],
)
def test_the_contrast_phase_is_guessed_from_cortex_and_medulla(cortex, medulla, phase):
    image = np.full((100, 80, 90), 20, np.int16)
    for part in (LEFT, RIGHT):
        image[part] = cortex
        image[tuple(slice(side.start + 2, side.stop - 2) for side in part)] = medulla
    found = measured(LEFT, RIGHT, hu=image)
    assert found["contrast"] == {"phase": phase, "cortex_hu": cortex, "medulla_hu": medulla}
    assert ("likely no contrast" in found["flags"]) is (phase == "unenhanced")


def test_kidneys_of_a_real_scan_pass_and_its_liver_does_not():
    scan = read_scan(shared("data/ct/totalsegmentator/example_ct.nii.gz"))
    organs = read_labels(shared("data/ct/totalsegmentator/example_seg_fast_force_split.nii.gz")).voxels
    kidneys, liver = (
        measure(scan, np.isin(organs, values).astype(np.uint8), ("background", "kidney", "tumour"))
        for values in ((2, 3), (5,))
    )
    assert kidneys["flags"] == ["likely no contrast"] and kidneys["contrast"]["phase"] == "unenhanced"
    assert {one["name"] for one in liver["checks"] if one["grave"]} == {"kidney_ml", "kidney_behind_mm"}


@pytest.mark.slow
@pytest.mark.parametrize("number", ["00002", "00028", "00030", "00045", "00088", "00162", "00163", "00185"])
def test_the_label_maps_at_the_ends_of_the_ranges_pass(number):
    """Each of these has the smallest or the largest of a measurement in all 72."""
    found = [path for path in shared("data").glob(f"kits*_labels/case_{number}/segmentation.nii.gz")]
    labels = read_labels(found[0])
    scan = Scan(labels.grid, np.zeros(labels.voxels.shape, np.int16))
    mask = np.where(labels.voxels == 3, 0, labels.voxels).astype(np.uint8)
    checks = measure(scan, mask, ("background", "kidney", "tumour"))["checks"]
    assert all(one["inside"] for one in checks), checks


def test_cysts_are_counted_and_measured_apart_from_tumours():
    voxels = np.full((100, 80, 90), 150, np.int16)
    voxels[0, 0, 0] = -1000
    mask = np.zeros(voxels.shape, np.uint8)
    mask[LEFT] = mask[65:75, 30:45, 30:50] = 1
    mask[20:25, 30:35, 30:35], mask[65:67, 30:32, 30:32], mask[30:34, 40:44, 50:54] = 2, 3, 3
    voxels[mask == 3] = 8
    classes = ("background", "kidney", "tumour", "cyst")
    found = measure(Scan(grid(mask.shape, np.diag([4.0, 4, 4, 1])), voxels), mask, classes)
    assert found["counts"] == {"kidney": 2, "tumour": 1, "cyst": 2}
    assert found["volumes_ml"]["cyst"] == pytest.approx((2**3 + 4**3) * 0.064) and found["mean_hu"]["cyst"] == 8
    assert [part["side"] for part in found["structures"] if part["class"] == "cyst"] == ["left", "right"]
    checks = {one["name"]: one for one in found["checks"]}
    assert checks["cyst_ml"]["inside"] and checks["cyst_ml"]["source"] == "40 label maps of KiTS23"
    assert checks["kidney_and_tumour_ml"]["value"] == pytest.approx(sum(found["volumes_ml"].values()), abs=0.1)
    mask[mask == 1] = 3
    flags = measure(Scan(grid(mask.shape, np.diag([4.0, 4, 4, 1])), voxels), mask, classes)["flags"]
    assert any(flag.startswith("cyst ") and "outside 0 to 141 mL" in flag for flag in flags)


def test_the_documented_ranges_are_those_that_masks_are_compared_with():
    page = (ROOT / "docs" / "inference.md").read_text(encoding="utf-8")
    table = page.split("| measurement | range | source |\n|---|---|---|\n")[1].split("\n\n")[0]
    limits = [[float(number) for number in re.findall(r"\d+", row.split("|")[2])] for row in table.splitlines()]
    limits = [found if len(found) > 1 else [0.0, *found] for found in limits]  # "up to 52 mm"
    assert limits == [[one.low, one.high] for one in RANGES.values()]
