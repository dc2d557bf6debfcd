"""Run the command ``kits-unet3d device``."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict
from datetime import date
from typing import Any

from ..runtime.paths import config_file
from . import Outcome

HELP = "describe one or several accelerators, and check that they compute the same as a CPU"
EXAMPLE = "kits-unet3d device --device auto --accelerators 4"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="auto, cpu, or the name of an accelerator")
    parser.add_argument(
        "--accelerators",
        type=int,
        default=1,
        help="number of accelerators to check, alone and together, with one process each",
    )
    parser.add_argument("--patch", type=int, default=64, help="patch size in voxels; training uses 128")
    parser.add_argument("--report", default=None, help="also write everything to this JSON file, to send or keep it")
    parser.add_argument(
        "--config",
        nargs="+",
        type=config_file,
        default=[config_file("train")],
        help="bundle config that defines the network and the loss; further ones replace its top-level entries",
    )


def run(arguments: argparse.Namespace) -> Outcome:
    from ..device import KINDS, resolve
    from ..device_check import Workload
    from ..runtime.configuration import section
    from ..runtime.errors import UsageError

    if arguments.accelerators < 1:
        raise UsageError(f"--accelerators must be at least 1, got {arguments.accelerators}")
    network, loss = section("network_factory", *arguments.config), section("loss", *arguments.config)
    Workload(network, loss, arguments.patch).require_patch()
    strict = {name: value for kind in KINDS.values() for name, value in kind.strict.items()}
    launched = int(os.environ.get("WORLD_SIZE", 1)) >= arguments.accelerators
    if launched and strict.items() <= os.environ.items():
        return _check(arguments, network, loss)
    if not launched:  # a missing last accelerator is then reported once, not by each process
        resolve(arguments.device, local_rank=arguments.accelerators - 1)
    # Torch reads the strict environment at its start, and each accelerator needs a process: so start anew.
    command = [sys.executable, "-m", "kits_unet3d.pipeline.cli", "device", "--device", arguments.device]
    command += [
        "--accelerators",
        str(arguments.accelerators),
        "--patch",
        str(arguments.patch),
        "--config",
        *arguments.config,
    ]
    if not launched:
        command[1:1] = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={arguments.accelerators}"]
    command += [] if arguments.report is None else ["--report", arguments.report]
    command += [f"--{flag}" for flag in ("json", "debug") if getattr(arguments, flag)]
    captured = arguments.json and int(os.environ.get("RANK", 0)) == 0
    output = subprocess.PIPE if captured else None
    done = subprocess.run(command, env={**os.environ, **strict}, text=True, stdout=output)
    if not captured:
        return Outcome(None, done.returncode)
    if not done.stdout:
        raise UsageError(f"the processes ended with exit code {done.returncode} and without results; see above")
    results = json.loads(done.stdout)
    return Outcome(results, results.get("exit_code", done.returncode))


def _check(arguments: argparse.Namespace, network: dict[str, Any], loss: dict[str, Any]) -> Outcome:
    from ..device import resolve
    from ..device_check import Workload, describe_card, gathered, run_checks
    from ..runtime import distributed
    from ..runtime.files import write_json

    workload = Workload(network, loss, arguments.patch)
    accelerator = resolve(arguments.device)
    first = distributed.join(accelerator) == 0
    card = describe_card(accelerator) if first else {}
    if first:
        _table({**accelerator.describe(), **card}.items())
    checks = gathered(run_checks(accelerator, workload))
    failed = sum(not check.ok for check in checks)
    if first:
        _table((f"{'ok' if check.ok else 'FAILED':<7}{check.name}", check.detail) for check in checks)
        print(f"{failed} of {len(checks)} checks failed" if failed else "all checks passed")
    results = {"device": accelerator.describe(), "card": card, "patch": arguments.patch, "failed": failed}
    results["checks"] = [asdict(check) for check in checks]
    if first and arguments.report is not None:
        write_json(arguments.report, {**results, "date": f"{date.today()}", "system": platform.platform()})
        print(f"the report is in {arguments.report}")
    return Outcome(results if first else None, 1 if failed else 0)


def _table(rows: Any) -> None:
    for name, value in rows:
        print(f"{name:<25} {value}", flush=True)
    print()
