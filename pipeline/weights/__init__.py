"""Find, download and convert published weights."""

from .conversion import add_weights
from .registry import (
    PublishedWeights,
    chosen_checkpoint,
    default_checkpoint,
    find_weights,
    installed_description,
    installed_weights,
    published_weights,
    weights_directory,
)
from .retrieval import download_weights

__all__ = [
    "PublishedWeights",
    "add_weights",
    "chosen_checkpoint",
    "default_checkpoint",
    "download_weights",
    "find_weights",
    "installed_description",
    "installed_weights",
    "published_weights",
    "weights_directory",
]
