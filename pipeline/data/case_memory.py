"""Estimate the memory for preprocessing a case from its headers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import nibabel as nib
import numpy as np

from kits_unet3d.transforms import PreprocessingParameters
from kits_unet3d.transforms.resample import resampled_shape

from ..io import ReadOptions
from ..io.scan import read_volume
from ..io.scan_files import NIFTI, ending_of
from ..io.voxels import Collector
from .cases import AXCODES, RawCase

#: Largest number of bytes for a preprocessed voxel: image and label, and the larger of two uses.
#: These are the connected components of a class (a mask, its copy and 4-byte numbers), or two more images.
PREPROCESSED = 5 + 11


@dataclass(frozen=True)
class _Header:
    """Describe the voxels of a file.

    Attributes:
        shape: (D, H, W), and spacing_mm along these; without voxels if the header is unreadable.
        dtype: data type after scaling.
        stored: bytes of a voxel in the file.
    """

    shape: tuple[int, ...] = (0, 0, 0)
    spacing_mm: tuple[float, ...] = (1.0, 1.0, 1.0)
    dtype: np.dtype = np.dtype(np.uint8)
    stored: int = 1

    @property
    def voxels(self) -> float:
        return float(np.prod(self.shape, dtype=np.float64))

    @property
    def reading(self) -> float:
        """Return the bytes for reading: scaled voxels (2 bytes at least), plus the stored or the reordered ones."""
        kept = max(self.dtype.itemsize, 2)
        return self.voxels * (kept + max(self.stored, kept))


class _EnoughError(Exception):
    """End reading after the header."""


def _read_header(path: Path, options: ReadOptions) -> _Header:
    """Read the header as :func:`~kits_unet3d.pipeline.io.scan.read_volume` does, and stop before the voxels."""
    seen: list[tuple[tuple[int, ...], np.ndarray]] = []
    # A type that is not known before the voxels counts as the largest.
    stored, scaled = np.dtype(np.float64), False

    def admit(shape: tuple[int, int, int], affine: np.ndarray) -> None:
        seen.append((shape, affine))
        if ending_of(path) not in NIFTI:
            raise _EnoughError

    def collect(
        path: Path, shape: Any, dtype: np.dtype, slope: float = 1, intercept: float = 0, *_: float
    ) -> Collector:
        nonlocal stored, scaled
        stored, scaled = dtype, (slope, intercept) != (1, 0)
        raise _EnoughError

    try:
        read_volume(path, options, collect, admit)
    except _EnoughError:
        shape, affine = seen[0]
        now = nib.orientations.io_orientation(affine)
        change = nib.orientations.ornt_transform(now, nib.orientations.axcodes2ornt(AXCODES))
        order = [int(axis) for axis in np.argsort(change[:, 0])]
        sizes = np.linalg.norm(affine[:3, :3], axis=0)
        return _Header(
            tuple(shape[axis] for axis in order),
            tuple(float(sizes[axis]) for axis in order),
            np.dtype(np.float64) if scaled else stored,
            stored.itemsize,
        )
    except Exception:  # preprocessing reports the fault before it reads a voxel
        pass
    return _Header()


def needed_bytes(case: RawCase, parameters: PreprocessingParameters) -> float:
    """Return the most bytes that :func:`~kits_unet3d.pipeline.data.preprocess_case` takes, without libraries.

    Only headers are read. A file with an unreadable header counts 0.
    """
    image, label = _read_header(case.image, case.options), _read_header(case.label, case.options)
    kept = 2 if image.dtype == np.int16 else 4
    both = image.voxels * image.dtype.itemsize + label.voxels * label.dtype.itemsize
    reading = max(image.reading, image.voxels * image.dtype.itemsize + label.reading)
    # The converted copies exist beside the arrays that were read.
    converting = both + image.voxels * ((kept == 4) * 4 + (label.dtype != np.uint8))
    depth, height, width = shape = resampled_shape(image.shape, image.spacing_mm, parameters.spacing_mm)
    grid = float(np.prod(shape, dtype=np.float64))
    # Planes are resampled before the axis across them, into a volume of the old depth.
    planes = 4.0 * image.shape[0] * height * width
    resampling = image.voxels * kept + max(2 * label.voxels + 6 * grid, 5 * grid + max(planes, 4 * grid))
    padded = float(np.prod([max(n, roi) for n, roi in zip(shape, parameters.roi_size, strict=True)], dtype=np.float64))
    return max(reading, converting, resampling, PREPROCESSED * padded if image.voxels else 0.0)


Item = TypeVar("Item")
Result = TypeVar("Result")


def run_bounded(
    work: Callable[[Item], Result], items: Sequence[Item], needs: Sequence[float], workers: int, limit: float
) -> Iterator[tuple[Item, Result]]:
    """Run ``work`` on items in threads and yield each item with its result as it finishes.

    The first waiting item that fits starts next, so small items can overtake a large one. At least one item
    runs, even if it exceeds the limit. An exception cancels the waiting items.

    Args:
        work: called in a thread.
        items: in order.
        needs: bytes of memory of each item.
        workers: items at a time.
        limit: bytes of memory that the running items may need together.
    """
    waiting = list(range(len(items)))
    running: dict[Future[Result], int] = {}
    pool = ThreadPoolExecutor(workers)

    def begin() -> None:
        while waiting and len(running) < workers:
            left = limit - sum(needs[number] for number in running.values())
            fitting = next((number for number in waiting if not running or needs[number] <= left), None)
            if fitting is None:
                return
            waiting.remove(fitting)
            running[pool.submit(work, items[fitting])] = fitting

    try:
        begin()
        while running:
            done = wait(running, return_when=FIRST_COMPLETED).done
            finished = [(running.pop(future), future) for future in list(running) if future in done]
            begin()  # before the caller's code, which may take time
            for number, future in finished:
                yield items[number], future.result()
    finally:
        pool.shutdown(cancel_futures=True)
