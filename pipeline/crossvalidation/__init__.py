"""Cross-validation after its trainings: what each fold's network says of the cases it has not seen."""

from .choice import CANDIDATES, Choice, choose_postprocessing
from .masks import out_of_fold_masks
from .results import RESULT_FILE, FoldResult, read_results, require_alike

__all__ = [
    "CANDIDATES",
    "RESULT_FILE",
    "Choice",
    "FoldResult",
    "choose_postprocessing",
    "out_of_fold_masks",
    "read_results",
    "require_alike",
]
