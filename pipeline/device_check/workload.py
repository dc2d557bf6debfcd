"""Run the configured network and loss on a synthetic patch."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import monai.losses
import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer
from monai.inferers import SimpleInferer
from torch import nn

from ..device import Accelerator
from ..inference import AutocastInferer, ReferenceWindows
from ..model import build_network, window_fault
from ..runtime.errors import UsageError
from ..training import TrainStep


@dataclass(frozen=True)
class Workload:
    """Compute the same numbers on every device.

    Attributes:
        network: as :func:`kits_unet3d.pipeline.model.describe_network` describes it.
        loss: arguments of one of MONAI's losses, with its class as ``_target_``.
        patch: edge of the cubic patch in voxels.
        rate: learning rate of the steps, by SGD with Nesterov momentum.
    """

    network: Mapping[str, Any]
    loss: Mapping[str, Any]
    patch: int
    rate: float = 0.01

    def require_patch(self) -> None:
        """Check that the network takes patches of this size, without computing one.

        Raises:
            UsageError: if it does not.
        """
        with torch.device("meta"):
            network = build_network(self.network)
        if fault := window_fault(network, [self.patch] * 3) if self.patch > 0 else "it is empty":
            raise UsageError(f"--patch {self.patch}: the network cannot take such a patch ({fault}); training uses 128")

    def fresh_network(self, accelerator: Accelerator) -> nn.Module:
        """Create the network on the device, with the same weights each time."""
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
            return build_network(self.network).to(accelerator.device)

    def batch(self, seed: int = 0) -> dict[str, torch.Tensor]:
        """Create a synthetic image, float32 (1, 1, D, H, W), and label, classes 0 to 2, on the CPU."""
        generator = torch.Generator().manual_seed(seed)
        shape = (1, 1, *[self.patch] * 3)
        label = torch.randint(0, 3, shape, generator=generator)
        return {"image": torch.randn(shape, generator=generator), "label": label}

    def train(
        self,
        accelerator: Accelerator,
        network: nn.Module,
        steps: int = 1,
        batch: Mapping[str, torch.Tensor] | None = None,
    ) -> list[float]:
        """Train ``network`` for some steps on ``batch`` or a synthetic one; return the loss of each step."""
        losses: list[float] = []
        trainer = SupervisedTrainer(
            device=accelerator.device,
            max_epochs=steps,
            train_data_loader=[self.batch() if batch is None else batch],
            network=network,
            optimizer=torch.optim.SGD(network.parameters(), self.rate, momentum=0.9, nesterov=True),
            loss_function=self.loss_function(),
            inferer=SimpleInferer(),
            iteration_update=TrainStep(accelerator),  # type: ignore[arg-type]
            decollate=False,
        )
        trainer.logger.disabled = True
        trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda e: losses.append(float(e.state.output["loss"])))
        trainer.run()
        return losses

    def seconds_a_step(self, accelerator: Accelerator, steps: int = 3) -> float:
        """Return the mean time of a training step, after one that is not counted."""
        network = self.fresh_network(accelerator)
        times = []
        for counted in (1, steps):
            accelerator.synchronize()
            started = time.perf_counter()
            self.train(accelerator, network, counted)
            accelerator.synchronize()
            times.append((time.perf_counter() - started) / counted)
        return times[-1]

    @torch.no_grad()  # not inference_mode: there :class:`Detours` sees operations before their decomposition
    def window(self, accelerator: Accelerator) -> torch.Tensor:
        """Return the logits of one sliding window, (1, classes, D, H, W), on the CPU."""
        inferer = AutocastInferer(ReferenceWindows(self.patch, stitch_device="cpu"), accelerator)
        image = self.batch()["image"].to(accelerator.device)
        return inferer(image, self.fresh_network(accelerator).eval())

    def loss_function(self) -> nn.Module:
        """Create the loss.

        Raises:
            UsageError: if it is not one of MONAI's.
        """
        name = str(self.loss.get("_target_", "")).rpartition(".")[2]
        if not hasattr(monai.losses, name):
            raise UsageError(f"the configuration's loss {name!r} is not MONAI's; check the device with another one")
        arguments = {key: value for key, value in self.loss.items() if not key.startswith("_")}
        return getattr(monai.losses, name)(**arguments)  # type: ignore[no-any-return]
