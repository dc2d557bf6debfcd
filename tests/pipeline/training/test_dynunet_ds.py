"""The recipe beyond the reference's: its overlays, its network through all that reads a checkpoint, and a whole run."""

import copy
import json
import logging
import shutil
from functools import partial

import monai.bundle
import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import ROOT, TINY, needs_compiler
from monai.bundle import ConfigParser
from monai.networks.nets import DynUNet

from kits_unet3d.networks import CheckpointError
from kits_unet3d.pipeline.cli import main
from kits_unet3d.pipeline.device import resolve
from kits_unet3d.pipeline.export import describe
from kits_unet3d.pipeline.inference.agreement import MissingBackendError
from kits_unet3d.pipeline.inference.backends import make_backend
from kits_unet3d.pipeline.model import describe_network, read_model
from kits_unet3d.pipeline.phantoms import write_dataset
from kits_unet3d.pipeline.training import recomputed

CONFIGS = ROOT / "bundle" / "configs"
PRESETS = {"dynunet_ds": [], "dynunet_ds_small": ["dynunet_ds_small"], "dynunet_ds_cpu": ["dynunet_ds_cpu"]}


def parser(*names):
    files = [str(CONFIGS / f"{name}.json") for name in ("train", "dynunet_ds", *names)]
    made = ConfigParser(ConfigParser.load_config_files(files))
    made["index"] = "$data.SyntheticIndex([8, 8, 8], 4)"
    return made


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Two networks of the preset's kind, small, with fresh weights."""
    paths = []
    for seed in (0, 1):
        made = parser()
        made["channels"] = [2, 4, 4]
        factory = made.get_parsed_content("network_factory")
        torch.manual_seed(seed)
        parameters = {"spacing_mm": [16.0, 12.0, 12.0], "roi_size": [16, 16, 16]}
        paths.append(tmp_path_factory.mktemp("dynunet_ds") / "model.pt")
        torch.save(
            {
                "model": factory().state_dict(),
                "network": describe_network(factory),
                "preprocessing_parameters": parameters,
            },
            paths[-1],
        )
    return paths


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_gives_a_network_described_by_plain_arguments(preset):
    made = parser(*PRESETS[preset])
    factory = made.get_parsed_content("network_factory")
    described = json.loads(json.dumps(describe_network(factory)))
    channels = made.get_parsed_content("channels")
    assert described["_target_"] == "monai.networks.nets.DynUNet" and described["filters"] == channels
    assert described["res_block"] and described["deep_supr_num"] == len(channels) - 2
    with torch.device("meta"):
        network = factory()
    assert isinstance(network, DynUNet)
    # What is halved at each level leaves whole voxels, and more than 2 x 2 x 2 of them, at the last one.
    deepest = [n / 2 ** (len(channels) - 1) for n in made.get_parsed_content("roi_size")]
    assert all(n == int(n) and n > 2 for n in deepest)


def test_small_card_and_cpu_configs_contain_only_their_differences():
    train = json.loads((CONFIGS / "train.json").read_text())
    assert train["poly_power"] is train["fold"] is train["crop_class_weights"] is train["crop_component_power"] is None
    assert (
        train["learning_rate_by_time"] is False
        and train["network_factory"]["_target_"] == "kits_unet3d.networks.UNet3D"
    )
    best = json.loads((CONFIGS / "dynunet_ds.json").read_text())
    for name in ("dynunet_ds_small", "dynunet_ds_cpu"):
        own = json.loads((CONFIGS / f"{name}.json").read_text())
        assert all((train | best)[key] != value for key, value in own.items())


def test_parts_are_switched_off_one_by_one_by_their_keys():
    made = parser()
    made["channels"], made["supervised_heads"], made["region_weight"] = [2, 4, 4], 0, 0.0
    network, loss = made.get_parsed_content("network_factory")(), made.get_parsed_content("deep_supervision_loss")
    image, label = torch.randn(1, 1, 16, 16, 16), torch.randint(0, 3, (1, 1, 16, 16, 16))
    logits = network.train()(image)
    assert logits.shape == (1, 3, 16, 16, 16)
    assert loss(logits, label) == made.get_parsed_content("loss")(logits, label)


