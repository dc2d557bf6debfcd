"""What is measured."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import monai.losses
import torch
from monai.data import DataLoader, Dataset
from monai.transforms import Compose, EnsureTyped, SelectItemsd

from kits_unet3d.transforms import RandBalancedCropd, Recipe, augmentation

from ..compilation import can_compile
from ..data import OpenPreparedd, prepare_dataset
from ..device import Accelerator, resolve
from ..errors import UsageError
from ..files import write_json
from ..inference import Predictor
from ..inference.engines import ENGINES, Engine, MissingEngineError, make_engine
from ..inference.windows import DEFAULT
from ..model import Model, build_network
from ..selfcheck import Workload
from ..training import compiled, keep_freed_memory
from . import plain, scans
from .agreement import agreement
from .measure import PLAIN, Row, alternating, aside, in_blocks, in_own_process, linearity, rows
from .setting import Setting

#: R² that is a straight line.
LINEAR = 0.98


def _accelerators() -> dict[str, Accelerator]:
    """By precision; bf16 only where the CPU computes in it."""
    found = {"fp32": resolve("cpu")}
    if resolve("cpu", "auto").precision == "bf16":
        found["bf16"] = resolve("cpu", "bf16")
    return found


def windows(setting: Setting) -> Iterator[Row]:
    """One window in every engine; made and compared with the network before."""
    network = build_network(setting.network).eval()
    image = torch.randn(1, 1, *[setting.patch] * 3)
    engines: dict[str, Engine] = {PLAIN: network}
    for precision, accelerator in _accelerators().items():
        for name in ENGINES:
            if (name, precision) != ("eager", "fp32"):
                try:
                    engines[f"{name} {precision}"] = make_engine(name, network, accelerator, tuple(image.shape))
                except MissingEngineError:
                    continue
    with torch.inference_mode():
        seconds = alternating({name: partial(run, image) for name, run in engines.items()}, setting.repeats)
    goals = {name: 0.62 if name.endswith("fp32") else 0.33 for name in engines}
    yield from rows("window", seconds, goals, {"voxels": float(image.numel())})


def case(setting: Setting) -> Iterator[Row]:
    """One scan from file to mask."""
    spacing = (2.5, 0.92, 0.92)
    shape = tuple(
        round(n * wanted / s) for n, wanted, s in zip(setting.grid, setting.recipe.spacing_mm, spacing, strict=True)
    )
    scan, out = scans.write_raw(setting.folder / "scan", shape, spacing), setting.folder / "masks"
    model, best = setting.model(), list(_accelerators().values())[-1]
    fewer = f"{best.precision}, {' '.join(DEFAULT)}"

    def ours(**options: Any) -> Callable[[], Any]:
        predictor = Predictor(model, best, **options)
        return lambda: predictor.predict(scan).save(out)

    contenders: dict[str, Callable[[], Any]] = {
        PLAIN: lambda: plain.predict(model.network, setting.recipe, scan, out),
        f"{best.precision}, the reference's windows": ours(windows=("reference",)),
        fewer: ours(),
        f"{fewer}, roi coarse": ours(roi="coarse"),
    }
    goals = {fewer: 0.15, f"{fewer}, roi coarse": 0.08}
    # The first of several makes the engine, as a batch of scans does once; a median leaves it out.
    yield from rows("case", alternating(contenders, setting.slow, warm=False), goals, {"cases": 1})
    if setting.checkpoint is not None and setting.scans is not None:
        reference, default = {"windows": ("reference",)}, " ".join(DEFAULT)
        options = {"reference": reference, default: {}, "coarse": {"roi": "coarse"}}
        yield from agreement(setting, options, default)


def train_step(setting: Setting) -> Iterator[Row]:
    """A training step of batch 1."""
    work = Workload(setting.network, setting.loss, setting.patch)
    loss = getattr(monai.losses, str(setting.loss["_target_"]).rpartition(".")[2])(
        **{key: value for key, value in setting.loss.items() if not key.startswith("_")}
    )
    contenders: dict[str, Callable[[], Any]] = {
        PLAIN: plain.train_step(build_network(setting.network), loss, work.batch())
    }
    for precision, accelerator in _accelerators().items():
        for name, channels_last in ((precision, False), (f"{precision}, channels last", True)):
            network = accelerator.wrap(build_network(setting.network), channels_last)
            contenders[name] = partial(work.train, accelerator, network)
    # What follows keeps its memory, which is a whole process's matter: the plain path shall not gain by it.
    kept = {f"{precision}, memory kept": {"channels_last": False, "compile": False}}
    if can_compile(accelerator):
        kept[f"{precision}, channels last, compiled, memory kept"] = {"channels_last": True, "compile": True}
    with ExitStack() as processes:
        for name, options in kept.items():
            contenders[name] = processes.enter_context(aside(_keeping_memory, work, precision, **options))
        goals = {name: 0.5 for name in contenders if name.startswith("bf16")}
        seconds = alternating(contenders, setting.slow)
    yield from rows("train-step", seconds, goals, {"voxels": float(setting.patch**3)})


def _keeping_memory(work: Workload, precision: str, channels_last: bool, compile: bool) -> Callable[[], object]:
    """Steps as the bundle's training does them, with its keys."""
    accelerator = resolve("cpu", precision)
    keep_freed_memory(accelerator)
    network = build_network(work.network)
    network = accelerator.wrap(compiled(network, accelerator) if compile else network, channels_last)
    return partial(work.train, accelerator, network)


