"""Start a training from the weights in a file."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TypeVar

from torch import nn

from kits_unet3d.networks import load_weights, network_state, read_checkpoint

from ..runtime.errors import errors_reported
from ..runtime.files import file_hash
from .checkpoint import last_checkpoints

logger = logging.getLogger("kits_unet3d.training")
Network = TypeVar("Network", bound=nn.Module)


def starting_from(
    network: Network, weights: str | Path | None, resume: bool | str | Path, directory: str | Path
) -> Network:
    """Load the weights in a file into ``network``, and return it; a resumed run has its own weights.

    Args:
        network: fresh network, before it is wrapped or averaged.
        weights: checkpoint in any layout that :func:`read_checkpoint` knows; None leaves the network as it is. All
            names and shapes must agree.
        resume, directory: as for :class:`Resume`.

    Raises:
        SystemExit: with an error message and exit code 3, if the file cannot be used.
    """
    new = str(resume).lower() == "false" or (str(resume).lower() == "true" and not last_checkpoints(directory))
    if weights is None or not new:
        return network
    with errors_reported():
        load_weights(network, network_state(read_checkpoint(weights), weights), weights)
    logger.info("starting from the weights in %s", weights)
    return network


def weights_record(weights: str | Path | None) -> str | None:
    """Return the name and SHA-256 of a file of weights, for the settings in a checkpoint; the name if it is missing."""
    if weights is None:
        return None
    path = Path(weights)
    return f"{path.name} sha256:{file_hash(path)}" if path.is_file() else path.name
