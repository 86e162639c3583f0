from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from ghost_det.engine.loops import NumberedBatches, load_seeded
from ghost_det.engine.resume import init_worker


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


class Noise:
    """A dataset whose images are random, as augmented ones are."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> tuple[int, float, float, float]:
        assert type(index) is int
        return index, *draw()


class Sampler:
    """Indices in another order in each epoch."""

    epoch = 0

    def __iter__(self) -> Iterator[int]:
        return iter(np.random.default_rng(self.epoch).permutation(10).tolist())

    def __len__(self) -> int:
        return 10


def epoch_of(epoch: int, start: int = 0, workers: int = 0, seed: int = 5) -> list[Any]:
    dataset: Any = Noise()
    dataset.__getitems__ = partial(load_seeded, dataset)
    sampler = Sampler()
    sampler.epoch = epoch
    batches = NumberedBatches(sampler, 4, seed)
    batches.start = start
    worker: Any = dict(num_workers=workers, worker_init_fn=init_worker)
    loader = DataLoader(dataset, batch_sampler=batches, collate_fn=list, **worker)
    assert len(loader) == 3
    first = list(loader)
    if start:
        assert len(list(loader)) == 3  # batches are skipped once
    return first


@pytest.mark.parametrize('workers', [0, 2])
def test_images_are_the_same_from_any_place_with_any_number_of_workers(workers: int) -> None:
    whole = epoch_of(1)
    assert [len(batch) for batch in whole] == [4, 4, 2]
    drawn = [value for batch in whole for image in batch for value in image[1:]]
    assert len(set(drawn)) == 30  # each image has numbers of its own
    for start in range(4):
        assert epoch_of(1, start, workers) == whole[start:]
    assert epoch_of(1, seed=6) != whole != epoch_of(2)


def test_a_sampler_that_draws_from_the_common_generators_is_repeated_too() -> None:
    class Drawn(Sampler):
        def __iter__(self) -> Iterator[int]:
            return (int(np.random.randint(1000)) for _ in range(10))

    whole = list(NumberedBatches(Drawn(), 4, 5))
    np.random.rand(3)
    again = NumberedBatches(Drawn(), 4, 5)
    again.start = 1
    indices = {index for batch in whole for index, _ in batch}
    assert list(again) == whole[1:] and len(indices) > 7
