"""Load weights from files into a network without running code from the file.

Every file is read with ``weights_only=True``, without a fallback. Known layouts are ours (``model``), MLPerf's
(``best_model_state_dict``), Cambricon's (``state_dict``) and a bare state dict. Files come from ``torch.save`` or
are safetensors. The ``module.`` prefix of distributed training is removed.
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

STATE_KEYS = ("model", "best_model_state_dict", "state_dict")


class CheckpointError(ValueError):
    """Report that a checkpoint cannot be used; the message names the file, the reason and a remedy."""

    #: Exit code of a program that ends with this error.
    exit_code = 3


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return the content of a checkpoint file, on the CPU.

    Raises:
        CheckpointError: if the file is missing, damaged, not a dictionary, or would run code.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint; train one first, or name another with --checkpoint")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        if "unsupported global" in str(error).lower():
            named = re.search(r"GLOBAL ([\w.]+)", str(error))
            raise CheckpointError(
                f"{path}: refused, since it contains {named[1] if named else 'something'}, which is neither a tensor "
                "nor plain data, and reading that can run code from the file; "
                "save only its tensors (a state dict) and load that"
            ) from error
        if isinstance(error, pickle.UnpicklingError):  # its message advises to disable the protection
            raise CheckpointError(
                f"{path}: damaged, not a checkpoint, or not written by torch.save; "
                "copy it again, or save only its tensors (a state dict) with torch.save"
            ) from error
        # torch raises many error types for damaged files; only the first line helps a user.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{path}: damaged or not a checkpoint ({reason}); copy it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: contains a {type(content).__name__}, not a dictionary of weights")
    return content


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise CheckpointError(
            f"{path}: the package safetensors is needed to read it; `pip install kits-unet3d[safetensors]`"
        ) from error
    try:
        return dict(load_file(path, device="cpu"))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: damaged or not a safetensors file ({error}); copy it again") from error


def network_state(content: dict[str, Any], source: str | Path = "checkpoint") -> dict[str, torch.Tensor]:
    """Return the network's state dict from a checkpoint's content in any known layout."""
    state = next((content[key] for key in STATE_KEYS if isinstance(content.get(key), dict)), content)
    state = {str(name).removeprefix("module."): value for name, value in state.items()}
    if not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise CheckpointError(
            f"{source}: no weights found; looked for {', '.join(STATE_KEYS)} or a bare state dict, "
            f"found {sorted(map(str, content))[:5]}"
        )
    return state


def load_weights(network: nn.Module, state: dict[str, torch.Tensor], source: str | Path = "checkpoint") -> None:
    """Copy ``state`` into ``network``; every name and shape must agree.

    Raises:
        CheckpointError: if tensors differ; it names the first ones, and nothing is copied.
    """
    wanted = network.state_dict()
    differences = [f"{name}: missing from the file" for name in wanted if name not in state]
    differences += [f"{name}: not in the network" for name in state if name not in wanted]
    differences += [
        f"{name}: {tuple(state[name].shape)} in the file, {tuple(wanted[name].shape)} in the network"
        for name in wanted
        if name in state and state[name].shape != wanted[name].shape
    ]
    if differences:
        more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise CheckpointError(f"{source}: the weights belong to another network. {'; '.join(differences[:3])}{more}")
    network.load_state_dict(state)
