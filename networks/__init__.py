"""Define the network of the MLPerf 3D U-Net benchmark and load weights into it. Only torch is needed."""

from .averages import Ensemble, FlipTTA
from .checkpoints import CheckpointError, load_weights, network_state, read_checkpoint, read_with_digest
from .unet3d import UNet3D

__all__ = [
    "CheckpointError",
    "Ensemble",
    "FlipTTA",
    "UNet3D",
    "load_weights",
    "network_state",
    "read_checkpoint",
    "read_with_digest",
]
