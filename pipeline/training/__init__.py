"""Training: one step, the schedule, handlers, checkpoints."""

from .checkpoint import SaveCheckpoint
from .handlers import Evaluation, LearningRate, Progress, StopAfter, StopAtTarget
from .schedule import Schedule, epochs_of
from .start import start
from .step import NotFiniteError, TrainStep

__all__ = [
    "Evaluation",
    "LearningRate",
    "NotFiniteError",
    "Progress",
    "SaveCheckpoint",
    "Schedule",
    "StopAfter",
    "StopAtTarget",
    "TrainStep",
    "epochs_of",
    "start",
]
