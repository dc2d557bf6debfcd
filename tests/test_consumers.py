"""Programs that read the bundle, as they really call it: federated learning, experiment logs."""

import copy
import json
import shutil
import sys

import pytest
import torch
from conftest import ROOT
from monai.bundle import run
from monai.bundle.utils import DEFAULT_MLFLOW_SETTINGS
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems, FlStatistics, ModelType
from monai.fl.utils.exchange_object import ExchangeObject
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from kits_unet3d.networks import UNet3D


@pytest.fixture
def client(tmp_path, prepared_phantoms, tiny_config):
    """A client of a federation whose server has sent it the bundle."""
    shutil.copytree(ROOT / "bundle", tmp_path / "app" / "kits", ignore=shutil.ignore_patterns("*.pt", "eval"))
    settings = {"dataset_dir": str(prepared_phantoms), "device_name": "cpu"}
    configs = ["configs/train.json", str(tiny_config)]
    algorithm = MonaiAlgo(
        "kits",
        local_epochs=1,
        send_weight_diff=False,
        config_train_filename=configs,
        # the server asks for evaluations, so the trainer itself makes none
        train_kwargs={**settings, "epochs": 1000, "first_evaluation": 1000},
        config_evaluate_filename=configs,
        eval_kwargs=dict(settings),
    )
    algorithm.initialize({ExtraItems.CLIENT_NAME: "site", ExtraItems.APP_ROOT: str(tmp_path / "app")})
    yield algorithm
    algorithm.finalize()


def test_a_client_of_a_federation_trains_evaluates_and_exchanges_weights(client, tmp_path):
    torch.manual_seed(0)
    sent = UNet3D(channels=(4, 8, 8)).state_dict()
    first = {name: value.clone() for name, value in sent.items()}
    client.train(ExchangeObject(weights=sent))
    answer = client.get_weights()
    assert answer.statistics[FlStatistics.NUM_EXECUTED_ITERATIONS] == 2  # 4 cases in batches of 2
    assert all(torch.equal(sent[name], value) for name, value in first.items())
    assert any(not torch.equal(first[name], value) for name, value in answer.weights.items())
    metrics = client.evaluate(ExchangeObject(weights=answer.weights)).metrics
    assert 0 <= metrics["mean_dice"] <= 1
    assert all(torch.equal(answer.weights[n], v) for n, v in client.evaluator.network.state_dict().items())

    client.send_weight_diff = True
    client.train(ExchangeObject(weights=sent))
    change, trained = client.get_weights().weights, client.trainer.network.state_dict()
    assert client.trainer.state.epoch == 2
    for name in sent:
        torch.testing.assert_close(sent[name] + change[name], trained[name], atol=1e-6, rtol=0)
    for kind in ModelType:
        assert set(client.get_weights({ExtraItems.MODEL_TYPE: kind}).weights) == set(first)
    assert (tmp_path / "app" / "kits" / "models" / "model_final.pt").is_file()


def test_experiment_logs_get_the_loss_and_tensorboard_gets_pictures(
    tmp_path, monkeypatch, prepared_phantoms, tiny_config
):
    """``--tracking mlflow``, with the one change that TensorBoard's handler stands for MLflow's."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "path", list(sys.path))  # run() adds the bundle's folder
    settings = copy.deepcopy(DEFAULT_MLFLOW_SETTINGS)
    settings["configs"] = {
        "trainer": {
            "_target_": "TensorBoardStatsHandler",
            "log_dir": "@output_dir",
            "tag_name": "tracked",
            "output_transform": settings["configs"]["trainer"]["output_transform"],
        },
        "validator": {"_target_": "TensorBoardStatsHandler", "log_dir": "@output_dir", "iteration_log": False},
    }
    tracking = tmp_path / "tracking.json"
    tracking.write_text(json.dumps(settings))
    configs = [str(ROOT / "bundle" / "configs" / "train.json"), str(tiny_config)]
    configs.append(str(ROOT / "bundle" / "configs" / "images.json"))
    run(
        "training", config_file=configs, logging_file=False, dataset_dir=str(prepared_phantoms), device_name="cpu",
        ckpt_dir=str(tmp_path / "models"), output_dir=str(tmp_path / "curves"), epochs=1, tracking=str(tracking),
    )  # fmt: skip
    pictures, scores = {}, set()
    for events in (tmp_path / "curves").glob("events.out.tfevents*"):
        log = EventAccumulator(str(events)).Reload()
        pictures |= {tag: len(log.Images(tag)) for tag in log.Tags()["images"]}
        scores |= set(log.Tags()["scalars"])
    assert pictures == {"input_0_HWD/image": 1, "input_1_HWD/image": 1, "output_HWD/image": 1}
    assert {"train_loss", "tracked", "mean_dice"} <= scores
