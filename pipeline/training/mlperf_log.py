"""The MLPerf log of a run, as MLPerf's compliance checker reads it.

Source: MLPerf training's image segmentation benchmark for the events and their order;
``mlperf_logging.compliance_checker`` for what they must hold.
"""

from __future__ import annotations

import atexit
import logging
import re
import time
from collections.abc import Mapping
from logging.handlers import MemoryHandler, RotatingFileHandler
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from mlperf_logging.mllog import constants as keys
from mlperf_logging.mllog.mllog import MLLogger
from monai.engines import SupervisedTrainer

from ..data.sampling import Seeds
from ..runtime import distributed
from .averaging import bare

#: Logs of earlier starts that are kept beside the present one.
KEPT = 99
#: Lines that an initialisation may have before the file is opened.
HELD = 10_000


class MLPerfLog(MLLogger):
    """The file, written by the first process only: ``event``, ``start`` and ``end`` add a line each.

    The rules know one run in a file, so each start has a log of its own. Those of earlier starts are kept as
    ``mlperf.log.1`` (the latest), ``mlperf.log.2`` and so on. The checker passes the log of a whole run; the part
    after an interruption is no valid result of MLPerf's.

    Args:
        file: the log.
        settings: events of the initialisation by MLPerf's keys: submitter, schedule, windows.
        cache_cleared: whether the launcher has emptied the system's caches, as the rules want it.
    """

    def __init__(self, file: str | Path, settings: Mapping[str, Any], cache_cleared: bool = False) -> None:
        # A logger outside of Python's tree: nobody else's level, handlers or lines.
        super().__init__(logging.Logger("mlperf"), root_dir=re.escape(str(Path(__file__).parents[2])))
        self.file, self.settings, self.cache_cleared = Path(file), settings, cache_cleared

    def begin(self) -> None:
        """The initialisation starts. To be called before the network is made; once is enough.

        Lines are held in memory until :meth:`open`: a start that is refused leaves the file of a finished run alone.
        """
        if self.logger.handlers:
            return
        self.logger.addHandler(MemoryHandler(HELD, flushLevel=logging.CRITICAL + 1))
        self.event(keys.CACHE_CLEAR, self.cache_cleared)
        self.start(keys.INIT_START)
        self.event(keys.SUBMISSION_BENCHMARK, keys.UNET3D)
        for key, value in self.settings.items():
            self.event(key, value)

    def open(self) -> None:
        """Opens the file, and writes what was held, with its times. Once is enough."""
        self.begin()
        (handler,) = self.logger.handlers
        if isinstance(handler, MemoryHandler):
            handler.setTarget(self._handler())
            handler.flush()
            self.logger.handlers = [handler.target]  # type: ignore[list-item]

    def _handler(self) -> logging.Handler:
        if distributed.rank() != 0:
            return logging.NullHandler()
        self.file.parent.mkdir(parents=True, exist_ok=True)
        handler = RotatingFileHandler(self.file, backupCount=KEPT, encoding="utf-8", delay=True)
        if self.file.exists():
            handler.doRollover()
        return handler


class MLPerfRun:
    """Logs the events of a training run (rules 4.0.0, unet3d).

    Attach it to the trainer, behind what goes on from a checkpoint (whose seed then counts), ahead of what evaluates
    and of what saves, since the log ends when training is over. The run is a success if its last score is at or above
    the target. It is aborted if it ends in any other way, and also if the program does: by an error, an interrupt, an
    exit.

    Args:
        log: begins with the run if it has not yet.
        evaluator: whose score counts.
        metric: name of that score.
        target: to reach, in [0, 1].
        samples: events of the data by MLPerf's keys: numbers of cases, ``samples_per_epoch`` of all processes,
            batch size.
        seeds: of the run.
    """

    def __init__(
        self,
        log: MLPerfLog,
        evaluator: Engine,
        metric: str,
        target: float,
        samples: Mapping[str, Any],
        seeds: Seeds,
    ) -> None:
        self.log, self.evaluator, self.metric, self.target = log, evaluator, metric, target
        self.samples, self.seeds = samples, seeds
        self.score: float | None = None
        self.epoch_began = 0.0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._started)
        engine.add_event_handler(Events.EPOCH_STARTED, self._epoch_started)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._epoch_completed)
        engine.add_event_handler(Events.COMPLETED, self._completed)
        self.evaluator.add_event_handler(Events.EPOCH_STARTED, self._evaluation_started)
        self.evaluator.add_event_handler(Events.COMPLETED, self._evaluation_completed)

    def _started(self, trainer: SupervisedTrainer) -> None:
        self.log.open()
        self.log.event(keys.SEED, self.seeds.master)
        group = trainer.optimizer.param_groups[0]
        self.log.event(keys.OPT_NAME, type(trainer.optimizer).__name__.lower())
        self.log.event("opt_momentum", group.get("momentum"))
        self.log.event(keys.OPT_WEIGHT_DECAY, group.get("weight_decay"))
        for name, _ in bare(trainer.network).named_parameters():
            self.log.event(keys.WEIGHTS_INITIALIZATION, metadata={"tensor": name})
        self.log.end(keys.INIT_STOP)
        self.log.start(keys.RUN_START)
        for key, value in self.samples.items():
            self.log.event(key, value)
        # Only now, to come after whatever else the end of an epoch brings: an evaluation is part of the block.
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._block_completed)
        atexit.register(self._stop, keys.ABORTED)

    def _epoch_started(self, trainer: SupervisedTrainer) -> None:
        epoch = trainer.state.epoch
        self.log.start(keys.BLOCK_START, metadata={keys.FIRST_EPOCH_NUM: epoch, keys.EPOCH_COUNT: 1})
        self.log.start(keys.EPOCH_START, metadata={keys.EPOCH_NUM: epoch})
        self.epoch_began = time.perf_counter()

    def _epoch_completed(self, trainer: SupervisedTrainer) -> None:
        throughput = self.samples["samples_per_epoch"] / (time.perf_counter() - self.epoch_began)
        number = {keys.EPOCH_NUM: trainer.state.epoch}
        rate = trainer.optimizer.param_groups[0]["lr"]
        self.log.end(keys.EPOCH_STOP, metadata={**number, "current_lr": rate})
        self.log.event("tracked_stats", {"throughput": throughput}, metadata=number)

    def _block_completed(self, trainer: SupervisedTrainer) -> None:
        self.log.end(keys.BLOCK_STOP, metadata={keys.FIRST_EPOCH_NUM: trainer.state.epoch, keys.EPOCH_COUNT: 1})

    def _evaluation_started(self, evaluator: Engine) -> None:
        epoch = evaluator.state.epoch
        self.log.start(keys.EVAL_START, epoch, metadata={keys.EPOCH_NUM: epoch})

    def _evaluation_completed(self, evaluator: Engine) -> None:
        number = {keys.EPOCH_NUM: evaluator.state.epoch}
        self.score = float(evaluator.state.metrics[self.metric])
        self.log.event(keys.EVAL_ACCURACY, self.score, metadata=number)
        self.log.end(keys.EVAL_STOP, metadata=number)

    def _completed(self) -> None:
        self._stop(keys.SUCCESS if self.score is not None and self.score >= self.target else keys.ABORTED)

    def _stop(self, status: str) -> None:
        self.log.end(keys.RUN_STOP, metadata={keys.STATUS: status})
        atexit.unregister(self._stop)
