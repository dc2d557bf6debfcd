"""Preprocess raw cases into two arrays each, as the reference does, and an index."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from kits_unet3d.transforms import PreprocessingParameters, component_boxes, preprocessing

from ..io import ReadOptions
from ..runtime.errors import CaseError, UsageError
from ..runtime.files import file_hash, only_run, whole_file, writing_into
from ..runtime.memory import available_bytes
from ..runtime.output import LogFile
from .arrays import array_files
from .case_memory import needed_bytes, run_bounded
from .cases import RawCase, read_case
from .datasets import classes_in, find_cases
from .index import Index
from .sources import forget_unlisted, require_distinct, source_hashes, source_state

logger = logging.getLogger("kits_unet3d.data")


def result_files(directory: Path, case_id: str) -> dict[str, Path]:
    """Return the reference's file names for a case, by kind."""
    return dict(zip(("image", "label"), array_files(directory, case_id), strict=True))


def preprocess_case(case: RawCase, directory: Path, parameters: PreprocessingParameters) -> dict[str, Any]:
    """Write ``case_XXXXX_x.npy`` (float32) and ``_y.npy`` (uint8), each (1, D, H, W); return the index record.

    Raises:
        CaseError: if a file cannot be used or changes while it is read; it names file and fault.
        UsageError: if the arrays cannot be written.
    """
    before = source_state(case)
    raw = read_case(case, len(parameters.classes))
    hashes = source_hashes(case)
    if source_state(case) != before:
        raise CaseError(f"{case.image}: the scan or its label map was changed while it was read; run it again")
    for warning in raw.pop("warnings"):
        logger.warning("%s: %s", case.image, warning)
    source_shape = list(raw["image"].shape[1:])
    resample, *others = preprocessing(parameters, source_key="spacing_mm").transforms
    preprocessed: dict[Hashable, Any] = {}
    # The raw arrays take most of the memory, so release each one as soon as it is resampled.
    for key, dtype in (("label", torch.uint8), ("image", torch.float32)):
        preprocessed[key] = resample({key: raw.pop(key), "spacing_mm": raw["spacing_mm"]})[key].to(dtype)
    for transform in others:
        preprocessed = transform(preprocessed)
    arrays: dict[str, np.ndarray] = {
        "image": np.ascontiguousarray(preprocessed["image"], dtype=np.float32),
        "label": np.ascontiguousarray(preprocessed["label"], dtype=np.uint8),
    }
    files = result_files(directory, case.case_id)
    with writing_into(directory):
        for key, array in arrays.items():
            with whole_file(files[key]) as temporary, open(temporary, "wb") as stream:
                np.save(stream, array, allow_pickle=False)
        md5 = {key: file_hash(path, "md5") for key, path in files.items()}
    return {
        "split": case.split,
        "shape": list(arrays["image"].shape[1:]),
        "source_shape": source_shape,
        "source_spacing_mm": list(raw["spacing_mm"]),
        "source_affine": raw["affine"].tolist(),
        "boxes": {str(number): boxes for number, boxes in component_boxes(arrays["label"]).items()},
        "source_sha256": hashes,
        "md5": md5,
        **_reading(case),
    }


def _reading(case: RawCase) -> dict[str, Any]:
    """Return the options that a case was read with, for its record; nothing if it needed none."""
    given = {name: value for name, value in vars(case.options).items() if value != getattr(ReadOptions(), name)}
    return {"reading": {name: list(v) if isinstance(v, tuple) else v for name, v in given.items()}} if given else {}


def preprocess_dataset(
    data_dir: str | Path,
    directory: str | Path,
    parameters: PreprocessingParameters | None = None,
    workers: int = 1,
    limit: float | None = None,
    options: ReadOptions | None = None,
) -> dict[str, str]:
    """Preprocess every case of ``data_dir`` that ``directory`` lacks; return the error messages by case.

    It may be interrupted at any moment. The index contains only finished cases. A rerun makes the others, with the
    same bytes. A case is preprocessed again if its source, its options or its arrays changed. A case that the data
    set no longer lists leaves the index, and its arrays stay; so does a case that can no longer be read.

    Args:
        data_dir: source as for :func:`~kits_unet3d.pipeline.data.find_cases`.
        directory: directory for the preprocessed cases and their index.
        parameters: preprocessing parameters; by default the reference's, with the data set's classes.
        workers: cases at a time, as far as memory allows.
        limit: bytes of memory that concurrent cases may need together, without the libraries; the free memory by
            default. A case that needs more runs alone.
        options: allow files that would otherwise be refused.

    Raises:
        UsageError: if no case is found, a scan is in both splits, ``directory`` has another data set or other
            preprocessing parameters, another run writes there, or nothing can be written there.
    """
    parameters = parameters or PreprocessingParameters(classes=classes_in(data_dir))
    directory = Path(directory)
    name, cases = find_cases(data_dir, options)
    require_distinct(cases)
    with only_run(directory):
        index = Index.read(directory) if Index.exists(directory) else Index(directory, name, parameters)
        if (index.name, index.parameters) != (name, parameters):
            raise UsageError(
                f"{directory}: contains {index.name} preprocessed with {index.parameters.as_dict()}; choose another "
                f"--output-dir for {name} with {parameters.as_dict()}"
            )
        with LogFile(directory):
            logger.debug("%s: %d cases of %s, %s", data_dir, len(cases), name, parameters.as_dict())
            return _complete(index, cases, workers, available_bytes() if limit is None else limit)


