"""Write the MLPerf log of a run in the format of MLPerf's compliance checker.

Sources: MLPerf training's image segmentation benchmark for the events and their order;
``mlperf_logging.compliance_checker`` for their content.
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

#: Number of earlier starts whose logs are kept beside the current one.
KEPT = 99
#: Maximum number of lines of an initialisation before the file is opened.
HELD = 10_000


class MLPerfLog(MLLogger):
    """Write the log file in the first process only; ``event``, ``start`` and ``end`` add a line each.

    The rules allow one run per file, so each start has its own log. Logs of earlier starts are kept as
    ``mlperf.log.1`` (the latest), ``mlperf.log.2`` and so on. The checker accepts the log of a whole run. The log
    after an interruption is not a valid MLPerf result.

    Args:
        file: path of the log.
        settings: events of the initialisation by MLPerf's keys: submitter, schedule, sliding windows.
        cache_cleared: True if the launcher has cleared the system's caches, as the rules require.
    """

    def __init__(self, file: str | Path, settings: Mapping[str, Any], cache_cleared: bool = False) -> None:
        # A logger outside Python's hierarchy shares no level, handlers or lines with others.
        super().__init__(logging.Logger("mlperf"), root_dir=re.escape(str(Path(__file__).parents[2])))
        self.file, self.settings, self.cache_cleared = Path(file), settings, cache_cleared

    def begin(self) -> None:
        """Start the initialisation; call it before the network is built. Further calls do nothing.

        Lines stay in memory until :meth:`open`, so a refused start does not change the file of a finished run.
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
        """Open the file and write the held lines with their times. Further calls do nothing."""
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
    """Log the events of a training run (rules 4.0.0, unet3d).

    Attach it to the trainer after the handler that resumes, because it logs the seed of the checkpoint. Attach it
    before the handlers that evaluate and save, because the log ends with the training. The run is a success if its last
    score is at or above the target. Any other end is an abort, including an error, an interrupt or an exit.

    Args:
        log: log of the run; the run begins it if it has not begun.
        evaluator: evaluator that computes the score.
        metric: name of the score.
        target: target score, in [0, 1].
        samples: events of the data by MLPerf's keys: numbers of cases, ``samples_per_epoch`` of all processes,
            batch size.
        seeds: seeds of the run.
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
        self.epoch_began, self.first_step = 0.0, 0

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
        # Added last, to run after all other handlers of the epoch's end: an evaluation is part of the block.
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._block_completed)
        atexit.register(self._stop, keys.ABORTED)

    def _epoch_started(self, trainer: SupervisedTrainer) -> None:
        epoch = trainer.state.epoch
        self.log.start(keys.BLOCK_START, metadata={keys.FIRST_EPOCH_NUM: epoch, keys.EPOCH_COUNT: 1})
        self.log.start(keys.EPOCH_START, metadata={keys.EPOCH_NUM: epoch})
        self.epoch_began, self.first_step = time.perf_counter(), trainer.state.iteration

    def _epoch_completed(self, trainer: SupervisedTrainer) -> None:
        # An epoch that continues an interrupted one, or is cut short by a clock, has fewer steps.
        share = (trainer.state.iteration - self.first_step) / (trainer.state.epoch_length or 1)
        throughput = share * self.samples["samples_per_epoch"] / (time.perf_counter() - self.epoch_began)
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
