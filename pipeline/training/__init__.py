"""Train a network: step, schedule, handlers, checkpoints, MLPerf log and throughput."""

from ..runtime.compilation import compiled
from .averaging import WeightAverage
from .checkpoint import Checkpoints, Resume
from .handlers import Evaluation, LearningRate, Progress, StopAfter, StopAtTarget
from .initial_weights import starting_from, weights_record
from .interruption import Interruption
from .lamb import Lamb
from .losses import DeepSupervision, RegionLoss
from .memory_options import keep_freed_memory, recomputed
from .mlperf_log import MLPerfLog, MLPerfRun
from .preflight import refuse_fold, refuse_shallow_bf16, start
from .run_settings import mlperf_settings, run_settings
from .run_state import RunState
from .schedule import Clock, Schedule, epochs_of
from .step import NotFiniteError, TrainStep
from .throughput import Throughput

__all__ = [
    "Checkpoints",
    "Clock",
    "DeepSupervision",
    "Evaluation",
    "Interruption",
    "Lamb",
    "LearningRate",
    "MLPerfLog",
    "MLPerfRun",
    "NotFiniteError",
    "Progress",
    "RegionLoss",
    "Resume",
    "RunState",
    "Schedule",
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
    "refuse_shallow_bf16",
    "run_settings",
    "start",
    "starting_from",
    "weights_record",
]
