"""Name the arrays of a preprocessed case, and check them without reading their voxels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np


def array_files(directory: Path, case_id: str) -> tuple[Path, Path]:
    """Return the reference's file names of a case's image and label."""
    return directory / f"{case_id}_x.npy", directory / f"{case_id}_y.npy"


def array_shape(path: Path, dtype: np.dtype) -> tuple[int, ...]:
    """Return the shape of a whole ``.npy`` file.

    Raises:
        ValueError: if the file is none, has another data type or is truncated.
        OSError: if it cannot be read.
    """
    with open(path, "rb") as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, stored = read(stream)
        size = stream.tell() + int(np.prod(shape, dtype=object)) * stored.itemsize
    if stored != dtype:
        raise ValueError(f"holds {stored}, not {dtype}")
    if path.stat().st_size != size:
        raise ValueError(f"has {path.stat().st_size} bytes, but {shape} of {dtype} needs {size}")
    return tuple(shape)


def array_fault(path: Path, dtype: np.dtype, shape: Sequence[int] | None) -> str:
    """Return the fault of an array of shape (1, \\*``shape``), or an empty text."""
    try:
        found = array_shape(path, dtype)
    except FileNotFoundError:
        return "does not exist"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    except ValueError as error:
        return f"is damaged ({error})"
    if shape is not None and found != (1, *shape):
        return f"has the shape {found}, but the index has {(1, *shape)}"
    return ""
