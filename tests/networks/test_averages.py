from functools import partial

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import nn

from kits_unet3d.networks import CheckpointError, Ensemble, FlipTTA, UNet3D
from kits_unet3d.pipeline import Predictor
from kits_unet3d.pipeline.device import resolve
from kits_unet3d.pipeline.inference.backends import BackendInferer, averaged
from kits_unet3d.pipeline.model import describe_network, model_of_run, read_model
from kits_unet3d.pipeline.runtime.errors import UsageError
from kits_unet3d.transforms import PreprocessingParameters

pytestmark = pytest.mark.numeric


class Times(nn.Module):
    """Voxels times a number, plus their place along the axes, which mirroring turns round."""

    def __init__(self, factor, place=(0.0, 0.0, 0.0)):
        super().__init__()
        self.factor, self.place = factor, place

    def forward(self, x):
        d, h, w = (torch.arange(n, dtype=x.dtype) for n in x.shape[2:])
        a, b, c = self.place
        return x * self.factor + a * d[:, None, None] + b * h[:, None] + c * w


def test_an_ensemble_is_the_mean_of_its_members():
    x = torch.rand(2, 1, 3, 4, 5)
    torch.testing.assert_close(Ensemble([Times(1.0), Times(2.0), Times(6.0)])(x), x * 3)
    torch.testing.assert_close(Ensemble([Times(2.0)])(x), x * 2)
    with pytest.raises(ValueError, match="at least one"):
        Ensemble([])


def test_mirroring_averages_what_depends_on_the_side_and_leaves_the_rest():
    x = torch.rand(1, 1, 3, 4, 5)
    along_d_and_h = FlipTTA(Times(2.0, (1.0, 10.0, 100.0)), axes=(0, 1))(x)
    width = torch.arange(5.0) * 100
    # The mean place along D of 3 is 1, along H of 4 is 1.5; W is not mirrored.
    torch.testing.assert_close(along_d_and_h, x * 2 + 1 + 15 + width)
    torch.testing.assert_close(FlipTTA(Times(2.0, (1.0, 10.0, 100.0)))(x), x * 2 + 1 + 15 + torch.full((5,), 200.0))


def test_every_mirror_image_is_seen_once():
    seen = []

    class Seen(nn.Module):
        def forward(self, x):
            seen.append(tuple(x.flatten().tolist()))
            return x

    FlipTTA(Seen())(torch.arange(8.0).view(1, 1, 2, 2, 2))
    assert len(seen) == len(set(seen)) == 8
    seen.clear()
    x = torch.rand(1, 1, 2, 2, 2)
    assert torch.equal(FlipTTA(Seen(), axes=())(x), x) and len(seen) == 1


@pytest.mark.parametrize("axes", [(0, 0), (3,), (-1,)])
def test_other_axes_than_the_three_are_refused(axes):
    with pytest.raises(ValueError, match="axes"):
        FlipTTA(nn.Identity(), axes)


@pytest.fixture
def checkpoints(tmp_path):
    """Two of different networks, and one that wants its images preprocessed in another way."""
    paths = []
    for seed, (channels, spacing) in enumerate((((2, 4), 3), ((4, 4), 3), ((2, 4), 2))):
        torch.manual_seed(seed)
        factory = partial(UNet3D, channels=list(channels))
        parameters = PreprocessingParameters(spacing_mm=(spacing, 3, 3), roi_size=(16, 16, 16)).as_dict()
        paths.append(tmp_path / f"{seed}.pt")
        torch.save(
            {
                "model": factory().state_dict(),
                "network": describe_network(factory),
                "preprocessing_parameters": parameters,
            },
            paths[-1],
        )
    return paths


def test_several_checkpoints_are_read_as_their_mean(checkpoints):
    x = torch.rand(1, 1, 8, 8, 8)
    first, second = (read_model(path).network.eval() for path in checkpoints[:2])
    both = read_model(checkpoints[:2])
    with torch.no_grad():
        torch.testing.assert_close(both.network.eval()(x), (first(x) + second(x)) / 2)
    assert both.sources == tuple(checkpoints[:2])
    with pytest.raises(CheckpointError, match="2.pt: preprocesses images differently from"):
        read_model(checkpoints)


def test_mirrored_predictions_of_a_mirrored_scan_are_mirrored(checkpoints, tmp_path):
    """The windows, and the network's own preference for a side, cancel out; without mirroring they do not."""
    voxels = np.random.default_rng(0).normal(0, 200, (16, 16, 16)).astype(np.int16)
    voxels[0, 0, 0] = -1024
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    for name, array in (("plain", voxels), ("turned", voxels[::-1])):
        nib.save(nib.Nifti1Image(array, affine), tmp_path / f"{name}.nii.gz")
    masks = {}
    for tta in (False, True):
        predictor = Predictor(checkpoints[:2], "cpu", tta=tta)
        masks[tta] = [predictor.predict(tmp_path / f"{name}.nii.gz").mask for name in ("plain", "turned")]
    assert (masks[True][0] != masks[True][1][::-1]).mean() < 1e-3  # equal logits may fall either way
    assert (masks[False][0] != masks[False][1][::-1]).mean() > 1e-2


def test_each_network_gets_one_engine_however_often_it_is_used():
    one, other = Times(1.0, (1.0, 0.0, 0.0)), Times(3.0)
    network, made = FlipTTA(Ensemble([one, other]), axes=(0, 2)), []

    def make(single, windows):
        made.append((single, windows))
        return single

    backend = averaged(network, 5.0, make)
    assert made == [(one, 20.0), (other, 20.0)]
    x = torch.rand(1, 1, 3, 4, 5)
    torch.testing.assert_close(backend(x), network(x))


@pytest.mark.parametrize("backend", ["eager", "channels_last"])
def test_an_engine_of_several_networks_gives_what_they_give(checkpoints, backend):
    network = read_model(checkpoints[:2], tta=True).network.eval()
    x = torch.rand(1, 1, 16, 16, 16)
    inferer = BackendInferer(lambda window, made: made(window), resolve("cpu"), (16, 16, 16), backend)
    with torch.no_grad():
        torch.testing.assert_close(inferer(x, network), network(x), rtol=1e-4, atol=1e-5)


def test_networks_mirrored_along_other_axes_do_not_look_alike():
    assert str(FlipTTA(nn.Identity(), (0,))) != str(FlipTTA(nn.Identity(), (0, 1)))


def test_a_model_already_read_is_not_mirrored_afterwards(checkpoints):
    with pytest.raises(UsageError, match="tta does not apply to a model that was read already"):
        Predictor(read_model(checkpoints[0]), "cpu", tta=True)
    assert Predictor(read_model(checkpoints[0], tta=True), "cpu", tta=True).settings["tta"]


def test_a_bundle_run_reports_one_unusable_checkpoint_among_several(checkpoints, capsys):
    factory = partial(UNet3D, channels=[2, 4])
    assert model_of_run(checkpoints[:2], factory, tta=True).tta
    for wrong, message in ((checkpoints[0].with_name("typo.pt"), "typo.pt"), (checkpoints[2], "differently")):
        with pytest.raises(SystemExit) as ended:
            model_of_run([checkpoints[0], wrong], factory)
        assert ended.value.code == 3 and message in capsys.readouterr().err
