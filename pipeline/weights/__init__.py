"""Find, download and convert published weights."""

from .conversion import add_weights
from .download import download_weights
from .registry import PublishedWeights, find_weights, installed_weights, published_weights, weights_directory

__all__ = [
    "PublishedWeights",
    "add_weights",
    "download_weights",
    "find_weights",
    "installed_weights",
    "published_weights",
    "weights_directory",
]
