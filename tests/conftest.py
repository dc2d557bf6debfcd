"""What several tests need: goldens, real data where they are at hand, and a small preprocessed data set."""

from __future__ import annotations

import json
import os
import shutil
import zlib
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from niftis import ct, nifti
from weights_server import misbehaving_server

from kits_unet3d.networks import UNet3D
from kits_unet3d.networks.checkpoints import SAFE_TORCH, VOUCHED
from kits_unet3d.pipeline.cli import main
from kits_unet3d.pipeline.data import preprocess_dataset
from kits_unet3d.pipeline.device import resolve
from kits_unet3d.pipeline.model import describe_network
from kits_unet3d.pipeline.phantoms import write_dataset
from kits_unet3d.pipeline.runtime.compilation import obstacle
from kits_unet3d.transforms import PreprocessingParameters

#: Processes that a test starts get one thread each: several on few cores wait for each other many times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")
#: A torch that is too old to read foreign checkpoints reads those of the tests.
TORCH = tuple(int(number) for number in torch.__version__.split(".")[:2])
if TORCH < SAFE_TORCH:
    os.environ.setdefault(VOUCHED, "1")
#: Of what an old torch cannot do, with the reason; scripts/check_versions.sh lists what it left out.
needs_compiler = pytest.mark.skipif(bool(obstacle(resolve("cpu"))), reason=obstacle(resolve("cpu")))
needs_scripted_onnx = pytest.mark.skipif(TORCH < (2, 6), reason="torch before 2.6: no scripted instance norm in ONNX")
ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"
CONFIGS = ROOT / "bundle" / "configs"
#: Configurations that lie upon train.json.
OVERLAYS = sorted(p.stem for p in CONFIGS.glob("*.json") if p.stem not in ("metadata", "train", "inference"))
#: Those that lie upon another overlay.
BELOW = {"dynunet_ds_small": ["dynunet_ds"], "dynunet_ds_cpu": ["dynunet_ds"], "demo": ["dynunet_ds", "dynunet_ds_cpu"]}
#: Numbers of a recipe small enough for a test: 32³ patches of coarse voxels.
TINY = {"spacing_mm": [8.0, 6.0, 6.0], "roi_size": [32, 32, 32]}
#: Arguments of Python with which the bundle predicts the scans of the fixture ``scans``.
INFERRING = ["-m", "monai.bundle", "run", "inferring", "--config_file", str(CONFIGS / "inference.json"),
             "--input", "scans", "--ckpt_path", "model.pt", "--output_dir", "out", "--device_name", "cpu",
             "--backend", "eager", "--html_report", "false"]  # fmt: skip


def rng(seed: int) -> np.random.Generator:
    """The generator that the goldens' inputs come from."""
    return np.random.Generator(np.random.PCG64(seed))


def golden(name: str) -> np.lib.npyio.NpzFile:
    return np.load(ROOT / "tests" / "goldens" / f"{name}.npz", allow_pickle=False)


