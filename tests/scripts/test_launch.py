"""The training commands of docs/devices.md as they stand there, on a small data set."""

import json
import os
import re
import socket
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from simulation import counted, simulated, why_not

from kits_unet3d.pipeline.data import preprocess_dataset
from kits_unet3d.pipeline.phantoms import write_dataset

#: Many processes, each of which takes seconds to start.
pytestmark = pytest.mark.slow

DOCUMENT = re.sub(r"\s*\\\n\s*", " ", (ROOT / "docs" / "devices.md").read_text())  # one command per line
COMMANDS = re.findall(r"^[A-Z].*bash scripts/train\.sh.*$", DOCUMENT, re.MULTILINE)
#: What `srun` does as far as a script can see: every host runs the command, knowing its number and all names.
SRUN = """#!/usr/bin/env bash
while [ "${1#-}" != "$1" ]; do shift 2; done
export SLURM_STEP_NUM_NODES=2 SLURM_STEP_NODELIST=node[1-2]
SLURM_NODEID=1 "$@" & second=$!
SLURM_NODEID=0 "$@" || { kill "$second"; exit 1; }
wait "$second"
"""
SCONTROL = "#!/usr/bin/env bash\n[ \"$*\" = 'show hostnames node[1-2]' ] && printf 'localhost\\nelsewhere\\n'\n"


def free_port():
    """Below those that the system gives to whoever asks for any, one of which may be gone before it is used."""
    for port in range(20000 + os.getpid() % 5000, 32000):
        with socket.socket() as trial:
            if trial.connect_ex(("localhost", port)) != 0:
                return port
    raise AssertionError("no free port")


@pytest.fixture(scope="module")
def launch(tmp_path_factory, tiny_config, tiny_parameters):
    """Starts lines of the document together, as they are but for device, cards and directory; gives what they leave."""
    raw, preprocessed = (tmp_path_factory.mktemp(name) for name in ("raw", "preprocessed"))
    write_dataset(raw, 10, seed=7, shape=(40, 72, 72), spacing_mm=(8.0, 6.0, 6.0))
    assert preprocess_dataset(raw, preprocessed, tiny_parameters) == {}
    settings = {**json.loads(tiny_config.read_text()), "precision": "fp32", "decay_epochs": []}
    overrides = " ".join(f"--{key} '{json.dumps(value)}'" for key, value in settings.items()).replace('"', "")

    def start(*lines, accelerators=1, device="auto", **variables):
        out = tmp_path_factory.mktemp("out")
        port = free_port()
        environment = {
            **os.environ, "PYTHON": sys.executable,
            "MASTER_PORT": str(port), "PYTORCH_TRAIN_CHECKPOINT": str(out), "PYTORCH_TRAIN_DATASET": "unused",
            **variables,
        }  # fmt: skip
        replaced = {
            "path/to/preprocessed": str(preprocessed),
            "mlu": device,
            "ACCELERATORS=8": f"ACCELERATORS={accelerators}",
        }
        running = []
        for line in lines:
            for written, here in {**replaced, "first-host": "localhost"}.items():
                line = line.replace(written, here)
            command = ["bash", "-c", f"{line} --output_dir {out}/curves {overrides}"]
            running.append(subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True))
        errors = [process.communicate(timeout=400)[1] for process in running]
        assert [process.returncode for process in running] == [0] * len(lines), "\n".join(errors)[-4000:]
        return torch.load(out / "model_final.pt", map_location="cpu", weights_only=True)

    return start


def test_the_document_has_a_command_for_each_way_to_launch():
    assert len(COMMANDS) == 5
    assert "ACCELERATORS" not in COMMANDS[0] and "NODE_RANK=1" in COMMANDS[3] and "srun" in COMMANDS[4]


def test_one_card_trains(launch):
    assert launch(COMMANDS[0], SEED="1")["epoch"] == 2  # some seeds find nothing after one, which counts as diverged


@pytest.fixture(scope="module")
def two_accelerators(launch):
    return launch(COMMANDS[1], accelerators=2)["model"]


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_two_hosts_train_what_two_cards_do(launch, two_accelerators):
    assert equal(launch(*COMMANDS[2:4])["model"], two_accelerators)


def test_slurm_tells_each_host_what_the_lines_for_two_hosts_say(tmp_path):
    """Those train what two cards do, above."""
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    line, script = COMMANDS[4].split(" bash scripts/train")[0], "echo $NNODES $NODE_RANK $MASTER_ADDR $ACCELERATORS"
    assert line.endswith("bash scripts/slurm.sh")
    command = ["bash", "-c", f"{line} bash -c '{script}'"]
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    said = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=60
    )
    accelerators = re.search(r"ACCELERATORS=(\S+)", COMMANDS[4])[1]
    assert sorted(said.stdout.splitlines()) == [f"2 {host} localhost {accelerators}" for host in (0, 1)], said.stderr


@pytest.mark.skipif(bool(why_not()), reason=f"no simulated mlu: {why_not()}")
def test_two_simulated_cards_train_what_two_cpus_do(launch, two_accelerators, tmp_path):
    content = launch(COMMANDS[1], accelerators=2, **simulated(tmp_path), device="mlu", MLU_VISIBLE_DEVICES="0,1")
    assert content["device"]["device"] == "mlu:0" and content["device"]["collectives"] == "cpu:gloo,mlu:cncl"
    assert equal(content["model"], two_accelerators)
    assert counted(tmp_path, "collectives")["allreduce"] >= 8
    # Each of two processes asks for its device, and for the accelerator of it.
    assert counted(tmp_path, "calls")["set_device"] == 4 and counted(tmp_path, "float64") == {}
