"""What the bundle's configurations say beside each other: overlays on train.json, and inference.json."""

from inspect import signature

import pytest
from conftest import BELOW, CONFIGS, OVERLAYS, bundle_config
from monai.bundle import ConfigParser

from kits_unet3d.networks import UNet3D

#: What train.json and inference.json may each say in their own way, and why.
OWN_WAY = {
    "imports": "each imports what it uses",
    "initialize": "seeds are drawn for training only",
    "run": "each runs its own workflow",
    "dataset_dir": "preprocessed cases here, scans there",
    "network_factory": "the same arguments, spelt out where they can be changed",
    "network_def": "fresh here, from the checkpoint there",
    "preprocessing_parameters": "set here, from the checkpoint there",
}
#: The same for train.json with evaluate.json upon it.
OWN_WAY_EVALUATING = OWN_WAY.keys() - {"network_def", "preprocessing_parameters"} | {"model"}


def test_what_two_configurations_both_define_is_the_same():
    evaluate = {name.lstrip("+"): value for name, value in bundle_config("evaluate").items()}
    inference = bundle_config("inference")
    for whole, own in ((bundle_config("train"), OWN_WAY), (bundle_config("train") | evaluate, OWN_WAY_EVALUATING)):
        both = set(whole) & set(inference)
        assert {name for name in both if whole[name] != inference[name]} == set(own)
    networks = []
    for name in ("train", "inference"):
        parser = ConfigParser()
        parser.read_config(CONFIGS / f"{name}.json")
        networks.append(parser.get_parsed_content("network_factory"))
    bound = [signature(n.func).bind(**n.keywords) for n in networks]
    for arguments in bound:
        arguments.apply_defaults()
        arguments.arguments["channels"] = tuple(arguments.arguments["channels"])
    assert networks[0].func is networks[1].func is UNet3D and bound[0].arguments == bound[1].arguments


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_says_only_what_is_different(overlay):
    base = bundle_config("train")
    for below in BELOW.get(overlay, []):
        base |= bundle_config(below)
    same = [name for name, value in bundle_config(overlay).items() if name in base and base[name] == value]
    assert not same


def test_the_handlers_are_plain_components_for_programs_that_edit_them():
    for group in ("train", "validate"):
        handlers = bundle_config("train")[group]["handlers"]
        assert handlers and all(isinstance(handler, dict) and "_target_" in handler for handler in handlers)