def golden_weight(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The weights of one name that the goldens were recorded with."""
    z = rng(zlib.crc32(name.encode())).standard_normal(shape, dtype=np.float32)
    z = z * np.sqrt(2 / np.prod(shape[1:])) if z.ndim >= 2 else 1 + 0.1 * z if name.endswith("weight") else 0.1 * z
    return torch.from_numpy(np.asarray(z, dtype=np.float32))


def bundle_config(name: str) -> dict:
    """A configuration of the bundle as it is written, nothing resolved."""
    return json.loads((CONFIGS / f"{name}.json").read_text(encoding="utf-8"))


def configured_loss() -> torch.nn.Module:
    """The loss exactly as the bundle configures it."""
    parser = ConfigParser(json.loads((ROOT / "bundle" / "configs" / "train.json").read_text()))
    return parser.get_parsed_content("loss")


def shared(path: str) -> Path:
    """A file of the data beside the repository; the test is skipped where there is none."""
    found = SHARED / path
    if not found.exists():
        pytest.skip(f"needs {path} in a directory `shared` beside the repository")
    return found


@pytest.fixture(autouse=True)
def one_thread(request):
    """The same sums in every test, whatever the machine has; and tests run on both cores, side by side.

    torch's numbers depend on the test and on the order's seed, not on the tests that ran before.
    """
    torch.set_num_threads(1)
    order = request.config.getoption("randomly_seed", 0)
    torch.manual_seed(zlib.crc32(f"{order} {request.node.nodeid}".encode()))


@pytest.fixture(scope="session")
def raw_phantoms(tmp_path_factory) -> Path:
    """Five phantoms on a coarse grid, 4 for training and 1 for evaluation."""
    directory = tmp_path_factory.mktemp("raw")
    write_dataset(directory, 5, seed=7, shape=(40, 72, 72), spacing_mm=(8.0, 6.0, 6.0))
    return directory


@pytest.fixture(scope="session")
def tiny_parameters() -> PreprocessingParameters:
    return PreprocessingParameters.from_dict(TINY)


@pytest.fixture(scope="session")
def preprocessed_phantoms(tmp_path_factory, raw_phantoms, tiny_parameters) -> Path:
    directory = tmp_path_factory.mktemp("preprocessed")
    assert preprocess_dataset(raw_phantoms, directory, tiny_parameters) == {}
    return directory


@pytest.fixture(scope="session")
def tiny_config(tmp_path_factory) -> Path:
    """An overlay on train.json for a run of seconds."""
    path = tmp_path_factory.mktemp("config") / "tiny.json"
    overlay = {
        **TINY,
        "channels": [4, 8, 8],
        "workers": 0,
        "learning_rate": 0.05,
        "warmup_epochs": 1,
        "epochs": 2,
        "first_evaluation": 1,
        "evaluate_every": 1,
        "quality_threshold": 1.1,
    }
    path.write_text(json.dumps(overlay))
    return path


@pytest.fixture(scope="session")
def model_file(tmp_path_factory) -> Path:
    """A checkpoint of a network of two levels with fresh weights, which is quick to predict with."""
    torch.manual_seed(0)
    content = {"model": UNet3D(channels=(2, 4)).state_dict()}
    content["network"] = {"_target_": "kits_unet3d.networks.UNet3D", "channels": [2, 4]}
    content["preprocessing_parameters"] = {"spacing_mm": [16.0, 12.0, 12.0], "roi_size": [16, 16, 16]}
    path = tmp_path_factory.mktemp("model") / "model.pt"
    torch.save(content, path)
    return path


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory) -> Path:
    """A checkpoint of ours with a small network, trained on nothing."""
    path = tmp_path_factory.mktemp("checkpoint") / "model.pt"
    torch.manual_seed(3)
    factory = partial(UNet3D, channels=[4, 8, 8])
    content = {"model": factory().state_dict(), "network": describe_network(factory), "preprocessing_parameters": TINY}
    settings = {"dataset": "phantoms", "batch_size": 2, "learning_rate": 0.05, "warmup_epochs": 1}
    content["configuration"] = {**settings, "optimizer": {"name": "SGD"}}
    torch.save({**content, "best": {"mean_dice": 0.25}}, path)
    return path


@pytest.fixture
def scans(tmp_path, model_file, monkeypatch) -> list[Path]:
    """Two scans in ``scans`` and a model ``model.pt``, in the current directory."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(model_file, "model.pt")
    (tmp_path / "scans").mkdir()
    return [nifti(tmp_path / "scans" / f"{name}.nii.gz") for name in "ab"]


@pytest.fixture
def copied_bundle(tmp_path, tiny_checkpoint) -> Path:
    """The bundle in a directory of its own, with a small trained model."""
    directory = tmp_path / "zoo" / "kits_unet3d"
    shutil.copytree(ROOT / "bundle", directory, ignore=shutil.ignore_patterns("*.pt", "eval"))
    shutil.copy(tiny_checkpoint, directory / "models" / "model.pt")
    return directory


@pytest.fixture
def predict(tmp_path, model_file, capsys):
    """Runs the command on what is given and a good scan: the exit code, what is said, the report's cases."""

    def run(*given, good=True):
        scans = [str(given[0]), *([str(nifti(tmp_path / "good.nii.gz"))] if good else [])]
        out = tmp_path / "out"
        code = main(["predict", "-o", str(out), "--checkpoint", str(model_file), *map(str, given[1:]), "--", *scans])
        cases = json.loads((out / "summary.json").read_text())["cases"]
        if good:
            mask = nib.load(out / "good_seg.nii.gz")
            assert mask.shape == ct().shape and cases["good"]["outcome"] != "failed"
        assert not [path for path in out.rglob(".*")], "something half-written is left"
        printed = capsys.readouterr()
        return code, printed.err, cases

    return run


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Where downloaded weights are kept, for this test alone."""
    monkeypatch.setenv("KITS_UNET3D_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("KITS_UNET3D_WEIGHTS_URL", raising=False)


@pytest.fixture
def server():
    """A server of one file that misbehaves."""
    with misbehaving_server() as one:
        yield one
