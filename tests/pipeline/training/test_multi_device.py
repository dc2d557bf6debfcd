"""Training in several processes: torchrun, gloo, real kills."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, TINY
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from kits_unet3d.pipeline.data import Index, preprocess_dataset
from kits_unet3d.pipeline.phantoms import write_dataset
from kits_unet3d.pipeline.training.checkpoint import last_checkpoints
from kits_unet3d.transforms import PreprocessingParameters

#: Many processes, each of which takes seconds to start.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def preprocessed(tmp_path_factory):
    """Ten phantoms, two of them for evaluation: one for each process."""
    raw, out = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("preprocessed")
    write_dataset(raw, 10, seed=3, shape=(40, 72, 72), spacing_mm=(8.0, 6.0, 6.0))
    assert preprocess_dataset(raw, out, PreprocessingParameters.from_dict(TINY)) == {}
    return out


@pytest.fixture(scope="module")
def train(tmp_path_factory, tiny_config, preprocessed):
    overlay = tmp_path_factory.mktemp("config") / "overlay.json"
    settings = json.loads(tiny_config.read_text())
    overlay.write_text(json.dumps({**settings, "epochs": 3, "first_evaluation": 3, "save_every": 1}))

    def command(directory, processes, *more, restarts=0, launch="torch.distributed.run"):
        launcher = ["-m", launch, "--standalone", "--nproc_per_node", str(processes),
                    "--max-restarts", str(restarts)] if processes > 1 else []  # fmt: skip
        configs = ["bundle/configs/train.json", *(["bundle/configs/multi_device.json"] * (processes > 1)), overlay]
        return [
            sys.executable, *launcher, "-m", "monai.bundle", "run", "training",
            "--config_file", "[" + ",".join(f"'{c}'" for c in configs) + "]", "--device_name", "cpu",
            "--dataset_dir", str(preprocessed), "--ckpt_dir", str(directory), "--output_dir", str(directory / "eval"),
            *more,
        ]  # fmt: skip

    return command


def losses(directory):
    """All curves of a run, by name."""
    curves = {}
    for events in (directory / "eval").glob("events.out.tfevents*"):
        reader = EventAccumulator(str(events)).Reload()
        curves |= {tag: [event.value for event in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}
    return curves


def finish(command, seconds=300):
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def pair(tmp_path_factory, train):
    directory = tmp_path_factory.mktemp("pair")
    finish(train(directory, 2, "--batch_size", "1"))
    return directory


def test_two_processes_train_as_one_with_twice_the_batch(pair, tmp_path, train):
    finish(train(tmp_path, 1, "--batch_size", "2"))
    two, one = losses(pair), losses(tmp_path)
    assert two.keys() == one.keys() and len(one["train_loss"]) == 12
    for tag, values in one.items():
        assert two[tag] == pytest.approx(values, abs=1e-5), tag
    a, b = (torch.load(f / "model_final.pt", weights_only=True)["model"] for f in (pair, tmp_path))
    for name, value in a.items():
        torch.testing.assert_close(value, b[name], atol=1e-4, rtol=1e-3, msg=name)


def children(pid):
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue  # it ended meanwhile
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes by /proc")
def test_a_dead_worker_stops_the_others_and_a_restart_goes_on(tmp_path, train, pair):
    log = tmp_path / "log"
    command = train(
        tmp_path,
        2,
        "--batch_size",
        "1",
        "--epochs",
        "2000",
        "--first_evaluation",
        "2000",
        "--resume",
        "True",
        restarts=1,
    )
    launcher = subprocess.Popen(command, cwd=ROOT, stdout=log.open("w"), stderr=subprocess.STDOUT)

    def kill_one_after(epochs):
        until = time.monotonic() + 300
        while not (last := last_checkpoints(tmp_path)) or int(last[-1].stem[5:]) < 4 * epochs:
            assert time.monotonic() < until and launcher.poll() is None, log.read_text()[-3000:]
            time.sleep(0.02)
        os.kill(max(children(launcher.pid)), signal.SIGKILL)

    kill_one_after(1)
    reached = 4
    until = time.monotonic() + 300
    while "resuming from" not in log.read_text():
        assert time.monotonic() < until and launcher.poll() is None, log.read_text()[-3000:]
        time.sleep(0.1)
    reached = int(last_checkpoints(tmp_path)[-1].stem[5:])
    kill_one_after(reached // 4 + 2)
    assert launcher.wait(60) != 0, "the others went on without it"
    assert not children(launcher.pid)


LAUNCH = "kits_unet3d.pipeline.runtime.launch"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells a process of its parent's end")
def test_processes_end_with_a_killed_launcher_and_a_restart_goes_on(tmp_path, train):
    log = tmp_path / "log"
    more = ["--batch_size", "1", "--first_evaluation", "2000", "--resume", "True"]
    command = train(tmp_path, 2, *more, "--epochs", "2000", launch=LAUNCH)
    launcher = subprocess.Popen(command, cwd=ROOT, stdout=log.open("w"), stderr=subprocess.STDOUT)
    until = time.monotonic() + 300
    while not last_checkpoints(tmp_path):
        assert time.monotonic() < until and launcher.poll() is None, log.read_text()[-3000:]
        time.sleep(0.02)
    processes = children(launcher.pid)
    assert len(processes) == 2
    launcher.kill()
    launcher.wait()
    until = time.monotonic() + 20
    while any(Path(f"/proc/{process}").exists() for process in processes) and time.monotonic() < until:
        time.sleep(0.1)
    left = [process for process in processes if Path(f"/proc/{process}").exists()]
    for process in left:
        os.kill(process, signal.SIGKILL)
    assert not left, "they outlive their launcher"
    reached = int(last_checkpoints(tmp_path)[-1].stem[5:])
    assert "continue with `--resume True`" in log.read_text()
    done = finish(train(tmp_path, 2, *more, "--epochs", str(reached // 4 + 2), launch=LAUNCH))
    assert f"iteration {reached}" in done.stdout + done.stderr and not (tmp_path / ".lock").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--epochs", "ten"], "epochs must be a whole number, at least 1, got 'ten'"),
        (["--dataset_dir", "none"], "none: contains no preprocessed data"),
    ],
)
def test_processes_that_fail_alike_report_it_once(tmp_path, train, more, message):
    command = train(tmp_path, 2, *more, launch=LAUNCH)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and done.stderr.count("error: ") == 1 and f"error: {message}" in done.stderr
    assert "Traceback" not in done.stderr and "failed (exitcode" not in done.stderr


def test_the_cause_of_a_failure_is_reported_and_not_what_follows_from_it(tmp_path, train, preprocessed):
    bad = Path(shutil.copytree(preprocessed, tmp_path / "bad"))
    for case in sorted(Index.read(bad).data_list("training"), key=lambda case: case["case_id"])[:1]:
        np.load(case["label"], mmap_mode="r+")[:] = 7
    command = train(tmp_path, 2, "--dataset_dir", str(bad), "--batch_size", "1", launch=LAUNCH)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and done.stderr.count("error: ") == 1 and "contains the value 7" in done.stderr


def test_too_few_cases_for_the_processes_is_said_before_anything_starts(tmp_path, train):
    done = subprocess.run(train(tmp_path, 3), cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    assert "2 evaluation case(s) for 3 process(es)" in done.stderr


def below(pid):
    return [child for process in children(pid) for child in [process, *below(process)]]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes by /proc")
def test_two_hosts_go_on_after_one_lost_its_worker(tmp_path, tiny_config, preprocessed):
    with socket.socket() as trial:
        trial.bind(("localhost", 0))
        port = trial.getsockname()[1]
    knobs = {**json.loads(tiny_config.read_text()), "batch_size": 1, "epochs": 150, "first_evaluation": 150}
    settings = [part for key, value in knobs.items() for part in (f"--{key}", str(value))]
    environment = {
        **os.environ, "PYTHON": sys.executable, "DEVICE": "cpu", "ACCELERATORS": "1", "NNODES": "2", "RESTARTS": "1",
        "MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "PYTORCH_TRAIN_CHECKPOINT": str(tmp_path),
        "PYTORCH_TRAIN_DATASET": "unused",
    }  # fmt: skip
    log = tmp_path / "log"
    hosts = [
        subprocess.Popen(
            ["bash", "scripts/train.sh", "--dataset_dir", preprocessed, "--output_dir", tmp_path / "eval", "--resume",
             "True", "--save_every", "1", *settings],
            cwd=ROOT, env={**environment, "NODE_RANK": number}, stdout=log.open("a"), stderr=subprocess.STDOUT,
        )
        for number in ("0", "1")
    ]  # fmt: skip
    try:
        until = time.monotonic() + 300
        while not last_checkpoints(tmp_path):
            assert time.monotonic() < until and hosts[1].poll() is None, log.read_text()[-3000:]
            time.sleep(0.02)
        os.kill(max(below(hosts[1].pid)), signal.SIGKILL)
        assert [host.wait(600) for host in hosts] == [0, 0], log.read_text()[-3000:]
    finally:
        for host in hosts:
            for process in [*below(host.pid), host.pid] if host.poll() is None else []:
                os.kill(process, signal.SIGKILL)
    assert "resuming from" in log.read_text()
    assert torch.load(tmp_path / "model_final.pt", weights_only=True)["epoch"] == 150


def test_channels_last_in_several_processes_gives_no_warning(tmp_path):
    program = tmp_path / "step.py"
    program.write_text("""
