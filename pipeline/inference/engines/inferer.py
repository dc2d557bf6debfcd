"""Any inferer, with the network in an engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from monai.inferers import Inferer
from torch import nn

from ...device import Accelerator
from .averaged import averaged
from .choice import ENGINES, Engine, choose_engine, make_engine
from .eager import Eager


class EngineInferer(Inferer):
    """Another inferer, whose network runs in an engine that is made once, at the first volume.

    Logits are float32 whatever the precision, so that windows are weighed and added up alike. The network's
    weights must not change afterwards; during a training :class:`AutocastInferer` is what is wanted.

    Args:
        inferer: how the network is run over a volume.
        accelerator: gives device and precision.
        roi_size: windows that the inferer gives the network, in voxels along D, H, W. If they are not all of one
            size this is None, and the engine eager.
        engine: ``"eager"``, ``"channels_last"``, ``"compiled"``, ``"openvino"``, or ``"auto"``: the fastest that
            is installed and agrees with the network; see :func:`choose_engine`.
    """

    def __init__(
        self, inferer: Inferer, accelerator: Accelerator, roi_size: Sequence[int] | None = None, engine: str = "auto"
    ) -> None:
        super().__init__()
        if engine not in ("auto", *ENGINES):
            raise ValueError(f"engine must be one of {', '.join(('auto', *ENGINES))}, got {engine!r}")
        self.inferer, self.accelerator, self.roi_size, self.name = inferer, accelerator, roi_size, engine
        self._made: dict[Callable[..., torch.Tensor], Engine] = {}

    def __call__(self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any) -> Any:
        if network not in self._made:
            self._made = {network: self._make(network, inputs.shape)}
        return self.inferer(inputs, self._made[network], *args, **kwargs)

    def _make(self, network: Callable[..., torch.Tensor], shape: Sequence[int]) -> Engine:
        # TorchScript, as other programs bring it, is compiled already: no engine can be made of it.
        scripted = isinstance(network, torch.jit.ScriptModule)
        if not isinstance(network, nn.Module) or scripted or self.roi_size is None:
            return Eager(network, self.accelerator)  # type: ignore[arg-type]
        window = (1, shape[1], *self.roi_size)
        # Windows that overlap by half, as all of ours do at least.
        count = float(np.prod([max(2 * n / size - 1, 1) for n, size in zip(shape[2:], self.roi_size, strict=True)]))
        return averaged(network, count, lambda single, windows: self._of_one(single, window, windows))

    def _of_one(self, network: nn.Module, window: Sequence[int], windows: float) -> Engine:
        if self.name != "auto":
            return make_engine(self.name, network, self.accelerator, window)
        return choose_engine(network, self.accelerator, window, windows)
