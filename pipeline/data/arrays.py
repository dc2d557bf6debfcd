"""Name and check the arrays of preprocessed cases, and index those of the MLPerf reference or Cambricon's port."""

from __future__ import annotations

import getpass
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from kits_unet3d.transforms import PreprocessingParameters, component_boxes

from ..runtime.errors import UsageError
from ..runtime.files import file_hash, only_run, write_json, writing_into
from ..runtime.paths import user_cache
from .datasets import KITS19, known_cases


def array_files(directory: Path, case_id: str) -> tuple[Path, Path]:
    """Return the reference's file names of a case's image and label."""
    return directory / f"{case_id}_x.npy", directory / f"{case_id}_y.npy"


def array_shape(path: Path, dtype: np.dtype) -> tuple[int, ...]:
    """Return the shape of a whole ``.npy`` file.

    Raises:
        ValueError: if the file is not a ``.npy`` file, has another data type or is truncated.
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


INDEX_FILE = "index.json"
VERSION = 1
#: Most label maps that are searched for connected components at a time.
THREADS = 8

logger = logging.getLogger("kits_unet3d.data")


def index_file(directory: Path) -> Path | None:
    """Return the index of a directory of ``case_XXXXX_x.npy`` and ``_y.npy`` of KiTS19; make it the first time.

    The split, the MD5s and the preprocessing parameters are those of the reference. The connected components are
    computed from the label maps, which takes minutes. The index goes into the directory, or into the user's cache
    directory if nothing can be written there. Other processes wait meanwhile.

    Raises:
        UsageError: if an array is not as the reference writes it.
    """
    cases = [case_id for case_id in known_cases() if all(path.is_file() for path in array_files(directory, case_id))]
    if not cases:
        return None
    place = directory if os.access(directory, os.W_OK) else _cache(directory)
    path = place / INDEX_FILE
    with only_run(place, wait=True):
        files = _sizes_and_times(directory, cases)
        if not (path.is_file() and (place == directory or _files_in(path) == files)):
            content = {
                "version": VERSION,
                "name": KITS19,
                "preprocessing_parameters": PreprocessingParameters().as_dict(),
                "cases": _records(directory, cases),
            }
            with writing_into(place):
                write_json(path, content if place == directory else {**content, "files": files})
            logger.info("%s: %d cases of the reference's arrays, index in %s", directory, len(cases), path)
    return path


def _cache(directory: Path) -> Path:
    """Return the place of a directory's index in the user's cache."""
    root = user_cache()
    if root is None or not os.access(next(place for place in (root, *root.parents) if place.exists()), os.W_OK):
        root = Path(tempfile.gettempdir()) / f"kits-unet3d-{getpass.getuser()}"
    name = hashlib.sha256(os.path.realpath(directory).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return root / "indexes" / name


def _sizes_and_times(directory: Path, cases: list[str]) -> dict[str, list[int]]:
    """Return size and time of each array, since another program may write the directory anew."""
    files = [path for case_id in cases for path in array_files(directory, case_id)]
    return {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in files}


def _files_in(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _records(directory: Path, cases: list[str]) -> dict[str, dict[str, Any]]:
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        made = pool.map(lambda case_id: _record(directory, case_id), cases)
        bar = tqdm(made, total=len(cases), desc="index", unit="case")
        records = dict(zip(cases, bar, strict=True))
    others = sum(not record.pop("known") for record in records.values())
    if others:
        logger.warning(
            "%s: %d of %d label maps differ from KiTS19's as the reference preprocesses them; their voxel size is "
            "taken to be %s mm",
            directory,
            others,
            len(cases),
            " x ".join(f"{size:g}" for size in PreprocessingParameters().spacing_mm),
        )
    return records


def _record(directory: Path, case_id: str) -> dict[str, Any]:
    """Return the record of a case, and under ``known`` whether its label map is the reference's."""
    image, label = array_files(directory, case_id)
    parameters, case = PreprocessingParameters(), known_cases()[case_id]
    try:
        shape, labels_shape = array_shape(image, np.dtype(np.float32)), array_shape(label, np.dtype(np.uint8))
        values = np.load(label, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{directory}: an array of {case_id} is not the reference's ({error}); copy it again"
        ) from error
    if shape != labels_shape or len(shape) != 4 or shape[0] != 1:
        raise UsageError(f"{image}: has shape {shape}, {label.name} has {labels_shape}; copy the arrays again")
    if values.max() >= len(parameters.classes):
        raise UsageError(f"{label}: contains {values.max()}, but labels are 0 to {len(parameters.classes) - 1}")
    return {
        "split": case.split,
        "shape": list(shape[1:]),
        "boxes": {str(number): boxes for number, boxes in component_boxes(values).items()},
        "md5": {"image": case.image_md5, "label": case.label_md5},
        "known": file_hash(label, "md5") == case.label_md5,
    }
