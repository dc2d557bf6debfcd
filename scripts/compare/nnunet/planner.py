"""Run nnU-Net's own planning and preprocessing with a given spacing, patch and batch size.

`python scripts/compare/nnunet/planner.py NUMBER SPACING ROI BASE MAX`, by the interpreter of nnU-Net's environment and
with its variables `nnUNet_raw`, `nnUNet_preprocessed`, `nnUNet_results` set.

SPACING (mm) and ROI (voxels) are JSON lists, slice first. BASE and MAX are the channels of the first and of the widest
level; nnU-Net's own are 32 and 320.
"""

import json
import sys
from typing import Any

from nnunetv2.experiment_planning import plan_and_preprocess_api as api
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner

BATCH = 2


def planner(roi: list[int], base: int, widest: int) -> type[ExperimentPlanner]:
    """Return nnU-Net's planner, with a topology for a patch of `roi` instead of an accelerator's memory."""

    class GivenPatch(ExperimentPlanner):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            self.UNet_base_num_features, self.UNet_max_features_3d = base, widest

        def get_plans_for_configuration(self, spacing: Any, median_shape: Any, *others: Any) -> dict[str, Any]:
            if len(spacing) != 3:
                return super().get_plans_for_configuration(spacing, median_shape, *others)
            # The planner shrinks the median scan until it fits; `roi` is small enough from the start.
            plan = super().get_plans_for_configuration(spacing, roi, *others)
            if list(plan["patch_size"]) != roi:
                raise SystemExit(f"error: nnU-Net would pad the patch {roi} to {list(plan['patch_size'])}")
            return {**plan, "batch_size": BATCH, "median_image_size_in_voxels": median_shape}

    return GivenPatch


def main() -> None:
    number, spacing, roi = int(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3])
    base, widest = map(int, sys.argv[4:6])
    api.extract_fingerprint_dataset(number, num_processes=2)
    # SimpleITK's arrays reverse the file's axes; the planner puts the coarsest axis, the slices, first again.
    api.plan_experiment_dataset(number, planner(roi, base, widest), overwrite_target_spacing=spacing[::-1])
    api.preprocess_dataset(number, configurations=["3d_fullres"], num_processes=[2])


if __name__ == "__main__":
    main()
