"""Mixed precision for any inferer, on any device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import Inferer

from ..device import Accelerator


class AutocastInferer(Inferer):
    """Another inferer, with the network in the accelerator's precision and all around it in FP32.

    MONAI's engines can only mix precision on one vendor's devices, so theirs is off (``amp=False``) and this
    is their inferer. Only the network's forward is cast; what it returns is made float32 again, so that windows
    are weighed and added up as exactly as without.

    Args:
        inferer: how the network is run over a volume.
        accelerator: gives autocast; with fp32 nothing at all changes.
    """

    def __init__(self, inferer: Inferer, accelerator: Accelerator) -> None:
        super().__init__()
        self.inferer, self.accelerator = inferer, accelerator

    def __call__(self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any) -> Any:
        def forward(*arguments: Any, **named: Any) -> torch.Tensor:
            with self.accelerator.autocast():
                return network(*arguments, **named).float()

        return self.inferer(inputs, forward, *args, **kwargs)
