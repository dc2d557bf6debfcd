"""Class probabilities as a file, written slab by slab."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from ...files import whole_file
from ..reading import Grid


def probabilities_path(grid: Grid, folder: str | Path) -> Path:
    """Where the probabilities of a scan go."""
    return Path(folder) / f"{grid.name}_probabilities.npy"


@contextmanager
def probabilities_file(path: Path, grid: Grid, classes: int) -> Iterator[Callable[[torch.Tensor], None]]:
    """Opens a NumPy file of float16 (X, Y, Z, classes) on the scan's grid; NIfTI knows no float16.

    What it gives takes logits (classes, n, Y, Z), slab after slab along X, so that the whole is never in
    memory. ``numpy.load(path, mmap_mode="r")`` reads it as sparingly.
    """
    with whole_file(path) as temporary, open(temporary, "wb") as stream:
        header = {"descr": "<f2", "fortran_order": False, "shape": (*grid.shape, classes)}
        np.lib.format.write_array_header_1_0(stream, header)

        def put(logits: torch.Tensor) -> None:
            shares = torch.softmax(logits.float(), dim=0).to(torch.float16).permute(1, 2, 3, 0)
            stream.write(np.ascontiguousarray(shares.numpy()).data)

        yield put
        stream.flush()
