"""Export the network as TorchScript with metadata and configuration inside, as MONAI's own export does."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from monai.data.torchscript_utils import save_net_with_metadata

from ..inference.backends.agreement import require_same_logits
from ..runtime.files import part_directory, whole_file
from .description import Description

logger = logging.getLogger("kits_unet3d.export")


def export_torchscript(described: Description, path: str | Path) -> Path:
    """Write ``path`` (``.ts``) and return it; the file reproduces the network's own logits to 1e-4.

    ``monai.bundle.load(…, load_ts_module=True)`` and the Deploy App SDK read the metadata and the
    ``inference.json`` in it.
    """
    path = Path(path)
    # This file is used without a checkpoint, so it must contain the preprocessing parameters.
    parameters = {"_target_": "kits_unet3d.transforms.PreprocessingParameters", **described.model.parameters.as_dict()}
    inference = {**described.configs["inference"], "preprocessing_parameters": parameters}
    network = described.model.network.cpu().eval()
    with whole_file(path) as temporary, part_directory(path) as directory:
        # The archive stores the name it was saved under, and readers look up its content by that name.
        named = directory / path.name
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


def _scripted(network: torch.nn.Module, window: Sequence[int]) -> torch.nn.Module:
    """Script the network; trace it on an empty window if TorchScript does not support its Python."""
    try:
        return torch.jit.script(network)  # type: ignore[no-any-return]
    except Exception as error:  # the compiler raises many types for unsupported Python
        reason = str(error).strip().splitlines()[0]
        logger.info("traced on one sliding window, since it cannot be scripted (%s)", reason)
        with torch.no_grad():
            return torch.jit.trace(network, torch.zeros(tuple(window)), check_trace=False)  # type: ignore[no-any-return]
