"""Export the network as ONNX and check it against onnxruntime."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from ..inference.backends.agreement import require_same_logits
from ..runtime.errors import UsageError
from ..runtime.files import whole_file
from .description import Description


def export_onnx(described: Description, path: str | Path) -> Path:
    """Write ``path`` (``.onnx``) and return it.

    Input ``image`` (1, 1, D, H, W): one normalised sliding window of ``roi_size`` voxels. Output ``pred``: the logits.
    onnxruntime reproduces the network's own logits to 1e-4.

    Raises:
        UsageError: if the required packages are not installed.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  torch's exporter needs it, and reports its lack less clearly
    except ModuleNotFoundError as error:
        raise UsageError(f"{error.name} is not installed; `pip install 'kits-unet3d[onnx]'`") from error
    path = Path(path)
    for name in ("onnx_ir", "onnxscript"):  # they log a line for every tensor they simplify
        logging.getLogger(name).setLevel(logging.WARNING)
    network = described.model.network.cpu().eval()
    with whole_file(path) as temporary:
        torch.onnx.export(
            network,
            (torch.zeros(described.window),),
            str(temporary),
            input_names=["image"],
            output_names=["pred"],
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        session = onnxruntime.InferenceSession(str(temporary), providers=["CPUExecutionProvider"])

        def run(window: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(session.run(["pred"], {"image": window.numpy()})[0])

        require_same_logits(network, run, described.window, path)
    return path
