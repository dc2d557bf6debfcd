from collections import Counter

import numpy as np
import pytest
from monai.data import DataLoader, Dataset
from monai.transforms import Compose, MapTransform, Randomizable

from kits_unet3d.pipeline.data import CaseSampler, SeededDataset, Seeds


class AddNoised(Randomizable, MapTransform):
    def __call__(self, data):
        return {"value": data["value"] + self.R.uniform()}


def loader(workers=0, cases=5, batch=2, seed=3):
    seeds = Seeds(seed)
    dataset = SeededDataset([{"value": 10.0 * i} for i in range(cases)], Compose([AddNoised("value")]), seeds)
    sampler = CaseSampler(dataset, seeds)
    return DataLoader(dataset, batch_size=batch, sampler=sampler, drop_last=True, num_workers=workers), sampler


def samples(loader, sampler, epochs):
    seen = []
    for epoch in epochs:
        sampler.set_epoch(epoch)
        seen += [float(v) for batch in loader for v in batch["value"]]
    return seen


def test_an_epoch_samples_each_case_at_most_once_and_omissions_vary():
    seen = samples(*loader(), range(1, 41))
    cases = [int(v // 10) for v in seen]
    assert all(len(set(cases[i : i + 4])) == 4 for i in range(0, len(cases), 4))
    assert set(Counter(cases)) == set(range(5)) and len(set(Counter(cases).values())) > 1


def test_samples_depend_on_seed_epoch_and_case_alone():
    plain = samples(*loader(), [1, 2])
    assert samples(*loader(workers=2), [1, 2]) == plain
    assert samples(*loader(), [2]) == plain[4:]
    assert samples(*loader(seed=4), [1, 2]) != plain
    assert len(set(plain)) == len(plain)


def test_a_resumed_epoch_skips_the_seen_cases_and_the_next_is_complete():
    whole = samples(*loader(), [1, 2])
    data, sampler = loader()
    sampler.skip = 2
    assert samples(data, sampler, [1, 2]) == whole[2:]


@pytest.mark.parametrize("workers", [2, 3])
def test_processes_share_an_epoch_without_overlap(workers):
    orders = []
    for rank in range(workers):
        sampler = CaseSampler(Dataset(list(range(7))), Seeds(1))
        sampler.num_replicas, sampler.rank, sampler.num_samples = workers, rank, 7 // workers
        sampler.total_size = workers * sampler.num_samples
        sampler.set_epoch(1)
        orders.append([index for _, index in sampler])
    single = CaseSampler(Dataset(list(range(7))), Seeds(1))
    single.set_epoch(1)
    order = [index for _, index in single]
    together = [index for group in zip(*orders, strict=True) for index in group]
    assert together == order[: len(together)]


def test_process_seeds_are_drawn_as_the_reference_draws_them():
    import random

    import torch.distributed as dist
    from torch.testing._internal.distributed.fake_pg import FakeStore

    reference = random.Random(7)
    drawn = [reference.randint(0, 2**32 - 1) for _ in range(4)]
    assert Seeds(7).process == drawn[0]
    seeds = Seeds(7)
    for rank in range(4):
        dist.init_process_group("fake", rank=rank, world_size=4, store=FakeStore())
        try:
            assert seeds.process == drawn[rank]
        finally:
            dist.destroy_process_group()
    assert Seeds(-1).master != Seeds(-1).master >= 0


def test_epoch_seeds_are_numbers_that_numpy_takes():
    seeds = Seeds(2**32 - 1)
    values = [seeds.epoch(e) for e in range(1, 2000)] + [seeds.sample(3, i) for i in range(200)]
    assert len(set(values)) == len(values)
    np.random.RandomState(max(values))  # noqa: NPY002