def test_the_loss_of_the_best_recipe_reaches_every_weight():
    made = parser()
    made["channels"] = [2, 4, 4, 4]
    network, loss = made.get_parsed_content("network_factory")(), made.get_parsed_content("deep_supervision_loss")
    image, label = torch.randn(2, 1, 16, 16, 16), torch.randint(0, 3, (2, 1, 16, 16, 16))
    loss(network.train()(image), label).backward()
    unreached = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not unreached


def test_activations_computed_again_give_the_networks_own_gradients():
    made = parser()
    made["channels"] = [2, 4, 4]
    torch.manual_seed(0)
    plain = made.get_parsed_content("network_factory")()
    again = recomputed(copy.deepcopy(plain))
    image = torch.rand(1, 1, 8, 8, 8)
    calls = []
    again.bottleneck.conv1.register_forward_pre_hook(lambda *_: calls.append(1))
    for network in (plain, again):
        network.train()(image).square().sum().backward()
    assert len(calls) == 2  # once forward, and once more for the backward pass
    for (name, p), q in zip(plain.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad), name


def test_a_checkpoint_gives_its_network_and_several_their_mean(checkpoints):
    x = torch.randn(1, 1, 16, 16, 16)
    first, second = (read_model(path).network.eval() for path in checkpoints)
    assert isinstance(first, DynUNet)
    with torch.no_grad():
        both = read_model(checkpoints, tta=True).network.eval()(x)
        flips = [(), (2,), (3,), (4,), (2, 3), (2, 4), (3, 4), (2, 3, 4)]
        expected = sum((net(x.flip(f)).flip(f)) for net in (first, second) for f in flips) / 16
    torch.testing.assert_close(both, expected, atol=1e-5, rtol=1e-5)


def test_of_several_checkpoints_each_must_be_there(checkpoints):
    """A missing one's fresh weights would be averaged in."""
    factory = partial(DynUNet)
    with pytest.raises(CheckpointError, match="nowhere.pt"):
        read_model([checkpoints[0], "nowhere.pt"], factory, missing_ok=True)
    with pytest.raises(CheckpointError, match="no checkpoint is named"):
        read_model([], factory, missing_ok=True)


