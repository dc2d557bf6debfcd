"""Save the best, the last and the final checkpoint of a run, and resume from one."""

from __future__ import annotations

import logging
import time
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeVar

import torch
from ignite.engine import Engine, Events
from torch import nn

from kits_unet3d.networks import CheckpointError, load_weights, network_state, read_checkpoint

from ..runtime import distributed
from ..runtime.errors import UsageError, errors_reported
from ..runtime.files import file_hash, whole_file
from .run_ends import DirectoryLock
from .run_state import RunState

logger = logging.getLogger("kits_unet3d.training")
BEST, FINAL = "model.pt", "model_final.pt"


def last_checkpoints(directory: str | Path) -> list[Path]:
    """Return the periodic checkpoints of a run, oldest first."""
    return sorted(Path(directory).glob("last_*.pt"))


class Checkpoints:
    """Write ``last_<iteration>.pt`` periodically, ``model.pt`` at the best score and ``model_final.pt`` at the end.

    Attach it to the trainer before the evaluation handler. The state is saved before each evaluation, so a kill
    during an evaluation costs no training. A directory that has had no ``model.pt`` gets the last state as such at the
    end, so that inference finds a model; one that somebody deleted is not replaced by a worse one.

    Args:
        directory: directory of the checkpoints.
        run: state to save.
        evaluator: evaluator that computes the score.
        metric: name of the score.
        every: epochs between periodic saves.
        minutes: also save after so many minutes since the last save; None for never.
        keep: number of periodic checkpoints to keep.
    """

    def __init__(
        self,
        directory: str | Path,
        run: RunState,
        evaluator: Engine,
        metric: str,
        every: int = 20,
        minutes: float | None = None,
        keep: int = 3,
    ) -> None:
        if keep < 1 or every < 1:
            raise ValueError(f"keep and every must be at least 1, got {keep} and {every}")
        self.directory, self.run, self.evaluator, self.metric = Path(directory), run, evaluator, metric
        self.every, self.minutes, self.keep = every, minutes, keep
        self.saved_at = time.monotonic()
        self.saved_iteration = -1
        self.had_best = False

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._started)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._timed)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._epoch)
        self.evaluator.add_event_handler(Events.STARTED, lambda: self.save_last(engine))
        self.evaluator.add_event_handler(Events.EPOCH_COMPLETED, self._scored, engine)
        engine.add_event_handler(Events.INTERRUPT, self.save_last)
        engine.add_event_handler(Events.COMPLETED, self._finished)

    def _started(self) -> None:
        # A run that continues here wrote it with the best score, which `run` knows after the resume.
        continues = self.run.best is not None and bool(last_checkpoints(self.directory))
        self.had_best = distributed.from_first(continues)

    def save_last(self, engine: Engine) -> None:
        """Save the current state once per iteration, and delete all but the last ``keep`` checkpoints."""
        if engine.state.iteration == self.saved_iteration or engine.state.iteration == 0:
            return
        self._write(engine, f"last_{engine.state.iteration:08d}.pt")
        self.saved_at, self.saved_iteration = time.monotonic(), engine.state.iteration
        if distributed.rank() == 0:
            for old in last_checkpoints(self.directory)[: -self.keep]:
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
        self.run.evaluated = engine.state.iteration
        if self.run.best is None or score > self.run.best:
            self.run.best, self.had_best = score, True
            self._write(engine, BEST)
        if self.saved_iteration == engine.state.iteration:
            # It was saved before the evaluation, and would forget the score.
            self._write(engine, f"last_{engine.state.iteration:08d}.pt")

    def _finished(self, engine: Engine) -> None:
        self._write(engine, FINAL)
        if distributed.from_first((self.directory / BEST).exists()):
            return
        if self.had_best:
            logger.info("%s was deleted and is not written again; %s holds the last state", BEST, FINAL)
        else:
            self._write(engine, BEST)

    def _write(self, engine: Engine, name: str) -> None:
        content = self.run.capture(engine)
        if distributed.rank() == 0:
            with errors_reported(), whole_file(self.directory / name) as temporary:
                save(content, temporary)


