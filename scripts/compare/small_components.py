"""Report how often a patch lies on a small component: `python scripts/compare/small_components.py PREPARED [POWER]`.

The sampling of `dynunet_ds` draws among a class's connected components by their boxes' volume to POWER (-0.3). The
report has the training label maps with small components beside larger ones, by class, and the small ones' share of the
patches.
"""

import sys
from pathlib import Path

import numpy as np

from kits_unet3d.pipeline.data.index import Index
from kits_unet3d.transforms.balanced_crop import SMALL_COMPONENT


def share_of_small_components(boxes: list[list[list[int]]], power: float) -> float:
    """Return the share of patches on small components; 0 where all or none are small, since all then stay."""
    sizes = np.array([np.prod([stop - start for start, stop in box]) for box in boxes], dtype=float)
    small_components = sizes < SMALL_COMPONENT
    return (
        float((sizes[small_components] ** power).sum() / (sizes**power).sum())
        if 0 < small_components.sum() < len(sizes)
        else 0.0
    )


if __name__ == "__main__":
    index, power = Index.read(Path(sys.argv[1])), float(sys.argv[2]) if len(sys.argv) > 2 else -0.3
    training = [case for case in index.cases.values() if case["split"] == "training"]
    by_label = {case["source_sha256"]["label"]: case["boxes"] for case in training}  # one body of each map
    for number, name in enumerate(index.parameters.classes[1:], start=1):
        shares = [share_of_small_components(boxes.get(str(number), []), power) for boxes in by_label.values()]
        some = [share for share in shares if share]
        text = f"{name}: {len(some)} of {len(shares)} label maps have small components"
        print(text + (f", which would take {min(some):.0%} to {max(some):.0%} of the patches" if some else ""))
