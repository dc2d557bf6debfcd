import pytest
from conftest import ROOT

from kits_unet3d.pipeline.cli import main
from kits_unet3d.pipeline.runtime.configuration import section
from kits_unet3d.pipeline.runtime.errors import UsageError

TRAIN = str(ROOT / "bundle" / "configs" / "train.json")


def test_two_processes_on_a_cpu_are_found_sound_alone_and_together(capfd, tiny_config):
    command = ["device", "--device", "cpu", "--accelerators", "2", "--patch", "16"]
    code = main([*command, "--config", TRAIN, str(tiny_config)])
    printed = capfd.readouterr()
    assert code == 0, printed.out + printed.err
    together = ("all-reduce", "training together")
    for check in ("native operations", "training step", "window", "bf16", "step time", "compiler", *together):
        assert printed.out.count(f"ok     {check}") == 1, check
    assert printed.out.count("deterministic") == printed.out.count("all checks passed") == 1


def test_the_configurations_network_is_read_without_running_it(tiny_config, tmp_path):
    network = section("network_factory", TRAIN, tiny_config)
    # the classes are counted by an expression, which is left out; the network's own default is the recipe's three
    assert network == {"_target_": "kits_unet3d.networks.UNet3D", "in_channels": 1, "channels": [4, 8, 8]}
    (tmp_path / "c.json").write_text('{"loss": {"_target_": "L", "weight": "$exit(1)", "batch": "@b#c"}}')
    assert section("loss", tmp_path / "c.json") == {"_target_": "L"}
    with pytest.raises(UsageError, match="nowhere.json.*train.json"):
        section("network_factory", "nowhere.json")


def test_a_device_that_is_not_there_is_exit_code_2(capfd):
    assert main(["device", "--device", "abacus", "--config", TRAIN]) == 2
    assert "does not know this device" in capfd.readouterr().err
