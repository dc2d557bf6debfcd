"""Programs that read the bundle, as they really call it. The heavy ones run whole in scripts/check_consumers.sh."""

import copy
import json
import shutil
import sys
import zipfile

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import ROOT
from monai.bundle import ConfigParser, run
from monai.bundle.utils import DEFAULT_MLFLOW_SETTINGS
from monai.data import MetaTensor
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems, FlStatistics, ModelType
from monai.fl.utils.exchange_object import ExchangeObject
from monai.transforms import Compose, LoadImaged, MapTransform, SaveImaged
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from kits_unet3d.networks import UNet3D
from kits_unet3d.pipeline import Predictor
from kits_unet3d.pipeline.cli import main
from kits_unet3d.pipeline.inference import PostProcessing


@pytest.fixture
def client(tmp_path, preprocessed_phantoms, tiny_config):
    """A client of a federation whose server has sent it the bundle."""
    shutil.copytree(ROOT / "bundle", tmp_path / "app" / "kits", ignore=shutil.ignore_patterns("*.pt", "eval"))
    settings = {"dataset_dir": str(preprocessed_phantoms), "device_name": "cpu"}
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_client_as_it_is_by_default_evaluates_what_the_server_sends(tmp_path, preprocessed_phantoms, tiny_config):
    """MonaiAlgo's own names of configurations, train.json and evaluate.json, and a bundle without weights."""
    bundle = tmp_path / "app" / "kits"
    shutil.copytree(ROOT / "bundle", bundle, ignore=shutil.ignore_patterns("*.pt", "eval"))
    config = bundle / "configs" / "train.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | json.loads(tiny_config.read_text())))
    settings = {"dataset_dir": str(preprocessed_phantoms), "device_name": "cpu"}
    client = MonaiAlgo("kits", train_kwargs=settings, eval_kwargs=dict(settings))
    client.initialize({ExtraItems.CLIENT_NAME: "site", ExtraItems.APP_ROOT: str(tmp_path / "app")})
    metrics = client.evaluate(ExchangeObject(weights=UNet3D(channels=(4, 8, 8)).state_dict())).metrics
    assert 0 <= metrics["mean_dice"] <= 1


def test_experiment_logs_get_the_loss_and_tensorboard_gets_pictures(
    tmp_path, monkeypatch, preprocessed_phantoms, tiny_config
):
    """``--tracking mlflow``, with the one change that TensorBoard's handler stands for MLflow's."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "path", list(sys.path))  # run() adds the bundle's directory
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
        "training", config_file=configs, logging_file=False, dataset_dir=str(preprocessed_phantoms), device_name="cpu",
        ckpt_dir=str(tmp_path / "models"), output_dir=str(tmp_path / "curves"), epochs=1, tracking=str(tracking),
    )  # fmt: skip
    pictures, scores = {}, set()
    for events in (tmp_path / "curves").glob("events.out.tfevents*"):
        log = EventAccumulator(str(events)).Reload()
        pictures |= {tag: len(log.Images(tag)) for tag in log.Tags()["images"]}
        scores |= set(log.Tags()["scalars"])
    assert pictures == {"input_0_HWD/image": 1, "input_1_HWD/image": 1, "output_HWD/image": 1}
    assert {"train_loss", "tracked", "mean_dice"} <= scores


def parsed_inference(bundle_directory, **overrides):
    """``inference.json`` as the programs below read it: without a working directory, bundle_root set by hand."""
    parser = ConfigParser()
    parser.read_config(bundle_directory / "configs" / "inference.json")
    parser.config.update({"bundle_root": str(bundle_directory), **overrides})
    return parser


@pytest.fixture
def trained_bundle(tmp_path, tiny_checkpoint):
    directory = tmp_path / "kits_unet3d"
    shutil.copytree(ROOT / "bundle", directory, ignore=shutil.ignore_patterns("*.pt", "eval"))
    shutil.copy(tiny_checkpoint, directory / "models" / "model.pt")
    return directory


def test_monai_label_gets_a_mask_on_the_scans_grid(trained_bundle, raw_phantoms, tiny_checkpoint):
    """What MONAI Label 0.8.5 does in BundleInferTask: edits the lists, runs each transform alone, restores the size."""
    scan = raw_phantoms / "case_00003" / "imaging.nii.gz"
    parser = parsed_inference(trained_bundle, device=torch.device("cpu"))
    before = list(parser.get_parsed_content("preprocessing").transforms)
    assert isinstance(before[0], LoadImaged)  # which it wraps, so that arrays can come in too
    before[0]._loader.image_only = False
    data = {"image": str(scan), "image_path": str(scan), "device": "cpu"}
    for transform in before:
        data = transform(data)
    network = parser.get_parsed_content("network_def").eval()
    with torch.no_grad():
        data["pred"] = parser.get_parsed_content("inferer")(data["image"][None], network)[0]
    after = [t for t in parser.get_parsed_content("postprocessing").transforms if not isinstance(t, SaveImaged)]
    for transform in after:
        data = transform(data)
    # It resizes what is not of the scan's size, and writes with the scan's affine: both from the image's meta data.
    stored = nib.load(scan)
    assert data["pred"].shape[1:] == tuple(data["image"].meta["spatial_shape"]) == stored.shape
    assert np.array_equal(data["image"].meta["original_affine"], stored.affine)
    expected = Predictor(tiny_checkpoint, "cpu").predict(scan).mask
    assert np.array_equal(np.asarray(data["pred"][0]), expected)


def test_monai_label_trains_on_scans_and_label_maps_as_they_are_stored(
    trained_bundle, raw_phantoms, tiny_config, tiny_checkpoint, tmp_path, monkeypatch
):
    """MONAI Label 0.8.5's BundleTrainTask: its data lists, its handlers, its device, no preprocessed directory."""
    monkeypatch.chdir(tmp_path)  # a server's directory, with nothing of ours in it
    monkeypatch.setattr(sys, "path", list(sys.path))  # run() adds the bundle's directory
    config, model = trained_bundle / "configs" / "train.json", trained_bundle / "models" / "model.pt"
    small = json.loads(tiny_config.read_text())
    kept = {name: small[name] for name in ("spacing_mm", "roi_size", "channels", "workers")}
    config.write_text(json.dumps(json.loads(config.read_text()) | kept))
    parser = ConfigParser()
    parser.read_config(config)
    parser.config.update({"bundle_root": str(trained_bundle)})
    handlers = parser.get("train#handlers", [])
    handlers.insert(
        0,
        {
            "_target_": "CheckpointLoader",
            "load_path": str(model),
            "load_dict": {"model": "$@network"},
            "strict": False,
        },
    )
    cases = [
        {"image": str(directory / "imaging.nii.gz"), "label": str(directory / "segmentation.nii.gz")}
        for directory in sorted(raw_phantoms.glob("case_*"))
    ]
    overrides = {
        "bundle_root": str(trained_bundle), "train#trainer#max_epochs": 1, "train#dataset#data": cases[:4],
        "device": torch.device("cpu"), "train#handlers": handlers, "validate#dataset#data": cases[4:],
    }  # fmt: skip
    run(run_id="run", init_id=None, final_id=None, meta_file=str(trained_bundle / "configs" / "metadata.json"),
        config_file=str(config), **overrides)  # fmt: skip
    first, now = (torch.load(path, weights_only=True) for path in (tiny_checkpoint, model))
    assert (now["epoch"], now["iteration"], now["evaluated"]) == (1, 2, 2)  # the best is what MONAI Label uses next
    change = max(float((first["model"][n] - now["model"][n]).abs().max()) for n in first["model"])
    assert 0 < change < 0.01  # two steps of the warm-up away from what it was given


