"""Measure sliding windows, cases, training steps, the loader, preprocessing and memory."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import monai.losses
import torch
from monai.data import DataLoader, Dataset
from monai.transforms import Compose, EnsureTyped, SelectItemsd

from kits_unet3d.transforms import RandBalancedCropd, augmentation

from ..data import OpenPreprocessedd
from ..device import Accelerator, resolve
from ..device_check import Workload
from ..inference import Predictor
from ..inference.agreement import MissingBackendError
from ..inference.backends import BACKENDS, Backend, make_backend
from ..inference.window_selection import DEFAULT
from ..model import build_network
from ..runtime.compilation import can_compile
from ..training import compiled, keep_freed_memory
from . import baseline, scans
from .mask_agreement import agreement
from .measure import BASELINE, Row, alternating, aside, in_blocks, rows
from .peak_memory import memory
from .scans import prepare
from .setting import Setting

#: Samples per turn: in two of five, the baseline searches the foreground, which takes far longer than the other three.
SAMPLES = 20


def _accelerators() -> dict[str, Accelerator]:
    """Return accelerators by precision; bf16 only where the CPU computes in it."""
    found = {"fp32": resolve("cpu")}
    if resolve("cpu", "auto").precision == "bf16":
        found["bf16"] = resolve("cpu", "bf16")
    return found


def windows(setting: Setting) -> Iterator[Row]:
    """Measure one sliding window in every inference backend, made and compared with the network before."""
    network = build_network(setting.network).eval()
    image = torch.randn(1, 1, *[setting.patch] * 3)
    backends: dict[str, Backend] = {BASELINE: network}
    for precision, accelerator in _accelerators().items():
        for name in BACKENDS:
            if (name, precision) != ("eager", "fp32"):
                try:
                    backends[f"{name} {precision}"] = make_backend(name, network, accelerator, tuple(image.shape))
                except MissingBackendError:
                    continue
    with torch.inference_mode():
        seconds = alternating({name: partial(run, image) for name, run in backends.items()}, setting.repeats)
    # Only the fastest inference backend has a goal: the largest allowed ratio to the baseline.
    goals = {}
    for precision, goal in (("fp32", 0.62), ("bf16", 0.33)):
        made = [name for name in backends if name.endswith(precision)]
        if made:
            goals[min(made, key=lambda name: statistics.median(seconds[name]))] = goal
    yield from rows("window", seconds, goals, {"voxels": float(image.numel())})


def case(setting: Setting) -> Iterator[Row]:
    """Measure one scan from file to mask."""
    spacing = (2.5, 0.92, 0.92)
    shape = tuple(
        round(n * wanted / s) for n, wanted, s in zip(setting.grid, setting.parameters.spacing_mm, spacing, strict=True)
    )
    scan, out = scans.write_raw(setting.directory / "scan", shape, spacing), setting.directory / "masks"
    model, best = setting.model(), list(_accelerators().values())[-1]
    fewer = f"{best.precision}, {' '.join(DEFAULT)}"

    def ours(**options: Any) -> Callable[[], Any]:
        predictor = Predictor(model, best, **options)
        return lambda: predictor.predict(scan).save(out)

    contenders: dict[str, Callable[[], Any]] = {
        BASELINE: lambda: baseline.predict(model.network, setting.parameters, scan, out),
        f"{best.precision}, the reference's windows": ours(windows=("reference",)),
        fewer: ours(),
        f"{fewer}, roi coarse": ours(roi="coarse"),
    }
    goals = {fewer: 0.15, f"{fewer}, roi coarse": 0.08}
    # The first run makes the inference backend, as a batch of scans does once; the median leaves it out.
    yield from rows("case", alternating(contenders, setting.slow, warm=False), goals, {"cases": 1})
    if setting.checkpoint is not None and setting.scans is not None:
        default = " ".join(DEFAULT)
        options: dict[str, dict[str, Any]] = {
            "reference": {"windows": ("reference",)},
            default: {},
            "coarse": {"roi": "coarse"},
        }
        yield from agreement(setting, options, default)


def train_step(setting: Setting) -> Iterator[Row]:
    """Measure a training step of batch size 1."""
    work = Workload(setting.network, setting.loss, setting.patch)
    loss = getattr(monai.losses, str(setting.loss["_target_"]).rpartition(".")[2])(
        **{key: value for key, value in setting.loss.items() if not key.startswith("_")}
    )
    contenders: dict[str, Callable[[], Any]] = {
        BASELINE: baseline.train_step(build_network(setting.network), loss, work.batch())
    }
    for precision, accelerator in _accelerators().items():
        for name, channels_last in ((precision, False), (f"{precision}, channels last", True)):
            network = accelerator.wrap(build_network(setting.network), channels_last)
            contenders[name] = partial(work.train, accelerator, network)
    # These keep freed memory, which affects a whole process: run them apart, so that the baseline does not gain.
    kept = {f"{precision}, memory kept": {"channels_last": False, "compile": False}}
    if can_compile(accelerator):
        kept[f"{precision}, channels last, compiled, memory kept"] = {"channels_last": True, "compile": True}
    with ExitStack() as processes:
        for name, options in kept.items():
            contenders[name] = processes.enter_context(aside(_keeping_memory, work, precision, **options))
        seconds = alternating(contenders, setting.slow)
    best = min(contenders, key=lambda name: statistics.median(seconds[name]))
    goals = {best: 0.5} if best.startswith("bf16") else {}
    yield from rows("train-step", seconds, goals, {"voxels": float(setting.patch**3)})


def _keeping_memory(work: Workload, precision: str, channels_last: bool, compile: bool) -> Callable[[], object]:
    """Return a training step with the bundle's keys ``channels_last`` and ``compiled``, and with freed memory kept."""
    accelerator = resolve("cpu", precision)
    keep_freed_memory(accelerator)
    network = build_network(work.network)
    network = accelerator.wrap(compiled(network, accelerator) if compile else network, channels_last)
    return partial(work.train, accelerator, network)


