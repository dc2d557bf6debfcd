"""Which case comes when, and what its augmentation draws: all of it from one seed, for any number of processes."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator, Sized
from typing import Any

import numpy as np
from monai.data import Dataset
from monai.transforms import Compose
from torch.utils.data.distributed import DistributedSampler

from ..runtime import distributed


class Seeds:
    """All seeds of a run, from one master seed.

    Each process has one seed, drawn as the MLPerf reference draws them. Each epoch and each sample has one
    too, which does not depend on the number of processes, so that more of them see the same samples faster.

    Args:
        master: the seed of the run; -1 for a new one from the operating system, the same on all processes.
    """

    def __init__(self, master: int = 1) -> None:
        self.master = distributed.gather(master if master >= 0 else random.SystemRandom().getrandbits(32))[0]

    @property
    def process(self) -> int:
        """For what this process draws outside of samples, the network's first weights among it."""
        generator = random.Random(self.master)
        return [generator.randint(0, 2**32 - 1) for _ in range(distributed.world_size())][distributed.rank()]

    def epoch(self, epoch: int) -> int:
        """For the order of the cases in ``epoch``, counted from 1."""
        return int(np.random.SeedSequence([self.master, epoch]).generate_state(1)[0])

    def sample(self, epoch: int, index: int) -> int:
        """For the augmentation of case number ``index`` in ``epoch``."""
        # From 1, since a SeedSequence does not tell a last 0 from nothing.
        return int(np.random.SeedSequence([self.master, epoch, index + 1]).generate_state(1)[0])


class CaseSampler(DistributedSampler):  # type: ignore[type-arg]
    """Each epoch a new order; this process's share of it as (epoch, index), for a :class:`SeededDataset`.

    What does not fill the processes evenly is left out, so that nothing is seen twice in an epoch; it
    is another part each time. MONAI's engines tell a sampler of this kind the epoch.

    Attributes:
        skip: so many samples of this process are left out of the next pass, once: those that a run that is
            continued has seen already.
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
    """For ``DataLoader(worker_init_fn=…)``: Ctrl-C reaches data workers too, and the step still needs them.

    SIGTERM ends a worker, whatever its parent does with it: that is how the parent stops it in the end.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


class SeededDataset(Dataset):
    """A MONAI data set whose random transforms are seeded anew for each sample.

    A sample is then the same whichever process or data worker makes it, and nothing about the
    workers needs to be kept to continue a run.

    Args:
        data, transform: as for MONAI's ``Dataset``.
        seeds: of the run.
    """

    def __init__(self, data: list[dict[str, Any]], transform: Compose, seeds: Seeds) -> None:
        super().__init__(data, transform)
        self.seeds = seeds

    def __getitem__(self, key: tuple[int, int]) -> Any:  # type: ignore[override]
        epoch, index = key
        self.transform.set_random_state(seed=self.seeds.sample(epoch, index))  # type: ignore[attr-defined]
        return super().__getitem__(index)
