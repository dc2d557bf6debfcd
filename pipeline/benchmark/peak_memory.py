"""Measure peak memory, and how time and memory of a prediction grow with its work."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from kits_unet3d.transforms import PreprocessingParameters

from ..inference import Predictor
from ..model import Model, build_network
from ..runtime.files import write_json
from . import baseline, scans
from .measure import BASELINE, Row, in_own_process, linearity
from .scans import preprocess_anew, raw_cases
from .setting import Setting

#: Least R² of a straight line.
LINEAR = 0.98
#: Seconds and MB of each run of a call.
Runs = Sequence[tuple[float, float]]


def memory(setting: Setting) -> Iterator[Row]:
    """Measure peak memory of preprocessing the largest case and of predictions.

    The predictions are of scans of growing size, and of one, two and four scans.
    """
    yield from _preprocessing(setting)
    half = setting.patch // 2
    voxels: dict[int, float] = {}
    paths: dict[int, Path] = {}
    for part in (1, 2, 3, 4):
        # One more sliding window each time: between these sizes their number, and so the time, is constant.
        shape = (half * (part + 1), 3 * half, 3 * half)
        voxels[part] = float(shape[0] * shape[1] * shape[2])
        paths[part] = scans.write_raw(setting.directory / f"part{part}", shape)
    # Run once uncounted, since the first run compiles the network and caches it for the others.
    _predicting(setting, paths[1])
    sizes: dict[int, list[tuple[float, float]]] = {part: [] for part in paths}
    for _ in range(setting.slow):  # in turn, so that a slow phase of the machine slows all sizes
        for part, path in paths.items():
            sizes[part].append(_predicting(setting, path))
    for part, runs in sizes.items():
        yield from _both("predict by size", f"{half * (part + 1)} slices", runs, {"voxels": voxels[part]})
    work = list(voxels.values())
    seconds, peaks = zip(*map(_medians, sizes.values()), strict=True)
    yield Row("predict by size", "R² of time and voxels", linearity(work, seconds), "", at_least=LINEAR)
    # Without a goal, since memory that hardly grows fits no line.
    yield Row("predict by size, memory", "R² of memory and voxels", linearity(work, peaks), "")
    for count in (1, 2, 4):
        # One scan is the smallest size, measured above.
        runs = sizes[1] if count == 1 else [_predicting(setting, paths[1], count) for _ in range(setting.slow)]
        yield from _both("predict by count", f"{count} scans", runs, {"scans": count})


def _preprocessing(setting: Setting) -> Iterator[Row]:
    """Measure the peak memory of preprocessing, in one run each."""
    raw, alone, out = raw_cases(setting), setting.directory / "largest", setting.directory / "out" / "memory"
    shutil.rmtree(alone, ignore_errors=True)
    shutil.copytree(raw / "case_00000", alone / "case_00000")
    write_json(alone / "dataset.json", {"name": "benchmark", "training": ["case_00000"], "evaluation": []})
    baseline_peak = in_own_process(baseline.prepare, alone, out / "baseline", setting.parameters)[1]
    yield Row("prepare, memory", BASELINE, baseline_peak, "MB", values=[baseline_peak])
    peak = in_own_process(preprocess_anew, alone, out / "ours", setting.parameters, 1)[1]
    yield Row("prepare, memory", "ours", peak, "MB", peak / baseline_peak, values=[peak])


def _medians(runs: Runs) -> tuple[float, float]:
    seconds, peaks = zip(*runs, strict=True)
    return statistics.median(seconds), statistics.median(peaks)


def _both(what: str, how: str, runs: Runs, work: Mapping[str, float]) -> Iterator[Row]:
    """Yield a row of time and a row of memory."""
    seconds, peaks = _medians(runs)
    yield Row(what, how, seconds, work=work, values=[run[0] for run in runs])
    yield Row(f"{what}, memory", how, peaks, "MB", work=work, values=[run[1] for run in runs])


def _predicting(setting: Setting, scan: Path, count: int = 1) -> tuple[float, float]:
    """Return seconds and peak MB of predicting a scan ``count`` times in its own process."""
    return in_own_process(_predict, dict(setting.network), setting.parameters, scan, count)


def _predict(network: dict[str, object], parameters: PreprocessingParameters, scan: Path, count: int) -> None:
    predictor = Predictor(Model(build_network(network), parameters), "cpu")
    for _ in range(count):
        predictor.predict(scan)
