"""Random numbers that follow from a seed and a place in the training, so a resumed training draws the same.

Nothing of the generators of Python, NumPy and torch, in the main process and in every loader worker, needs to
be saved: all are seeded before each step and before each image is loaded, from the training's seed and the
number of the step, or of the image. What is drawn then depends neither on what was drawn before, nor on the
number of workers, nor on where the training was interrupted.
"""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from mmdet.registry import DATA_SAMPLERS, LOOPS
from mmengine.dist import get_rank
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from torch.utils.data import BatchSampler


def seed_all(*key: int) -> None:
    """Seed the generators of Python, NumPy and torch (CPU, and CUDA where in use) from several numbers."""
    state = np.random.SeedSequence(key).generate_state(4)
    random.seed(int(state[0]))
    np.random.seed(state[1])
    seed = int(state[2]) << 32 | int(state[3])
    # Not torch.manual_seed: with no GPU in use it stores a stack trace, at each call, for when there is one.
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(seed)


def load_seeded(dataset: Any, numbered: list[tuple[int, tuple[int, ...] | None]]) -> list[Any]:
    """Return the samples of indices that `NumberedBatches` has numbered; ``None`` without a number.

    As a dataset's ``__getitems__``, which torch's loaders prefer.
    """
    samples = []
    for index, key in numbered:
        if key is not None:
            seed_all(*key)
        samples.append(None if key is None else dataset[index])
    return samples


@DATA_SAMPLERS.register_module()
class NumberedBatches:
    """The batches of another batch sampler, each index with the numbers that seed its image."""

    def __init__(
        self,
        sampler: Any,
        batch_size: int,
        seed: int,
        batches: dict[str, Any] | None = None,
        drop_last: bool = False,
    ) -> None:
        self.batches: Any = (
            BatchSampler(sampler, batch_size, drop_last)
            if batches is None
            else DATA_SAMPLERS.build(batches, default_args=dict(sampler=sampler, batch_size=batch_size))
        )
        self.sampler = sampler  # where mmengine sets the epoch
        self.batch_size = batch_size
        self.seed = seed
        self.start = 0  # batches to leave out of the next pass: those done before an interruption
        self.unused = 0  # batches that need not be loaded: those that a loop of iterations skips
        self._passes = self._given = 0

    def __iter__(self) -> Iterator[list[tuple[int, tuple[int, ...] | None]]]:
        start, self.start = self.start, 0
        epoch = getattr(self.sampler, 'epoch', self._passes)
        self._passes += 1
        batches = iter(self.batches)
        for place in itertools.count():
            seed_all(self.seed, epoch, place, 0, 0, 0)  # for samplers that draw from the common generators
            batch = next(batches, None)
            if batch is None:
                return
            if place >= start:
                self._given += 1
                key = (self.seed, get_rank(), epoch, place)
                used = self._given > self.unused
                yield [(index, (*key, number) if used else None) for number, index in enumerate(batch)]

    def __len__(self) -> int:
        return len(self.batches)


class _TrainLoop:
    """A training loop with `NumberedBatches`, unless its loader was built elsewhere."""

    dataloader: Any

    def __init__(self, runner: Any, dataloader: Any, *args: Any, **kwargs: Any) -> None:
        self._seeded = isinstance(dataloader, dict) and isinstance(dataloader.get('sampler'), dict)
        if self._seeded:
            settings = dict(dataloader)
            settings['batch_sampler'] = dict(
                type='NumberedBatches',
                batches=settings.pop('batch_sampler', None),
                seed=runner.seed,
                drop_last=settings.pop('drop_last', False),
            )
            varied = runner.cfg.get('randomness', {}).get('diff_rank_seed', False)
            dataloader = runner.build_dataloader(settings, runner.seed, varied)
            dataloader.dataset.__getitems__ = functools.partial(load_seeded, dataloader.dataset)
        super().__init__(runner, dataloader, *args, **kwargs)  # type: ignore[call-arg]


@LOOPS.register_module()
class RepeatableEpochLoop(_TrainLoop, EpochBasedTrainLoop):
    """mmengine's loop of epochs, which can resume within an epoch."""

    place = 0  # batches of the current epoch that are done

    def run_epoch(self) -> None:
        """Run an epoch, or the rest of it."""
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        if self._seeded:
            self.dataloader.batch_sampler.start = self.place
        for index, batch in enumerate(self.dataloader, self.place):
            self.run_iter(index, batch)
            self.place = index + 1
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1
        self.place = 0


@LOOPS.register_module()
class RepeatableIterLoop(_TrainLoop, IterBasedTrainLoop):
    """mmengine's loop of iterations, which resumes without loading the images it was trained on before."""

    def run(self) -> Any:
        """Run the rest of the training; mmengine skips the batches of the steps done."""
        if self._seeded:
            self.dataloader.batch_sampler.unused = self._iter
        return super().run()


LOOP_TYPES = {'EpochBasedTrainLoop': RepeatableEpochLoop, 'IterBasedTrainLoop': RepeatableIterLoop}
