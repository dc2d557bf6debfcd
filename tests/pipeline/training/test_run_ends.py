"""How a run begins and ends: its directory's lock, its data workers, its first weights, a collapsed score."""

import json
import logging
import signal
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser
from monai.engines import SupervisedEvaluator
from test_run_state import Run
from torch.utils.data import DataLoader

from kits_unet3d.networks import UNet3D
from kits_unet3d.pipeline.cli import main
from kits_unet3d.pipeline.runtime.errors import Interrupted, UsageError
from kits_unet3d.pipeline.runtime.output import quieten_libraries
from kits_unet3d.pipeline.training import Interruption, Resume, StopAtTarget, TrainStep, starting_from
from kits_unet3d.pipeline.training.run_ends import DirectoryLock, stop_workers


def test_a_second_training_is_kept_out_of_a_directory(tmp_path, capsys):
    first, second = Run(), Run()
    refused = []

    def start_second(engine):
        resume = Resume(True, tmp_path, second.state)
        resume.lock.patience = 0.5
        with pytest.raises(SystemExit) as ended:
            second.start(1, resume)
        refused.append(ended.value.code)

    first.trainer.add_event_handler(Events.EPOCH_STARTED, start_second)
    first.start(1, Resume(True, tmp_path, first.state))
    error = capsys.readouterr().err
    assert refused == [2] and f"{tmp_path}: another run is writing there; wait for it" in error
    assert not list(tmp_path.iterdir()), "the lock is left"
    again = Run()
    again.start(1, Resume(True, tmp_path, again.state))


