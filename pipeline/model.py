"""Read a trained network from a checkpoint file, with everything needed to use it."""

from __future__ import annotations

import copy
import importlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kits_unet3d.networks import CheckpointError, Ensemble, FlipTTA, load_weights, network_state, read_with_digest
from kits_unet3d.networks.provenance import dataset_of, printable, training_of
from kits_unet3d.transforms import PreprocessingParameters

from .runtime.errors import errors_reported
from .runtime.files import require_plain
from .runtime.output import show

logger = logging.getLogger("kits_unet3d.model")

#: Name of a data set of simulated scans, in its ``dataset.json`` and in checkpoints trained on it.
PHANTOMS = "phantoms"
#: A checkpoint may name networks from these modules only; a file cannot import anything else.
TRUSTED = ("kits_unet3d.networks.", "monai.networks.nets.")
#: The network of checkpoints that name none, if their weights fit it: MLPerf's and Cambricon's.
REFERENCE = {"_target_": "kits_unet3d.networks.UNet3D"}
#: Arguments that make some of MONAI's networks load weights from the internet or a file at their creation.
FETCHING = re.compile(r"weights$|checkpoint$|path_or_repo_id$|\w*pretrained")


@dataclass(frozen=True)
class Model:
    """Hold a network and the preprocessing parameters of its images.

    ``sources`` are its checkpoints, more than one for an ensemble, and ``digests`` the SHA-256 of each as it was read.
    ``tta`` is set for TTA by flipping. ``datasets`` are the names of the data sets it was trained on, as far as the
    checkpoints contain them. ``description`` states its origin, training and score in words.
    """

    network: nn.Module
    parameters: PreprocessingParameters
    sources: tuple[Path, ...] = ()
    tta: bool = False
    datasets: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()
    description: str = ""

    @property
    def warning(self) -> str | None:
        """Return a warning about the training data for users of the masks, or None."""
        if PHANTOMS not in self.datasets:
            return None
        share = "only" if set(self.datasets) == {PHANTOMS} else "in part"
        return f"this model was trained on phantoms (simulated CT) {share}; its masks of real scans are not reliable"

    def for_report(self) -> dict[str, Any]:
        """Return what a report has of the model: description, data sets, warning, classes by value, and hashes."""
        return {
            "description": self.description,
            "datasets": list(self.datasets),
            "warning": self.warning,
            "classes": list(self.parameters.classes),
            "sha256": list(self.digests),
        }

    def warned(self) -> Model:
        """Log the warning, if there is one; return the model."""
        if self.warning:
            logger.warning("%s: %s", ", ".join(map(str, self.sources)), self.warning)
        return self

    def announce(self) -> None:
        """Show the description as the first line of a prediction, and then log the warning."""
        show(f"model: {self.description or 'unknown'}")
        self.warned()


def describe_network(factory: partial[nn.Module]) -> dict[str, Any]:
    """Describe a network factory as plain data: the location of its class, and its arguments.

    Args:
        factory: ``functools.partial(NetworkClass, **arguments)``, as a bundle's ``"_mode_": "callable"`` gives.
    """
    if factory.args:
        raise ValueError("a network takes keyword arguments only")
    module = factory.func.__module__
    public = next(
        (p.rstrip(".") for p in TRUSTED if f"{module}.".startswith(p)), module
    )  # the public name stays valid if a file is renamed
    return {"_target_": f"{public}.{factory.func.__qualname__}", **factory.keywords}  # type: ignore[attr-defined]


