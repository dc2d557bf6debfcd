"""Export the network in OpenVINO's own format and check it against OpenVINO on the CPU."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from ..inference.backends.agreement import require_same_logits
from ..inference.backends.openvino import shared_core
from ..runtime.errors import UsageError
from ..runtime.files import part_directory
from .description import Description


def export_openvino(described: Description, path: str | Path) -> Path:
    """Write ``path`` (``.xml``) and its weights beside it (``.bin``, float32); return ``path``.

    Input ``image`` (1, 1, D, H, W): one normalised sliding window of ``roi_size`` voxels. Output ``pred``: the logits.
    OpenVINO on the CPU, in float32, reproduces the network's own logits to 1e-4.

    Raises:
        UsageError: if OpenVINO is not installed.
    """
    try:
        import openvino
    except ModuleNotFoundError as error:
        raise UsageError(f"{error.name} is not installed; `pip install 'kits-unet3d[openvino]'`") from error
    path = Path(path)
    network = described.model.network.cpu().eval()
    model = openvino.convert_model(network, example_input=torch.zeros(described.window), input=list(described.window))
    model.inputs[0].set_names({"image"})
    model.outputs[0].set_names({"pred"})
    with part_directory(path) as directory:
        made = directory / path.name
        openvino.save_model(model, made, compress_to_fp16=False)
        compiled = shared_core().compile_model(made, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

        def run(window: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(compiled({"image": window.numpy()})["pred"])

        require_same_logits(network, run, described.window, path)
        # Move the weights first, so that a visible model always has its weights.
        for name in (made.with_suffix(".bin").name, made.name):
            os.replace(directory / name, path.with_name(name))
    return path