def test_a_run_waits_for_the_remains_of_a_killed_one(tmp_path):
    hold = (
        "import sys, time; from kits_unet3d.pipeline.runtime.files import only_run\n"
        "with only_run(sys.argv[1]): print('locked', flush=True); time.sleep(2)"
    )
    process = subprocess.Popen([sys.executable, "-c", hold, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "locked\n"
    engine = Engine(lambda engine, batch: None)
    DirectoryLock(tmp_path).attach(engine)
    engine.run([0], max_epochs=1)
    assert process.wait(10) == 0 and engine.state.iteration == 1


@pytest.mark.parametrize("ends", ["completed", "exit"])
def test_data_workers_end_in_order_before_the_interpreter(ends):
    program = f"""
import sys
from ignite.engine import Engine, Events
from torch.utils.data import DataLoader
from kits_unet3d.pipeline.data import leave_ctrl_c_to_the_trainer
from kits_unet3d.pipeline.device import resolve
from kits_unet3d.pipeline.runtime.errors import Interrupted, UsageError
from kits_unet3d.pipeline.runtime.output import quieten_libraries
from kits_unet3d.pipeline.training import Interruption, TrainStep
loader = DataLoader(range(8), num_workers=4, persistent_workers=True, worker_init_fn=leave_ctrl_c_to_the_trainer)
engine = Engine(lambda engine, batch: None)
Interruption(TrainStep(resolve("cpu")), Engine(lambda engine, batch: None)).attach(engine)
if {ends == "exit"}:
    engine.add_event_handler(Events.ITERATION_COMPLETED(once=3), lambda: sys.exit(5))
engine.run(loader, max_epochs=2)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == (5 if ends == "exit" else 0)
    assert "killed by signal" not in done.stderr and "Exception" not in done.stderr, done.stderr


def test_stopped_workers_start_again_in_the_next_pass():
    loader = DataLoader(range(4), num_workers=1, persistent_workers=True)
    engine = Engine(lambda engine, batch: None)
    engine.add_event_handler(Events.COMPLETED, stop_workers)
    engine.run(loader, max_epochs=1)
    assert loader._iterator is None
    engine.run(loader, max_epochs=2)
    assert engine.state.iteration == 8


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_a_signal_saves_the_state_and_exits_with_130(number):
    from kits_unet3d.pipeline.device import resolve

    engine, saved = Engine(lambda engine, batch: None), []
    engine.register_events(Events.INTERRUPT)
    Interruption(TrainStep(resolve("cpu")), Engine(lambda engine, batch: None)).attach(engine)
    engine.add_event_handler(Events.INTERRUPT, lambda: saved.append(engine.state.iteration))
    engine.add_event_handler(Events.ITERATION_STARTED(once=2), lambda: signal.raise_signal(number))
    before = signal.signal(number, signal.SIG_DFL)  # whoever runs the tests may ignore the signal, as nohup does
    try:
        with pytest.raises(SystemExit) as ended:
            engine.run(range(4), max_epochs=1)
    finally:
        signal.signal(number, before)
    assert ended.value.code == 130 and saved == [2]


@pytest.mark.parametrize("error", [Interrupted(), UsageError("a: bad"), RuntimeError("Exception: 130")])
def test_an_evaluation_leaves_its_end_to_whoever_started_it(caplog, capsys, error):
    """MONAI and ignite log every exception of an evaluation, a signal's too."""
    train = json.loads((ROOT / "bundle" / "configs" / "train.json").read_text())
    (entry,) = [one for one in train["validate"]["handlers"] if "iteration_log" in one and "summary_writer" not in one]
    parser = ConfigParser({"handler": entry | {"_disabled_": False}})
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=[{"image": torch.zeros(1, 1)}],
        network=torch.nn.Identity(),
        val_handlers=[parser.get_parsed_content("handler")],
    )

    def fail():
        raise error

    evaluator.add_event_handler(Events.ITERATION_COMPLETED, fail)
    quieten_libraries()
    with caplog.at_level(logging.ERROR), pytest.raises(type(error)):
        evaluator.run()
    printed = capsys.readouterr()
    assert not caplog.text and "Traceback" not in printed.out + printed.err


def test_a_run_under_nohup_goes_on():
    from kits_unet3d.pipeline.device import resolve

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        engine = Engine(lambda engine, batch: None)
        Interruption(TrainStep(resolve("cpu")), Engine(lambda engine, batch: None)).attach(engine)
        engine.add_event_handler(Events.ITERATION_STARTED(once=2), lambda: signal.raise_signal(signal.SIGHUP))
        engine.run(range(4), max_epochs=1)
        assert engine.state.iteration == 4
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("layout", ["model", "best_model_state_dict", "state_dict"])
def test_a_run_starts_from_the_weights_in_a_file(tmp_path, layout):
    wanted = UNet3D(channels=(2, 4)).state_dict()
    torch.save({layout: {f"module.{name}": value for name, value in wanted.items()}}, tmp_path / "w.pt")
    network = starting_from(UNet3D(channels=(2, 4)), tmp_path / "w.pt", False, tmp_path / "run")
    assert all(torch.equal(value, wanted[name]) for name, value in network.state_dict().items())


def test_weights_of_another_network_end_the_run_with_code_3(tmp_path, capsys):
    torch.save(UNet3D(channels=(2, 4)).state_dict(), tmp_path / "w.pt")
    with pytest.raises(SystemExit) as ended:
        starting_from(UNet3D(channels=(2, 8)), tmp_path / "w.pt", False, tmp_path / "run")
    assert ended.value.code == 3 and "w.pt: the weights belong to another network" in capsys.readouterr().err


def test_the_command_starts_from_weights_and_records_them(tmp_path, tiny_config, preprocessed_phantoms, capsys):
    start = UNet3D(channels=(4, 8, 8)).state_dict()
    torch.save({"best_model_state_dict": start}, tmp_path / "reference.pt")
    command = ["train", "--config", str(ROOT / "bundle/configs/train.json"), str(tiny_config), "--dataset-dir",
               str(preprocessed_phantoms), "-o", str(tmp_path / "run"), "--set", "device_name=cpu",
               "learning_rate=1e-12", "warmup_epochs=1", "first_evaluation=2"]  # fmt: skip
    assert main([*command, "epochs=1", "--weights", str(tmp_path / "reference.pt")]) == 0
    content = torch.load(tmp_path / "run" / "models" / "model_final.pt", weights_only=True)
    assert all(torch.allclose(value, start[name], atol=1e-6) for name, value in content["model"].items())
    recorded = content["configuration"]["weights"]
    assert recorded.startswith("reference.pt sha256:")
    (tmp_path / "reference.pt").unlink()
    assert main([*command, "epochs=2", "--resume", "--weights", str(tmp_path / "reference.pt")]) == 0
    content = torch.load(tmp_path / "run" / "models" / "model_final.pt", weights_only=True)
    assert content["iteration"] == 4 and content["configuration"]["weights"] == recorded


@pytest.mark.parametrize(("floor_from", "epochs"), [(0, 1), (3, 3)])
def test_a_score_of_zero_ends_a_run_from_the_references_first_evaluation(caplog, floor_from, epochs):
    engine, evaluator = Engine(lambda engine, batch: None), Engine(lambda engine, batch: None)
    evaluator.add_event_handler(Events.EPOCH_COMPLETED, lambda: evaluator.state.metrics.update(mean_dice=0.0))
    StopAtTarget(evaluator, "mean_dice", 0.9, floor_from=floor_from).attach(engine)
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: evaluator.run([0], max_epochs=1))
    engine.run([0], max_epochs=5)
    assert engine.state.epoch == epochs and "the training has diverged" in caplog.text
    assert "lower learning_rate, lengthen warmup_epochs" in caplog.text
    assert ("nothing is found yet" in caplog.text) == (floor_from > 0)


def test_the_configuration_takes_the_floor_from_the_reference():
    train = json.loads((ROOT / "bundle" / "configs" / "train.json").read_text())
    (handler,) = [h for h in train["train"]["handlers"] if h["_target_"].endswith("StopAtTarget")]
    assert handler["floor_from"] == train["first_evaluation"]
