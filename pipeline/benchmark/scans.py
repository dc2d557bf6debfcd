"""Make raw scans with two bright kidneys, raw cases and preprocessed cases to measure with; measure preprocessing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from kits_unet3d.transforms import PreprocessingParameters, component_boxes

from ..data import preprocess_dataset
from ..runtime.errors import UsageError
from ..runtime.files import whole_file, write_json
from . import baseline, scans
from .measure import BASELINE, Row, alternating, rows
from .setting import Setting

#: HU of air, body and kidney; the kidney's is above the threshold of the benchmark's network.
AIR, BODY, KIDNEY = -1000, 40, 260
#: Voxel size in mm along the axes of KiTS19's slice-first files.
SPACING_MM = (1.6, 1.2, 1.2)


def _ellipsoid(shape: Sequence[int], centre: Sequence[float], radii: Sequence[float]) -> np.ndarray:
    """Return the mask of an ellipsoid; centre and radii are fractions of ``shape``."""
    axes = [((np.arange(n) / n - c) / r) ** 2 for n, c, r in zip(shape, centre, radii, strict=True)]
    return (axes[0][:, None, None] + axes[1][:, None] + axes[2]) < 1


def patient(shape: Sequence[int], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Make HU (int16) and label (uint8) of ``shape``, slices first: an oval body on a table, surrounded by air.

    The body fills three quarters of the width and a half of the depth of the image, as an abdomen does.
    """
    generator = np.random.default_rng(seed)
    hu = np.full(tuple(shape), AIR, np.int16)
    body = _ellipsoid(shape[1:] and (1, *shape[1:]), (0, 0.5, 0.5), (9, 0.26, 0.37))[0]
    hu[:, body] = BODY
    table = max(int(0.80 * shape[1]), 1)
    hu[:, table : table + 2, shape[2] // 6 : -shape[2] // 6] = 100
    label = np.zeros(tuple(shape), np.uint8)
    for side in (0.34, 0.66):
        label[_ellipsoid(shape, (0.5, 0.55, side), (0.2, 0.07, 0.06))] = 1
    label[_ellipsoid(shape, (0.55, 0.53, 0.36), (0.05, 0.03, 0.03))] = 2
    hu[label > 0] = KIDNEY
    for plane in hu:  # an image without noise would be read too quickly
        plane += generator.integers(-12, 13, plane.shape, dtype=np.int16)
    return hu, label


def write_raw(directory: Path, shape: Sequence[int], spacing_mm: Sequence[float] = SPACING_MM, seed: int = 0) -> Path:
    """Write ``imaging.nii.gz`` and ``segmentation.nii.gz`` of a :func:`patient` to ``directory``, unless they exist."""
    affine = np.zeros((4, 4))
    for axis, world in enumerate((2, 1, 0)):  # inferior, posterior, left
        affine[world, axis] = -spacing_mm[axis]
    affine[3, 3] = 1
    files = [directory / "imaging.nii.gz", directory / "segmentation.nii.gz"]
    if not all(path.is_file() for path in files):
        for path, values in zip(files, patient(shape, seed), strict=True):
            with whole_file(path) as temporary:
                nib.save(nib.Nifti1Image(values, affine), temporary)
    return files[0]


def write_preprocessed(directory: Path, shape: Sequence[int], cases: int = 2) -> list[dict[str, object]]:
    """Write preprocessed arrays of random cases; return them as a data list with their boxes."""
    directory.mkdir(parents=True, exist_ok=True)
    listed: list[dict[str, object]] = []
    for number in range(cases):
        hu, label = patient(shape, number)
        paths = {"image": directory / f"{number}_x.npy", "label": directory / f"{number}_y.npy"}
        for path, array in zip(paths.values(), (hu.astype(np.float32) / 100, label), strict=True):
            with whole_file(path) as temporary, open(temporary, "wb") as stream:
                np.save(stream, array[None])
        listed.append({**{key: str(path) for key, path in paths.items()}, "boxes": component_boxes(label)})
    return listed


def raw_cases(setting: Setting) -> Path:
    """Return the directory of the setting's raw cases in KiTS19's layout; write the missing ones."""
    raw = setting.directory / "raw"
    for number, count in enumerate(setting.slices):
        scans.write_raw(raw / f"case_{number:05d}", (count, setting.plane, setting.plane), (1.0, 0.8, 0.8), number)
    names = [f"case_{number:05d}" for number in range(len(setting.slices))]
    write_json(raw / "dataset.json", {"name": "benchmark", "training": names, "evaluation": []})
    return raw


def preprocess_anew(raw: Path, out: Path, parameters: PreprocessingParameters, workers: int) -> None:
    """Preprocess raw cases by our path into an emptied ``out``.

    Raises:
        UsageError: if a case fails.
    """
    shutil.rmtree(out, ignore_errors=True)
    failed = preprocess_dataset(raw, out, parameters, workers)
    if failed:
        raise UsageError(f"{raw}: {failed}")


def prepare(setting: Setting) -> Iterator[Row]:
    """Measure the preprocessing of raw cases; ours runs two at a time."""
    raw, out = raw_cases(setting), setting.directory / "out"
    contenders = {
        BASELINE: lambda: baseline.prepare(raw, out / "baseline", setting.parameters),
        "ours": lambda: preprocess_anew(raw, out / "ours", setting.parameters, 2),
    }
    yield from rows(
        "prepare",
        alternating(contenders, setting.slow, warm=False),
        {"ours": 0.25},
        {"cases": len(setting.slices)},
    )
