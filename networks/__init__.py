"""The network of the MLPerf 3D U-Net benchmark, and ways to load weights into it. Needs torch only."""

from .averages import Ensemble, Mirrored
from .checkpoints import CheckpointError, load_weights, network_state, read_checkpoint
from .unet3d import UNet3D

__all__ = ["CheckpointError", "Ensemble", "Mirrored", "UNet3D", "load_weights", "network_state", "read_checkpoint"]
