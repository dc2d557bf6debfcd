"""The bundle's metadata and layout, by MONAI's own checks."""

import json
import os
import shutil

import pytest
from conftest import CONFIGS, ROOT, bundle_config
from monai.bundle import verify_metadata, verify_net_in_out

from kits_unet3d.pipeline.export import describe

METADATA = str(CONFIGS / "metadata.json")


def test_monai_finds_the_metadata_in_order(tmp_path, tiny_checkpoint):
    schema = tmp_path / "schema.json"
    shutil.copy(ROOT / "tests" / "goldens" / "meta_schema_20240725.json", schema)  # there, so that nothing is fetched
    verify_metadata(meta_file=METADATA, filepath=str(schema))
    made = tmp_path / "metadata.json"
    made.write_text(json.dumps(describe(tiny_checkpoint, ROOT / "bundle").configs["metadata"]))
    verify_metadata(meta_file=str(made), filepath=str(schema))


def test_the_metadata_name_installed_packages_and_their_tested_versions():
    from importlib.metadata import version

    metadata = bundle_config("metadata")
    pins = dict(
        line.split(";")[0].strip().lower().split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    )
    named = {
        "monai": metadata["monai_version"],
        "torch": metadata["pytorch_version"],
        "numpy": metadata["numpy_version"],
    }
    named |= metadata["required_packages_version"]
    assert named.pop("kits-unet3d") == version("kits-unet3d") == metadata["version"]
    assert named == {name: pins[name] for name in named}
    assert metadata["version"] in metadata["changelog"]


@pytest.mark.parametrize(
    ("config", "shape"), [("train", [32, 64, 32]), pytest.param("inference", [128, 128, 128], marks=pytest.mark.slow)]
)  # fmt: skip
def test_the_network_takes_and_gives_what_the_metadata_say(config, shape, monkeypatch):
    monkeypatch.chdir(ROOT)
    override = {"_meta_#network_data_format#inputs#image#spatial_shape": shape}
    said = bundle_config("metadata")["network_data_format"]["inputs"]["image"]["spatial_shape"]
    assert config == "train" or said == shape
    verify_net_in_out(
        "network_def", meta_file=METADATA, config_file=str(CONFIGS / f"{config}.json"), device="cpu", **override
    )


def test_the_layout_is_that_of_a_new_bundle(tmp_path):
    from monai.bundle import init_bundle

    init_bundle(str(tmp_path / "new"), network=None)
    for directory, _, files in os.walk(tmp_path / "new"):
        for name in files:
            inside = os.path.relpath(os.path.join(directory, name), tmp_path / "new")
            assert (ROOT / "bundle" / inside).is_file(), inside
