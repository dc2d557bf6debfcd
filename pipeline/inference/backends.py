"""Choose an inference backend and run it on sliding windows; run a network with PyTorch or its compiler."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from monai.inferers import Inferer
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from kits_unet3d.networks import Ensemble, FlipTTA
from kits_unet3d.networks.averages import mean_of, mean_over_flips

from ..device import Accelerator
from ..runtime.compilation import to_compile
from ..runtime.errors import DeviceError
from .agreement import TOLERANCE, MissingBackendError, require_agreement
from .openvino import OpenVINO


class Eager:
    """Run any network on any device.

    Args:
        network: on the device, in evaluation mode.
        accelerator: sets the precision.
    """

    def __init__(self, network: nn.Module, accelerator: Accelerator) -> None:
        self.network, self.accelerator = network, accelerator

    def __call__(self, window: torch.Tensor) -> torch.Tensor:
        """Return float32 logits of windows (B, C, D, H, W)."""
        with self.accelerator.autocast():
            return self.network(window).float()  # type: ignore[no-any-return]


class ChannelsLast(Eager):
    """Run a copy of the network in the memory layout of a CPU's fastest convolutions.

    Instance norm would copy to the other layout and back, which costs the gain. Group norm with one group per channel
    is the same function and keeps the layout. Only its backward pass is slow, and inference does not need it.
    """

    def __init__(self, network: nn.Module, accelerator: Accelerator) -> None:
        super().__init__(channels_last(network), accelerator)

    def __call__(self, window: torch.Tensor) -> torch.Tensor:
        return super().__call__(window.to(memory_format=torch.channels_last_3d))


def channels_last(network: nn.Module) -> nn.Module:
    """Copy a network for inference in ``channels_last_3d``, with its instance norms replaced by equal group norms."""
    copied = copy.deepcopy(network).eval()
    for parent in list(copied.modules()):
        for name, norm in list(parent.named_children()):
            if isinstance(norm, nn.InstanceNorm3d) and not norm.track_running_stats:
                group = nn.GroupNorm(norm.num_features, norm.num_features, norm.eps, affine=False)
                group.weight, group.bias = norm.weight, norm.bias
                setattr(parent, name, group)
    return copied.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload, no-any-return]


class Compiled(Eager):
    """Run the network compiled for windows of one shape.

    The first window of a process takes up to half a minute. torch caches the output of the C++ compiler, so that the
    next process takes less. On an accelerator whose compiler does not work, the network runs eagerly.

    Raises:
        MissingBackendError: on a CPU without a C++ compiler, or with a torch that is too old.
    """

    def __init__(self, network: nn.Module, accelerator: Accelerator) -> None:
        try:
            compiles = to_compile(accelerator)
        except DeviceError as error:
            raise MissingBackendError(f"the inference backend compiled: {error}") from error
        if accelerator.on_cpu:
            network = ChannelsLast(network, accelerator).network
        super().__init__(torch.compile(network, dynamic=False) if compiles else network, accelerator)  # type: ignore[arg-type]

    def __call__(self, window: torch.Tensor) -> torch.Tensor:
        # One by one, since another number of windows is another shape.
        return torch.cat([super(Compiled, self).__call__(one[None]) for one in window])


logger = logging.getLogger("kits_unet3d.inference")

#: Maps windows (B, C, D, H, W) to float32 logits (B, classes, D, H, W).
Backend = Callable[[torch.Tensor], torch.Tensor]
#: Inference backends by name, the fastest on a CPU first. A scan must need at least so many floating-point operations,
#: so that creation and comparison pay off.
WORTH_MAKING = {"openvino": 2e12, "compiled": 2e13, "channels_last": 2e12, "eager": 0.0}
BACKENDS = tuple(WORTH_MAKING)


def make_backend(name: str, network: nn.Module, accelerator: Accelerator, window: Sequence[int]) -> Backend:
    """Create the inference backend ``name`` for windows (1, C, D, H, W), and compare it with the network.

    Raises:
        MissingBackendError: if the backend is not available here.
        DisagreementError: if its results differ from the network's.
    """
    plain = Eager(network, Accelerator(accelerator.device))

    def approve(backend: Backend) -> None:
        if accelerator.on_cpu and accelerator.precision in TOLERANCE:
            require_agreement(plain, backend, window, accelerator.precision)

    if name == "eager":
        return Eager(network, accelerator)
    if name == "openvino":
        return OpenVINO(network, accelerator, window, approve)
    backend = (ChannelsLast if name == "channels_last" else Compiled)(network, accelerator)
    approve(backend)
    return backend


def choose_backend(network: nn.Module, accelerator: Accelerator, window: Sequence[int], windows: float) -> Backend:
    """Return the fastest installed inference backend that agrees with the network.

    On accelerators and for little work the backend is ``eager``, because another one would take longer to create than
    it saves. It is also ``eager`` if the operations cannot be counted.

    Args:
        network: on the device, in evaluation mode.
        accelerator: sets the precision.
        window: (1, C, D, H, W).
        windows: number of windows in a scan.
    """
    if not accelerator.on_cpu or accelerator.precision not in TOLERANCE:
        return Eager(network, accelerator)
    try:
        work = operations(network, window) * windows
    except Exception as error:  # the network may run even if its operations cannot be counted
        logger.warning("the network runs eagerly, since its operations cannot be counted: %s", _first_line(error))
        return Eager(network, accelerator)
    for name in (name for name, least in WORTH_MAKING.items() if name != "eager" and work >= least):
        try:
            backend = make_backend(name, network, accelerator, window)
        except MissingBackendError as error:
            logger.debug("%s", error)
            continue
        except Exception as error:  # compilers fail in many ways; another inference backend is left
            logger.warning("the inference backend %s is not used: %s", name, _first_line(error))
            continue
        logger.info("inference backend: %s, %s", name, accelerator.precision)
        return backend
    return Eager(network, accelerator)


def _first_line(error: Exception) -> str:
    """Return the first line of an error's message, or the error's name if the message is empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def operations(network: nn.Module, window: Sequence[int]) -> float:
    """Count the floating-point operations of one window (1, C, D, H, W) without computing it."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        copy.deepcopy(network).to("meta")(torch.empty(tuple(window), device="meta"))
    return float(counter.get_total_flops())


def averaged(network: nn.Module, windows: float, make: Callable[[nn.Module, float], Backend]) -> Backend:
    """Return the inference backend of a network that may be an ensemble, use TTA by flipping, or both.

    Each member gets its own backend. One graph of five networks and eight flips would hold forty copies to compile.

    Args:
        network: on the device, in evaluation mode.
        windows: number of windows in a scan.
        make: creates the backend of a single network for a number of windows.
    """
    if isinstance(network, FlipTTA):
        one = averaged(network.network, windows * (1 + len(network.flips)), make)
        return partial(mean_over_flips, one, network.flips)
    if isinstance(network, Ensemble):
        return partial(mean_of, [averaged(member, windows, make) for member in network.members])
    return make(network, windows)


class BackendInferer(Inferer):
    """Run another inferer with an inference backend that is created once, at the first volume.

    Logits are float32 in every precision, so that windows are weighted and summed alike. The network's weights must
    not change afterwards; during training use :class:`AutocastInferer`.

    Args:
        inferer: runs the network over a volume.
        accelerator: sets device and precision.
        roi_size: size of the windows that the inferer passes to the network, in voxels along D, H, W. If the sizes
            vary this is None, and the backend is eager.
        backend: ``"eager"``, ``"channels_last"``, ``"compiled"``, ``"openvino"``, or ``"auto"``: the fastest that
            is installed and agrees with the network; see :func:`choose_backend`.
    """

    def __init__(
        self, inferer: Inferer, accelerator: Accelerator, roi_size: Sequence[int] | None = None, backend: str = "auto"
    ) -> None:
        super().__init__()
        if backend not in ("auto", *BACKENDS):
            raise ValueError(f"backend must be one of {', '.join(('auto', *BACKENDS))}, got {backend!r}")
        self.inferer, self.accelerator, self.roi_size, self.name = inferer, accelerator, roi_size, backend
        self._made: dict[Callable[..., torch.Tensor], Backend] = {}

    def __call__(self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any) -> Any:
        if network not in self._made:
            self._made = {network: self._make(network, inputs.shape)}
        return self.inferer(inputs, self._made[network], *args, **kwargs)

    def _make(self, network: Callable[..., torch.Tensor], shape: Sequence[int]) -> Backend:
        # TorchScript from other programs is compiled already, so no other backend can run it.
        scripted = isinstance(network, torch.jit.ScriptModule)
        if not isinstance(network, nn.Module) or scripted or self.roi_size is None:
            return Eager(network, self.accelerator)  # type: ignore[arg-type]
        window = (1, shape[1], *self.roi_size)
        # Assumes windows that overlap by half; all of ours overlap at least as much.
        count = float(np.prod([max(2 * n / size - 1, 1) for n, size in zip(shape[2:], self.roi_size, strict=True)]))
        return averaged(network, count, lambda single, windows: self._of_one(single, window, windows))

    def _of_one(self, network: nn.Module, window: Sequence[int], windows: float) -> Backend:
        if self.name != "auto":
            return make_backend(self.name, network, self.accelerator, window)
        return choose_backend(network, self.accelerator, window, windows)


class AutocastInferer(Inferer):
    """Run another inferer with the network in the accelerator's precision and everything else in FP32.

    MONAI's trainer and evaluator support mixed precision on one vendor's devices only. It is therefore switched off
    there (``amp=False``), and the evaluator uses this inferer. Only the network's forward pass is cast. Its output
    becomes float32 again, so that windows are weighted and summed exactly as without autocast.

    Args:
        inferer: runs the network over a volume.
        accelerator: gives autocast; fp32 changes nothing.
    """

    def __init__(self, inferer: Inferer, accelerator: Accelerator) -> None:
        super().__init__()
        self.inferer, self.accelerator = inferer, accelerator

    def __call__(self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any) -> Any:
        def forward(*arguments: Any, **named: Any) -> torch.Tensor:
            with self.accelerator.autocast():
                return network(*arguments, **named).float()

        return self.inferer(inputs, forward, *args, **kwargs)
