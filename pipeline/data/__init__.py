"""Find, read, preprocess, verify and sample the cases of a data set."""

from .cases import RawCase, read_case
from .datasets import find_cases
from .index import Index, default_folder, require_data
from .prepared import OpenPreparedd, SyntheticIndex
from .preprocessing import prepare_case, prepare_dataset
from .sampling import CaseSampler, SeededDataset, Seeds, leave_ctrl_c_to_the_trainer
from .splits import evaluation_list, folds_of, require_fold, training_list
from .verification import Verdict, verify

__all__ = [
    "CaseSampler",
    "Index",
    "OpenPreparedd",
    "RawCase",
    "SeededDataset",
    "Seeds",
    "SyntheticIndex",
    "Verdict",
    "default_folder",
    "evaluation_list",
    "find_cases",
    "folds_of",
    "leave_ctrl_c_to_the_trainer",
    "prepare_case",
    "prepare_dataset",
    "read_case",
    "require_data",
    "require_fold",
    "training_list",
    "verify",
]
