"""Compute scores: MLPerf's mean_dice on the preprocessed grid, KiTS19's and KiTS23's on the scan's grid."""

from .case_scores import CaseScores, ScoreWriter, dice_scores, start
from .scores import KITS19, KITS23, Scores, Scoring, dice, kits19_scores, scoring_of, surface_scores

__all__ = [
    "KITS19",
    "KITS23",
    "CaseScores",
    "ScoreWriter",
    "Scores",
    "Scoring",
    "dice",
    "dice_scores",
    "kits19_scores",
    "scoring_of",
    "start",
    "surface_scores",
]
