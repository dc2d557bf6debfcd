"""What is taken out of a mask, on masks that can be counted by hand."""

import numpy as np
import pytest

from kits_unet3d.pipeline.inference import Grid, PostProcessing, Scan
from kits_unet3d.pipeline.masks.postprocessing import split_kidneys
from kits_unet3d.pipeline.runtime.errors import UsageError

#: RAS, voxels of 8 mm³ (2 mm each way), the patient's middle plane between voxels 29 and 30.
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])
SHAPE = (60, 40, 40)
KIDNEY_VOXELS = 16**3  # 32.8 mL


def scan_of(mask, affine=AFFINE):
    voxels = np.full(mask.shape, 40, np.int16)
    return Scan(Grid("scan", "scan", mask.shape, affine), voxels)


def two_kidneys():
    mask = np.zeros(SHAPE, np.uint8)
    mask[4:20, 10:26, 10:26] = 1
    mask[40:56, 10:26, 10:26] = 1
    return mask


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
@pytest.mark.parametrize("flip", [1, -1])
def test_the_largest_part_on_each_side_is_kept_however_the_scan_is_stored(order, flip):
    mask = two_kidneys()
    expected = mask.copy()
    mask[22:26, 10:26, 10:26] = 1  # 8.2 mL beside the left kidney, without touching it
    mask[30:38, 2:6, 2:6] = 2  # 1.0 mL on the right
    turned = [a.transpose(order)[::flip] for a in (mask, expected)]
    affine = AFFINE[:, [*order, 3]].copy()
    if flip < 0:
        affine[:3, 3] = affine[:3, 0] * (turned[0].shape[0] - 1)
        affine[:, 0] *= -1
    result = PostProcessing(keep_kidneys=True)(turned[0], scan_of(turned[0], affine))
    assert (result == turned[1]).all() and (turned[0] != turned[1]).any()


def test_two_connected_kidneys_are_kept():
    mask = two_kidneys()
    mask[20:40, 14:18, 14:18] = 1  # an isthmus
    result = PostProcessing(keep_kidneys=True)(mask, scan_of(mask))
    assert (result == mask).all()


def test_what_is_smaller_than_any_kidney_is_not_kept_on_either_side():
    mask = two_kidneys()
    mask[40:56] = 0
    mask[40:53, 10:23, 10:24] = 1  # 13 x 13 x 14 voxels of 8 mm³ are 18.9 mL
    result = PostProcessing(keep_kidneys=True)(mask, scan_of(mask))
    assert (result > 0).sum() == KIDNEY_VOXELS and not result[40:].any()


def test_a_kidney_counts_with_its_tumour():
    mask = two_kidneys()
    mask[4:20, 10:26, 12:26] = 2  # of the left kidney only two slices are left, 4.1 mL
    assert (PostProcessing(keep_kidneys=True)(mask, scan_of(mask)) == mask).all()


def with_tumours():
    mask = two_kidneys()
    mask[20, 10:20, 10] = 2  # ten voxels on the left kidney's face
    mask[2:4, 2, 2] = 2  # two voxels far from both
    mask[56, 26, 10] = 2  # one voxel that shares but an edge with the right kidney
    mask[45, 15, 15] = 2  # one voxel within it
    return mask


def test_tumour_that_shares_no_face_with_kidney_is_dropped():
    mask = with_tumours()
    result = PostProcessing(tumour_touches_kidney=True)(mask, scan_of(mask))
    gone = np.argwhere(mask != result)
    assert gone.tolist() == [[2, 2, 2], [3, 2, 2], [56, 26, 10]] and not result[tuple(gone.T)].any()


@pytest.mark.parametrize(("mm3", "left"), [(8.0, 14), (8.1, 12), (16.0, 12), (80.0, 10), (80.1, 0)])
def test_tumour_below_a_volume_becomes_what_is_around_it(mm3, left):
    mask = with_tumours()
    result = PostProcessing(min_tumour_mm3=mm3)(mask, scan_of(mask))
    assert (result == 2).sum() == left
    assert result[45, 15, 15] == (2 if mm3 <= 8 else 1) and result[56, 26, 10] == (2 if mm3 <= 8 else 0)
    assert result[20, 12, 10] == (2 if mm3 <= 80 else 1)


def test_a_small_tumour_in_a_cyst_becomes_cyst_and_at_a_kidney_kidney():
    mask = np.zeros(SHAPE, np.uint8)
    mask[8:14, 8:14, 2:8] = 3
    mask[10, 10, 4] = 2  # within the cyst
    mask[14:20, 8:14, 2:8] = 1
    mask[13, 10, 4] = 2  # between cyst and kidney
    mask[40, 10, 4] = 2
    result = PostProcessing(min_tumour_mm3=500)(mask, scan_of(mask))
    assert result[10, 10, 4] == 3 and result[13, 10, 4] == 1 and result[40, 10, 4] == 0
    result = PostProcessing(tumour_touches_kidney=True)(mask, scan_of(mask))
    assert np.argwhere(mask != result).tolist() == [[40, 10, 4]]  # a cyst is part of a kidney


def test_nothing_is_done_unless_asked_for_and_the_given_mask_stays():
    mask = with_tumours()
    before = mask.copy()
    assert not PostProcessing() and PostProcessing()(mask, scan_of(mask)) is mask
    PostProcessing(True, True, 1e6)(mask, scan_of(mask))
    assert (mask == before).all()
    empty = np.zeros(SHAPE, np.uint8)
    assert (PostProcessing(True, True, 1e6)(empty, scan_of(empty)) == 0).all()


@pytest.mark.parametrize("size", [-1.0, float("nan"), float("inf")])
def test_a_volume_that_is_none_is_refused(size):
    with pytest.raises(UsageError, match="min_tumour_mm3"):
        PostProcessing(min_tumour_mm3=size)


def test_kidneys_are_split_by_the_side_of_their_component():
    """The first axis runs to the patient's right; a horseshoe kidney is divided by the body's middle plane."""
    mask = np.zeros((60, 30, 30), np.uint8)
    mask[5:15, 5:25, 5:25] = 1  # left, since X is small
    mask[45:55, 5:25, 5:25] = 1
    mask[50:52, 10:12, 10:12] = 2
    mask[28:33, 28:29, 28:29] = 1  # a small component across the middle
    scan = scan_of(mask, np.diag([4.0, 4.0, 4.0, 1.0]))
    split, classes = split_kidneys(mask, scan, ("background", "kidney", "tumour"))
    assert classes == ("background", "kidney_right", "tumour", "kidney_left")
    assert (split[5:15, 5:25, 5:25] == 3).all() and (split[45:50, 5:25, 5:25] == 1).all()
    assert ((split == 2) == (mask == 2)).all() and ((split > 0) == (mask > 0)).all()
    assert len(np.unique(split[28:33, 28, 28])) == 1 and (mask <= 2).all()
    mask[28:33, 28:29, 28:29] = 0
    mask[15:45, 10:20, 10:20] = 1
    split, _ = split_kidneys(mask, scan, ("background", "kidney", "tumour"))
    assert (split[:29][mask[:29] == 1] == 3).all() and (split[31:][mask[31:] == 1] == 1).all()


def test_a_tumour_beside_a_cyst_touches_the_kidney():
    mask = with_tumours()
    mask[mask == 1] = 3
    assert (PostProcessing(tumour_touches_kidney=True)(mask, scan_of(mask)) == 2).any()
