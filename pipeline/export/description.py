"""Set a bundle's configurations to one checkpoint; read them as data and run nothing in them."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from string import Template
from typing import Any

from kits_unet3d.networks import CheckpointError, read_with_digest
from kits_unet3d.networks.provenance import training_of

from ..data.datasets import KITS23_CLASSES
from ..model import Model, build_network, model_in, with_description
from ..runtime.errors import UsageError
from ..runtime.files import require_plain
from ..runtime.paths import bundle_directory

logger = logging.getLogger("kits_unet3d.export")


@dataclass(frozen=True)
class Description:
    """Describe a model and the bundle's configurations for it.

    Attributes:
        model: network and preprocessing parameters.
        network: the network's class (``_target_``) and arguments, as plain data.
        configs: content of the bundle's JSON files by name without ending, in agreement with the model.
        directory: directory of the bundle that they come from.
        scores: best scores of the training by name, if it was evaluated.
        data: name or description of the training's data, if the checkpoint contains it.
        settings: settings of the training, as far as the checkpoint contains them.
        epochs: number of epochs of the training, or None.
    """

    model: Model
    network: dict[str, Any]
    configs: dict[str, dict[str, Any]]
    directory: Path
    scores: dict[str, float]
    data: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    epochs: int | None = None

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.network.parameters())

    @property
    def window(self) -> tuple[int, ...]:
        """Return the shape of the network's input for one sliding window: (1, 1, D, H, W)."""
        return (1, int(self.network.get("in_channels", 1)), *self.model.parameters.roi_size)


def describe(checkpoint: str | Path, bundle: str | Path | None = None) -> Description:
    """Read the model in ``checkpoint``, and set the configurations of ``bundle`` to its network and parameters.

    The bundle is by default that of the current directory, or else the installed one.
    A checkpoint without a named network is assumed to have the network of the bundle's ``inference.json``.

    Raises:
        UsageError: if ``bundle`` is not a bundle.
        CheckpointError: if the checkpoint cannot be used.
    """
    directory = bundle_directory() if bundle is None else Path(bundle)
    configs = _read_configs(directory)
    content, digest = read_with_digest(checkpoint)
    content = with_description(content, digest, Path(checkpoint))
    named, settings = content.get("network"), content.get("configuration")
    settings = dict(settings) if isinstance(settings, Mapping) else {}
    training = training_of(content)
    scores = _scores(content.get("best") or training.scores, checkpoint)
    network = dict(named if isinstance(named, Mapping) else configs["inference"]["network_factory"])
    network.pop("_mode_", None)
    model = model_in(content, digest, Path(checkpoint), partial(build_network, network, checkpoint))
    if model.warning:
        logger.warning("%s: %s", checkpoint, model.warning)
    data = str(settings.get("dataset") or training.trained_on)
    try:
        require_plain(data, "configuration::dataset")
    except ValueError as error:
        raise CheckpointError(f"{checkpoint}: the name of its data set is refused ({error})") from error
    parameters = model.parameters.as_dict()

    configs["inference"]["network_factory"] = {**network, "_mode_": "callable"}
    known = {**parameters, **network}
    configs["train"].update({name: known[name] for name in configs["train"].keys() & known.keys()})
    if configs["train"]["network_factory"]["_target_"] != network["_target_"]:  # else its arguments are keys, set above
        configs["train"]["network_factory"] = {**network, "_mode_": "callable"}
    if network.get("deep_supervision"):  # several outputs in training, which the reference's loss alone does not accept
        target = "kits_unet3d.pipeline.training.DeepSupervision"
        configs["train"]["supervised_loss"] = {"_target_": target, "loss": "@loss"}
        configs["train"]["train"]["trainer"]["loss_function"] = "@supervised_loss"
    configs["metadata"]["eval_metrics"] = scores
    tensors = configs["metadata"]["network_data_format"]
    image, pred = tensors["inputs"]["image"], tensors["outputs"]["pred"]
    image["num_channels"] = network.get("in_channels", 1)
    image["spatial_shape"] = pred["spatial_shape"] = parameters["roi_size"]
    image["value_range"] = [
        round((hu - parameters["hu_mean"]) / parameters["hu_std"], 2) for hu in parameters["hu_window"]
    ]
    pred["num_channels"] = len(parameters["classes"])
    mask = tensors["post_processed_outputs"]["pred"]
    mask["value_range"] = [0, len(parameters["classes"]) - 1]
    pred["channel_def"] = mask["channel_def"] = {str(number): name for number, name in enumerate(parameters["classes"])}
    named = ", ".join(f"{number} {name}" for number, name in enumerate(parameters["classes"]))
    configs["metadata"]["label_classes"] = configs["metadata"]["pred_classes"] = named
    described = Description(model, network, configs, directory, scores, data, settings, training.epochs)
    configs["metadata"].update(_named(described))
    return described


