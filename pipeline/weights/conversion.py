"""Convert a checkpoint to safetensors, with a JSON that describes its network and preprocessing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kits_unet3d.networks import CheckpointError, load_weights, network_state, read_checkpoint
from kits_unet3d.networks.provenance import dataset_of, printable, training_of
from kits_unet3d.transforms import PreprocessingParameters

from ..model import build_network, with_description
from ..runtime.errors import UsageError
from ..runtime.files import file_hash, require_plain, whole_file, write_json
from .registry import ENDING, PublishedWeights, description_beside, published_weights, weights_directory


def convert(source: Path, target: Path, published: PublishedWeights, trained_on: str | None = None) -> Path:
    """Write the weights in ``source`` to ``target`` as safetensors, and their description beside it.

    The weights must fit the network that ``published`` names. The JSON appears first and contains the digest of the
    weights, so that an interrupted conversion is never taken for a finished one. What ``published`` lacks of training
    data and scores comes from the file. ``trained_on`` names the training data if both lack them.

    Raises:
        UsageError: if the package safetensors is missing, or ``trained_on`` is given for known training data.
        CheckpointError: if the file cannot be used, or belongs to another network.
    """
    content = with_description(read_checkpoint(source), file_hash(source), source)
    state, training = network_state(content, source), training_of(content)
    known = published.trained_on or training.trained_on
    if trained_on is not None and known:
        raise UsageError(f"{source}: was trained on {known}, as the file or its publisher says; leave out --trained-on")
    own = content.get("network")
    network = dict(own) if isinstance(own, Mapping) else dict(published.network)
    load_weights(build_network(network, source), state, source)
    try:
        parameters = PreprocessingParameters.from_dict(
            content.get("preprocessing_parameters", published.preprocessing_parameters)
        )
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{source}: its preprocessing parameters are invalid ({error})") from error
    about: dict[str, Any] = {
        "network": network,
        "preprocessing_parameters": parameters.as_dict(),
        # A model's warning about its training data depends on it.
        "configuration": {"dataset": dataset_of(content)},
        "name": published.name,
        "title": published.title,
        "source": published.source,
        "licence": published.licence,
        "terms": published.terms,
        "trained_on": known or trained_on,
        "epoch": training.epochs,
        "scores": dict(published.scores) or training.scores,
        "scored_on": published.scored_on,
    }
    return write_weights(state, target, about)


def require_safetensors() -> None:
    """Raise a UsageError if the package safetensors, an extra, is not installed."""
    try:
        import safetensors.torch  # noqa: F401
    except ModuleNotFoundError as error:
        raise UsageError(f"{error.name} is not installed; `pip install 'kits-unet3d[safetensors]'`") from error


def write_weights(state: Mapping[str, Any], target: Path, about: Mapping[str, Any]) -> Path:
    """Write a state dict as safetensors, and ``about`` with its digest as JSON beside it."""
    require_safetensors()
    from safetensors.torch import save_file

    with whole_file(target) as temporary:
        save_file({name: values.contiguous() for name, values in state.items()}, temporary)
        write_json(target.with_suffix(".json"), {**about, "sha256": file_hash(temporary)})
    return target


def add_weights(file: str | Path, name: str | None = None, trained_on: str | None = None) -> Path:
    """Convert a checkpoint of the user's into the directory of weights.

    Args:
        file: a published file by its name in the registry, whose digest is checked, or any checkpoint of the
            reference's network.
        name: its name in the directory; by default the published one, or the file's.
        trained_on: training data of a checkpoint that does not contain them, in one line.

    Raises:
        UsageError: if the file is missing, is damaged, or the name or ``trained_on`` cannot be used.
        CheckpointError: if it is not a checkpoint of that network.
    """
    file = Path(file)
    if not file.is_file():
        raise UsageError(f"{file}: no such file")
    if trained_on is not None and not printable(trained_on).strip():
        raise UsageError(f"--trained-on must be one line of text, got {trained_on!r}")
    try:
        require_plain(trained_on, "--trained-on")
    except ValueError as error:
        raise UsageError(str(error)) from error
    by_digest = {entry.md5: entry for entry in published_weights().values()}
    published = by_digest.get(file_hash(file, "md5"))
    if published is None and (named := next((e for e in by_digest.values() if e.file == file.name), None)):
        raise UsageError(f"{file}: its MD5 is not {named.md5}, the published one; download it again or rename it")
    name = name or (published.name if published else file.stem)
    if not re.fullmatch(r"[\w.-]{1,100}", name) or name.startswith("."):
        raise UsageError(
            f"{name[:100]!r} cannot be the name of weights; use 100 letters, digits, dots, - and _ at most"
        )
    if published is None and name in published_weights():
        raise UsageError(f"{name}: is the name of published weights, but {file} is another file; choose another name")
    if published is None:
        reference = next(iter(published_weights().values()))
        published = PublishedWeights(
            name=name,
            title=f"added from {file.name}",
            url="",
            file=file.name,
            md5="",
            source="",
            size="",
            licence="unknown",
            terms="unknown",
            trained_on="",  # as the file says
            scores={},
            scored_on="",
            verified="",
            network=reference.network,
            preprocessing_parameters=reference.preprocessing_parameters,
        )
    target = weights_directory() / f"{name}{ENDING}"
    if target.is_file() and (published.md5 == "" or description_beside(target).get("name", name) != published.name):
        raise UsageError(f"{target}: there are weights of this name already; choose another with --as, or remove them")
    return convert(file, target, published, trained_on)
