import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from torch.nn import functional

from kits_unet3d.networks import UNet3D
from kits_unet3d.pipeline.inference import Grid, Predictor, labels_on_grid
from kits_unet3d.pipeline.inference.scan_transforms import along_the_body, slabs_on_grid
from kits_unet3d.pipeline.model import Model
from kits_unet3d.transforms import PreprocessingParameters

pytestmark = pytest.mark.numeric


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


def test_on_a_turned_or_sheared_grid_values_are_interpolated_all_at_once():
    """A linear function is met exactly by linear interpolation, whatever the grid."""
    d, h, w = np.meshgrid(*map(np.arange, (9, 10, 11)), indexing="ij")
    values = torch.from_numpy(np.stack([d + 2.0 * h - w, d * 0.0]).astype(np.float32))
    turned = np.array([[0.8, -0.6, 0, 4.0], [0.6, 0.8, 0.1, 1.0], [0, 0, 1, 2.0], [0, 0, 0, 1.0]])
    shape = (4, 5, 6)
    slabs = list(slabs_on_grid(values, np.eye(4), shape, turned, slab=3))
    assert [start for start, _ in slabs] == [0, 3]
    result = torch.cat([part for _, part in slabs], dim=1).numpy()
    places = turned[:3, :3] @ np.indices(shape).reshape(3, -1) + turned[:3, 3:]
    inside = ((places >= 0) & (places <= np.array([[8], [9], [10]]))).all(axis=0)
    expected = np.array([1, 2, -1]) @ places
    assert inside.sum() > 60
    np.testing.assert_allclose(result[0].ravel()[inside], expected[inside], atol=1e-4)


def test_a_turned_scan_keeps_its_own_voxels():
    voxels = np.full((8, 9, 10), 40, np.float32)
    turned = np.array([[0.8, -0.6, 0, 0], [0.6, 0.8, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    result, _ = along_the_body(voxels, Grid(Path("x"), "x", voxels.shape, turned), -1024)
    assert (voxels == 40).all() and result.max() == pytest.approx(40, abs=0.01)


class BrightIsKidney(torch.nn.Module):
    """A network one can check by hand: what is bright is kidney, what is very bright tumour."""

    def forward(self, x):
        return torch.cat([torch.full_like(x, 0.0), x * 4, x * 12 - 8], dim=1)


@pytest.mark.parametrize("axcodes", ["RAS", "LPS", "IPL", "SRA", "PIR"])
def test_the_mask_is_the_same_body_however_the_scan_is_stored(tmp_path, axcodes):
    voxels = np.random.default_rng(0).integers(-120, -79, (30, 40, 36)).astype(np.int16)  # fat, below the HU window
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
    parameters = PreprocessingParameters(spacing_mm=(2.0, 1.5, 1.5), roi_size=(32, 32, 32))
    prediction = Predictor(Model(BrightIsKidney(), parameters), "cpu").predict(tmp_path / "scan.nii.gz")
    assert prediction.mask.shape == stored.shape
    assert (prediction.mask > 0).sum() == pytest.approx((voxels > 0).sum(), rel=0.02)
    ground_truth = np.where(stored == 300, 2, np.where(stored == 150, 1, 0))
    assert (prediction.mask != ground_truth).mean() < 1e-3
    voxel_ml = 2.0 * 1.5 * 1.5 / 1000
    assert prediction.volumes_ml["tumour"] == pytest.approx(float((ground_truth == 2).sum()) * voxel_ml, rel=0.02)


def test_a_real_network_fills_every_voxel_of_an_odd_grid(tmp_path):
    voxels = np.random.default_rng(0).integers(-100, 300, (7, 33, 29)).astype(np.int16)
    nib.save(nib.Nifti1Image(voxels, np.diag([5.0, 0.9, 0.9, 1])), tmp_path / "scan.nii")
    torch.manual_seed(0)
    model = Model(UNet3D(channels=(4, 8)), PreprocessingParameters(spacing_mm=(3, 2, 2), roi_size=(16, 16, 16)))
    prediction = Predictor(model, "cpu").predict(tmp_path / "scan.nii")
    assert prediction.mask.shape == voxels.shape and prediction.mask.max() <= 2


def test_probabilities_are_those_the_mask_comes_from(tmp_path):
    voxels = np.random.default_rng(0).integers(-100, 300, (7, 33, 29)).astype(np.int16)
    nib.save(nib.Nifti1Image(voxels, np.diag([5.0, 0.9, 0.9, 1])), tmp_path / "scan.nii")
    predictor = Predictor(
        Model(BrightIsKidney(), PreprocessingParameters(spacing_mm=(3, 2, 2), roi_size=(16, 16, 16))), "cpu"
    )
    mask = predictor.predict(tmp_path / "scan.nii", probabilities=tmp_path / "scan.npy").mask
    shares = np.load(tmp_path / "scan.npy", mmap_mode="r", allow_pickle=False)
    assert shares.dtype == np.float16 and shares.shape == (*voxels.shape, 3)
    np.testing.assert_allclose(shares.astype(np.float32).sum(axis=3), 1, atol=2e-3)
    assert (shares.argmax(axis=3) != mask).mean() < 1e-3  # ties of float16