def _complete(index: Index, cases: list[RawCase], workers: int, limit: float) -> dict[str, str]:
    """Forget the cases that the data set does not list, and preprocess those that the index lacks."""
    forget_unlisted(index, cases)
    with ThreadPoolExecutor(max(1, workers)) as pool:
        finished = list(pool.map(lambda case: _finished(case, index), cases))
    todo = [case for case, done in zip(cases, finished, strict=True) if not done]
    # An outdated record must not describe the new arrays if this run is interrupted between the two.
    for case in todo:
        index.cases.pop(case.case_id, None)
    index.write()
    failed: dict[str, str] = {}
    with tqdm(total=len(cases), initial=len(cases) - len(todo), desc="prepare", unit="case") as bar:
        for case, outcome in _preprocess_all(todo, index.directory, index.parameters, workers, limit):
            if isinstance(outcome, dict):
                logger.debug("%s: %s", case.image, {key: outcome[key] for key in outcome if key != "boxes"})
                index.cases[case.case_id] = outcome
                index.write()
            else:
                logger.debug("%s", outcome, exc_info=outcome)
                failed[case.case_id] = str(outcome)
            bar.update()
    _require_distinct_arrays(index)
    return {case.case_id: failed[case.case_id] for case in todo if case.case_id in failed}


def _require_distinct_arrays(index: Index) -> None:
    """Check that no scan is in both splits, also if its file was compressed or stored in another way."""
    seen: dict[str, str] = {}
    for case_id, record in sorted(index.cases.items()):
        first = seen.setdefault(record.get("md5", {}).get("image", case_id), case_id)
        if index.cases[first]["split"] != record["split"]:
            raise UsageError(
                f"{index.directory}: {first} and {case_id} are the same scan, but one is for training and one for "
                "evaluation; keep one of them in the data set and run it again"
            )


def _finished(case: RawCase, index: Index) -> bool:
    record = index.cases.get(case.case_id)
    if record is None or record["split"] != case.split or record.get("reading") != _reading(case).get("reading"):
        return False
    files = result_files(index.directory, case.case_id)
    try:
        return bool(
            record.get("source_sha256") == source_hashes(case)
            and record.get("md5") == {key: file_hash(path, "md5") for key, path in files.items()}
        )
    except OSError:  # a file is missing: preprocessing reports which, and continues with the other cases
        return False


def _preprocess_all(
    cases: list[RawCase], directory: Path, parameters: PreprocessingParameters, workers: int, limit: float
) -> Iterator[tuple[RawCase, dict[str, Any] | CaseError]]:
    """Yield each case with its record or its error, in the order of completion."""
    if workers <= 1 or len(cases) <= 1:
        for case in cases:
            yield case, _attempt(case, directory, parameters)
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # one thread a case: nearly all of the work runs without Python's global lock
    try:
        needs = [needed_bytes(case, parameters) for case in cases]
        yield from run_bounded(lambda case: _attempt(case, directory, parameters), cases, needs, workers, limit)
    finally:
        torch.set_num_threads(threads)


def _attempt(case: RawCase, directory: Path, parameters: PreprocessingParameters) -> dict[str, Any] | CaseError:
    try:
        return preprocess_case(case, directory, parameters)
    except CaseError as error:
        return error
    except UsageError:  # of the directory: it concerns every case
        raise
    except MemoryError:
        return CaseError(f"{case.image}: needs more memory than is free; run fewer --workers, or use a larger machine")
    except Exception as error:  # any other fault of one case must not stop the others
        return CaseError(f"{case.image}: cannot be preprocessed ({type(error).__name__}: {error}); export it again")
