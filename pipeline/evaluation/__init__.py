"""Scores: MLPerf's mean_dice on the prepared grid, KiTS19's own on the scan's grid."""

from .case_scores import CaseScores, dice_scores
from .kits19 import dice, kits19_scores

__all__ = ["CaseScores", "dice", "dice_scores", "kits19_scores"]
