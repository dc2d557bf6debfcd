"""One body, stored in every orientation a scan can have."""

import itertools

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from kits_unet3d.pipeline.inference import Grid, Predictor, Scan
from kits_unet3d.pipeline.model import Model
from kits_unet3d.transforms import PreprocessingParameters

#: The network sees voxels twice as large as the scan's, whose own are small beside the organs: half a voxel at the edge
#: of two masks is far below the hundredth by which they may differ.
RECIPE = PreprocessingParameters(spacing_mm=(1.6, 1.6, 1.6), roi_size=(64, 64, 64))
SPACING = np.array([0.7, 0.75, 0.85])
SHAPE = np.array([232, 150, 150])
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
    """HU at places (…, 3) in mm: two smooth ellipsoids in fat, a kidney and a tumour."""
    hu = np.full(world.shape[:-1], -100.0)
    for centre, radii, value in (((38, 0, 0), (34, 38, 42), 150), ((-38, 4, 0), (33, 36, 40), 320)):
        distance = np.linalg.norm((world - centre) / radii, axis=-1)
        hu += (value - hu) / (1 + np.exp((distance - 1) * 12))
    return hu


def stored(kind):
    """The body on one of the grids, in RAS order, and its affine."""
    affine = np.eye(4)
    affine[:3, :3] = DIRECTIONS[kind] * SPACING
    affine[:3, 3] = -affine[:3, :3] @ ((SHAPE - 1) / 2)
    world = np.moveaxis(np.indices(SHAPE), 0, -1) @ affine[:3, :3].T + affine[:3, 3]
    return body(world).round().astype(np.int16), affine


def dice(a, b, label):
    """Of kidney with tumour for 1, and of tumour for 2: kidney alone has a rim around the tumour, a voxel thin."""
    return 2 * ((a >= label) & (b >= label)).sum() / ((a >= label).sum() + (b >= label).sum())


#: Places of the world, finer than any voxel, at which masks are compared.
WORLD = np.stack(np.meshgrid(*(np.arange(-n, n, 0.6) for n in (78, 48, 48)), indexing="ij"))


def in_the_world(mask, affine):
    """Labels at WORLD: the class whose share, linear between voxels, is largest."""
    inverse = np.linalg.inv(affine)
    places = np.tensordot(inverse[:3, :3], WORLD, 1) + inverse[:3, 3].reshape(3, 1, 1, 1)
    shares = [map_coordinates((mask == c).astype(np.float32), places, order=1) for c in (1, 2)]
    return np.select([shares[1] > 0.5, shares[0] + shares[1] > 0.5], [2, 1]).astype(np.uint8)


def test_there_are_48_orientations():
    assert len(set(ORIENTATIONS)) == 48


@pytest.mark.slow
@pytest.mark.parametrize("every", [16, 1])
def test_the_mask_is_the_same_in_the_world_however_the_scan_is_stored(every):
    predictor = Predictor(Model(BrightIsKidney(), RECIPE), "cpu")
    seen = []  # all that differ
    for kind in DIRECTIONS:
        upright, affine = stored(kind)
        masks = []  # turned upright; equal ones are the same in the world, without looking
        for axcodes in ORIENTATIONS[::every]:
            ornt = nib.orientations.ornt_transform(
                nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(tuple(axcodes))
            )
            voxels = nib.orientations.apply_orientation(upright, ornt)
            rotated_affine = affine @ nib.orientations.inv_ornt_aff(ornt, upright.shape)
            assert nib.aff2axcodes(rotated_affine) == tuple(axcodes)
            mask = predictor.predict(Scan(Grid("body", "body", voxels.shape, rotated_affine), voxels)).mask
            back = nib.orientations.ornt_transform(
                nib.orientations.axcodes2ornt(tuple(axcodes)), nib.orientations.axcodes2ornt("RAS")
            )
            mask = nib.orientations.apply_orientation(mask, back)
            if any(np.array_equal(mask, other) for other in masks):
                continue
            masks.append(mask)
            labels = in_the_world(mask, affine)
            if not any(np.array_equal(labels, other) for other in seen):
                scores = [dice(labels, other, label) for other in seen for label in (1, 2)]
                assert min(scores, default=1) >= 0.99, (kind, axcodes, scores)
                seen.append(labels)
