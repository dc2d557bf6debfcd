"""Weights from files into a network, without running anything a file might contain.

Every file is read with ``weights_only=True``; there is no fall-back. Known layouts:
ours (``model``), MLPerf's (``best_model_state_dict``), Cambricon's (``state_dict``), and a bare
state dict, from ``torch.save`` or as safetensors; the ``module.`` prefix of a distributed training is taken off.
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
    """A checkpoint cannot be used; the message names the file, the reason and the way out."""

    #: Of a program that ends with this error.
    exit_code = 3


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint file, on the CPU.

    Raises:
        CheckpointError: if the file is missing, damaged, not a dictionary, or wants to run code.
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
                f"{path}: refused, since it holds {named[1] if named else 'something'}, neither tensor nor plain data, "
                "and reading such things can run code from the file; "
                "save its tensors alone (a state dict) and load that"
            ) from error
        if isinstance(error, pickle.UnpicklingError):  # whose message tells users to switch the protection off
            raise CheckpointError(
                f"{path}: damaged, not a checkpoint, or pickled in another way than torch.save does; "
                "copy it again, or save its tensors alone (a state dict) with torch.save"
            ) from error
        # torch has many types for the defects of a file; only the first line helps a user.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{path}: damaged or not a checkpoint ({reason}); copy it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not a dictionary of weights")
    return content


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise CheckpointError(
            f"{path}: reading it needs the package safetensors; `pip install kits-unet3d[safetensors]`"
        ) from error
    try:
        return dict(load_file(path, device="cpu"))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: damaged or not a safetensors file ({error}); copy it again") from error


def network_state(content: dict[str, Any], source: str | Path = "checkpoint") -> dict[str, torch.Tensor]:
    """The network's state dict out of a checkpoint's content, whichever of the known layouts it has."""
    state = next((content[key] for key in STATE_KEYS if isinstance(content.get(key), dict)), content)
    state = {str(name).removeprefix("module."): value for name, value in state.items()}
    if not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise CheckpointError(
            f"{source}: no weights found; looked for {', '.join(STATE_KEYS)} or a bare state dict, "
            f"found {sorted(map(str, content))[:5]}"
        )
    return state


def load_weights(network: nn.Module, state: dict[str, torch.Tensor], source: str | Path = "checkpoint") -> None:
    """Copies ``state`` into ``network``; every name and shape must agree.

    Raises:
        CheckpointError: naming the first differing tensors, with nothing copied.
    """
    wanted = network.state_dict()
    differences = [f"{name}: missing in the file" for name in wanted if name not in state]
    differences += [f"{name}: not in the network" for name in state if name not in wanted]
    differences += [
        f"{name}: {tuple(state[name].shape)} in the file, {tuple(wanted[name].shape)} in the network"
        for name in wanted
        if name in state and state[name].shape != wanted[name].shape
    ]
    if differences:
        more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise CheckpointError(f"{source}: weights of another network. {'; '.join(differences[:3])}{more}")
    network.load_state_dict(state)