@pytest.mark.parametrize("space", ["RAS", "LPS"])
def test_a_deployed_application_brings_its_own_image(tmp_path, raw_phantoms, tiny_checkpoint, space):
    """What the Deploy App SDK 4.0 does in MonaiBundleInferenceOperator with the TorchScript file alone."""
    assert main(["export", "torchscript", "--checkpoint", str(tiny_checkpoint), "-o", str(tmp_path / "model.ts"),
                 "--bundle", str(ROOT / "bundle")]) == 0  # fmt: skip
    with zipfile.ZipFile(tmp_path / "model.ts") as archive:
        (tmp_path / "inference.json").write_bytes(archive.read("model/extra/inference.json"))
        metadata = json.loads(archive.read("model/extra/metadata.json"))
    parser = ConfigParser()
    parser.read_config(tmp_path / "inference.json")
    parser.parse()
    composed = []
    for name in ("preprocessing", "postprocessing"):
        transforms = parser.get_parsed_content(name).transforms
        kept = [t for t in transforms if not any(word in type(t).__name__ for word in ("LoadImage", "SaveImage"))]
        assert isinstance(kept[0], MapTransform)
        composed.append(Compose(kept))
    path = raw_phantoms / "case_00003" / "imaging.nii.gz"
    stored = nib.load(path)
    affine = np.diag([-1.0, -1, 1, 1]) @ stored.affine if space == "LPS" else stored.affine
    meta = {"affine": affine, "original_affine": affine, "space": space, "original_channel_dim": "no_channel"}
    voxels = torch.from_numpy(np.asarray(stored.dataobj, dtype=np.float32))
    image = composed[0]({"image": MetaTensor.ensure_torch_and_prune_meta(voxels, meta)})["image"]
    network = torch.jit.load(tmp_path / "model.ts", map_location="cpu").eval()
    with torch.no_grad():
        logits = parser.get_parsed_content("inferer")(inputs=image[None], network=network)
    mask = composed[1]({"pred": logits[0], "image": image})["pred"]
    assert mask.shape == (
        metadata["network_data_format"]["post_processed_outputs"]["pred"]["num_channels"],
        *voxels.shape,
    )
    assert np.array_equal(np.asarray(mask[0]), Predictor(tiny_checkpoint, "cpu").predict(path).mask)


def test_the_evaluator_writes_the_same_masks_as_predict(trained_bundle, raw_phantoms, tiny_checkpoint, tmp_path):
    """Post-processing included."""
    scan = raw_phantoms / "case_00003" / "imaging.nii.gz"
    options = {"keep_kidneys": True, "tumour_touches_kidney": True, "min_tumour_mm3": 500.0}
    masks = []
    for given in ({}, options):
        out = tmp_path / f"out{len(masks)}"
        overrides = {"input": str(scan), "output_dir": str(out), "device_name": "cpu", "backend": "eager", **given}
        parsed_inference(trained_bundle, **overrides).get_parsed_content("evaluator").run()
        (path,) = out.glob("*_seg.nii.gz")
        masks.append(np.asarray(nib.load(path).dataobj))
        predictor = Predictor(tiny_checkpoint, "cpu", backend="eager", postprocessing=PostProcessing(**given))
        np.testing.assert_array_equal(masks[-1], predictor.predict(scan).mask)
    assert (masks[0] != masks[1]).any()