def loader(setting: Setting) -> Iterator[Row]:
    """One training patch from the disk, without what augmentation does to it; a step that waits for whole ones."""
    cases, recipe = scans.write_prepared(setting.folder / "prepared", setting.grid), setting.recipe
    both = ("image", "label")
    crop = Compose(
        [OpenPreparedd(both), RandBalancedCropd(both, "label", recipe.roi_size, 0.4, "boxes"), EnsureTyped(both)]
    )
    turns = {PLAIN: iter(cases * 1000), "ours": iter(cases * 1000)}
    contenders: dict[str, Callable[[], object]] = {
        PLAIN: lambda: plain.load_sample(next(turns[PLAIN]), recipe.roi_size),
        "ours": lambda: crop(dict(next(turns["ours"]))),
    }
    yield from rows("loader", alternating(contenders, 4 * setting.repeats), {"ours": 0.05}, {"samples": 1})

    # Both steps are ours here; what is plain is to have the batch at hand.
    work, accelerator = Workload(setting.network, setting.loss, setting.patch), list(_accelerators().values())[-1]
    network, ready = accelerator.wrap(build_network(setting.network)), work.batch()
    patches = Dataset(
        cases * 1000, Compose([OpenPreparedd(both), augmentation(recipe, boxes_key="boxes"), SelectItemsd(both)])
    )

    def at_hand() -> Callable[[], object]:
        return lambda: work.train(accelerator, network, batch=ready)

    def loading() -> Callable[[], object]:
        loaded = iter(DataLoader(patches, batch_size=1, num_workers=1))  # nothing is loaded before its block
        return lambda: work.train(accelerator, network, batch=next(loaded))

    name = "with the loader, 1 worker"
    yield from rows("step", in_blocks({PLAIN: at_hand, name: loading}, setting.repeats), {name: 1.02}, {"samples": 1})


def _raw_cases(setting: Setting) -> Path:
    raw = setting.folder / "raw"
    for number, count in enumerate(setting.slices):
        scans.write_raw(raw / f"case_{number:05d}", (count, setting.plane, setting.plane), (1.0, 0.8, 0.8), number)
    names = [f"case_{number:05d}" for number in range(len(setting.slices))]
    write_json(raw / "dataset.json", {"name": "benchmark", "training": names, "evaluation": []})
    return raw