def _scores(best: Any, checkpoint: str | Path) -> dict[str, float]:
    """Return a checkpoint's best scores by name; none if it was not evaluated."""
    if isinstance(best, float):  # the key metric of a training, which its configuration names mean_dice
        best = {"mean_dice": best}
    scores = {name: value for name, value in best.items() if value is not None} if isinstance(best, Mapping) else {}
    try:
        require_plain(scores, "best")
        return {name: float(value) for name, value in scores.items()}
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{checkpoint}: its best scores are refused ({error})") from error


def _named(described: Description) -> dict[str, str]:
    """Return the metadata's texts: name, task, description and data source."""
    organs = ", ".join(described.model.parameters.classes[1:])
    data = described.data or "data that is not recorded in the checkpoint"
    size = f"{described.parameters:,} parameters"
    how = " by the MLPerf 3D U-Net recipe" if described.network["_target_"].endswith(".UNet3D") else ""
    warning = f". Warning: {described.model.warning}" if described.model.warning else ""
    return {
        "name": f"3D U-Net: {organs}",
        "task": f"Segmentation of CT: {organs}",
        "description": f"A network of {size}, trained on {data}{how}{warning}",
        "data_source": described.data or "not recorded in the checkpoint",
    }


def _read_configs(directory: Path) -> dict[str, dict[str, Any]]:
    files = sorted((directory / "configs").glob("*.json"))
    missing = {"metadata", "train", "inference"} - {path.stem for path in files}
    if missing:
        raise UsageError(
            f"{directory}: is not a bundle of this project, since configs/{min(missing)}.json is missing; "
            "name the one of the repository with --bundle"
        )
    try:
        return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in files}
    except ValueError as error:
        raise UsageError(f"{directory / 'configs'}: contains a file that is not JSON ({error})") from error


#: Description of KiTS19 for the bundle's README.
KITS19 = (
    "KiTS19: 210 labelled scans of patients whose kidney tumours were then removed, late arterial phase, one hospital; "
    "168 for training, 42 for evaluation, as MLPerf splits them"
)


#: The same of KiTS23.
KITS23 = (
    "KiTS23: 489 labelled scans of patients whose kidney tumours were then removed, with cysts as a class; as "
    "`kits-unet3d prepare` splits the whole of it, 391 for training, 98 for evaluation, among these KiTS19's "
    "evaluation cases and none of its training cases"
)


#: What KiTS23's mean Dice is the mean of.
HIERARCHY = "kidney and masses (1, 2, 3), masses (2, 3) and tumour (2)"


def filled(text: str, described: Description) -> str:
    """Replace ``$name`` in ``text`` by the model's values; a ``$`` of another kind stays."""
    parameters, settings = described.model.parameters, described.settings
    low, high = parameters.hu_window
    training = "not recorded in its checkpoint"
    if settings:
        optimizer = settings.get("optimizer")
        training = (
            f"batch {settings.get('batch_size')}, "
            f"{optimizer.get('name') if isinstance(optimizer, Mapping) else 'unknown optimizer'}, learning rate "
            f"{settings.get('learning_rate')} after {settings.get('warmup_epochs')} epochs of warm-up"
        )
    scores = ", ".join(f"{name} {value:.4f}" for name, value in described.scores.items())
    return Template(text).safe_substitute(
        data={"KiTS19": KITS19, "KiTS23": KITS23}.get(described.data, described.data)
        or "not recorded in its checkpoint",
        spacing=" × ".join(f"{mm:g}" for mm in parameters.spacing_mm),
        window=f"{low:g} to {high:g}",
        mean=f"{parameters.hu_mean:g}",
        std=f"{parameters.hu_std:g}",
        patch=" × ".join(map(str, parameters.roi_size)),
        network=described.network["_target_"].rpartition(".")[2],
        channels=" ".join(map(str, getattr(described.model.network, "channels", ()))) or "the defaults of its class",
        parameters=f"{described.parameters:,}",
        training=training,
        classes=", ".join(f"{number} {name}" for number, name in enumerate(parameters.classes)),
        score=scores or "not evaluated",
        structures=HIERARCHY if parameters.classes == KITS23_CLASSES else " and ".join(parameters.classes[1:]),
    )
