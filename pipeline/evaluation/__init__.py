"""Compute scores: MLPerf's mean_dice on the preprocessed grid, KiTS19's and surface scores on the scan's grid."""

from .case_scores import CaseScores, ScoreWriter, dice_scores, start
from .scores import Scores, dice, kits19_scores, surface_scores

__all__ = [
    "CaseScores",
    "ScoreWriter",
    "Scores",
    "dice",
    "dice_scores",
    "kits19_scores",
    "start",
    "surface_scores",
]
