"""Run the checks of a device, and report a verdict for each."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import nn

from ..device import Accelerator, resolve
from ..runtime import distributed
from ..runtime.compilation import obstacle
from ..runtime.errors import DeviceError
from .detours import Detours
from .workload import Workload

#: Largest accepted differences from the CPU in FP32, each relative to the CPU's value.
LOSS_TOLERANCE, UPDATE_TOLERANCE, LOGITS_TOLERANCE = 1e-4, 1e-2, 1e-3
#: The same for logits in bf16, which keeps 8 bits: 30 roundings in a row may add up to this.
BF16_TOLERANCE = 0.1


@dataclass(frozen=True)
class Check:
    """Hold a check's question, its verdict and its answer."""

    name: str
    ok: bool
    detail: str


def run_checks(accelerator: Accelerator, workload: Workload) -> list[Check]:
    """Run all checks of this process's accelerator, and of all accelerators if there are several processes.

    An error fails its own check alone. Only an error between accelerators ends the run, since the others wait for this
    one.
    """
    reference = resolve("cpu")
    computed: dict[str, torch.Tensor] = {}
    alone: dict[str, Callable[[], tuple[bool, str]]] = {
        "native operations": lambda: _native(accelerator, workload, computed),
        "training step": lambda: _step(reference, workload, computed),
        "window": lambda: _window(reference, workload, computed),
        "bf16": lambda: _bf16(accelerator, workload, computed),
        "step time": lambda: _time(accelerator, workload),
        "compiler": lambda: _compiler(accelerator),
    }
    checks = [_answered(name, check) for name, check in alone.items()]
    if distributed.world_size() > 1:
        checks.append(Check("all-reduce", *_all_reduce(accelerator, workload)))
        checks.append(Check("training together", *_together(accelerator, workload)))
    return checks


def _answered(name: str, check: Callable[[], tuple[bool, str]]) -> Check:
    try:
        return Check(name, *check())
    except Exception as error:  # devices fail in many ways; the other checks still count
        return Check(name, False, f"{type(error).__name__}: {error}".splitlines()[0])


def _weights(network: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().reshape(-1).cpu() for parameter in network.parameters()])


def _relative(value: torch.Tensor, reference: torch.Tensor) -> float:
    """Divide the largest difference by the largest value of the reference; not finite if either is not."""
    return float((value - reference).abs().max() / reference.abs().max())


def _native(accelerator: Accelerator, workload: Workload, computed: dict[str, torch.Tensor]) -> tuple[bool, str]:
    network = workload.fresh_network(accelerator)
    before = _weights(network)
    with Detours() as detours:
        computed["loss"] = torch.tensor(workload.train(accelerator, network))
        computed["logits"] = workload.window(accelerator)
    computed["update"] = _weights(network) - before
    lacking = ", ".join(sorted(detours.operations))
    return not lacking, f"would run on the CPU: {lacking}" if lacking else "the device has all operations used"


def _step(reference: Accelerator, workload: Workload, computed: dict[str, torch.Tensor]) -> tuple[bool, str]:
    network = workload.fresh_network(reference)
    before = _weights(network)
    loss = _relative(computed["loss"], torch.tensor(workload.train(reference, network)))
    update = _relative(computed["update"], _weights(network) - before)
    return loss <= LOSS_TOLERANCE and update <= UPDATE_TOLERANCE, (
        f"loss differs from the CPU's by {loss:.1e} (at most {LOSS_TOLERANCE:.0e}), "
        f"the weights' change by {update:.1e} (at most {UPDATE_TOLERANCE:.0e})"
    )


def _window(reference: Accelerator, workload: Workload, computed: dict[str, torch.Tensor]) -> tuple[bool, str]:
    expected = workload.window(reference)
    logits = _relative(computed["logits"], expected)
    same = float((computed["logits"].argmax(1) == expected.argmax(1)).float().mean())
    return logits <= LOGITS_TOLERANCE, (
        f"logits differ from the CPU's by {logits:.1e} (at most {LOGITS_TOLERANCE:.0e}); {same:.3%} of the labels agree"
    )


def _bf16(accelerator: Accelerator, workload: Workload, computed: dict[str, torch.Tensor]) -> tuple[bool, str]:
    try:
        mixed = resolve(accelerator.device, "bf16")
    except DeviceError:
        return True, "this device does not compute in bf16; use fp32 or fp16"
    try:
        difference = _relative(workload.window(mixed), computed["logits"])
    finally:
        resolve(accelerator.device, accelerator.precision)
    return 0 < difference <= BF16_TOLERANCE, (
        f"logits differ from FP32's by {difference:.1e} (at most {BF16_TOLERANCE:.0e}, and not 0, or bf16 is not used)"
    )


def _time(accelerator: Accelerator, workload: Workload) -> tuple[bool, str]:
    seconds = workload.seconds_a_step(accelerator)
    peak = accelerator.memory().get("peak")
    used = f", {peak / 2**30:.2f} GiB at most" if peak is not None else ""
    return True, f"{1000 * seconds:.0f} ms for one patch of {workload.patch}³ voxels in FP32{used}"


def _compiler(accelerator: Accelerator) -> tuple[bool, str]:
    """Report whether ``compiled`` has an effect; without it, networks run as they are, so both answers are right."""
    reason = obstacle(accelerator)
    return True, f"{reason}; `compiled` has no effect" if reason else "torch's compiler works"


def _all_reduce(accelerator: Accelerator, workload: Workload) -> tuple[bool, str]:
    """Sum as many numbers as the network has over all processes, and gather a CPU object from each."""
    count, size = _weights(workload.fresh_network(accelerator)).numel(), distributed.world_size()
    expected = size * (size + 1) / 2
    seconds = 0.0
    for _ in range(2):  # the first call connects the accelerators
        numbers = torch.full((count,), float(distributed.rank() + 1), device=accelerator.device)
        accelerator.synchronize()
        started = time.perf_counter()
        dist.all_reduce(numbers)
        accelerator.synchronize()
        seconds = time.perf_counter() - started
    cases = distributed.gather_by_case({f"case {distributed.rank()}": distributed.rank()})
    ok = bool((numbers == expected).all()) and len(cases) == size
    return ok, f"{count:,} numbers over {size} accelerators in {1000 * seconds:.1f} ms by {accelerator.backend}"


def _together(accelerator: Accelerator, workload: Workload) -> tuple[bool, str]:
    """Train each process on a patch of its own; their weights must stay the same."""
    network = accelerator.wrap(workload.fresh_network(accelerator))
    workload.train(accelerator, network, steps=2, batch=workload.batch(distributed.rank()))
    weights = _weights(network)
    lowest, highest = weights.clone(), weights.clone()
    dist.all_reduce(lowest, dist.ReduceOp.MIN)
    dist.all_reduce(highest, dist.ReduceOp.MAX)
    return torch.equal(lowest, highest), "weights after two steps are the same on all accelerators, bit for bit"


def gathered(checks: list[Check]) -> list[Check]:
    """Merge the verdicts of all processes on each check; a check passes only if all pass."""
    by_rank = distributed.gather_by_case({f"{distributed.rank():06d}": checks})
    merged = []
    for accelerator_checks in zip(*by_rank.values(), strict=True):
        bad = [f"accelerator {card}: {check.detail}" for card, check in enumerate(accelerator_checks) if not check.ok]
        merged.append(replace(accelerator_checks[0], ok=False, detail="; ".join(bad)) if bad else accelerator_checks[0])
    return merged
