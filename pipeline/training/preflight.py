"""Check data, fold and precision before training, and refuse a run that cannot work."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kits_unet3d.transforms import PreprocessingParameters

from ..data import Index, require_data, training_list
from ..device import Accelerator
from ..model import channels_in, meta_twin, window_fault
from ..runtime.errors import UsageError, errors_reported
from ..runtime.output import device_line


def refuse_patch(network: nn.Module, roi_size: Sequence[int]) -> None:
    """End the program with an error message and exit code 2 if ``network`` cannot take patches of ``roi_size`` voxels.

    Args:
        network: takes (1, C, D, H, W), with the C of its first convolution.
        roi_size: D, H, W of the training patches, in voxels.
    """
    if fault := window_fault(network, roi_size):
        size = " x ".join(map(str, roi_size))
        with errors_reported():
            raise UsageError(
                f"roi_size {size}: the network cannot take such patches ({fault}); set larger ones, or fewer channels"
            )


def refuse_shallow_bf16(network: nn.Module, roi_size: Sequence[int], accelerator: Accelerator) -> None:
    """End the program if ``network`` would convolve inputs two slices deep in bf16 on a CPU.

    There, torch 2.13 with oneDNN adds uninitialised memory to the weights' gradient. The gradients are slightly wrong
    or not finite, and differ from run to run. FP32 and other depths are correct.

    Args:
        network: takes (1, C, D, H, W), with the C of its first convolution.
        roi_size: D, H, W of the training patches, in voxels.

    Raises:
        SystemExit: with an error message and exit code 2.
    """
    if not (accelerator.on_cpu and accelerator.precision == "bf16"):
        return
    depths: set[int] = set()
    twin = meta_twin(network)
    for module in twin.modules():
        if isinstance(module, nn.Conv3d) and module.kernel_size[0] > 1:
            module.register_forward_pre_hook(lambda _module, inputs: depths.add(inputs[0].shape[2]))
    with torch.no_grad():
        twin.train()(torch.empty(1, channels_in(network), *roi_size, device="meta"))
    size = " x ".join(map(str, roi_size))
    if 2 not in depths:
        return
    with errors_reported():
        raise UsageError(
            f"patches of {size} reach a convolution over two slices, whose bf16 gradient is wrong on a CPU; "
            "train in fp32 (--precision fp32), or with a deeper roi_size or fewer channels"
        )


logger = logging.getLogger("kits_unet3d.training")


def start(
    dataset_dir: str | Path,
    parameters: PreprocessingParameters,
    accelerator: Accelerator,
    cases_a_step: int,
    training_data: Sequence[Mapping[str, Any]],
    evaluation_data: Sequence[Mapping[str, Any]],
) -> None:
    """Check that the data are preprocessed as configured and suffice for all processes; log the device.

    Each process needs ``cases_a_step`` cases (batch size times accumulation). With fewer, an epoch would end before the
    optimiser's first step, without any training.

    Unusable data end the program with an error message and exit code 2.
    """
    with errors_reported():
        require_data(dataset_dir, parameters, evaluation_data, training_data, cases_a_step)
    logger.info(device_line(accelerator.describe()))


def refuse_fold(index: Index, fold: int | None, folds: int) -> None:
    """End the program with an error message and exit code 2 if ``fold`` is invalid or cases are too few.

    A valid fold is one of ``folds``, or None for a run that holds out no fold.
    """
    with errors_reported():
        training_list(index, fold, folds)
