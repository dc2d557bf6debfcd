"""Find, download and convert published weights."""

from .conversion import add_weights
from .registry import (
    PublishedWeights,
    default_checkpoint,
    find_weights,
    installed_weights,
    published_weights,
    weights_directory,
)
from .retrieval import download_weights

__all__ = [
    "PublishedWeights",
    "add_weights",
    "default_checkpoint",
    "download_weights",
    "find_weights",
    "installed_weights",
    "published_weights",
    "weights_directory",
]
