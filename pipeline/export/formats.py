"""Export a trained network as TorchScript, ONNX or OpenVINO IR."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from monai.data.torchscript_utils import save_net_with_metadata

from ..inference.agreement import require_same_logits
from ..inference.openvino import shared_core
from ..runtime.errors import UsageError
from ..runtime.files import part_directory, require_space, whole_file
from .description import Description

logger = logging.getLogger("kits_unet3d.export")


def export_torchscript(described: Description, path: str | Path) -> Path:
    """Write ``path`` (``.ts``) and return it; the file reproduces the network's own logits to 1e-4.

    ``monai.bundle.load(…, load_ts_module=True)`` and the Deploy App SDK read the metadata and the
    ``inference.json`` in it.

    Raises:
        OSError: if the disk is full.
    """
    path = Path(path)
    # This file is used without a checkpoint, so it must contain the preprocessing parameters.
    parameters = {"_target_": "kits_unet3d.transforms.PreprocessingParameters", **described.model.parameters.as_dict()}
    inference = {**described.configs["inference"], "preprocessing_parameters": parameters}
    network = described.model.network.cpu().eval()
    with whole_file(path) as temporary, part_directory(path) as directory:
        # The archive stores the name it was saved under, and readers look up its content by that name.
        named = directory / path.name
        require_space(named, _largest(network))  # TorchScript ends the process on a full disk
        save_net_with_metadata(
            _scripted(network, described.window),
            str(named),
            include_config_vals=False,
            append_timestamp=False,
            meta_values=described.configs["metadata"],
            more_extra_files={"inference.json": json.dumps(inference).encode()},
        )
        require_same_logits(network, torch.jit.load(named), described.window, path)
        os.replace(named, temporary)
    return path


def _largest(network: torch.nn.Module) -> int:
    """Return an upper limit of an exported network's bytes: its weights, and up to 1 MB of code and structure."""
    return (1 << 20) + sum(values.numel() * values.element_size() for values in network.state_dict().values())


def _scripted(network: torch.nn.Module, window: Sequence[int]) -> torch.nn.Module:
    """Script the network; trace it on an empty window if TorchScript does not support its Python."""
    try:
        return torch.jit.script(network)  # type: ignore[no-any-return]
    except Exception as error:  # the compiler raises many types for unsupported Python
        reason = str(error).strip().splitlines()[0]
        logger.info("traced on one sliding window, since it cannot be scripted (%s)", reason)
        with torch.no_grad():
            return torch.jit.trace(network, torch.zeros(tuple(window)), check_trace=False)  # type: ignore[no-any-return]


def export_onnx(described: Description, path: str | Path) -> Path:
    """Write ``path`` (``.onnx``) and return it.

    Input ``image`` (1, 1, D, H, W): one normalised sliding window of ``roi_size`` voxels. Output ``pred``: the logits.
    onnxruntime reproduces the network's own logits to 1e-4.

    Raises:
        UsageError: if the required packages are not installed.
        OSError: if the disk is full.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  torch's exporter needs it, and its own error message is less clear
    except ModuleNotFoundError as error:
        raise UsageError(f"{error.name} is not installed; `pip install 'kits-unet3d[onnx]'`") from error
    path = Path(path)
    for name in ("onnx_ir", "onnxscript"):  # they log a line for every tensor they simplify
        logging.getLogger(name).setLevel(logging.WARNING)
    network = described.model.network.cpu().eval()
    # torch 2.4 has only the older exporter, which always writes a single file.
    newer = "external_data" in signature(torch.onnx.export).parameters
    options: dict[str, Any] = {"dynamo": True, "external_data": False} if newer else {}
    with whole_file(path) as temporary:
        require_space(temporary, _largest(network))
        torch.onnx.export(
            network,
            (torch.zeros(described.window),),
            str(temporary),
            input_names=["image"],
            output_names=["pred"],
            verbose=False,
            **options,
        )
        session = onnxruntime.InferenceSession(str(temporary), providers=["CPUExecutionProvider"])

        def run(window: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(session.run(["pred"], {"image": window.numpy()})[0])

        require_same_logits(network, run, described.window, path)
    return path


def export_openvino(described: Description, path: str | Path) -> Path:
    """Write ``path`` (``.xml``) and its weights beside it (``.bin``, float32); return ``path``.

    Input ``image`` (1, 1, D, H, W): one normalised sliding window of ``roi_size`` voxels. Output ``pred``: the logits.
    OpenVINO on the CPU, in float32, reproduces the network's own logits to 1e-4.

    Raises:
        UsageError: if OpenVINO is not installed.
        OSError: if the disk is full.
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
        require_space(made, _largest(network))
        openvino.save_model(model, made, compress_to_fp16=False)
        compiled = shared_core().compile_model(made, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

        def run(window: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(compiled({"image": window.numpy()})["pred"])

        require_same_logits(network, run, described.window, path)
        # Move the weights first, so that a visible model always has its weights.
        for name in (made.with_suffix(".bin").name, made.name):
            os.replace(directory / name, path.with_name(name))
    return path
