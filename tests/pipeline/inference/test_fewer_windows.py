"""Fewer windows than the reference's: hand-worked positions and boxes, and the same logits where it counts."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from kits_unet3d.pipeline import Predictor
from kits_unet3d.pipeline.inference.sliding_windows import (
    EvenWindows,
    ReferenceWindows,
    StockWindows,
    even_stride,
    reference_weights,
)
from kits_unet3d.pipeline.inference.window_selection import (
    SURE,
    CoarseToFine,
    InBody,
    SkipAir,
    body_box,
    grown,
    make_windows,
)
from kits_unet3d.transforms import PreprocessingParameters

pytestmark = pytest.mark.numeric

AIR = -2.3


class Counted:
    """A pointwise network of two classes that counts the windows it is given."""

    def __init__(self):
        self.windows = 0

    def __call__(self, x):
        self.windows += x.shape[0]
        return torch.cat([-x, x], 1)


@pytest.mark.parametrize(
    ("size", "stride"),
    [
        (128, 64),  # one window
        (192, 64),  # two, half a window apart
        (190, 62),  # two that end with the volume
        (208, 80),  # 1.25 strides are still one step
        (210, 41),  # but not more
        (392, 66),  # 264 voxels in four steps, where the reference takes five to 448
    ],
)
def test_windows_of_128_are_spread_evenly(size, stride):
    assert even_stride(size, 64, 128) == stride


def test_windows_without_overlap_never_leave_a_gap():
    for size in range(9, 60):
        assert even_stride(size, 8, 8) <= 8


@pytest.mark.parametrize("shape", [(8, 8, 8), (5, 21, 18), (9, 17, 33)])
@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_even_windows_cover_every_voxel_and_keep_shape_and_affine(shape, overlap):
    affine = torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0], dtype=torch.float64))
    image = MetaTensor(torch.rand(1, 1, *shape), affine=affine)
    logits = EvenWindows(8, overlap)(image, Counted())
    torch.testing.assert_close(logits[:, 1:].as_tensor(), image.as_tensor())
    assert torch.equal(logits.affine, affine)


def test_even_windows_are_fewer():
    even, reference = Counted(), Counted()
    image = torch.rand(1, 1, 8, 25, 25)  # 17 voxels in four steps; the reference pads to 28, five steps
    EvenWindows(8)(image, even)
    ReferenceWindows(8)(image, reference)
    assert (even.windows, reference.windows) == (5 * 5, 6 * 6)


def patient():
    """Air, a body in voxels 16 to 48 of each axis, and a table of two voxels below it."""
    image = torch.full((1, 1, 64, 64, 64), -2.34)
    image[..., 16:48, 16:48, 16:48] = 0.5
    image[..., :, 58:60, :] = 0.5
    return image


def test_the_body_is_found_without_the_table():
    """Margins: 4 voxels, and a block of 4 that the opening may have taken."""
    assert body_box(patient(), AIR) == ((8, 56),) * 3
    assert body_box(torch.full((1, 1, 9, 9, 9), -2.34), AIR) == ((0, 9),) * 3


def test_outside_the_body_is_background_and_inside_nothing_changes():
    image = MetaTensor(patient())
    image.meta["name"] = "kept"
    logits = InBody(ReferenceWindows(16), AIR)(image, Counted())
    assert logits.shape == (1, 2, 64, 64, 64) and logits.meta["name"] == "kept"
    torch.testing.assert_close(
        logits[:, 1, 16:48, 16:48, 16:48].as_tensor(), image[:, 0, 16:48, 16:48, 16:48].as_tensor()
    )
    assert (logits[:, 0, :8] == SURE).all() and (logits[:, 1, :8] == -SURE).all()


def test_windows_in_the_body_are_those_that_the_whole_scan_has_there():
    """Voxels of each axis 8 to 56: of stock windows of 12 that start at 0, 6, … 48, 52 those that start at 6 to 48."""
    assert StockWindows((12,) * 3).snapped(((8, 56),) * 3, (64,) * 3) == ((6, 60),) * 3
    # Those that cover the box, and beyond them those whose centre, 8 voxels from their start, is in it.
    assert StockWindows((16,) * 3).snapped(((9, 55),) * 3, (64,) * 3) == ((8, 56),) * 3
    assert StockWindows((16,) * 3).snapped(((8, 56),) * 3, (64,) * 3) == ((0, 64),) * 3
    assert StockWindows((16,) * 3).snapped(((9, 50), (60, 61), (3, 7)), (64, 61, 64)) == ((8, 56), (45, 61), (0, 16))
    image, seen = patient() + torch.rand(64, 64, 64), []

    def network(x):
        seen.append(float(x[0, 0, 0, 0, 0]))
        return torch.cat([-x, x], 1)

    InBody(StockWindows((12,) * 3), AIR + 1, StockWindows((12,) * 3).snapped)(image, network)
    corners = image[0, 0, 6:49:6, 6:49:6, 6:49:6]
    assert sorted(seen) == sorted(corners.flatten().tolist())
    parameters = PreprocessingParameters(roi_size=(16, 16, 16))
    assert isinstance(make_windows(parameters, ("body",)).inferer, StockWindows)
    assert isinstance(make_windows(parameters, ("body", "even")).inferer, EvenWindows)


def test_windows_of_air_are_not_computed():
    image, network = torch.full((1, 1, 8, 8, 32), -2.34), Counted()
    image[..., 20] = 0.5
    logits = SkipAir(EvenWindows(8), AIR, 2)(image, network)
    assert network.windows == 2  # those from voxel 16 and from 13 … 20, of seven four voxels apart
    assert logits[..., 20].argmax(1).all() and not logits[..., :12].argmax(1).any()


def test_boxes_grow_by_a_margin_and_to_a_window_and_stay_inside():
    assert grown(((10, 20),), 3, (8,), (100,)) == ((7, 23),)
    assert grown(((10, 20),), 3, (30,), (100,)) == ((0, 30),)
    assert grown(((90, 98),), 3, (30,), (100,)) == ((70, 100),)
    assert grown(((2, 6),), 3, (30,), (20,)) == ((0, 20),)


def coarse_to_fine(fine, **numbers):
    settings = {"roi_size": (8, 8, 8), "least": 4, "margin": 2, **numbers}
    return CoarseToFine(EvenWindows(8, 0.0), fine, **settings)


def test_what_is_found_is_looked_at_in_one_box_or_in_several():
    step = coarse_to_fine(None)
    found = np.zeros((40, 40, 40), bool)
    found[4:8, 4:8, 4:8] = True
    assert step.boxes(found) == []  # nothing on the other side
    found[30:34, 30:34, 30:34] = True
    assert sorted(step.boxes(found)) == [((2, 10),) * 3, ((28, 36),) * 3]
    found[11:15, 4:8, 4:8] = True  # its surroundings overlap those of the first
    assert sorted(step.boxes(found)) == [((2, 17), (2, 10), (2, 10)), ((28, 36),) * 3]
    found[:] = False
    found[4, 4, 18:22] = True  # across the middle, but less than 4 voxels a side
    assert step.boxes(found) == []
    found[4, 4, 16:24] = True  # two kidneys that are one part
    assert step.boxes(found) == [((1, 9), (1, 9), (14, 26))]


class Look:
    """A network of two classes that calls every voxel above 0 the second, by a logit that rises with each window."""

    def __init__(self):
        self.windows = 0

    def __call__(self, x):
        self.windows += 1
        return torch.cat([-x.sign(), x.sign()], 1) * self.windows


def two_kidneys(*sides):
    image = torch.full((1, 1, 32, 32, 32), -1.0)
    for side in sides:
        image[..., 10:14, 10:14, side] = 1
    return image


LEFT, RIGHT = slice(10, 14), slice(18, 22)


def test_the_second_look_is_averaged_with_the_first_around_what_was_found():
    """Windows of 8³: where both looks have the weight of one window, the logits of 1 and 65, or 66, are averaged."""
    image, network = two_kidneys(LEFT, RIGHT), Look()
    logits = coarse_to_fine(EvenWindows(8))(image, network)
    assert network.windows == 4**3 + 2
    coarse = EvenWindows(8, 0.0)(image, Look())
    outside = torch.ones(32, 32, 32, dtype=torch.bool)
    outside[8:16, 8:16, 8:24] = False
    assert torch.equal(logits[..., outside], coarse[..., outside])
    for side, second in ((LEFT, 65), (RIGHT, 66)):
        inside = (0, 1, slice(10, 14), slice(10, 14), side)
        torch.testing.assert_close(logits[inside], (coarse[inside] + second) / 2)


@pytest.mark.parametrize(("sides", "least"), [((LEFT, RIGHT), 100), ((RIGHT,), 4)])
def test_everything_is_looked_at_again_if_too_little_was_found(sides, least):
    image = two_kidneys(*sides)
    unsure = coarse_to_fine(EvenWindows(8), least=least)(image, Counted())
    torch.testing.assert_close(unsure, EvenWindows(8)(image, Counted()))


@pytest.mark.parametrize(
    ("windows", "fine"),
    [(("body", "skip-air"), EvenWindows), (("even",), EvenWindows), (("reference",), ReferenceWindows)],
)
def test_the_second_look_is_padded_only_where_the_reference_is_asked_for(windows, fine):
    inferer = make_windows(PreprocessingParameters(), windows, roi="coarse")
    while not isinstance(inferer, CoarseToFine):
        inferer = inferer.inferer
    assert type(inferer.fine) is fine


@pytest.mark.parametrize(("cls", "overlap"), [(ReferenceWindows, 0.5), (EvenWindows, 0.5), (EvenWindows, 0.0)])
def test_the_weights_of_all_windows_add_up_to_what_monai_divides_by(cls, overlap):
    """A network whose logit is 1 in the first window it sees gives that window's share of the weights."""
    windows, shape = cls(8, overlap), (13, 9, 17)
    total, found = windows.total_weights(shape), torch.zeros(shape)
    count = Counted()
    windows(torch.zeros(1, 1, *shape), count)
    for chosen in range(count.windows):
        turn = iter(range(count.windows))
        share = windows(torch.zeros(1, 1, *shape), lambda x, t=turn, c=chosen: torch.full_like(x, float(next(t) == c)))
        found += share[0, 0]
    torch.testing.assert_close(found, torch.ones(shape))  # the shares make a whole
    first = iter(range(count.windows))
    share = windows(torch.zeros(1, 1, *shape), lambda x: torch.full_like(x, float(next(first) == 0)))[0, 0]
    front = [a for a, _ in (windows.spaced(shape) if cls is EvenWindows else windows).padding(shape)]
    seen = reference_weights((8, 8, 8))[tuple(slice(a, None) for a in front)]
    part = tuple(slice(0, n) for n in seen.shape)
    torch.testing.assert_close((share * total)[part], seen)


@pytest.mark.parametrize("windows", [(), ("reference", "body"), ("odd",)])
def test_windows_that_do_not_go_together_are_refused(windows):
    with pytest.raises(ValueError, match="windows must be reference alone or some of body, skip-air, even"):
        make_windows(PreprocessingParameters(), windows)


def test_an_unknown_roi_is_refused():
    with pytest.raises(ValueError, match="roi must be one of full, coarse"):
        make_windows(PreprocessingParameters(), roi="small")


@pytest.mark.parametrize("roi", ["full", "coarse"])
def test_the_predictor_takes_them(model_file, raw_phantoms, roi):
    scan = raw_phantoms / "case_00000" / "imaging.nii.gz"
    predictor = Predictor(model_file, "cpu", windows=("body", "skip-air", "even"), roi=roi)
    assert predictor.predict(scan).mask.shape == predictor.predict(scan).scan.voxels.shape
