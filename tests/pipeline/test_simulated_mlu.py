"""Every journey on a simulated mlu (tests/simulated_mlu), each in a process of its own, against the same on the CPU."""

import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from simulation import MARKS, SIMULATION, counted, device_check, run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from kits_unet3d.pipeline.model import read_model

pytestmark = MARKS
TORCH_VERSION = ".".join(torch.__version__.split(".")[:2])
BEST = ["bundle/configs/dynunet_ds.json", "bundle/configs/dynunet_ds_cpu.json"]


def bundle(run_id, config, reports=None, **overrides):
    options = [part for key, value in overrides.items() for part in (f"--{key}", str(value))]
    done = run("-m", "monai.bundle", "run", run_id, "--config_file", config, *options, reports=reports)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def reports(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("reports")


def together(jobs):
    """The results of functions by their keys, two at a time, since each waits for a process of its own."""
    with ThreadPoolExecutor(2) as pool:
        running = {key: pool.submit(job) for key, job in jobs.items()}
        return {key: job.result() for key, job in running.items()}


@pytest.fixture(scope="module")
def train(tmp_path_factory, preprocessed_phantoms, tiny_config, reports):
    """Trains on a device, perhaps going on from a copy of another run's directory; gives the new directory."""

    def start(device, source=None, overlays=(), reports=reports, **overrides):
        directory = tmp_path_factory.mktemp(device)
        if source is not None:
            shutil.copytree(source, directory, dirs_exist_ok=True)
        bundle(
            "training", str(["bundle/configs/train.json", *overlays, str(tiny_config)]),
            reports if device == "mlu" else None, dataset_dir=preprocessed_phantoms, ckpt_dir=directory,
            output_dir=directory / "curves", device_name=device, resume=source is not None, **overrides,
        )  # fmt: skip
        return directory

    return start


@pytest.fixture(scope="module")
def trained(train):
    """Directories of two trainings with an evaluation after each epoch, by device."""
    return together({device: partial(train, device) for device in ("cpu", "mlu")})


@pytest.fixture(scope="module")
def continued(train):
    """Directories of trainings whose first epoch ran on the simulated device, by the device that the second ran on."""
    first = train("mlu", epochs=1)
    return together({device: partial(train, device, first) for device in ("cpu", "mlu")})


@pytest.fixture(scope="module")
def evaluated(trained, tmp_path_factory, preprocessed_phantoms, reports):
    """What the bundle's evaluating writes of one checkpoint, file by file, by device."""

    def evaluate(device):
        directory = tmp_path_factory.mktemp("scores")
        bundle(
            "evaluating", "['bundle/configs/train.json','bundle/configs/evaluate.json']",
            reports if device == "mlu" else None, dataset_dir=preprocessed_phantoms, output_dir=directory,
            ckpt_path=trained["mlu"] / "model.pt", device_name=device,
        )  # fmt: skip
        return {path.name: path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}

    return together({device: partial(evaluate, device) for device in ("cpu", "mlu")})


@pytest.fixture(scope="module")
def infer(tmp_path_factory, raw_phantoms):
    """The bytes of the mask of one scan that the bundle's inferring writes."""

    def start(model, device, reports=None, precision="fp32", **overrides):
        directory = tmp_path_factory.mktemp("masks")
        bundle(
            "inferring", "bundle/configs/inference.json", reports, output_dir=directory, ckpt_path=model / "model.pt",
            input=raw_phantoms / "case_00003" / "imaging.nii.gz", device_name=device, precision=precision,
            **overrides,
        )  # fmt: skip
        return (directory / "case_00003_seg.nii.gz").read_bytes()

    return start


@pytest.fixture(scope="module")
def inferred(trained, infer, reports):
    """Masks of one scan, by the device that trained and the device that inferred."""

    pairs = [("cpu", "cpu"), ("mlu", "mlu"), ("mlu", "cpu"), ("cpu", "mlu")]
    return together({(a, b): partial(infer, trained[a], b, reports if b == "mlu" else None) for a, b in pairs})


@pytest.fixture(scope="module")
def with_options(trained, train, infer, tiny_config, tmp_path_factory) -> Path:
    """Reports of what needs other operations: mixed precision, other optimisers and losses, averages, mirroring, the
    quickstart's network, inference backends, two windows of a scan, two cards."""
    reports = tmp_path_factory.mktemp("options")
    adam = {"overlays": ["bundle/configs/adam.json"], "precision": "fp16", "average_decay": 0.9}
    together({
        "adam": partial(train, "mlu", reports=reports, **adam),
        "bf16": partial(train, "mlu", reports=reports, precision="bf16", batch_dice=True, epochs=1),
        "best": partial(train, "mlu", reports=reports, overlays=BEST, precision="bf16", epochs=1, channels=[4, 8, 8]),
        "lamb": partial(train, "mlu", reports=reports, overlays=["bundle/configs/lamb.json"], epochs=1),
        "demo": partial(train, "mlu", reports=reports, overlays=[*BEST, "bundle/configs/demo.json"], epochs=1),
        "memory": partial(train, "mlu", reports=reports, epochs=1, recompute=True, channels_last=True),
        "tta": partial(infer, trained["mlu"], "mlu", reports, precision="bf16", tta=True),
        "backend": partial(infer, trained["mlu"], "mlu", reports, backend="channels_last"),
        "coarse": partial(infer, trained["mlu"], "mlu", reports, roi="coarse"),
        "cards": partial(device_check(tiny_config), "--accelerators", 2, reports=reports, MLU_VISIBLE_DEVICES="0,1"),
    })  # fmt: skip
    return reports


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory, reports) -> Path:
    path = tmp_path_factory.mktemp("exported") / "model.ts"
    done = run(
        "-m", "monai.bundle", "ckpt_export", "--net_id", "network_def", "--filepath", path, "--key_in_ckpt", "model",
        "--ckpt_file", trained["mlu"] / "model.pt", "--ckpt_path", trained["mlu"] / "model.pt", "--device_name", "mlu",
        "--meta_file", "bundle/configs/metadata.json", "--config_file", "bundle/configs/inference.json",
        reports=reports,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return path


def same(first, second) -> bool:
    """Whether two trees of tensors and plain data are equal bit for bit."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


def curve(directory: Path, name: str) -> list[float]:
    events = EventAccumulator(str(directory / "curves")).Reload()
    return [event.value for event in events.Scalars(name)]


def test_training_is_the_cpus_bit_for_bit(trained):
    content = {name: torch.load(directory / "model_final.pt", weights_only=True) for name, directory in trained.items()}
    assert content["mlu"]["device"]["device"] == "mlu:0" and content["cpu"]["device"]["device"] == "cpu"
    assert same(content["cpu"]["model"], content["mlu"]["model"])
    assert same(content["cpu"]["optimizer"], content["mlu"]["optimizer"])
    losses = {device: curve(directory, "train_loss") for device, directory in trained.items()}
    assert losses["cpu"] == losses["mlu"] and len(losses["mlu"]) == 4


def test_a_run_goes_on_on_either_device_as_if_never_stopped(trained, continued):
    expected = torch.load(trained["cpu"] / "model_final.pt", weights_only=True)
    for device, directory in continued.items():
        content = torch.load(directory / "model_final.pt", weights_only=True)
        assert content["epoch"] == 2 and content["device"]["device"].startswith(device)
        assert same(content["model"], expected["model"]) and same(content["optimizer"], expected["optimizer"])


def test_evaluation_is_the_cpus_bit_for_bit(trained):
    scores = {device: curve(directory, "mean_dice") for device, directory in trained.items()}
    assert scores["cpu"] == scores["mlu"] and len(scores["mlu"]) == 2


def test_checkpoint_scores_are_equal_on_both_devices_and_name_the_device(evaluated):
    told = {device: json.loads(files.pop("scores.json")) for device, files in evaluated.items()}
    devices = {device: scores.pop("device")["device"] for device, scores in told.items()}
    assert devices == {"cpu": "cpu", "mlu": "mlu:0"}
    assert told["cpu"] == told["mlu"] and evaluated["cpu"] and evaluated["cpu"] == evaluated["mlu"]


def test_masks_are_equal_whichever_device_trained_or_predicted(inferred):
    assert len(set(inferred.values())) == 1


def test_an_exported_model_serves_on_the_cpu(trained, exported):
    image = torch.rand(1, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0))
    network = read_model(trained["mlu"] / "model.pt").network.eval()
    with torch.inference_mode():
        expected, got = network(image), torch.jit.load(exported, map_location="cpu").eval()(image)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_no_float64_reaches_the_device(trained, continued, evaluated, inferred, exported, reports):
    assert counted(reports, "float64") == {}


def test_fp32_casts_nothing_and_bf16_casts_every_convolution_of_inference(trained, inferred, infer, reports, tmp_path):
    assert counted(reports, "casts") == {}
    infer(trained["mlu"], "mlu", tmp_path, "bf16")
    casts, ran = counted(tmp_path, "casts"), counted(tmp_path, "operations")
    assert sum(count for name, count in casts.items() if "conv" in name) == ran["aten::convolution"] > 0


def listed() -> dict[str, tuple[str, str]]:
    """Operations by name: the first torch_mlu whose list of native operations has it, and its name there."""
    rows = [line.split() for line in (SIMULATION / "operations.txt").read_text().splitlines()[1:]]
    assert [row[0] for row in rows] == sorted({row[0] for row in rows})
    return {row[0]: (row[1], row[2] if row[2:] else row[0].removeprefix("aten::")) for row in rows}


def later_than_first() -> list[str]:
    """Operations that the oldest torch_mlu of the supported ones lacks."""
    return [name for name, (since, _) in listed().items() if since != "1.22"]


def test_each_operation_on_the_device_is_a_known_one(
    trained, continued, evaluated, inferred, exported, reports, with_options
):
    """A new one may fall back to the CPU on the hardware: tests/simulated_mlu/README.md says what to do."""
    header, version = (SIMULATION / "operations.txt").read_text().split("\n")[0], TORCH_VERSION
    if not header.startswith(f"# torch {version}:"):
        pytest.skip(f"{header[2:13]} has other operations than torch {version}, which may take them apart otherwise")
    ran = {what for directory in (reports, with_options) for what in counted(directory, "operations")}
    new = sorted(ran - set(listed()))
    assert not new, "\n".join(new)
    assert {"aten::flip", "aten::sqrt.out", "aten::_amp_foreach_non_finite_check_and_unscale_"} <= ran


def test_operations_that_an_older_torch_mlu_lacks_are_documented():
    document = (ROOT / "docs" / "devices.md").read_text()
    assert f"send {len(listed())} operations to the device" in document
    rows = re.findall(r"^\| (`[^|]+`) \| ([\d.]+) \|", document, re.MULTILINE)
    told = {(name, since) for names, since in rows for name in re.findall(r"`([^`]+)`", names)}
    known = listed()
    assert told == {(known[name][1].split(".")[0], known[name][0]) for name in later_than_first()}


@pytest.mark.parametrize(
    ("overlays", "options"),
    [
        ([], {}),
        (["bundle/configs/dynunet_ds.json", "bundle/configs/dynunet_ds_cpu.json"], {"supervised_heads": 0}),
        ([*BEST, "bundle/configs/demo.json"], {"supervised_heads": 0}),
    ],
    ids=["mlperf", "dynunet_ds", "demo"],
)
def test_an_mlu370_trains_each_recipe_without_the_operations_it_lacks(
    overlays, options, tmp_path, preprocessed_phantoms, tiny_config
):
    """The operations are refused, as ENABLE_FALLBACK_TO_CPU=0 does on the hardware."""
    configs = str(["bundle/configs/train.json", *overlays, str(tiny_config)])
    settings = {"epochs": 1, "dataset_dir": preprocessed_phantoms, "ckpt_dir": tmp_path, "output_dir": tmp_path / "out"}
    settings |= {"device_name": "mlu", "precision": "fp32", **({"channels": [4, 8, 8]} if overlays else {}), **options}
    done = run(
        "-m", "monai.bundle", "run", "training", "--config_file", configs,
        *(part for key, value in settings.items() for part in (f"--{key}", str(value))),
        reports=tmp_path / "reports", SIMULATED_MLU_NAME="MLU370-X8", ENABLE_FALLBACK_TO_CPU="0",
        SIMULATED_MLU_MISSING=",".join(later_than_first()),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    content = torch.load(tmp_path / "model_final.pt", weights_only=True)
    assert content["epoch"] == 1 and content["device"]["name"] == "MLU370-X8" and not content["device"]["bf16"]
    assert counted(tmp_path / "reports", "operations")["aten::convolution"] > 0
