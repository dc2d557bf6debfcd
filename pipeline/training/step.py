"""One training step."""

from __future__ import annotations

from typing import Any

import torch
from monai.engines import SupervisedTrainer
from monai.utils import CommonKeys

from ..device import Accelerator


class NotFiniteError(ArithmeticError):
    """The loss is no number any more; nothing that follows would mean anything."""


class TrainStep:
    """Forward, loss, backward, optimiser step, for MONAI's ``SupervisedTrainer(iteration_update=…)``.

    MONAI's own step can only mix precision on one vendor's devices, so this one asks the accelerator.

    Args:
        accelerator: gives autocast and the loss scaler.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.scaler = accelerator.scaler()

    def __call__(self, engine: SupervisedTrainer, batch: dict[str, torch.Tensor]) -> dict[str, Any]:
        """Returns image, label, pred (logits) and loss, with the network updated.

        Raises:
            NotFiniteError: if the loss is not finite; the weights are left as they were.
        """
        image, label = engine.prepare_batch(batch, engine.state.device, engine.non_blocking)
        engine.network.train()
        engine.optimizer.zero_grad(set_to_none=True)
        with self.accelerator.autocast():
            logits = engine.inferer(image, engine.network)
            loss = engine.loss_function(logits.float(), label)
        if not torch.isfinite(loss):
            raise NotFiniteError(
                f"loss is {loss.item()} in epoch {engine.state.epoch}, iteration {engine.state.iteration}: "
                "lower the learning rate, lengthen the warm-up, or train in fp32"
            )
        self.scaler.scale(loss).backward()
        self.scaler.step(engine.optimizer)
        self.scaler.update()
        return {
            CommonKeys.IMAGE: image,
            CommonKeys.LABEL: label,
            CommonKeys.PRED: logits.detach(),
            CommonKeys.LOSS: loss.detach(),
        }
