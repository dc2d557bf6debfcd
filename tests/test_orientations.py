"""One body, stored in every orientation a scan can have."""

import itertools

import nibabel as nib
import numpy as np
import pytest
import torch

from kits_unet3d.pipeline.inference import Grid, Predictor, Scan
from kits_unet3d.pipeline.model import Model
from kits_unet3d.transforms import Recipe

RECIPE = Recipe(spacing_mm=(1.6, 1.6, 1.6), roi_size=(64, 64, 64))
SPACING = np.array([1.4, 1.5, 1.7])
SHAPE = np.array([88, 80, 72])
ORIENTATIONS = [
    "".join(letters)
    for order in itertools.permutations(("RL", "AP", "SI"))
    for letters in itertools.product(*order)
]  # fmt: skip


class BrightIsKidney(torch.nn.Module):
    """A network one can check by hand: what is bright is kidney, what is very bright tumour."""

    def forward(self, x):
        return torch.cat([torch.full_like(x, 0.0), x * 4, x * 12 - 8], dim=1)


def turned(degrees, axis):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix = np.eye(3)
    others = [i for i in range(3) if i != axis]
    matrix[np.ix_(others, others)] = [[c, -s], [s, c]]
    return matrix


#: Straight, turned about all axes, and sheared as by a gantry tilted by 15 degrees.
DIRECTIONS = {
    "straight": np.eye(3),
    "turned": turned(12, 0) @ turned(-8, 1) @ turned(20, 2),
    "sheared": np.array([[1, 0, 0], [0, 1, np.tan(np.radians(15))], [0, 0, 1.0]]),
}


def body(world):
    """HU at places (…, 3) in mm: two smooth kidneys in fat, one with a tumour."""
    hu = np.full(world.shape[:-1], -100.0)
    kidneys = [((28, 0, 0), (20, 24, 30), 150), ((-28, 4, 0), (20, 24, 30), 150), ((28, 8, 6), (13, 13, 13), 320)]
    for centre, radii, value in kidneys:
        distance = np.linalg.norm((world - centre) / radii, axis=-1)
        hu += (value - hu) / (1 + np.exp((distance - 1) * 5))
    return hu


def stored(kind):
    """The body on one of the grids, in RAS order, and its affine."""
    affine = np.eye(4)
    affine[:3, :3] = DIRECTIONS[kind] * SPACING
    affine[:3, 3] = -affine[:3, :3] @ ((SHAPE - 1) / 2)
    world = np.moveaxis(np.indices(SHAPE), 0, -1) @ affine[:3, :3].T + affine[:3, 3]
    return body(world).round().astype(np.int16), affine


def labels_of(voxels):
    """What the network says of HU without any resampling."""
    x = (np.clip(voxels, *RECIPE.hu_window) - RECIPE.hu_mean) / RECIPE.hu_std
    return np.argmax([np.zeros_like(x), x * 4, x * 12 - 8], axis=0)


def dice(a, b, label):
    return 2 * ((a == label) & (b == label)).sum() / ((a == label).sum() + (b == label).sum())


def place_and_volume(mask, affine, label):
    """Centre in mm, and volume in mL."""
    index = np.argwhere(mask == label)
    volume = len(index) * abs(np.linalg.det(affine[:3, :3])) / 1000
    return np.array([*(affine[:3, :3] @ index.mean(axis=0) + affine[:3, 3]), volume])


def test_there_are_48_orientations():
    assert len(set(ORIENTATIONS)) == 48


@pytest.mark.parametrize("every", [8, pytest.param(1, marks=pytest.mark.slow)])
def test_the_mask_is_the_same_in_the_world_however_the_scan_is_stored(every):
    """On each grid the mask is what the network says of the very voxels, so that any two masks are of one body."""
    predictor = Predictor(Model(BrightIsKidney(), RECIPE), "cpu")
    seen = {}
    for kind in DIRECTIONS:
        upright, affine = stored(kind)
        truth = labels_of(upright)
        for axcodes in ORIENTATIONS[::every]:
            ornt = nib.orientations.ornt_transform(
                nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(tuple(axcodes))
            )
            voxels = nib.orientations.apply_orientation(upright, ornt)
            turned_affine = affine @ nib.orientations.inv_ornt_aff(ornt, upright.shape)
            assert nib.aff2axcodes(turned_affine) == tuple(axcodes)
            mask = predictor.predict(Scan(Grid("body", "body", voxels.shape, turned_affine), voxels)).mask
            back = np.asarray(nib.as_closest_canonical(nib.Nifti1Image(mask, turned_affine)).dataobj)
            assert min(dice(back, truth, label) for label in (1, 2)) > 0.99, (kind, axcodes)
            if axcodes in (ORIENTATIONS[0], ORIENTATIONS[-8]):
                seen[kind, axcodes] = [place_and_volume(mask, turned_affine, label) for label in (1, 2)]
    first, *others = seen.values()
    for other in others:
        for (*centre, volume), (*other_centre, other_volume) in zip(first, other, strict=True):
            np.testing.assert_allclose(other_centre, centre, atol=0.4)  # a quarter of a voxel
            assert other_volume == pytest.approx(volume, rel=0.02)
