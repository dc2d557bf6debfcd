"""Perform one training step."""

from __future__ import annotations

import ctypes
import platform
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from ignite.engine import Engine
from monai.engines import IterationEvents
from monai.utils import CommonKeys
from torch import nn
from torch.utils.checkpoint import checkpoint

from ..device import Accelerator
from ..runtime import distributed
from .averaging import WeightAverage
from .lamb import total_norm


class NotFiniteError(ArithmeticError):
    """Report that a loss or gradient is not finite, so further training would be meaningless."""


class TrainStep:
    """Run forward, loss, backward and optimiser step for MONAI's ``SupervisedTrainer(iteration_update=…)``.

    MONAI's own step supports mixed precision on one vendor's devices only, so this step uses the accelerator.

    Args:
        accelerator: provides autocast and the loss scaler.
        accumulation_steps: number of batches per optimiser step; their losses are divided by it.
            Incomplete steps at the end of an epoch are dropped, as in the reference.
        average: average of the weights to update.
    """

    def __init__(
        self, accelerator: Accelerator, accumulation_steps: int = 1, average: WeightAverage | None = None
    ) -> None:
        if accumulation_steps < 1:
            raise ValueError(f"accumulation_steps must be at least 1, got {accumulation_steps}")
        self.accelerator, self.accumulation_steps, self.average = accelerator, accumulation_steps, average
        self.scaler = accelerator.scaler()

    def finished(self, engine: Engine) -> bool:
        """Return True if the current iteration ended an optimiser step or the epoch."""
        done = engine.state.iteration % (engine.state.epoch_length or 1)
        return done % self.accumulation_steps == 0

    def __call__(self, engine: Any, batch: dict[str, torch.Tensor]) -> Any:
        """Update the network and return image, label, pred (logits) and loss (undivided, mean over processes).

        The result is a dictionary, or a dictionary for each sample if the trainer decollates.

        Raises:
            NotFiniteError: if the loss or a gradient is not finite. With a loss scaler: if no gradient was finite for
                many steps in a row. The weights stay unchanged.
        """
        image, label = engine.prepare_batch(batch, engine.state.device, engine.non_blocking)
        position = (engine.state.iteration - 1) % (engine.state.epoch_length or 1)
        last = (position + 1) % self.accumulation_steps == 0
        engine.network.train()
        if position % self.accumulation_steps == 0:
            engine.optimizer.zero_grad(set_to_none=True)
        # Only the last backward pass needs to synchronise gradients between processes.
        alone = nullcontext() if last else getattr(engine.network, "no_sync", nullcontext)()
        with alone:
            with self.accelerator.autocast():
                logits = engine.inferer(image, engine.network)
                loss = engine.loss_function(logits.float(), label)
            self._require_finite(engine, "loss", loss)
            self.scaler.scale(loss / self.accumulation_steps).backward()
        if last:
            self._update(engine)
        engine.state.output = {
            CommonKeys.IMAGE: image,
            CommonKeys.LABEL: label,
            CommonKeys.PRED: logits.detach(),
            CommonKeys.LOSS: distributed.mean(loss.detach()),
        }
        engine.fire_event(IterationEvents.MODEL_COMPLETED)  # configured handlers follow this event
        return engine.state.output

    def _update(self, engine: Any) -> None:
        if not self.scaler.is_enabled():  # a scaler detects an overflow itself and skips that step
            gradients = [p.grad for p in engine.network.parameters() if p.grad is not None]
            self._require_finite(engine, "norm of the gradient", total_norm(gradients))
        self.scaler.step(engine.optimizer)
        self.scaler.update()
        # Each overflow halves the scale. A scale below 1 no longer lifts gradients into the range of half precision.
        # It shows that gradients are never finite any more, and the run would skip steps forever.
        if (scale := self.scaler.get_scale()) < 1:
            raise _diverged(engine, f"the loss scale dropped to {scale}")
        if self.average is not None:
            self.average.update()

    @staticmethod
    def _require_finite(engine: Any, name: str, value: torch.Tensor) -> None:
        if not torch.isfinite(value):
            raise _diverged(engine, f"{name} is {value.item()}")


def _diverged(engine: Any, what: str) -> NotFiniteError:
    return NotFiniteError(
        f"{what} in epoch {engine.state.epoch}, iteration {engine.state.iteration}: "
        "lower the learning rate, lengthen the warm-up, or train in fp32"
    )


M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of <malloc.h>


def keep_freed_memory(accelerator: Accelerator, keep: bool = True) -> None:
    """Keep freed memory on a CPU for the next tensors, as accelerators do by default, or stop doing so.

    glibc returns a freed tensor of more than 32 MB to the system at once. The next tensor gets new pages, which the
    system zeroes first. This takes up to half of a training step (``docs/performance.md``). If memory is kept, its use
    does not fall between steps. Other C libraries are unchanged.
    """
    if accelerator.on_cpu and platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0 if keep else 65536)
        mallopt(M_TRIM_THRESHOLD, -1 if keep else 128 * 1024)


def recomputed(network: nn.Module) -> nn.Module:
    """Make the blocks of ``network`` keep only their inputs in training and recompute the rest; return ``network``.

    Blocks are the network's children, or the members of a child that is a list. A block that contains other blocks, as
    in MONAI's `DynUNet`, is left out, because its inner blocks would be computed a third time. Names of weights,
    results and gradients do not change. Without gradients nothing changes.
    """
    children = [
        block for child in network.children() for block in (child if isinstance(child, nn.ModuleList) else [child])
    ]
    for block in children:
        if any(inner in children for inner in block.modules() if inner is not block):
            continue
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)  # type: ignore[method-assign]
    return network
