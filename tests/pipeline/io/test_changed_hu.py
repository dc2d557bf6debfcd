"""HU that were shifted, multiplied or byte-swapped are refused, and padding is not taken for them."""

import nibabel as nib
import numpy as np
import pytest
from niftis import AFFINE, ct

from kits_unet3d.pipeline.io import ReadOptions
from kits_unet3d.pipeline.io.scan import read_scan
from kits_unet3d.pipeline.runtime.errors import CaseError


def with_border(voxels, value):
    voxels[:, :2] = value
    return voxels


def noisy_air(voxels):
    noise = np.random.default_rng(1).integers(-20, 20, voxels.shape)
    return np.where(voxels == -1000, voxels + noise, voxels)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda hu: with_border(hu + 1024, -976), "of the body above 700, as in HU plus a constant,"),
        (lambda hu: hu * 10, "of the body above 700"),
        (lambda hu: hu.astype(np.int16).byteswap(), "of the body above 700"),
        (lambda hu: hu - 1024, "without any tissue"),
        (lambda hu: noisy_air(hu) - 600, "at many levels, unlike padding,"),
        (lambda hu: with_border(hu.astype(np.int32), 64512), "values up to 64512"),
    ],
    ids=["padded", "tenfold", "swapped", "shifted", "noisy", "wrapped"],
)
def test_changed_hu_are_refused_unless_stated(tmp_path, change, reason):
    changed = change(ct((30, 30, 10)).astype(np.int32))
    image = nib.Nifti1Image(changed.astype(np.int32 if changed.max() > 32767 else np.int16), AFFINE)
    nib.save(image, tmp_path / "a.nii.gz")
    with pytest.raises(CaseError, match=rf"a.nii.gz: .*{reason}.* are not HU; .*--hu-offset=0"):
        read_scan(tmp_path / "a.nii.gz")
    read_scan(tmp_path / "a.nii.gz", ReadOptions(hu_offset=0))


@pytest.mark.parametrize("values", [(-3024,), (-3024, -2000)])
def test_padding_of_one_or_two_values_is_air(tmp_path, values):
    voxels = noisy_air(ct((30, 30, 10)).astype(np.int32))
    for number, value in enumerate(values):
        voxels[number] = value
    nib.save(nib.Nifti1Image(voxels.astype(np.int16), AFFINE), tmp_path / "a.nii.gz")
    scan = read_scan(tmp_path / "a.nii.gz")
    assert scan.voxels.min() == -1024 and f"{300 * len(values)} voxels below -1500 HU are padding" in scan.warnings[0]