def loader(setting: Setting) -> Iterator[Row]:
    """Measure loading a training patch from disk, and a training step that waits for the loader.

    The first is without augmentation, the second with it.
    """
    cases, parameters = scans.write_preprocessed(setting.directory / "preprocessed", setting.grid), setting.parameters
    both = ("image", "label")
    crop = Compose(
        [
            OpenPreprocessedd(both),
            RandBalancedCropd(both, "label", parameters.roi_size, 0.4, "boxes"),
            EnsureTyped(both),
        ]
    )
    turns = {BASELINE: iter(cases * 1000), "ours": iter(cases * 1000)}
    contenders: dict[str, Callable[[], object]] = {
        BASELINE: lambda: [baseline.load_sample(next(turns[BASELINE]), parameters.roi_size) for _ in range(SAMPLES)],
        "ours": lambda: [crop(dict(next(turns["ours"]))) for _ in range(SAMPLES)],
    }
    what = f"loader, {SAMPLES} samples"
    yield from rows(what, alternating(contenders, setting.repeats), {"ours": 0.05}, {"samples": SAMPLES})

    # Both contenders run our step; the baseline has the batch in memory.
    work, accelerator = Workload(setting.network, setting.loss, setting.patch), list(_accelerators().values())[-1]
    network, ready = accelerator.wrap(build_network(setting.network)), work.batch()
    patches = Dataset(
        cases * 1000,
        Compose([OpenPreprocessedd(both), augmentation(parameters, boxes_key="boxes"), SelectItemsd(both)]),
    )

    def at_hand() -> Callable[[], object]:
        return lambda: work.train(accelerator, network, batch=ready)

    def loading() -> Callable[[], object]:
        loaded = iter(DataLoader(patches, batch_size=1, num_workers=1))  # loads nothing before its block
        return lambda: work.train(accelerator, network, batch=next(loaded))

    name = "with the loader, 1 worker"
    yield from rows(
        "step", in_blocks({BASELINE: at_hand, name: loading}, setting.repeats), {name: 1.02}, {"samples": 1}
    )


#: Benchmarks by their name on the command line.
KINDS: dict[str, Callable[[Setting], Iterator[Row]]] = {
    "windows": windows,
    "case": case,
    "train-step": train_step,
    "loader": loader,
    "prepare": prepare,
    "memory": memory,
}


def run_benchmark(names: list[str], setting: Setting) -> Iterator[Row]:
    """Run benchmarks by name, one after the other; ``"all"`` runs all of :data:`KINDS`."""
    for name in KINDS if "all" in names else names:
        yield from KINDS[name](setting)
