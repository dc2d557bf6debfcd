"""List published weights, and those that this user has downloaded."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from kits_unet3d.networks import CheckpointError
from kits_unet3d.networks.provenance import printable, training_of

from ..runtime.errors import UsageError
from ..runtime.paths import user_cache

#: Environment variable with the directory of this program's own files.
HOME = "KITS_UNET3D_HOME"
#: Ending of converted weights; a JSON of the same name beside them describes them.
ENDING = ".safetensors"
#: Checkpoint of the user's own training, which predictions prefer.
TRAINED = Path("bundle/models/model.pt")


@dataclass(frozen=True)
class PublishedWeights:
    """Describe weights that others have published.

    Attributes:
        name: short name on the command line.
        title: one line about the model.
        url: address of the file.
        file: name of the file.
        md5: digest of the file, as its publisher gives it.
        source: page of the publication.
        size: size of the weights, in words.
        licence, terms: what the publisher allows.
        trained_on: training data.
        scores: published scores by name.
        scored_on: cases of these scores.
        verified: what has been tried with this program.
        network: class and arguments of the network.
        preprocessing_parameters: those that differ from the reference's.
    """

    name: str
    title: str
    url: str
    file: str
    md5: str
    source: str
    size: str
    licence: str
    terms: str
    trained_on: str
    scores: Mapping[str, float]
    scored_on: str
    verified: str
    network: Mapping[str, Any]
    preprocessing_parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """Return the path of the converted weights, which exists once they are downloaded."""
        return weights_directory() / f"{self.name}{ENDING}"

    def description(self) -> list[str]:
        """Return the lines that a user reads before a download."""
        return [
            f"{self.name}: {self.title}",
            f"  source       {self.source}",
            f"  size         {self.size}",
            f"  licence      {self.licence}",
            f"  terms        {self.terms}",
            f"  trained on   {self.trained_on}",
            f"  scores       {_listed(self.scores)} ({self.scored_on})",
            f"  MD5          {self.md5}",
            f"  verified     {self.verified}",
        ]


def _listed(scores: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in scores.items()) or "unknown"


@cache
def published_weights() -> dict[str, PublishedWeights]:
    """Return the published weights by name, the default first."""
    entries = json.loads((files(__package__) / "registry.json").read_text(encoding="utf-8"))
    return {entry["name"]: PublishedWeights(**entry) for entry in entries}


def find_weights(name: str) -> PublishedWeights:
    """Return the published weights of a name.

    Raises:
        UsageError: if this name is unknown.
    """
    known = published_weights()
    if name not in known:
        raise UsageError(f"{name!r} are not published weights; known are {', '.join(known)}")
    return known[name]


def weights_directory() -> Path:
    """Return the directory of downloaded weights: ``$KITS_UNET3D_HOME/weights``, or in the user's cache directory.

    Raises:
        UsageError: if the variable is not set, and the user has neither a cache nor a home directory.
    """
    home = os.environ.get(HOME)
    place = Path(home) if home else user_cache()
    if place is None:
        raise UsageError(f"no home directory is known; set {HOME} to a directory for weights")
    return place / "weights"


def installed_weights() -> dict[str, Path]:
    """Return the converted weights at hand by name, published ones first and in the registry's order."""
    found = {path.stem: path for path in sorted(weights_directory().glob(f"*{ENDING}"))}
    return {name: found[name] for name in (*published_weights(), *found) if name in found}


def description_beside(path: Path) -> Mapping[str, Any]:
    """Return the content of the JSON beside converted weights; empty if it is absent or damaged."""
    try:
        about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return about if isinstance(about, Mapping) else {}


def installed_description(path: Path) -> list[str]:
    """Return lines that describe weights of the user; what the JSON beside them lacks is unknown."""
    about = description_beside(path)
    training = training_of(about)
    return [
        f"{path.stem}: {printable(about.get('title')) or 'of unknown origin'}",
        f"  licence      {printable(about.get('licence')) or 'unknown'}",
        f"  trained on   {training.trained_on or 'unknown'}",
        f"  scores       {_listed(training.scores)}",
    ]


def chosen_checkpoint() -> Path | None:
    """Return the checkpoint of a prediction that names none: a trained one, else the first of the downloaded weights.

    None if all are missing.
    """
    return TRAINED if TRAINED.is_file() else next(iter(installed_weights().values()), None)


def default_checkpoint() -> Path:
    """Return :func:`chosen_checkpoint`.

    Raises:
        CheckpointError: if all are missing; it names the ways to get one.
    """
    if (chosen := chosen_checkpoint()) is not None:
        return chosen
    name = next(iter(published_weights()))
    raise CheckpointError(
        f"{TRAINED}: no such checkpoint, and no weights are downloaded; name one with --checkpoint, train one "
        f"(bash scripts/quickstart.sh), or run `kits-unet3d weights download {name}`"
    )
