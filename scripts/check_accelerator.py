"""Check an accelerator and measure it, for scripts/check_accelerator.sh; its head says what and how."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

from kits_unet3d.networks import UNet3D
from kits_unet3d.pipeline.device import Accelerator, resolve
from kits_unet3d.pipeline.device_check import Workload
from kits_unet3d.pipeline.inference import AutocastInferer, ReferenceWindows
from kits_unet3d.pipeline.runtime.configuration import section
from kits_unet3d.pipeline.runtime.errors import DeviceError
from kits_unet3d.pipeline.runtime.files import whole_file, write_json
from kits_unet3d.transforms import CropToStride

ROOT = Path(__file__).resolve().parent.parent
GOLDENS, TRAIN = ROOT / "tests" / "goldens", ROOT / "bundle" / "configs" / "train.json"
PRECISIONS = ("fp32", "fp16", "bf16")
#: Largest accepted difference of a logit from the golden, relative to the largest logit.
LOGITS = {"fp32": 1e-3, "fp16": 0.05, "bf16": 0.1}
#: The same for losses of five SGD steps, for stitched windows, and for the weights of a resumed training.
LOSSES, WINDOWS, RESUMED = 1e-3, 1e-4, 0.05
#: Least share of voxels with the class that a CPU gives them.
SAME_MASK = 0.99


class Report:
    """Collect rows (part, verdict, detail), and keep what is there on disk if a later part fails."""

    def __init__(self, directory: Path, limit: float) -> None:
        self.directory, self.limit, self.started = directory, limit, time.monotonic()
        self.content: dict[str, Any] = {"date": time.strftime("%Y-%m-%d"), "rows": []}

    def remaining(self) -> float:
        return self.limit - (time.monotonic() - self.started)

    def part(self, name: str, run: Callable[[], tuple[bool, str]]) -> None:
        """Run a part and add its row; an error is a failure of this part alone."""
        if self.remaining() < 5:
            verdict, detail = "left out", f"the {self.limit:.0f} seconds are over"
        else:
            try:
                ok, detail = run()
                verdict = "ok" if ok else "FAILED"
            except subprocess.TimeoutExpired:
                verdict, detail = "left out", f"the {self.limit:.0f} seconds are over"
            except Exception as error:  # devices fail in many ways; the other parts still count
                verdict, detail = "FAILED", f"{type(error).__name__}: {error}".splitlines()[0]
        self.content["rows"].append({"part": name, "verdict": verdict, "detail": detail})
        print(f"{verdict:<9}{name}: {detail}", flush=True)
        self.write()

    def write(self) -> None:
        self.content["seconds"] = round(time.monotonic() - self.started)
        write_json(self.directory / "report.json", self.content)
        about = {**self.content["device"], **self.content.get("card", {})}
        lines = [f"| {name} | {value} |" for name, value in about.items()]
        rows = [f"| {row['part']} | {row['verdict']} | {row['detail']} |" for row in self.content["rows"]]
        text = ["| device | |", "|---|---|", *lines, "", "| part | verdict | detail |", "|---|---|---|", *rows, ""]
        with whole_file(self.directory / "report.md") as temporary:
            temporary.write_text("\n".join(text), encoding="utf-8")


def rng(seed: int) -> np.random.Generator:
    """Return the generator from which the goldens' inputs come."""
    return np.random.Generator(np.random.PCG64(seed))


def golden_network(device: torch.device) -> UNet3D:
    network = UNet3D()
    for name, values in network.state_dict().items():
        shape = tuple(values.shape)
        z = rng(zlib.crc32(name.encode())).standard_normal(shape, dtype=np.float32)
        scaled = z * np.sqrt(2 / np.prod(shape[1:])) if z.ndim >= 2 else 1 + 0.1 * z if "weight" in name else 0.1 * z
        values.copy_(torch.from_numpy(np.asarray(scaled, dtype=np.float32)))
    return network.to(device)


def network_golden(accelerator: Accelerator, workload: Workload) -> tuple[bool, str]:
    """Compare logits with the reference's, and in FP32 the losses of five SGD steps."""
    with np.load(GOLDENS / "network.npz", allow_pickle=False) as recorded:
        seed, shape, expected = int(recorded["seed"]), tuple(recorded["shape"]), recorded["logits_stride8"]
        losses, rate = recorded["sgd_losses"], float(recorded["lr"])
    image = torch.from_numpy(rng(seed).standard_normal((1, 1, *shape), dtype=np.float32)).to(accelerator.device)
    label = torch.from_numpy(rng(seed + 1).integers(0, 3, (1, 1, *shape))).to(accelerator.device)
    network, loss_function = golden_network(accelerator.device), workload.loss_function()
    with torch.no_grad(), accelerator.autocast():
        logits = network(image).float().cpu().numpy()[0, :, ::8, ::8, ::8]
    difference = float(np.abs(logits - expected).max() / np.abs(expected).max())
    ok, detail = difference <= LOGITS[accelerator.precision], f"logits differ by {difference:.1e}"
    if accelerator.precision != "fp32":
        return ok, f"{detail} (at most {LOGITS[accelerator.precision]:g})"
    optimizer = torch.optim.SGD(network.parameters(), lr=rate, momentum=0.9, nesterov=True)
    got = []
    for _ in losses:
        optimizer.zero_grad()
        loss = loss_function(network(image), label)
        loss.backward()
        optimizer.step()
        got.append(float(loss.detach().cpu()))
    drift = float(np.abs(np.array(got) - losses).max())
    bounds = f"(at most {LOGITS['fp32']:g}), losses of {len(losses)} SGD steps by {drift:.1e} (at most {LOSSES:g})"
    return ok and drift <= LOSSES, f"{detail} {bounds}"


