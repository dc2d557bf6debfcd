"""Find, read, preprocess, verify and sample the cases of a data set."""

from .cases import RawCase, read_case
from .datasets import classes_in, find_cases
from .index import Index, default_directory, require_data
from .preprocessed import OpenPreprocessedd, RequireClassesd, SyntheticIndex
from .preprocessing import preprocess_case, preprocess_dataset
from .sampling import CaseSampler, SeededDataset, Seeds, leave_ctrl_c_to_the_trainer, seed_everything
from .splits import evaluation_list, folds_of, require_fold, training_list
from .verification import Verdict, verify

__all__ = [
    "CaseSampler",
    "Index",
    "OpenPreprocessedd",
    "RawCase",
    "RequireClassesd",
    "SeededDataset",
    "Seeds",
    "SyntheticIndex",
    "Verdict",
    "classes_in",
    "default_directory",
    "evaluation_list",
    "find_cases",
    "folds_of",
    "leave_ctrl_c_to_the_trainer",
    "preprocess_case",
    "preprocess_dataset",
    "read_case",
    "require_data",
    "require_fold",
    "seed_everything",
    "training_list",
    "verify",
]
