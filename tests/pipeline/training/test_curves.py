"""Curves for TensorBoard, whatever happens to their directory."""

import shutil

import pytest
from conftest import bundle_config
from ignite.engine import Engine, Events
from monai.handlers import TensorBoardStatsHandler
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from kits_unet3d.pipeline.training import Curves


def trained(curves, *at):
    """Eight iterations of a training; ``at`` are handlers after the third."""
    engine = Engine(lambda engine, batch: batch / 8)
    handler = TensorBoardStatsHandler(summary_writer=curves, tag_name="loss", output_transform=lambda x: x)
    handler.attach(engine)
    for one in at:
        engine.add_event_handler(Events.ITERATION_COMPLETED(once=3), one)
    engine.run(list(range(8)), max_epochs=1)
    assert engine.state.iteration == 8


def points(directory):
    (file,) = directory.glob("events.out.tfevents*")
    return [(event.step, event.value) for event in EventAccumulator(str(file)).Reload().Scalars("loss")]


@pytest.mark.parametrize("deleted", [False, True])
def test_a_training_goes_on_without_its_deleted_directory(tmp_path, deleted):
    directory = tmp_path / "eval"
    trained(Curves(directory), *([lambda: shutil.rmtree(directory)] if deleted else []))
    assert points(directory) == [(step, (step - 1) / 8) for step in range(4 if deleted else 1, 9)]


def test_curves_that_cannot_be_written_are_reported_once(tmp_path, caplog):
    directory = tmp_path / "eval"

    def block():
        shutil.rmtree(directory)
        directory.touch()  # where no directory can be made again

    trained(Curves(directory), block)
    (message,) = [message for message in caplog.messages if "curves cannot be written" in message]
    assert "(File exists); the training goes on" in message


def test_each_point_is_in_the_file_at_once(tmp_path):
    Curves(tmp_path).add_scalar("loss", 0.5, 3)
    assert points(tmp_path) == [(3, 0.5)]


def test_the_configuration_writes_its_curves_so():
    train = bundle_config("train")
    for group in ("train", "validate"):
        (handler,) = [h for h in train[group]["handlers"] if h["_target_"] == "TensorBoardStatsHandler"]
        assert handler["summary_writer"] == "@curves" and train["curves"]["_target_"].endswith("training.Curves")
