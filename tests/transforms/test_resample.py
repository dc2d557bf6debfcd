"""Resample in slabs and in one piece, with the same bits."""

import pytest
import torch
from conftest import rng
from torch.nn.functional import interpolate

from kits_unet3d.transforms.resample import trilinear

#: (source, wanted): both ways along every axis, more planes and rows than one slab, single voxels, no change.
SHAPES = [((37, 21, 87), (58, 13, 61)), ((5, 90, 70), (9, 150, 33)), ((2, 3, 4), (1, 70, 1)), ((18, 9, 9), (18, 9, 9))]


@pytest.mark.parametrize(("shape", "wanted"), SHAPES)
@pytest.mark.parametrize("dtype", [torch.int16, torch.float32])
def test_slabs_are_the_whole_bit_for_bit(shape, wanted, dtype):
    image = torch.from_numpy(rng(5).standard_normal((2, *shape)) * 500).to(dtype)
    whole = interpolate(image.float()[None], wanted, mode="trilinear", align_corners=True)[0]
    assert torch.equal(trilinear(image, wanted), whole)
