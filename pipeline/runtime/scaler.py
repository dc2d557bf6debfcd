"""Scale the loss for half precision."""

from __future__ import annotations

import torch
from torch.amp.grad_scaler import OptState


class LossScaler(torch.amp.GradScaler):
    """Scale the loss as PyTorch does, but compute the inverse scale in float32.

    PyTorch computes it in float64, which some accelerators lack. The scale is a power of two, so that the inverse is
    exact in both.
    """

    def unscale_(self, optimizer: torch.optim.Optimizer) -> None:
        """Divide the gradients by the scale, once between two steps."""
        if not self._enabled:
            return
        scale, _ = self._check_scale_growth_tracker("unscale_")
        state = self._per_optimizer_states[id(optimizer)]
        if state["stage"] is not OptState.READY:
            raise RuntimeError("unscale_() must come once, and before step()")
        overflow = torch.zeros((), dtype=torch.float32, device=scale.device)
        state["found_inf_per_device"] = self._unscale_grads_(optimizer, scale.reciprocal(), overflow, False)
        state["stage"] = OptState.UNSCALED
