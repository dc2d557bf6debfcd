"""Training: one step, the schedule, handlers, checkpoints, the MLPerf log, speed."""

from .averaging import WeightAverage
from .checkpoint import Checkpoints, Resume
from .handlers import Evaluation, LearningRate, Progress, StopAfter, StopAtTarget
from .interruption import Interruption
from .mlperf_log import MLPerfLog, MLPerfRun
from .recomputation import recomputed
from .run_state import RunState
from .schedule import Schedule, epochs_of
from .start import start
from .step import NotFiniteError, TrainStep
from .throughput import Throughput

__all__ = [
    "Checkpoints",
    "Evaluation",
    "Interruption",
    "LearningRate",
    "MLPerfLog",
    "MLPerfRun",
    "NotFiniteError",
    "Progress",
    "Resume",
    "RunState",
    "Schedule",
    "StopAfter",
    "StopAtTarget",
    "Throughput",
    "TrainStep",
    "WeightAverage",
    "epochs_of",
    "recomputed",
    "start",
]