@pytest.mark.parametrize("name", ["openvino", "channels_last", "eager"])
def test_an_engine_takes_the_network(checkpoints, name, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    network, x = read_model(checkpoints[0]).network.eval(), torch.randn(1, 1, 16, 16, 16)
    try:
        with torch.no_grad():
            backend = make_backend(name, network, resolve("cpu"), (1, 1, 16, 16, 16))
            torch.testing.assert_close(backend(x), network(x), atol=1e-4, rtol=1e-4)
    except MissingBackendError as error:
        pytest.skip(str(error))


@pytest.mark.slow
@needs_compiler
def test_the_compiler_takes_the_network(checkpoints):
    network, x = read_model(checkpoints[0]).network.eval(), torch.randn(1, 1, 16, 16, 16)
    with torch.no_grad():
        backend = make_backend("compiled", network, resolve("cpu"), (1, 1, 16, 16, 16))
        torch.testing.assert_close(backend(x), network(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("kind", "ending"), [("torchscript", ".ts"), ("onnx", ".onnx")])
def test_the_network_is_exported(checkpoints, kind, ending, tmp_path, caplog):
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    path, x = tmp_path / f"model{ending}", torch.randn(1, 1, 16, 16, 16)
    with caplog.at_level(logging.INFO):
        assert main(["export", kind, "--checkpoint", str(checkpoints[0]), "-o", str(path),
                     "--bundle", str(ROOT / "bundle")]) == 0  # fmt: skip
    assert path.stat().st_size > 0
    if kind == "torchscript":
        assert "traced on one sliding window" in caplog.text
        network = read_model(checkpoints[0]).network.eval()
        with torch.no_grad():
            torch.testing.assert_close(torch.jit.load(path)(x), network(x), atol=1e-4, rtol=1e-4)


def test_the_configurations_that_go_with_the_network_make_it(checkpoints):
    configs = describe(checkpoints[0], ROOT / "bundle").configs
    for name in ("train", "inference"):
        made = ConfigParser(configs[name]).get_parsed_content("network_factory")
        assert made.func is DynUNet and made.keywords["filters"] == [2, 4, 4], name
    parser = ConfigParser(configs["train"])
    assert parser["train#trainer#loss_function"] == "@supervised_loss"
    loss = parser.get_parsed_content("supervised_loss")
    assert parser.get_parsed_content("settings#loss") is loss
    network = parser.get_parsed_content("network_factory")().train()
    logits, label = network(torch.randn(1, 1, 16, 16, 16)), torch.zeros(1, 1, 16, 16, 16)
    assert logits.ndim == 6 and torch.isfinite(loss(logits, label))
    assert "MLPerf" not in configs["metadata"]["description"]


@pytest.fixture(scope="module")
def cross_validated(tmp_path_factory, preprocessed_phantoms):
    """Two folds of the whole preset for a CPU, a few seconds each."""
    directory = tmp_path_factory.mktemp("folds")
    configs = [str(CONFIGS / f"{name}.json") for name in ("train", "dynunet_ds", "dynunet_ds_cpu")]
    settings = [f"{key}={value}" for key, value in TINY.items()] + ["channels=[4,8,8]", "max_minutes=0.05"]
    for fold in (0, 1):
        code = main(["train", "--fold", str(fold), "--folds", "2", "--dataset-dir", str(preprocessed_phantoms),
                     "-o", str(directory / f"fold_{fold}"), "--config", *configs, "--set", "device_name=cpu",
                     "warmup_epochs=0", *settings])  # fmt: skip
        assert code == 0
    return [directory / "fold_0", directory / "fold_1"]


@pytest.mark.slow
def test_a_fold_is_trained_to_the_end_of_its_time(cross_validated):
    results = [json.loads((directory / "result.json").read_text()) for directory in cross_validated]
    rate = json.loads((CONFIGS / "dynunet_ds_cpu.json").read_text())["learning_rate"]
    assert [one["evaluation_cases"] for one in results] == [["case_00001", "case_00003"], ["case_00002", "case_00004"]]
    for directory, one in zip(cross_validated, results, strict=True):
        assert set(one["scores"]["cases"]) == set(one["evaluation_cases"])
        assert not set(one["evaluation_cases"]) & set(one["training_cases"])
        content = torch.load(directory / "models" / "model.pt", weights_only=True)
        assert content["network"]["_target_"] == "monai.networks.nets.DynUNet"
        assert content["configuration"]["fold"] == f"{one['fold']} of 2"
        assert content["configuration"]["learning_rate_until"] == "end of max_minutes"
        assert content["configuration"]["loss"]["loss"]["regions"] == [[1, 2], [2]]
        assert content["seconds"] >= 3
        assert content["iteration"] == 1 or content["optimizer"]["param_groups"][0]["lr"] < rate


@pytest.mark.slow
def test_folds_are_summed_up_and_their_choice_and_mean_predict(cross_validated, tmp_path, raw_phantoms, capsys):
    out = tmp_path / "choice"
    directories = [str(directory) for directory in cross_validated]
    assert main(["folds", *directories, "--data-dir", str(raw_phantoms), "-o", str(out), "--device", "cpu"]) == 0
    summary = json.loads((out / "folds.json").read_text())
    assert set(summary["as_predicted"]["cases"]) == {f"case_0000{n}" for n in (1, 2, 3, 4)}
    assert set(summary["by_fold"]) == {"0", "1"} and len(summary["tried"]) == 16
    chosen = json.loads((out / "postprocessing.json").read_text())
    assert chosen == summary["postprocessing"]
    best = max(tried["mean_dice"] for tried in summary["tried"])
    tried = {tuple(candidate[key] for key in chosen): candidate["mean_dice"] for candidate in summary["tried"]}
    assert tried[tuple(chosen.values())] == best and summary["missing"] == []
    assert sum(summary["post_processed"]["mean"].values()) / 2 <= best
    shutil.rmtree(cross_validated[0] / "masks")
    little = ["folds", *directories, "--data-dir", str(raw_phantoms), "-o", str(out), "--max-memory", "1MB"]
    assert main(little) == 2 and "case_00001, case_00003 could not be predicted" in capsys.readouterr().err
    models = [part for f in cross_validated for part in ("--checkpoint", str(f / "models" / "model.pt"))]
    scan = raw_phantoms / "case_00000" / "imaging.nii.gz"
    assert main(["predict", str(scan), "-o", str(tmp_path / "masks"), "--device", "cpu", "--tta", *models,
                 "--postprocessing", str(out / "postprocessing.json"), "--no-html-report"]) == 0  # fmt: skip
    assert nib.load(tmp_path / "masks" / "case_00000_seg.nii.gz").shape == nib.load(scan).shape


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--fold", "5"], "fold must be a whole number from 0 and below folds, got 5 of 5"),
        (["--set", "epochs"], "must be KEY=VALUE"),
        (["--set", "epoch=3"], "the nearest known one is epochs"),
        (["--config", "nowhere.json"], "nowhere.json: no such file"),
        (["--fold", "0", "--dataset-dir", "nowhere"], "nowhere: no such file or directory"),
    ],
)
def test_what_cannot_be_trained_is_said_in_a_sentence(given, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    assert main(["train", "-o", str(tmp_path), *given]) == 2
    assert message in capsys.readouterr().err


def test_a_factory_of_positional_arguments_is_no_description():
    with pytest.raises(ValueError, match="keyword arguments"):
        describe_network(partial(DynUNet, 3))


@pytest.mark.slow
def test_kits23_trains_four_classes_and_is_scored_by_its_hierarchy(tmp_path, tiny_config, capsys):
    """From phantoms with cysts to the masks: the classes come with the data, the preset and the checkpoint."""
    write_dataset(tmp_path / "raw", 3, seed=5, shape=(40, 72, 72), spacing_mm=(8.0, 6.0, 6.0), cysts=True)
    prepared, out = str(tmp_path / "prepared"), tmp_path / "out"
    assert main(["prepare", "--data-dir", str(tmp_path / "raw"), "-o", prepared, "--config", str(tiny_config)]) == 0
    configs = ["train", "kits23", str(tiny_config)]
    assert main(["train", "-o", str(out), "--dataset-dir", prepared, "--config", *configs, "--set", "seed=1"]) == 0
    mean = json.loads((out / "result.json").read_text())["scores"]["mean"]
    named = [mean[f"{name}_dice"] for name in ("kidney_and_masses", "masses", "tumour")]
    assert mean["mean_dice"] == pytest.approx(np.mean(named)) and {"cyst_dice", "masses_surface_dice"} <= mean.keys()
    capsys.readouterr()
    scan = str(tmp_path / "raw" / "case_00000" / "imaging.nii.gz")
    model = str(out / "models" / "model_final.pt")
    assert main(["predict", scan, "-o", str(tmp_path / "masks"), "--checkpoint", model, "--no-html-report"]) == 0
    assert "classes kidney, tumour and cyst" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main(["train", "-o", str(tmp_path / "no"), "--dataset-dir", prepared, "--config", "train", *configs[2:]])
    assert stop.value.code == 2 and "train, dynunet_ds and kits23" in capsys.readouterr().err
    files = [str(CONFIGS / f"{name}.json") for name in ("train", "evaluate")]
    places = {"ckpt_path": model, "dataset_dir": prepared, "output_dir": str(tmp_path / "again")}
    monai.bundle.run("evaluating", config_file=files, logging_file=False, device_name="cpu", **places)
    again = json.loads((tmp_path / "again" / "scores.json").read_text())["mean"]
    assert again == pytest.approx(mean, abs=1e-4)
