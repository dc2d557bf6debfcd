"""Derive the order of the cases and their augmentation from one seed, for any number of processes."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator, Sized
from typing import Any

import numpy as np
import torch
from monai.data import Dataset
from monai.transforms import Compose
from torch.utils.data.distributed import DistributedSampler

from ..runtime import distributed


def seed_everything(seed: int) -> int:
    """Seed Python, NumPy and torch (which seeds the accelerator too); return ``seed``."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  MONAI's transforms draw from it when they are not seeded
    torch.manual_seed(seed)
    return seed


class Seeds:
    """Derive all seeds of a run from one master seed.

    Each process has a seed, drawn as in the MLPerf reference. The seeds of epochs and samples do not depend on the
    number of processes, so that more processes see the same samples faster.

    Args:
        master: seed of the run; -1 takes a new one from the operating system, the same on all processes.
    """

    def __init__(self, master: int = 1) -> None:
        self.master = distributed.gather(master if master >= 0 else random.SystemRandom().getrandbits(32))[0]

    @property
    def process(self) -> int:
        """Return the seed for draws of this process outside of samples, such as the network's initial weights."""
        generator = random.Random(self.master)
        return [generator.randint(0, 2**32 - 1) for _ in range(distributed.world_size())][distributed.rank()]

    def epoch(self, epoch: int) -> int:
        """Return the seed for the order of the cases in ``epoch``, counted from 1."""
        return int(np.random.SeedSequence([self.master, epoch]).generate_state(1)[0])

    def sample(self, epoch: int, index: int) -> int:
        """Return the seed for the augmentation of case number ``index`` in ``epoch``."""
        # Count from 1: a SeedSequence ignores a trailing 0.
        return int(np.random.SeedSequence([self.master, epoch, index + 1]).generate_state(1)[0])


class CaseSampler(DistributedSampler):  # type: ignore[type-arg]
    """Yield this process's share of each epoch's order as (epoch, index), for a :class:`SeededDataset`.

    Each epoch has a new order. If the cases do not divide evenly among the processes, the rest is omitted, so that a
    case never occurs twice in an epoch. The omitted cases change from epoch to epoch. MONAI's trainer sets the epoch.

    Attributes:
        skip: number of this process's samples to omit once, in the next pass; a resumed run has seen them.
    """

    def __init__(self, dataset: Sized, seeds: Seeds) -> None:
        super().__init__(dataset, distributed.world_size(), distributed.rank(), drop_last=True)  # type: ignore[arg-type]
        self.seeds = seeds
        self.skip = 0

    def __iter__(self) -> Iterator[tuple[int, int]]:  # type: ignore[override]
        order = np.random.RandomState(self.seeds.epoch(self.epoch)).permutation(len(self.dataset))  # type: ignore[arg-type]
        mine = order[self.rank : self.total_size : self.num_replicas]
        start, self.skip = self.skip, 0
        return iter([(self.epoch, int(index)) for index in mine[start:]])


def leave_ctrl_c_to_the_trainer(_: int) -> None:
    """Ignore Ctrl-C in a data worker, since the current step still needs it; use as ``worker_init_fn``.

    SIGTERM gets its default action and ends the worker, because the parent stops it with this signal.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


class SeededDataset(Dataset):
    """Seed the random transforms of a MONAI data set anew for each sample.

    A sample is then the same in every process and data worker. To resume a run, no state of the workers is needed.

    Args:
        data, transform: as for MONAI's ``Dataset``.
        seeds: seeds of the run.
    """

    def __init__(self, data: list[dict[str, Any]], transform: Compose, seeds: Seeds) -> None:
        super().__init__(data, transform)
        self.seeds = seeds

    def __getitem__(self, key: tuple[int, int]) -> Any:  # type: ignore[override]
        epoch, index = key
        self.transform.set_random_state(seed=self.seeds.sample(epoch, index))  # type: ignore[attr-defined]
        return super().__getitem__(index)
