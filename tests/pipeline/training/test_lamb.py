"""LAMB's steps, worked by hand from the rule that the reference's optimiser follows."""

import copy

import pytest
import torch

from kits_unet3d.pipeline.training import Lamb

pytestmark = pytest.mark.numeric


def run(steps, gradient, weight=1.0, **options):
    """The weights, four alike, after some steps with the same gradient."""
    weights = torch.nn.Parameter(torch.full((4,), weight))
    optimizer = Lamb([weights], **options)
    for _ in range(steps):
        weights.grad = torch.full((4,), gradient)
        optimizer.step()
    return weights.detach()


def test_without_decay_each_step_is_as_long_as_the_rate():
    """Both moments are corrected, so a gradient that stays the same moves by the rate, whatever its size."""
    for gradient in (0.5, 0.05, 500.0):
        torch.testing.assert_close(run(20, gradient, lr=0.1), torch.full((4,), 1 - 20 * 0.1), atol=1e-3, rtol=0)


def test_with_decay_a_step_is_as_long_as_the_weights_are_times_the_rate():
    """Update 1 + 0.1 · 2 each; scaled to the norm 4 of the weights, 2 each, it is 2: 2 − 0.1 · 2."""
    torch.testing.assert_close(run(1, 0.5, 2.0, lr=0.1, weight_decay=0.1), torch.full((4,), 1.8))
    # Weights of nothing have no norm to go by: the update of 1 as it is.
    torch.testing.assert_close(run(1, 0.5, 0.0, lr=0.1, weight_decay=0.1), torch.full((4,), -0.1))


def test_a_long_gradient_is_clipped_over_all_parameters_together():
    """Gradients 3 and 4, norm 5, become 0.6 and 0.8; the next, 0.3 and 0.4, stay, and only so is the step known."""
    first, second = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))
    optimizer = Lamb([{"params": [first]}, {"params": [second]}], lr=0.1)
    for a, b in ((3.0, 4.0), (0.3, 0.4)):
        first.grad, second.grad = torch.tensor([a]), torch.tensor([b])
        optimizer.step()
    moment = (0.1 * 0.9 * 0.6 + 0.1 * 0.3) / (1 - 0.9**2)
    square = (0.001 * 0.999 * 0.6**2 + 0.001 * 0.3**2) / (1 - 0.999**2)
    assert first.item() == pytest.approx(-0.1 - 0.1 * moment / square**0.5, abs=1e-5)
    assert second.item() == pytest.approx(first.item(), abs=1e-5)  # the same ratio of moments


def test_a_state_that_was_kept_goes_on():
    weights = torch.nn.Parameter(torch.ones(4))
    first = Lamb([weights], lr=0.1)
    weights.grad = torch.full((4,), 0.5)
    first.step()
    twin = torch.nn.Parameter(weights.detach().clone())
    second = Lamb([twin], lr=0.1)
    second.load_state_dict(copy.deepcopy(first.state_dict()))  # torch shares tensors otherwise
    for optimizer, one in ((first, weights), (second, twin)):
        one.grad = torch.tensor([0.1, 0.2, 0.3, -0.4])
        optimizer.step()
    assert torch.equal(weights, twin)


@pytest.mark.parametrize("wrong", [{"lr": 0.0}, {"betas": (0.9, 1.0)}, {"eps": 0.0}, {"weight_decay": -1.0}])
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match="must be positive"):
        Lamb([torch.nn.Parameter(torch.ones(1))], **wrong)
