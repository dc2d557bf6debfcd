import itertools

import nibabel as nib
import numpy as np
import pytest
import torch
from torch.nn import functional

from kits_unet3d.networks import UNet3D
from kits_unet3d.pipeline.inference import Predictor, labels_on_grid
from kits_unet3d.pipeline.model import Model
from kits_unet3d.transforms import Recipe


def test_labels_on_a_finer_grid_are_those_of_interpolated_logits():
    logits = torch.randn(3, 5, 6, 7, generator=torch.Generator().manual_seed(0))
    shape = (13, 11, 9)
    scale = [(n - 1) / (m - 1) for n, m in zip(logits.shape[1:], shape, strict=True)]
    fine = functional.interpolate(logits[None], shape, mode="trilinear", align_corners=True)[0].argmax(0)
    labels = labels_on_grid(logits, np.eye(4), shape, np.diag([*scale, 1.0]), slab=4)
    assert labels.dtype == np.uint8
    assert (labels != fine.numpy()).mean() < 1e-3  # ties in the last bit of float32


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_axes_in_any_order_and_direction(order):
    logits = torch.randn(2, 4, 5, 6, generator=torch.Generator().manual_seed(1))
    plain = logits.argmax(0).numpy()
    for signs in itertools.product((1, -1), repeat=3):
        ornt = np.array([[axis, sign] for axis, sign in zip(order, signs, strict=True)])
        stored = nib.orientations.apply_orientation(plain, ornt)
        affine = nib.orientations.inv_ornt_aff(ornt, plain.shape)
        assert (labels_on_grid(logits, np.eye(4), stored.shape, affine) == stored).all()


def test_a_grid_that_is_turned_is_refused():
    turned = np.array([[0.8, -0.6, 0, 0], [0.6, 0.8, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    with pytest.raises(ValueError, match="parallel"):
        labels_on_grid(torch.zeros(2, 4, 4, 4), np.eye(4), (4, 4, 4), turned)


class BrightIsKidney(torch.nn.Module):
    """A network one can check by hand: what is bright is kidney, what is very bright tumour."""

    def forward(self, x):
        return torch.cat([torch.full_like(x, 0.0), x * 4, x * 12 - 8], dim=1)


@pytest.mark.parametrize("axcodes", ["RAS", "LPS", "IPL", "SRA", "PIR"])
def test_the_mask_is_the_same_body_however_the_scan_is_stored(tmp_path, axcodes):
    voxels = np.full((30, 40, 36), -50, np.int16)
    voxels[8:20, 10:30, 12:24] = 150
    voxels[10:14, 12:20, 14:20] = 300
    affine = np.diag([-2.0, -1.5, -1.5, 1.0])[[2, 1, 0, 3]]  # IPL
    affine[:3, 3] = (20, 30, 40)
    now = nib.orientations.axcodes2ornt(tuple("IPL"))
    turn = nib.orientations.ornt_transform(now, nib.orientations.axcodes2ornt(tuple(axcodes)))
    stored = nib.orientations.apply_orientation(voxels, turn)
    nib.save(
        nib.Nifti1Image(stored, affine @ nib.orientations.inv_ornt_aff(turn, voxels.shape)), tmp_path / "scan.nii.gz"
    )
    assert nib.aff2axcodes(nib.load(tmp_path / "scan.nii.gz").affine) == tuple(axcodes)
    recipe = Recipe(spacing_mm=(2.0, 1.5, 1.5), roi_size=(32, 32, 32))
    prediction = Predictor(Model(BrightIsKidney(), recipe), "cpu").predict(tmp_path / "scan.nii.gz")
    assert prediction.mask.shape == stored.shape
    assert (prediction.mask > 0).sum() == pytest.approx((voxels > 0).sum(), rel=0.02)
    truth = np.where(stored == 300, 2, np.where(stored == 150, 1, 0))
    assert (prediction.mask != truth).mean() < 1e-3
    voxel_ml = 2.0 * 1.5 * 1.5 / 1000
    assert prediction.volumes_ml["tumour"] == pytest.approx(float((truth == 2).sum()) * voxel_ml, rel=0.02)


def test_a_real_network_fills_every_voxel_of_an_odd_grid(tmp_path):
    voxels = np.random.default_rng(0).integers(-100, 300, (7, 33, 29)).astype(np.int16)
    nib.save(nib.Nifti1Image(voxels, np.diag([5.0, 0.9, 0.9, 1])), tmp_path / "scan.nii")
    torch.manual_seed(0)
    model = Model(UNet3D(channels=(4, 8)), Recipe(spacing_mm=(3, 2, 2), roi_size=(16, 16, 16)))
    prediction = Predictor(model, "cpu").predict(tmp_path / "scan.nii")
    assert prediction.mask.shape == voxels.shape and prediction.mask.max() <= 2