def build_network(description: Mapping[str, Any], source: str | Path = "checkpoint") -> nn.Module:
    """Create the network that :func:`describe_network` described, with fresh weights; a file cannot fetch any.

    Raises:
        CheckpointError: if the network is not a trusted one, or cannot be created.
    """
    target = str(description.get("_target_", ""))
    module, _, name = target.rpartition(".")
    if f"{module}." not in TRUSTED or not name.isidentifier():
        raise CheckpointError(f"{source}: its network {target!r} is not one of {', '.join(TRUSTED)}*")
    cls = getattr(importlib.import_module(module), name, None)
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise CheckpointError(f"{source}: its network {target!r} does not exist in this version")
    arguments = {key: value for key, value in description.items() if key != "_target_"}
    try:
        require_plain(arguments, "network")
    except ValueError as error:
        raise CheckpointError(f"{source}: its network's arguments are refused ({error})") from error
    given = {name: parameter.default for name, parameter in signature(cls).parameters.items()} | arguments
    for name in filter(FETCHING.match, given):
        arguments[name] = False if isinstance(given[name], bool) else None
    try:
        return cls(**arguments)  # type: ignore[no-any-return]
    except Exception as error:  # networks fail in many ways on a file's numbers
        raise CheckpointError(f"{source}: its network cannot be made ({error})") from error


def require_trained(model: Model, path: str | Path | Sequence[str | Path]) -> None:
    """End a bundle's run with an error message and exit code 3 if ``model`` has only fresh weights."""
    with errors_reported():
        if not model.sources:
            raise CheckpointError(f"{path}: no such checkpoint; train one, or name another with --ckpt_path")


def read_model(
    path: str | Path | Sequence[str | Path],
    factory: partial[nn.Module] | None = None,
    missing_ok: bool = False,
    tta: bool = False,
    warn: bool = True,
) -> Model:
    """Read the model in a checkpoint file, or the mean of those in several.

    Args:
        path: checkpoint, or several, such as those of a cross-validation. Checkpoints of this project name their
            network and preprocessing parameters; others use ``factory``'s network and the reference's parameters.
        factory: creates the network of a checkpoint that does not name it.
        missing_ok: if a single file does not exist, return ``factory``'s network with fresh weights.
        tta: use TTA by flipping along all axes, which takes eight times as long.
        warn: log the model's warning at once; False if :meth:`Model.announce` does so later.

    Raises:
        CheckpointError: if no file is named, one cannot be used, or several need different preprocessing.
    """
    paths = [path] if isinstance(path, str | Path) else list(path)
    if not paths:
        raise CheckpointError("no checkpoint is named; give the path of at least one")
    missing_ok = missing_ok and len(paths) == 1
    first, *others = (_read_one(Path(one), factory, missing_ok) for one in paths)
    for one, other in zip(paths[1:], others, strict=True):
        if other.parameters != first.parameters:
            raise CheckpointError(f"{one}: preprocesses images differently from {paths[0]}; predict with each alone")
    network = Ensemble([first.network, *(other.network for other in others)]) if others else first.network
    sources = tuple(source for model in (first, *others) for source in model.sources)
    datasets = tuple(dict.fromkeys(name for model in (first, *others) for name in model.datasets))
    digests = tuple(digest for model in (first, *others) for digest in model.digests)
    description = "; ".join(model.description for model in (first, *others) if model.description)
    network = FlipTTA(network) if tta else network
    model = Model(network, first.parameters, sources, tta, datasets, digests, description)
    return model.warned() if warn else model


def _read_one(path: Path, factory: partial[nn.Module] | None, missing_ok: bool) -> Model:
    if missing_ok and factory is not None and not path.is_file():
        return Model(factory(), PreprocessingParameters())
    content, digest = read_with_digest(path)
    return model_in(with_description(content, digest, path), digest, path, factory)


