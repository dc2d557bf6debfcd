import numpy as np
import pytest
import torch
from conftest import golden, rng
from monai.data import MetaTensor

from kits_unet3d.pipeline.inference import ReferenceWindows, reference_weights
from kits_unet3d.transforms import CropToStride

pytestmark = pytest.mark.numeric


@pytest.mark.parametrize("k", range(4))
def test_blended_windows_are_the_references(k):
    recorded = golden("sliding_window")
    roi = int(recorded["roi"])
    image = rng(int(recorded["seed"]) + k).standard_normal((1, 1, *recorded["shapes"][k]), dtype=np.float32)
    i, j, l = torch.meshgrid(*[torch.arange(roi) / roi] * 3, indexing="ij")  # noqa: E741
    ramp = i + 2 * j + 3 * l

    def model(window):
        return torch.cat([window * ramp, window * ramp**2, window + ramp], dim=1)

    kept = CropToStride(roi // 2)(torch.from_numpy(image[0]))
    result = ReferenceWindows(roi, float(recorded["overlap"]))(kept[None], model)
    np.testing.assert_allclose(result[0].numpy(), recorded[f"result_{k}"], atol=1e-5, rtol=0)


def test_the_weights_follow_the_cube_root():
    weights = reference_weights((8, 8, 8))
    sigma = 0.125 * 8
    corner = np.cbrt(np.exp(-0.5 * 3 * (3.5**2 - 0.5**2) / sigma**2))
    assert weights.max() == 1 and weights.shape == (8, 8, 8)
    assert float(weights[0, 0, 0]) == pytest.approx(corner, rel=1e-5)


@pytest.mark.parametrize("batch", [1, 3])
def test_any_shape_comes_back_with_its_affine(batch):
    affine = torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0], dtype=torch.float64))
    image = MetaTensor(torch.rand(1, 1, 5, 21, 18), affine=affine)
    result = ReferenceWindows(8, 0.5, sw_batch_size=batch)(image, lambda x: torch.cat([x, -x], 1))
    assert result.shape == (1, 2, 5, 21, 18)
    torch.testing.assert_close(result[:, :1].as_tensor(), image.as_tensor())
    assert torch.equal(result.affine, affine)