def _prepare(raw: Path, out: Path, recipe: Recipe, workers: int) -> None:
    shutil.rmtree(out, ignore_errors=True)
    failed = prepare_dataset(raw, out, recipe, workers)
    if failed:
        raise UsageError(f"{raw}: {failed}")


def prepare(setting: Setting) -> Iterator[Row]:
    """Raw cases to prepared ones; two at a time in ours."""
    raw, out = _raw_cases(setting), setting.folder / "out"
    contenders = {
        PLAIN: lambda: plain.prepare(raw, out / "plain", setting.recipe),
        "ours": lambda: _prepare(raw, out / "ours", setting.recipe, 2),
    }
    yield from rows(
        "prepare",
        alternating(contenders, setting.slow, warm=False),
        {"ours": 0.25},
        {"cases": len(setting.slices)},
    )


def memory(setting: Setting) -> Iterator[Row]:
    """Peak memory: of preparing the largest case, and of predicting scans of growing size, and one, two and four."""
    raw = _raw_cases(setting)
    alone = setting.folder / "largest"
    shutil.rmtree(alone, ignore_errors=True)
    shutil.copytree(raw / "case_00000", alone / "case_00000")
    write_json(alone / "dataset.json", {"name": "benchmark", "training": ["case_00000"], "evaluation": []})
    out = setting.folder / "out" / "memory"
    plainly = in_own_process(plain.prepare, alone, out / "plain", setting.recipe)[1]
    yield Row("prepare, memory", PLAIN, plainly, "MB")
    peak = in_own_process(_prepare, alone, out / "ours", setting.recipe, 1)[1]
    yield Row("prepare, memory", "ours", peak, "MB", peak / plainly)
    measured = []
    half = setting.patch // 2
    for part in (1, 2, 3, 4):
        # A window more each time: between such sizes the number of windows, and so the time, stands still.
        shape = (half * (part + 1), 3 * half, 3 * half)
        voxels = float(shape[0] * shape[1] * shape[2])
        scan = scans.write_raw(setting.folder / f"part{part}", shape)
        measured.append((voxels, *in_own_process(_predict, dict(setting.network), setting.recipe, scan, 1)))
        yield from _both("predict by size", f"{shape[0]} slices", measured[-1][1:], {"voxels": voxels})
    work, seconds, peaks = zip(*measured, strict=True)
    yield Row("predict by size", "R² of time and voxels", linearity(work, seconds), "", at_least=LINEAR)
    yield Row("predict by size, memory", "R² of memory and voxels", linearity(work, peaks), "", at_least=LINEAR)
    scan = setting.folder / "part1" / "imaging.nii.gz"
    for count in (1, 2, 4):
        result = in_own_process(_predict, dict(setting.network), setting.recipe, scan, count)
        yield from _both("predict by count", f"{count} scans", result, {"scans": count})


def _both(what: str, how: str, result: tuple[float, ...], work: dict[str, float]) -> Iterator[Row]:
    """Time and memory, a line each."""
    yield Row(what, how, result[0], work=work)
    yield Row(f"{what}, memory", how, result[1], "MB", work=work)


def _predict(network: dict[str, object], recipe: Recipe, scan: Path, count: int) -> None:
    predictor = Predictor(Model(build_network(network), recipe), "cpu")
    for _ in range(count):
        predictor.predict(scan)


#: What can be measured, by the name on the command line.
KINDS: dict[str, Callable[[Setting], Iterator[Row]]] = {
    "windows": windows,
    "case": case,
    "train-step": train_step,
    "loader": loader,
    "prepare": prepare,
    "memory": memory,
}


def run_benchmark(names: list[str], setting: Setting) -> Iterator[Row]:
    """Measures by name, one after the other; ``"all"`` is all of :data:`KINDS`."""
    for name in KINDS if "all" in names else names:
        yield from KINDS[name](setting)
