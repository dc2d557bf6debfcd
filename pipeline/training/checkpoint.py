"""Checkpoints of a run: the best by score, the last few on the way, and going on from one."""

from __future__ import annotations

import logging
import time
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events

from kits_unet3d.networks import CheckpointError, read_checkpoint

from ..runtime import distributed
from ..runtime.errors import errors_reported
from ..runtime.files import whole_file
from .run_state import RunState

logger = logging.getLogger("kits_unet3d.training")
BEST, FINAL = "model.pt", "model_final.pt"


def last_checkpoints(folder: str | Path) -> list[Path]:
    """The checkpoints that a run left on its way, oldest first."""
    return sorted(Path(folder).glob("last_*.pt"))


class Checkpoints:
    """Writes ``last_<iteration>.pt`` on the way, ``model.pt`` at the best score so far, ``model_final.pt`` at the end.

    Attach it to the trainer, before what evaluates: the state is saved before each evaluation, so that a kill
    during one costs no training. A run without any evaluation leaves its last state as ``model.pt`` too, so
    that inference always finds one.

    Args:
        folder: where to.
        run: what to save.
        evaluator: whose score decides.
        metric: name of that score.
        every: epochs between saves on the way.
        minutes: save as well when so many have passed since the last time; None for never.
        keep: how many of those on the way stay.
    """

    def __init__(
        self,
        folder: str | Path,
        run: RunState,
        evaluator: Engine,
        metric: str,
        every: int = 20,
        minutes: float | None = None,
        keep: int = 3,
    ) -> None:
        if keep < 1 or every < 1:
            raise ValueError(f"keep and every must be at least 1, got {keep} and {every}")
        self.folder, self.run, self.evaluator, self.metric = Path(folder), run, evaluator, metric
        self.every, self.minutes, self.keep = every, minutes, keep
        self.saved_at = time.monotonic()
        self.saved_iteration = -1

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._timed)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._epoch)
        self.evaluator.add_event_handler(Events.STARTED, lambda: self.save_last(engine))
        self.evaluator.add_event_handler(Events.EPOCH_COMPLETED, self._scored, engine)
        engine.add_event_handler(Events.INTERRUPT, self.save_last)
        engine.add_event_handler(Events.COMPLETED, self._finished)

    def save_last(self, engine: Engine) -> None:
        """Saves the present state, once for an iteration, and drops what is older than the last ``keep``."""
        if engine.state.iteration == self.saved_iteration or engine.state.iteration == 0:
            return
        self._write(engine, f"last_{engine.state.iteration:08d}.pt")
        self.saved_at, self.saved_iteration = time.monotonic(), engine.state.iteration
        if distributed.rank() == 0:
            for old in last_checkpoints(self.folder)[: -self.keep]:
                old.unlink()

    def _timed(self, engine: Engine) -> None:
        if self.minutes is not None and self.run.step.finished(engine):
            due = time.monotonic() - self.saved_at >= 60 * self.minutes
            if distributed.any_of(due):
                self.save_last(engine)

    def _epoch(self, engine: Engine) -> None:
        if engine.state.epoch % self.every == 0:
            self.save_last(engine)

    def _scored(self, evaluator: Engine, engine: Engine) -> None:
        score = float(evaluator.state.metrics[self.metric])
        self.run.evaluated = engine.state.epoch
        if self.run.best is None or score > self.run.best:
            self.run.best = score
            self._write(engine, BEST)

    def _finished(self, engine: Engine) -> None:
        self._write(engine, FINAL)
        if not distributed.from_first((self.folder / BEST).exists()):
            self._write(engine, BEST)

    def _write(self, engine: Engine, name: str) -> None:
        content = self.run.capture(engine)
        if distributed.rank() == 0:
            with whole_file(self.folder / name) as temporary:
                torch.save(content, temporary)


class Resume:
    """Goes on from a checkpoint when the trainer starts; attach it before what logs the run.

    The first process chooses and reads it for all, so that hosts need not share a folder.

    Args:
        wanted: True for the newest in ``folder`` if there is one, a file for that one, False for a new run. What
            torchrun has restarted goes on from the newest too, but only where going on was wanted: without it the
            checkpoints may be of an earlier run, which the first start refused to touch.
        folder: where the run's checkpoints are.
        run: to be put where the checkpoint was.
    """

    def __init__(self, wanted: bool | str | Path, folder: str | Path, run: RunState) -> None:
        # A command line's `true` is no Python, and comes as a text.
        self.wanted = {"true": True, "false": False}.get(str(wanted).lower(), wanted)
        self.folder, self.run = Path(folder), run
        self.begun = False

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self)

    def _files(self, restarted: bool) -> list[Path]:
        """What may be gone on from, best first; nothing for a new run."""
        there = last_checkpoints(self.folder)[::-1]
        named = Path(self.wanted) if isinstance(self.wanted, str | Path) and not (restarted and there) else None
        if there and (not self.wanted or (named is not None and named.resolve() != there[0].resolve())):
            raise CheckpointError(
                f"{self.folder}: holds checkpoints of an earlier run; go on from the newest with `--resume True`, "
                "or start in another folder with `--ckpt_dir`"
            )
        return there if named is None else [named]

    def _read(self, restarted: bool, engine: Engine) -> tuple[Path | None, dict[str, Any]]:
        files = self._files(restarted)
        for path, older in zip_longest(files, files[1:]):
            try:
                content = read_checkpoint(path)
            except CheckpointError as error:
                if older is None:
                    raise
                logger.warning("%s; trying the one before it, %s", error, older.name)
                continue
            if "random" not in content:
                raise CheckpointError(f"{path}: holds weights but not the state of a run; name one of last_*.pt")
            if different := self.run.differences(content, engine):
                raise CheckpointError(
                    f"{path}: is of another configuration, which differs in {', '.join(different)}; "
                    "set these as they were, or start anew with another --ckpt_dir"
                )
            return path, content
        return None, {}

    def __call__(self, engine: Engine) -> None:
        """Ends the program with one sentence and exit code 3 if no checkpoint serves."""
        if self.begun:  # a trainer that is started again, as in each round of a federation, goes on from itself
            return
        self.begun = True
        restarted = any(distributed.gather(distributed.restarts()))
        refusal = ""
        path: Path | None = None
        content: dict[str, Any] = {}
        if distributed.rank() == 0:
            try:
                path, content = self._read(restarted, engine)
            except CheckpointError as error:
                refusal = str(error)
        refusal, path, content = distributed.from_first((refusal, path, content))
        with errors_reported():
            if refusal:
                raise CheckpointError(refusal)
        if path is None:
            return
        self.run.restore(content, engine)
        logger.info("going on from %s: epoch %d, iteration %d", path, content["epoch"], content["iteration"])
