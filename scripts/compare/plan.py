"""Read the plan of an experiment from YAML."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from real_cases import Cases
from steps import ROOT

from kits_unet3d.pipeline.runtime.errors import UsageError

#: Uses of a recipe's networks. `plain` is made in any case, since the others are compared with it.
VARIANTS = ("plain", "tta", "postprocessed", "reference_windows", "ensemble")


@dataclass(frozen=True)
class Recipe:
    """Describe a training: the bundle's configurations upon train.json, and keys that override them.

    `nnunet_channels`, of the first and of the widest level, make it a training of nnU-Net instead.
    """

    configs: list[str] = field(default_factory=list)
    overlay: dict[str, Any] = field(default_factory=dict)
    nnunet_channels: list[int] | None = None
    variants: list[str] = field(default_factory=lambda: ["plain"])


@dataclass(frozen=True)
class Plan:
    """Describe an experiment: its protocol, its cases (`data` in the file), and recipes by name.

    Each recipe trains for `minutes` with each seed. The other recipes change the settings of `baseline`, if there is
    one, and are compared with it alone. An ablation holds out `fold` of `folds`, a cross-validation each of them.
    """

    protocol: str
    cases: Cases
    recipes: dict[str, Recipe]
    minutes: float = 10
    seeds: list[int] = field(default_factory=lambda: [1])
    baseline: str | None = None
    fold: int = 0
    folds: int = 5


def require_known(kind: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Raise a UsageError if one of the names is not known."""
    for name in names:
        if name not in known:
            raise UsageError(f"unknown {kind} {name}; known are {', '.join(known)}")


def read_plan(
    path: Path,
    out: Path,
    *,
    changes: Sequence[str] = (),
    recipes: list[str] | None = None,
    variants: list[str] | None = None,
) -> Plan:
    """Read a plan.

    Args:
        path: YAML file with the fields of a :class:`Plan`.
        out: directory of the experiment.
        changes: of its values, such as `data.contrast=wide`.
        recipes: names of those to keep, in this order but after the baseline; None for all.
        variants: those to keep besides `plain`; None for all.

    Raises:
        UsageError: if the plan cannot be used, or a name is unknown.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        for change in changes:
            key, _, value = change.partition("=")
            *outer, last = key.split(".")
            place = content
            for name in outer:
                place = place[name]
            place[last] = yaml.safe_load(value)
        given, baseline = content["recipes"], content.get("baseline")
        names = [*([baseline] if baseline else []), *(given if recipes is None else recipes)]
        require_known("recipe", names, given)
        require_known("variant", variants or (), VARIANTS)
        base, chosen = given[baseline] if baseline else {}, {}
        for name in names:
            overlay = {**base.get("overlay", {}), **given[name].get("overlay", {})}
            recipe = Recipe(**{"configs": base.get("configs", []), **given[name], "overlay": overlay})
            require_known("variant", recipe.variants, VARIANTS)
            kept = [use for use in recipe.variants if variants is None or use in ("plain", *variants)]
            chosen[name] = replace(recipe, variants=kept)
        plan = Plan(cases=Cases(out, **content.pop("data")), **{**content, "recipes": chosen})
    except (OSError, yaml.YAMLError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(f"{path}: not a usable plan ({error!r})") from error
    for config in {config for recipe in plan.recipes.values() for config in recipe.configs}:
        if not (ROOT / config).is_file():
            raise UsageError(f"{path}: the configuration {config} does not exist")
    if not plan.minutes > 0:
        raise UsageError(f"minutes must be above 0, got {plan.minutes}")
    return plan
