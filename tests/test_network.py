import zlib

import numpy as np
import pytest
import torch
from conftest import configured_loss, golden, rng

from kits_unet3d.networks import UNet3D
from kits_unet3d.pipeline.evaluation import dice_scores


def golden_weight(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    z = rng(zlib.crc32(name.encode())).standard_normal(shape, dtype=np.float32)
    z = z * np.sqrt(2 / np.prod(shape[1:])) if z.ndim >= 2 else 1 + 0.1 * z if name.endswith("weight") else 0.1 * z
    return torch.from_numpy(np.asarray(z, dtype=np.float32))


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


def test_logits_gradients_and_five_steps_are_the_references(recorded, network):
    seed, shape = int(recorded["seed"]), tuple(int(n) for n in recorded["shape"])
    image = torch.from_numpy(rng(seed).standard_normal((1, 1, *shape), dtype=np.float32))
    label = torch.from_numpy(rng(seed + 1).integers(0, 3, (1, 1, *shape)))
    loss_function = configured_loss()
    optimizer = torch.optim.SGD(network.parameters(), lr=float(recorded["lr"]), momentum=0.9, nesterov=True)
    for step, expected in enumerate(recorded["sgd_losses"]):
        optimizer.zero_grad()
        logits = network(image)
        loss = loss_function(logits, label)
        loss.backward()
        if step == 0:
            np.testing.assert_allclose(
                logits[0, :, ::8, ::8, ::8].detach().numpy(), recorded["logits_stride8"], atol=1e-4, rtol=0
            )
            np.testing.assert_allclose(logits.mean((0, 2, 3, 4)).detach(), recorded["logits_mean"], atol=1e-5)
            counts = torch.bincount(logits.argmax(1).ravel(), minlength=3).numpy()
            assert np.abs(counts - recorded["argmax_counts"]).max() <= 3
            scores = dice_scores(logits.argmax(1), label[0])
            np.testing.assert_allclose(scores, recorded["dice"], atol=1e-5)
            norms = np.array([p.grad.norm().item() for p in network.parameters()])
            np.testing.assert_allclose(norms, recorded["grad_norms"], rtol=1e-3)
        assert abs(loss.item() - expected) < 1e-5
        optimizer.step()


def test_an_input_that_cannot_be_halved_is_refused_with_the_multiple():
    with pytest.raises(ValueError, match="multiple of 8"):
        UNet3D(channels=(2, 2, 2))(torch.zeros(1, 1, 16, 16, 20))


@pytest.mark.parametrize("arguments", [{"channels": (8,)}, {"channels": (8, 0)}, {"in_channels": 0}])
def test_impossible_widths_are_refused(arguments):
    with pytest.raises(ValueError, match="must be"):
        UNet3D(**arguments)


def test_the_network_can_be_scripted_for_export():
    network, image = UNet3D(channels=(2, 4)).eval(), torch.rand(1, 1, 8, 8, 8)
    scripted = torch.jit.script(network)
    assert torch.equal(scripted(image), network(image))
    with pytest.raises(torch.jit.Error, match="multiple of 4"):
        scripted(torch.rand(1, 1, 8, 8, 6))
