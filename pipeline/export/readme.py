"""What the README in a bundle says of its model: the words that ``bundle/docs/README.md`` leaves open."""

from __future__ import annotations

from string import Template

from .description import Description

#: What is known of a data set beside its name.
KITS19 = (
    "KiTS19: 210 labelled scans of patients whose kidney tumours were then removed, late arterial phase, one hospital; "
    "168 for training, 42 for evaluation, as MLPerf splits them"
)


def filled(text: str, described: Description) -> str:
    """``text`` with ``$name`` replaced by what the model is; a ``$`` of other kinds stays."""
    recipe, settings = described.model.recipe, described.settings
    low, high = recipe.hu_window
    training = "not said by its checkpoint"
    if settings:
        training = (
            f"batch {settings.get('batch_size')}, {settings.get('optimizer', {}).get('name')}, rate "
            f"{settings.get('learning_rate')} after {settings.get('warmup_epochs')} epochs of warm-up"
        )
    scores = ", ".join(f"{name} {value:.4f}" for name, value in described.scores.items())
    return Template(text).safe_substitute(
        data=KITS19 if described.data == "KiTS19" else described.data or "not said by its checkpoint",
        spacing=" × ".join(f"{mm:g}" for mm in recipe.spacing_mm),
        window=f"{low:g} to {high:g}",
        mean=f"{recipe.hu_mean:g}",
        std=f"{recipe.hu_std:g}",
        patch=" × ".join(map(str, recipe.roi_size)),
        network=described.network["_target_"].rpartition(".")[2],
        widths=" ".join(map(str, getattr(described.model.network, "channels", ()))) or "as its class has them",
        parameters=f"{described.parameters:,}",
        training=training,
        classes=", ".join(f"{number} {name}" for number, name in enumerate(recipe.classes)),
        score=scores or "not evaluated",
    )
