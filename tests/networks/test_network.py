import numpy as np
import pytest
import torch
from conftest import configured_loss, golden, golden_weight, rng

from kits_unet3d.networks import UNet3D
from kits_unet3d.pipeline.evaluation import dice_scores

pytestmark = pytest.mark.numeric


@pytest.fixture(scope="module")
def recorded():
    return golden("network")


@pytest.fixture
def network():
    net = UNet3D()
    net.load_state_dict({name: golden_weight(name, tuple(p.shape)) for name, p in net.state_dict().items()})
    return net


def test_names_shapes_and_count_are_the_references(recorded):
    state = UNet3D().state_dict()
    assert list(state) == list(recorded["parameter_names"])
    assert [str(tuple(p.shape)) for p in state.values()] == list(recorded["parameter_shapes"])
    assert sum(p.numel() for p in state.values()) == 31_190_243


#: What rounding in FP32 may change, whatever a processor's vectors and the order of its sums. A float64 run of this
#: network is 7e-6 from the recorded logits; FP32 runs with AVX2, AVX-512 and AMX are at most 1.4e-5 from them.
LOGITS = 4e-5
#: A gradient's rounding error is a share of the terms of its sum, not of the sum, in which the terms mostly cancel: the
#: recorded norms differ from a float64 run by up to 1.1e-3 of themselves. So the bound of a norm is a share of itself
#: plus a share of the norm of the whole gradient.
NORM, WHOLE_NORM = 3e-4, 2e-5
#: Of the loss before the first step of the optimiser. Its error grows with each step: measured, 7e-6 at the fifth.
LOSS, GROWTH = 1e-6, 2


def inputs(recorded):
    """Return the image and the label that the golden was recorded on."""
    seed, shape = int(recorded["seed"]), tuple(int(n) for n in recorded["shape"])
    image = torch.from_numpy(rng(seed).standard_normal((1, 1, *shape), dtype=np.float32))
    return image, torch.from_numpy(rng(seed + 1).integers(0, 3, (1, 1, *shape)))


def deviations(network, recorded, image, label, loss_function):
    """Do the first step up to the gradients; return each result's distance from the golden, as a share of its bound."""
    logits = network(image)
    loss = loss_function(logits, label)
    loss.backward()
    norms = np.array([0.0 if p.grad is None else p.grad.norm().item() for p in network.parameters()])
    counts = torch.bincount(logits.argmax(1).ravel(), minlength=3).numpy()
    golden_norms = recorded["grad_norms"]
    bound_of_norms = NORM * golden_norms + WHOLE_NORM * np.linalg.norm(golden_norms)
    found = {
        "logits": (logits[0, :, ::8, ::8, ::8].detach().numpy() - recorded["logits_stride8"]) / LOGITS,
        "mean of the logits": (logits.mean((0, 2, 3, 4)).detach().numpy() - recorded["logits_mean"]) / 1e-6,
        "counts of the classes": (counts - recorded["argmax_counts"]) / 3,
        "Dice": (np.array(dice_scores(logits.argmax(1), label[0])) - recorded["dice"]) / 1e-5,
        "loss": (loss.item() - recorded["sgd_losses"][0]) / LOSS,
        "norms of the gradients": (norms - golden_norms) / bound_of_norms,
    }
    return {name: float(np.abs(shares).max()) for name, shares in found.items()}


def optimiser(network, recorded, **changed):
    settings = {"lr": float(recorded["lr"]), "momentum": 0.9, "nesterov": True, **changed}
    return torch.optim.SGD(network.parameters(), **settings)


def later_losses(network, recorded, image, label, sgd):
    """Continue from the first gradients; return each later loss's distance from the golden, as a share of its bound."""
    shares = []
    for step, expected in enumerate(recorded["sgd_losses"][1:], start=1):
        sgd.step()
        sgd.zero_grad()
        loss = configured_loss()(network(image), label)
        loss.backward()
        shares.append(abs(loss.item() - expected) / (LOSS * GROWTH**step))
    return shares


def test_logits_gradients_and_five_steps_are_the_references(recorded, network):
    image, label = inputs(recorded)
    found = deviations(network, recorded, image, label, configured_loss())
    assert all(share <= 1 for share in found.values()), found
    shares = later_losses(network, recorded, image, label, optimiser(network, recorded))
    assert all(share <= 1 for share in shares), shares


def norms_with(eps):
    def change(network):
        for module in network.modules():
            if isinstance(module, torch.nn.InstanceNorm3d):
                module.eps = eps

    return change


def without_bias(network):
    network.upsample[-1].upsample_conv[0].bias.data.zero_()


def with_swapped_axes(network):
    weight = network.downsample[0].conv2[0].weight
    weight.data = weight.data.transpose(2, 3).contiguous()


def with_swapped_skip(network):
    block = network.upsample[-1].conv1[0]
    block.weight.data = block.weight.data.roll(block.weight.shape[1] // 2, 1)


def with_leaky_relu(network):
    network.input_block.conv1[2] = torch.nn.LeakyReLU(1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [norms_with(1e-4), norms_with(1e-6), without_bias, with_swapped_axes, with_swapped_skip, with_leaky_relu],
    ids=["eps 1e-4", "eps 1e-6", "no bias", "swapped axes", "swapped skip", "leaky ReLU"],
)
def test_the_bounds_find_a_network_that_is_a_little_wrong(recorded, network, change):
    change(network)
    found = deviations(network, recorded, *inputs(recorded), configured_loss())
    assert max(found.values()) > 3, found  # not by a hair either


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [{"momentum": 0.89}, {"nesterov": False}])
def test_the_bounds_find_a_wrong_optimiser(recorded, network, wrong):
    image, label = inputs(recorded)
    configured_loss()(network(image), label).backward()
    assert max(later_losses(network, recorded, image, label, optimiser(network, recorded, **wrong))) > 3


def test_an_input_that_cannot_be_halved_is_refused_with_the_multiple():
    with pytest.raises(ValueError, match="multiple of 8"):
        UNet3D(channels=(2, 2, 2))(torch.zeros(1, 1, 16, 16, 20))


@pytest.mark.parametrize("arguments", [{"channels": (8,)}, {"channels": (8, 0)}, {"in_channels": 0}])
def test_impossible_channels_are_refused(arguments):
    with pytest.raises(ValueError, match="must be"):
        UNet3D(**arguments)


def test_the_network_can_be_scripted_for_export():
    network, image = UNet3D(channels=(2, 4)).eval(), torch.rand(1, 1, 8, 8, 8)
    scripted = torch.jit.script(network)
    assert torch.equal(scripted(image), network(image))
    with pytest.raises(torch.jit.Error, match="multiple of 4"):
        scripted(torch.rand(1, 1, 8, 8, 6))