def window_golden(accelerator: Accelerator, _: Workload) -> tuple[bool, str]:
    """Compare stitched sliding windows with the reference's; they are summed in FP32 in every precision."""
    with np.load(GOLDENS / "sliding_window.npz", allow_pickle=False) as file:
        recorded = dict(file)
    roi, worst = int(recorded["roi"]), 0.0
    i, j, k = torch.meshgrid(*[torch.arange(roi) / roi] * 3, indexing="ij")
    ramp = (i + 2 * j + 3 * k).to(accelerator.device)

    def model(window: torch.Tensor) -> torch.Tensor:
        return torch.cat([window * ramp, window * ramp**2, window + ramp], dim=1)

    for case, shape in enumerate(recorded["shapes"]):
        image = rng(int(recorded["seed"]) + case).standard_normal((1, *shape), dtype=np.float32)
        kept = CropToStride(roi // 2)(torch.from_numpy(image))[None].to(accelerator.device)
        inferer = AutocastInferer(ReferenceWindows(roi, float(recorded["overlap"])), accelerator)
        worst = max(worst, float(np.abs(inferer(kept, model)[0].cpu().numpy() - recorded[f"result_{case}"]).max()))
    return worst <= WINDOWS, f"stitched windows differ by {worst:.1e} (at most {WINDOWS:g})"


def measure(accelerator: Accelerator, workload: Workload) -> tuple[bool, str]:
    """Time a window and a training step, and read the peaks of memory."""
    module = getattr(torch, accelerator.kind)
    network = workload.fresh_network(accelerator).eval()
    inferer = AutocastInferer(ReferenceWindows(workload.patch), accelerator)
    image = workload.batch()["image"].to(accelerator.device)

    def window() -> float:
        with torch.no_grad():
            for counted in range(4):  # the first is not counted
                if counted == 1:
                    accelerator.synchronize()
                    started = time.perf_counter()
                inferer(image, network)
            accelerator.synchronize()
        return (time.perf_counter() - started) / 3

    told = []
    for name, run in (("window", window), ("step", lambda: workload.seconds_a_step(accelerator))):
        getattr(module, "reset_peak_memory_stats", lambda: None)()
        seconds = run()
        peak = accelerator.memory().get("peak")
        told.append(f"{name} {1000 * seconds:.0f} ms" + (f", {peak / 2**30:.2f} GiB" if peak is not None else ""))
    return True, f"{'; '.join(told)} ({workload.patch}³ voxels)"


class Runs:
    """Run the project's commands in processes of their own, as a user does."""

    def __init__(self, directory: Path, device: str, steps: int, small: bool, report: Report) -> None:
        self.directory, self.device, self.steps, self.report = directory, device, steps, report
        self.config = directory / "config.json"
        sizes = {"channels": [4, 8, 8], "roi_size": [32] * 3} if small else {"roi_size": [64] * 3}
        # Five phantoms, four of them for training: two steps of two patches an epoch.
        settings = {"spacing_mm": [8.0, 6.0, 6.0] if small else [4.0, 3.0, 3.0], "workers": 0, "batch_size": 2}
        settings |= {"learning_rate": 0.05, "warmup_epochs": 1, "evaluate_every": 1, "quality_threshold": 1.1}
        last = {"first_evaluation": max(steps // 2, 2)}
        write_json(self.config, {**settings, **sizes, **last})

    def command(self, *arguments: object) -> str:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True,
            timeout=max(self.report.remaining(), 1),
        )  # fmt: skip
        if done.returncode != 0:
            errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
            raise RuntimeError((errors or done.stderr.splitlines() or ["no message"])[-1])
        return done.stdout

    def cli(self, *arguments: object) -> str:
        return self.command("kits_unet3d.pipeline.cli", *arguments)

    def self_check(self, patch: int) -> tuple[bool, str]:
        path = self.directory / "device.json"
        path.unlink(missing_ok=True)
        config = ["--config", TRAIN, self.config]
        try:
            self.cli("device", "--device", self.device, "--patch", patch, "--report", path, *config)
        except RuntimeError:
            if not path.is_file():
                raise
        found = json.loads(path.read_text(encoding="utf-8"))
        self.report.content |= {key: found[key] for key in ("card", "checks")}
        bad = [f"{check['name']}: {check['detail']}" for check in found["checks"] if not check["ok"]]
        return not bad, "; ".join(bad) or f"all {len(found['checks'])} checks passed"

    def train(self, name: str, epochs: int, *more: object) -> dict[str, Any]:
        models = self.directory / name
        self.command(
            "monai.bundle", "run", "training", "--config_file", str([str(TRAIN), str(self.config)]), "--dataset_dir",
            self.directory / "preprocessed", "--ckpt_dir", models, "--output_dir", models / "eval", "--device_name",
            self.device, "--epochs", epochs, *more,
        )  # fmt: skip
        content: dict[str, Any] = torch.load(models / "model_final.pt", map_location="cpu", weights_only=True)
        return content

    def training(self) -> tuple[bool, str]:
        """Train at one go, and in two halves with a restart between them; compare the weights."""
        raw, epochs = self.directory / "raw", max(self.steps // 2, 2)
        for old in ("raw", "preprocessed", "whole", "halves"):
            shutil.rmtree(self.directory / old, ignore_errors=True)
        self.cli("phantom", "--cases", 5, "-o", raw, "--shape", 48, 80, 80, "--spacing-mm", 6.7, 4.8, 4.8)
        self.cli("prepare", "--data-dir", raw, "-o", self.directory / "preprocessed", "--config", self.config)
        started = time.monotonic()
        whole = self.train("whole", epochs)["model"]
        seconds = time.monotonic() - started
        self.train("halves", epochs // 2)
        halves = self.train("halves", epochs, "--resume", True)["model"]
        finite = all(bool(torch.isfinite(values).all()) for values in whole.values())
        difference = max(float((whole[key] - halves[key]).abs().max() / whole[key].abs().max()) for key in whole)
        detail = f"{2 * epochs} steps in {seconds:.0f} s with start and evaluation; "
        return finite and difference <= RESUMED, detail + f"a resumed run's weights differ by {difference:.1e}"

    def prediction(self) -> tuple[bool, str]:
        """Predict a scan on the device and on a CPU with the trained network; compare the masks."""
        scan, masks, seconds = self.directory / "raw" / "case_00000" / "imaging.nii.gz", {}, {}
        for device in dict.fromkeys((self.device, "cpu")):
            out = self.directory / f"mask_{device.replace(':', '_')}.nii.gz"
            out.unlink(missing_ok=True)
            started = time.monotonic()
            self.cli("predict", scan, "-o", out, "--checkpoint", self.directory / "whole" / "model_final.pt",
                     "--device", device, "--no-html-report", "--overwrite")  # fmt: skip
            seconds[device], masks[device] = time.monotonic() - started, np.asanyarray(nib.load(out).dataobj)
        same = float((masks[self.device] == masks["cpu"]).mean())
        return same >= SAME_MASK, f"{seconds[self.device]:.0f} s with start; {same:.3%} of the voxels as on a CPU"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--limit", type=float, default=480)
    parser.add_argument("--small", type=int, choices=(0, 1), default=None)
    given = parser.parse_args()
    try:
        accelerator = resolve(given.device)
    except DeviceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    small = accelerator.on_cpu if given.small is None else bool(given.small)
    patch, device = (32 if small else 128), str(accelerator.device)
    report = Report(given.directory, given.limit)
    report.content |= {"device": accelerator.describe(), "small": small}
    runs = Runs(given.directory, device, given.steps, small, report)
    report.part("self-check", lambda: runs.self_check(32 if small else 64))
    network = {**section("network_factory", TRAIN), **({"channels": [4, 8, 8]} if small else {})}
    workload = Workload(network, section("loss", TRAIN), patch)
    for precision in PRECISIONS:
        try:
            mixed = resolve(accelerator.device, precision)
        except DeviceError as error:
            report.part(precision, lambda error=error: (True, str(error)))  # type: ignore[misc]
            continue
        parts = (("golden of network", network_golden), ("golden of windows", window_golden), ("times", measure))
        for name, run in parts:
            report.part(f"{name}, {precision}", lambda run=run, mixed=mixed: run(mixed, workload))  # type: ignore[misc]
    report.part("training with a restart", runs.training)
    report.part("prediction", runs.prediction)
    verdicts = [row["verdict"] for row in report.content["rows"]]
    failed, left = verdicts.count("FAILED"), verdicts.count("left out")
    print(f"{failed} of {len(verdicts)} parts failed, {left} were left out, in {report.content['seconds']} s; "
          f"the table is {given.directory / 'report.md'}")  # fmt: skip
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
