"""Deep supervision and losses of regions, worked out by hand."""

import math

import pytest
import torch
from conftest import configured_loss
from torch import nn

from kits_unet3d.pipeline.training import DeepSupervision, RegionLoss
from kits_unet3d.pipeline.training.losses import region_logits

pytestmark = pytest.mark.numeric


class Difference(nn.Module):
    """The mean of the first class's logits less the label."""

    def forward(self, logits, label):
        return (logits[:, :1] - label).mean()


def test_heads_are_weighted_by_halves_that_sum_to_one():
    label = torch.zeros(1, 1, 8, 8, 8)
    heads = torch.stack([torch.full((1, 3, 8, 8, 8), value) for value in (7.0, 14.0, 28.0)], dim=1)
    # (1·7 + ½·14 + ¼·28) / (1 + ½ + ¼)
    assert DeepSupervision(Difference())(heads, label).item() == pytest.approx(12.0)


def test_a_coarse_head_is_compared_with_the_label_past_each_voxel_centre():
    label = torch.zeros(1, 1, 8, 8, 8)
    label[0, 0, 1::2, 1::2, 1::2] = 5  # what the first coarse head is compared with, and the output an eighth
    heads = torch.zeros(1, 2, 3, 8, 8, 8)
    # (1·(−5/8) + ½·(−5)) / 1.5
    assert DeepSupervision(Difference())(heads, label).item() == pytest.approx((-5 / 8 - 2.5) / 1.5)


def test_each_deep_supervision_head_is_constant_over_its_coarse_voxels():
    monai = pytest.importorskip("monai.networks.nets")
    torch.manual_seed(0)
    network = monai.DynUNet(
        3, 1, 3, [3] * 4, [1, 2, 2, 2], [2] * 3, [2, 2, 2, 2], deep_supervision=True, deep_supr_num=2
    )
    heads = network.train()(torch.randn(2, 1, 16, 16, 16))
    assert heads.shape == (2, 3, 3, 16, 16, 16)
    for level in (1, 2):
        step = 2**level
        seen = heads[:, level, :, step // 2 :: step, step // 2 :: step, step // 2 :: step]
        repeated = seen.repeat_interleave(step, 2).repeat_interleave(step, 3).repeat_interleave(step, 4)
        assert torch.equal(repeated, heads[:, level])


def test_a_network_without_heads_has_the_loss_itself():
    logits, label = torch.randn(2, 3, 8, 8, 8), torch.randint(0, 3, (2, 1, 8, 8, 8))
    assert DeepSupervision(configured_loss())(logits, label) == configured_loss()(logits, label)


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"\(B, heads, C, D, H, W\)"):
        DeepSupervision(Difference())(torch.zeros(1, 2, 3, 8, 8, 8), torch.zeros(1, 1, 4, 8, 8))


def test_a_regions_logit_is_that_of_the_sum_of_its_probabilities():
    logits = torch.tensor([1.0, 2.0, -0.5]).reshape(1, 3, 1, 1, 1)
    p = torch.softmax(logits, 1).flatten()
    union, tumour = region_logits(logits, [[1, 2], [2]]).flatten().sigmoid()
    assert union.item() == pytest.approx((p[1] + p[2]).item(), rel=1e-6)
    assert tumour.item() == pytest.approx(p[2].item(), rel=1e-6)
    far = region_logits(torch.tensor([300.0, -300.0, -200.0]).reshape(1, 3, 1, 1, 1), [[1, 2]])
    assert far.item() == pytest.approx(-500.0)  # where a softmax would have lost it


def test_the_loss_of_regions_is_what_a_hand_works_out():
    """One patch of two voxels, kidney and background, and a network that knows nothing: 1/3 for each class."""
    logits, label = torch.zeros(1, 3, 1, 1, 2), torch.tensor([1, 0]).reshape(1, 1, 1, 1, 2)
    nothing = Difference()
    plain = nothing(logits, label).item()
    both = RegionLoss(nothing, [[1, 2], [2]], weight=3.0)(logits, label).item()
    # Union: p = 2/3, 2/3 of truth 1, 0: Dice 2·(2/3) / (4/3 + 1) = 4/7. Tumour: p = 1/3 of no truth: Dice 0.
    dice = ((1 - 4 / 7) + 1) / 2
    cross_entropy = -(math.log(2 / 3) + math.log(1 / 3) + 2 * math.log(2 / 3)) / 4
    assert both - plain == pytest.approx(3 * (dice + cross_entropy) / 2, abs=1e-5)


def test_without_weight_the_loss_is_the_classes_own():
    logits, label = torch.randn(1, 3, 4, 4, 4), torch.randint(0, 3, (1, 1, 4, 4, 4))
    assert RegionLoss(configured_loss(), [[1, 2]], 0.0)(logits, label) == configured_loss()(logits, label)


@pytest.mark.parametrize("regions", [[], [[]], [[-1]]])
def test_regions_that_are_none_are_refused(regions):
    with pytest.raises(ValueError, match="regions must be"):
        RegionLoss(Difference(), regions)


@pytest.mark.parametrize("region", [[3], [0, 1, 2]])
def test_a_region_of_a_class_that_there_is_not_or_of_all_is_refused(region):
    with pytest.raises(ValueError, match="a region must contain some of the 3 classes"):
        region_logits(torch.zeros(1, 3, 1, 1, 1), [region])
