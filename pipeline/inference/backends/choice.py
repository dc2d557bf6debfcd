"""Choose the inference backend that runs a network."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ...device import Accelerator
from .agreement import TOLERANCE, MissingBackendError, require_agreement
from .openvino import OpenVINO
from .pytorch import ChannelsLast, Compiled, Eager

logger = logging.getLogger("kits_unet3d.inference")

#: Maps windows (B, C, D, H, W) to float32 logits (B, classes, D, H, W).
Backend = Callable[[torch.Tensor], torch.Tensor]
#: Inference backends by name, the fastest on a CPU first, with the least floating-point operations of a scan for which
#: creation and comparison pay off.
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

    On accelerators and for little work that is eager: another backend would take longer to create than it saves. It is
    also eager if the operations cannot be counted.

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