import torch
from kits_unet3d.networks import UNet3D
from kits_unet3d.pipeline.device import resolve
torch.distributed.init_process_group("gloo")
network = resolve("cpu").wrap(UNet3D(channels=(4, 8)), channels_last=True)
network(torch.randn(1, 1, 16, 16, 16).to(memory_format=torch.channels_last_3d)).square().mean().backward()
assert not network.module.input_block.conv2[0].weight.is_contiguous()
torch.distributed.destroy_process_group()
""")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run([sys.executable, *launcher, str(program)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "strides" not in done.stderr, done.stderr[-2000:]


EXCHANGE = """
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from kits_unet3d.pipeline.device import resolve
from kits_unet3d.pipeline.runtime.distributed import join

join(resolve("cpu"))
network = DistributedDataParallel(torch.nn.Linear(8, 8))
for _ in range(3):
    network(torch.ones(2, 8)).sum().backward()
dist.all_gather_object([None] * 2, "text")
dist.barrier()
"""


def test_processes_end_without_an_abort_on_a_busy_machine(tmp_path):
    """gloo's threads outlived the interpreter: one run in five ended by SIGABRT after its work was done."""
    (tmp_path / "exchange.py").write_text(EXCHANGE)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        for _ in range(4):
            finish([sys.executable, *launcher, str(tmp_path / "exchange.py")])
    finally:
        for process in busy:
            process.kill()
            process.wait()
