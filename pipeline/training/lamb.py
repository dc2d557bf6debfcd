"""Provide LAMB on any device, with the arithmetic of FusedLAMB in the MLPerf reference."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor


def total_norm(tensors: Sequence[Tensor]) -> Tensor:
    """Return the Euclidean norm of all values of ``tensors``, on their device; torch itself has it since 2.6."""
    return torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(values) for values in tensors]))


class Lamb(torch.optim.Optimizer):
    """Apply Adam's step, scaled to the norm of the weights if weight decay is on.

    Source: You et al., "Large batch optimization for deep learning" (2020), in the reference's variant. It first clips
    gradients by their norm over all parameters. Both moments are corrected for their start at zero. Weight decay is
    added to the step. Only with weight decay a parameter's step is scaled to the norm of its weights.

    Args:
        params: tensors, or groups of tensors.
        lr: learning rate, positive.
        betas: decay of the first and the second moment, each in [0, 1).
        eps: added to the root of the second moment.
        weight_decay: 0 or positive.
        max_grad_norm: gradients with a larger norm over all parameters are scaled down to it.

    Raises:
        ValueError: if a number is out of range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        max_grad_norm: float = 1.0,
    ) -> None:
        if lr <= 0 or eps <= 0 or max_grad_norm <= 0 or weight_decay < 0 or not all(0 <= b < 1 for b in betas):
            raise ValueError(
                "lr, eps and max_grad_norm must be positive, weight_decay not negative, betas in [0, 1); got "
                f"{lr}, {eps}, {max_grad_norm}, {weight_decay}, {betas}"
            )
        self.max_grad_norm = max_grad_norm
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "step": 0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Perform one step; ``closure``, if given, first computes gradients and the loss to return."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        if not gradients:
            return loss
        # The norm stays on the device, so that no step waits for it.
        clip = (total_norm(gradients) / self.max_grad_norm).clamp(min=1)
        for group in self.param_groups:
            group["step"] += 1
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, parameter.grad / clip, group)
        return loss

    def _move(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        first, second = (1 - beta ** group["step"] for beta in group["betas"])
        state["exp_avg"].lerp_(gradient, 1 - group["betas"][0])
        state["exp_avg_sq"].lerp_(gradient.square(), 1 - group["betas"][1])
        update = state["exp_avg"] / first / ((state["exp_avg_sq"] / second).sqrt() + group["eps"])
        if group["weight_decay"]:
            update.add_(parameter, alpha=group["weight_decay"])
            weight, length = parameter.norm(), update.norm()
            update.mul_(torch.where((weight > 0) & (length > 0), weight / length, 1.0))
        parameter.sub_(update, alpha=group["lr"])
