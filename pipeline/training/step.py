"""One training step."""

from __future__ import annotations

from typing import Any

import torch
from monai.engines import SupervisedTrainer
from monai.utils import CommonKeys

from ..device import Accelerator


class NotFiniteError(ArithmeticError):
    """Loss or gradient is no number any more; nothing that follows would mean anything."""


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
            NotFiniteError: if the loss or a gradient is not finite; the weights are left as they were.
        """
        image, label = engine.prepare_batch(batch, engine.state.device, engine.non_blocking)
        engine.network.train()
        engine.optimizer.zero_grad(set_to_none=True)
        with self.accelerator.autocast():
            logits = engine.inferer(image, engine.network)
            loss = engine.loss_function(logits.float(), label)
        self._require_finite(engine, "loss", loss)
        self.scaler.scale(loss).backward()
        if not self.scaler.is_enabled():  # a scaler finds an overflow itself, and leaves that step out
            gradients = [p.grad for p in engine.network.parameters() if p.grad is not None]
            self._require_finite(engine, "norm of the gradient", torch.nn.utils.get_total_norm(gradients))
        self.scaler.step(engine.optimizer)
        self.scaler.update()
        return {
            CommonKeys.IMAGE: image,
            CommonKeys.LABEL: label,
            CommonKeys.PRED: logits.detach(),
            CommonKeys.LOSS: loss.detach(),
        }

    @staticmethod
    def _require_finite(engine: SupervisedTrainer, name: str, value: torch.Tensor) -> None:
        if not torch.isfinite(value):
            raise NotFiniteError(
                f"{name} is {value.item()} in epoch {engine.state.epoch}, iteration {engine.state.iteration}: "
                "lower the learning rate, lengthen the warm-up, or train in fp32"
            )
