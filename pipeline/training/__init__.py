"""Train a network: step, schedule, handlers, checkpoints, MLPerf log and throughput."""

from ..runtime.compilation import compiled
from .averaging import WeightAverage
from .checkpoint import Checkpoints, Resume, starting_from, weights_record
from .handlers import Curves, Evaluation, LearningRate, Log, Progress, ScoreLog, StopAfter, StopAtTarget
from .lamb import Lamb
from .losses import DeepSupervision, RegionLoss
from .mlperf_log import MLPerfLog, MLPerfRun
from .preflight import refuse_fold, refuse_patch, refuse_shallow_bf16, start
from .run_ends import Interruption
from .run_state import RunState, mlperf_settings, run_settings
from .schedule import Clock, Schedule, epochs_of
from .step import NotFiniteError, TrainStep, keep_freed_memory, recomputed
from .throughput import Throughput

__all__ = [
    "Checkpoints",
    "Clock",
    "Curves",
    "DeepSupervision",
    "Evaluation",
    "Interruption",
    "Lamb",
    "LearningRate",
    "Log",
    "MLPerfLog",
    "MLPerfRun",
    "NotFiniteError",
    "Progress",
    "RegionLoss",
    "Resume",
    "RunState",
    "Schedule",
    "ScoreLog",
    "StopAfter",
    "StopAtTarget",
    "Throughput",
    "TrainStep",
    "WeightAverage",
    "compiled",
    "epochs_of",
    "mlperf_settings",
    "keep_freed_memory",
    "recomputed",
    "refuse_fold",
    "refuse_patch",
    "refuse_shallow_bf16",
    "run_settings",
    "start",
    "starting_from",
    "weights_record",
]