class Resume:
    """Resume from a checkpoint when the trainer starts; attach it before the handler that logs the run.

    The first process chooses and reads the checkpoint for all, so the other hosts need not see the directory. After a
    restart by torchrun another host may have the first process; then all hosts need one shared directory. The directory
    is locked until the trainer ends, so that a second run does not overwrite the checkpoints.

    Args:
        wanted: True resumes from the newest checkpoint in ``directory``, if any. A file resumes from that file. False
            starts a new run. A process restarted by torchrun resumes from the newest, except with False: the
            checkpoints may then belong to an earlier run, which the first start refused to touch.
        directory: directory of the run's checkpoints.
        run: state to restore from the checkpoint.
    """

    def __init__(self, wanted: bool | str | Path, directory: str | Path, run: RunState) -> None:
        # `true` on a command line is not Python and arrives as a string.
        self.wanted = {"true": True, "false": False}.get(str(wanted).lower(), wanted)
        self.directory, self.run = Path(directory), run
        self.begun = False
        self.lock = DirectoryLock(directory)

    def attach(self, engine: Engine) -> None:
        self.lock.attach(engine)
        engine.add_event_handler(Events.STARTED, self)

    def _files(self, restarted: bool) -> list[Path]:
        """Return the checkpoints to resume from, in order of preference; an empty list for a new run."""
        there = last_checkpoints(self.directory)[::-1]
        named = Path(self.wanted) if isinstance(self.wanted, str | Path) and not (restarted and there) else None
        if there and (not self.wanted or (named is not None and named.resolve() != there[0].resolve())):
            raise CheckpointError(
                f"{self.directory}: contains checkpoints of an earlier run; resume from the newest with "
                "`--resume True`, "
                "or start in another directory with `--ckpt_dir`"
            )
        return there if named is None else [named]

    def _read(self, restarted: bool, engine: Engine) -> tuple[Path | None, dict[str, Any]]:
        files = self._files(restarted)
        for path, older in zip_longest(files, files[1:]):
            try:
                content = read_checkpoint(path, own=path.parent == self.directory)
            except CheckpointError as error:
                if older is None:
                    raise
                logger.warning("%s; trying the one before it, %s", error, older.name)
                continue
            if "random" not in content:
                raise CheckpointError(f"{path}: contains weights but not the state of a run; name one of last_*.pt")
            if different := self.run.differences(content, engine):
                raise CheckpointError(
                    f"{path}: belongs to another configuration, which differs in {', '.join(different)}; "
                    "set these as before, or start again with another --ckpt_dir"
                )
            return path, content
        return None, {}

    def __call__(self, engine: Engine) -> None:
        """Resume, or end the program with an error message and exit code 3 if no checkpoint can be used."""
        if self.begun:  # a trainer that restarts, as in each round of a federation, continues from its own state
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
        logger.info("resuming from %s: epoch %d, iteration %d", path, content["epoch"], content["iteration"])


Network = TypeVar("Network", bound=nn.Module)


def starting_from(
    network: Network, weights: str | Path | None, resume: bool | str | Path, directory: str | Path
) -> Network:
    """Load the weights in a file into ``network``, and return it; a resumed run has its own weights.

    Args:
        network: fresh network, before it is wrapped or averaged.
        weights: checkpoint in any layout that :func:`read_checkpoint` knows; None leaves the network as it is. All
            names and shapes must agree.
        resume, directory: as for :class:`Resume`.

    Raises:
        SystemExit: with an error message and exit code 3, if the file cannot be used.
    """
    new = str(resume).lower() == "false" or (str(resume).lower() == "true" and not last_checkpoints(directory))
    if weights is None or not new:
        return network
    with errors_reported():
        load_weights(network, network_state(read_checkpoint(weights), weights), weights)
    logger.info("starting from the weights in %s", weights)
    return network


def weights_record(weights: str | Path | None) -> str | None:
    """Return the name and SHA-256 of a file of weights, for the settings in a checkpoint; the name if it is missing."""
    if weights is None:
        return None
    path = Path(weights)
    return f"{path.name} sha256:{file_hash(path)}" if path.is_file() else path.name


def save(content: Any, path: str | Path) -> None:
    """Write ``content`` to ``path`` by ``torch.save``.

    Raises:
        UsageError: if the disk or a quota is full. torch reports only an unexpected position in the file.
    """
    try:
        torch.save(content, path)
    except RuntimeError as error:
        try:
            with open(path, "ab") as stream:
                stream.write(bytes(1 << 20))
        except OSError as full:
            raise UsageError(
                f"{Path(path).parent}: cannot be written ({full.strerror}); free disk space, then run the command again"
            ) from error
        raise