def with_description(content: dict[str, Any], digest: str, path: Path) -> dict[str, Any]:
    """Return a checkpoint's content with the description in the JSON beside it, if that belongs to these weights."""
    beside = path.with_suffix(".json")
    if path.suffix != ".safetensors" or not beside.is_file():
        return content
    try:
        about = json.loads(beside.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{beside}: cannot be read ({error}); write it again, or remove it") from error
    if not isinstance(about, dict) or about.get("sha256") != digest:
        raise CheckpointError(f"{beside}: does not describe {path.name}; download or convert the weights again")
    return {**about, "model": content}


def model_in(content: dict[str, Any], digest: str, path: Path, factory: partial[nn.Module] | None) -> Model:
    """Build the model in a checkpoint's content, which :func:`read_with_digest` returned for ``path``.

    Raises:
        CheckpointError: if it cannot be used; see :func:`read_model`.
    """
    state, assumed = network_state(content, path), "preprocessing"
    if isinstance(content.get("network"), Mapping):
        network = build_network(content["network"], path)
    else:
        network = build_network(REFERENCE, path) if factory is None else factory()
        assumed = "network and preprocessing"
        if factory is None and {n: v.shape for n, v in state.items()} != shapes_of(network):
            way_out = f"the configuration of its bundle names the network (`--ckpt_path {path}`)"
            if path.suffix == ".safetensors":
                way_out = f"put {path.with_suffix('.json').name}, which names it, beside the file"
            raise CheckpointError(
                f"{path}: does not contain its network's name, and its weights do not fit MLPerf's network; {way_out}"
            )
    load_weights(network, state, path)
    try:
        # Checkpoints of earlier versions call the parameters a recipe.
        parameters = PreprocessingParameters.from_dict(
            content.get("preprocessing_parameters", content.get("recipe", {}))
        )
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: its preprocessing parameters are invalid ({error})") from error
    if fault := window_fault(network, parameters.roi_size):
        size = " x ".join(map(str, parameters.roi_size))
        raise CheckpointError(f"{path}: its network cannot take windows of its roi_size {size} ({fault})")
    outputs = getattr(network, "out_channels", None)
    if isinstance(outputs, int) and outputs != len(parameters.classes):
        raise CheckpointError(
            f"{path}: its network has {outputs} outputs, but its preprocessing parameters name "
            f"{len(parameters.classes)} classes ({', '.join(parameters.classes)}); both must agree"
        )
    if content.keys() & {"preprocessing_parameters", "recipe"}:
        assumed = ""
    dataset = dataset_of(content)
    if dataset is None and PHANTOMS in re.findall(r"\w+", printable(content.get("trained_on")).lower()):
        dataset = PHANTOMS
    datasets = () if dataset is None else (dataset,)
    facts = training_of(content).facts(parameters.classes)
    if assumed:
        facts.append(f"{assumed} of the MLPerf reference assumed, since the file names none")
    description = f"{printable(content.get('name')) or path.name}: {', '.join(facts)}"
    return Model(network, parameters, (path,), datasets=datasets, digests=(digest,), description=description)


def meta_twin(network: nn.Module) -> nn.Module:
    """Return a copy of a network that computes shapes only, without memory or time."""
    values = {id(one): nn.Parameter(one.to("meta"), False) for one in network.parameters()}
    return copy.deepcopy(network, values | {id(one): one.to("meta") for one in network.buffers()})


def channels_in(network: nn.Module) -> int:
    """Return the channels of a network's input: those of its first convolution."""
    return next((module.in_channels for module in network.modules() if isinstance(module, nn.Conv3d)), 1)


def window_fault(network: nn.Module, roi_size: Sequence[int]) -> str:
    """Return why ``network`` cannot take windows of ``roi_size`` (D, H, W) voxels; an empty text if it can.

    A network whose shapes cannot be computed alone is taken to fit.
    """
    try:
        with torch.no_grad():
            meta_twin(network).eval()(torch.empty(1, channels_in(network), *roi_size, device="meta"))
    except Exception as error:  # networks fail in many ways
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return "" if isinstance(error, NotImplementedError) or "meta" in reason.lower() else reason
    return ""


def shapes_of(network: nn.Module) -> dict[str, torch.Size]:
    """Return the shape of each of a network's weights by name."""
    return {name: values.shape for name, values in network.state_dict().items()}


def model_of_run(
    path: str | Path | Sequence[str | Path], factory: partial[nn.Module], tta: bool = False, warn: bool = True
) -> Model:
    """Call :func:`read_model` for a bundle's run; end it with an error message and exit code 3 if a file is unusable.

    If a single file does not exist, the weights are fresh: a federation sends them later. Other runs call
    :func:`require_trained`.
    """
    with errors_reported():
        return read_model(path, factory, missing_ok=True, tta=tta, warn=warn)
