"""Write phantom cases in the layout of KiTS19 and KiTS23."""

from __future__ import annotations

import gzip
import json
import multiprocessing
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from ..data.datasets import KITS23_CLASSES, classes_in, known_cases
from ..model import PHANTOMS
from ..runtime.errors import UsageError
from ..runtime.files import whole_file, write_json
from .case import make_phantom, phantom_around
from .patient import CONTRASTS

IMAGING, SEGMENTATION = "imaging.nii.gz", "segmentation.nii.gz"
_DESCRIPTION = "dataset.json"
_GZIP_LEVEL = 1  # CT noise hardly compresses; higher levels only take longer
_ONE_IN = 5  # as in KiTS19, one case in five is for evaluation
#: Step between the numbers of the bodies around one label map: 10,041 and 20,041 belong to case 41.
_NEXT_BODY = 10_000


@dataclass(frozen=True)
class _Task:
    directory: Path
    seed: int
    source: Path | None
    shape: tuple[int, ...] | None
    spacing_mm: tuple[float, ...] | None
    contrast: str
    cysts: bool


def write_dataset(
    out: str | os.PathLike[str],
    cases: int | None = None,
    *,
    labels: str | os.PathLike[str] | None = None,
    bodies: int = 1,
    seed: int = 0,
    shape: Sequence[int] | None = None,
    spacing_mm: Sequence[float] | None = None,
    contrast: str = "enhanced",
    cysts: bool | None = None,
    workers: int = 1,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[Path]:
    """Write ``out/case_XXXXX/imaging.nii.gz`` and ``segmentation.nii.gz``; return the case directories.

    Without ``labels``, ``cases`` synthetic cases are made, from case_00000 on. ``labels`` is a directory of
    ``case_XXXXX/segmentation.nii.gz``. Each label map, or each of the first ``cases``, gets a phantom around it, on
    its grid; the label files are copied unchanged. Each training label map gets ``bodies`` different bodies: for
    case 41 case_00041, case_10041 and so on. ``seed`` and number determine a case's files byte by byte. A case that
    has both files is kept, so an interrupted run can resume. ``progress(case name, cases done, cases in all)`` is
    called after each case. ``out/dataset.json`` contains the split: KiTS19's own for its cases around real labels,
    else one case in five for evaluation. ``contrast`` is ``"enhanced"``, or ``"wide"`` for any phase and uptake.
    ``cysts`` makes cysts a class of their own, as in KiTS23, and names the four classes in ``out/dataset.json``. By
    default this is done around KiTS23's label maps.

    Raises:
        UsageError: if an argument cannot be used, ``labels`` lacks cases, or ``out`` has other settings.
    """
    if cases is not None and cases < 1:
        raise UsageError(f"cases must be at least 1, got {cases}")
    if seed < 0:
        raise UsageError(f"seed must not be negative, got {seed}")
    if workers < 1:
        raise UsageError(f"workers must be at least 1, got {workers}")
    if not 1 <= bodies <= 9 or (bodies > 1 and labels is None):
        raise UsageError(f"bodies must be 1 to 9, and 1 without labels, got {bodies}")
    if contrast not in CONTRASTS:
        raise UsageError(f"contrast must be one of {', '.join(CONTRASTS)}, got {contrast!r}")
    if labels is not None and (shape is not None or spacing_mm is not None):
        raise UsageError("shape and spacing_mm come from the label maps when labels is given")
    if labels is None:
        if cases is None:
            raise UsageError("cases must be given without labels")
        sources: list[tuple[str, Path | None]] = [(f"case_{i:05d}", None) for i in range(cases)]
    else:
        sources = [
            (f"case_{_number(name) + _NEXT_BODY * body:05d}", path)
            for name, path in _label_files(Path(labels))[:cases]
            for body in range(bodies if _split(name, True) == "training" else 1)
        ]
    if cysts is None:
        cysts = labels is not None and classes_in(Path(labels)) == KITS23_CLASSES
    tasks = [
        _Task(
            Path(out) / name,
            _case_seed(seed, _number(name)),
            source,
            None if shape is None else tuple(shape),
            None if spacing_mm is None else tuple(spacing_mm),
            contrast,
            cysts,
        )
        for name, source in sources
    ]
    made: dict[str, Any] = {
        "seed": seed,
        "around_labels": labels is not None,
        "shape": _plain(shape),
        "spacing_mm": _plain(spacing_mm),
    }
    if contrast != "enhanced":
        made["contrast"] = contrast
    if cysts:
        made["cysts"] = True
    _refuse_a_mixture(Path(out), made)
    _write_description(Path(out), made)
    for done, name in enumerate(_run(tasks, workers), 1):
        if progress is not None:
            progress(name, done, len(tasks))
    _write_description(Path(out), made)
    return [task.directory for task in tasks]


def _plain(numbers: Sequence[float] | None) -> list[float] | None:
    return None if numbers is None else list(numbers)


def _refuse_a_mixture(out: Path, made: dict[str, Any]) -> None:
    """Reject a directory with cases of other settings: its seed would not determine its content."""
    if not (out / _DESCRIPTION).is_file():
        return
    before = json.loads((out / _DESCRIPTION).read_text(encoding="utf-8")).get("made")
    if before != made:
        raise UsageError(f"{out}: contains phantoms made with {before}; choose another directory for {made}")


def _write_description(out: Path, made: dict[str, Any]) -> None:
    split: dict[str, list[str]] = {"training": [], "evaluation": []}
    for directory in sorted(out.glob("case_*")):
        split[_split(directory.name, made["around_labels"])].append(directory.name)
    classes = {"classes": list(KITS23_CLASSES)} if made.get("cysts") else {}
    write_json(out / _DESCRIPTION, {"name": PHANTOMS, "made": made, **classes, **split})


def _split(name: str, around_labels: bool) -> str:
    """Return the split of a case; all bodies of a label map have the same."""
    number = _number(name) % _NEXT_BODY
    known = known_cases().get(f"case_{number:05d}") if around_labels else None
    return known.split if known else "training" if number % _ONE_IN else "evaluation"


def _number(name: str) -> int:
    return int(name.removeprefix("case_"))


def _label_files(directory: Path) -> list[tuple[str, Path | None]]:
    found: list[tuple[str, Path | None]] = [
        (path.parent.name, path)
        for path in sorted(directory.glob(f"case_*/{SEGMENTATION}"))
        if re.fullmatch(r"case_\d+", path.parent.name)
    ]
    if not found:
        raise UsageError(f"{directory}: contains no case_XXXXX/{SEGMENTATION}")
    return found


def _case_seed(seed: int, number: int) -> int:
    """Return the seed of one case, independent of the number of cases."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0])


def _run(tasks: list[_Task], workers: int) -> Iterator[str]:
    if workers == 1 or len(tasks) == 1:
        yield from map(_write_case, tasks)
        return
    # A fork of a process with threads (BLAS, a trainer) may deadlock; spawning is safe.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(tasks)), mp_context=context) as pool:
        for future in as_completed([pool.submit(_write_case, task) for task in tasks]):
            yield future.result()


def _write_case(task: _Task) -> str:
    imaging, segmentation = task.directory / IMAGING, task.directory / SEGMENTATION
    if imaging.is_file() and segmentation.is_file():
        return task.directory.name
    if task.source is None:
        phantom = make_phantom(
            task.seed, shape=task.shape, spacing_mm=task.spacing_mm, contrast=task.contrast, cysts=task.cysts
        )
        _save(segmentation, phantom.label, _header(phantom.affine))
        _save(imaging, phantom.voxels, _header(phantom.affine))
        return task.directory.name
    ground_truth: Any = nib.load(task.source)
    try:
        phantom = phantom_around(
            np.asanyarray(ground_truth.dataobj),
            ground_truth.affine,
            task.seed,
            contrast=task.contrast,
            cysts=task.cysts,
        )
    except ValueError as error:
        raise UsageError(f"{task.source}: {error}") from error
    with whole_file(segmentation) as temporary:
        shutil.copyfile(task.source, temporary)
    # The label's own header gives the image the same voxel size to the last bit.
    _save(imaging, phantom.voxels, ground_truth.header.copy())
    return task.directory.name


def _header(affine: NDArray[np.float64]) -> nib.Nifti1Header:
    header = nib.Nifti1Image(np.zeros((1, 1, 1), np.int16), affine).header
    header.set_sform(affine, code=2)
    header.set_qform(affine, code=0)
    header.set_xyzt_units("mm")
    return header


def _save(path: Path, array: NDArray[Any], header: nib.Nifti1Header) -> None:
    header.set_data_dtype(array.dtype)
    image = nib.Nifti1Image(array, None, header)
    # Without name and time in the gzip header, equal images make equal files.
    with (
        whole_file(path) as temporary,
        open(temporary, "wb") as raw,
        gzip.GzipFile("", "wb", _GZIP_LEVEL, raw, mtime=0) as packed,
    ):
        image.to_stream(packed)
