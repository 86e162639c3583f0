"""Random numbers that follow from a seed and a place in the training, so a resumed training draws the same.

Nothing of the generators of Python, NumPy and torch, in the main process and in every loader worker, needs to
be saved: all are seeded before each step and before each image is loaded, from the training's seed and the
number of the step, or of the image. What is drawn then depends neither on what was drawn before, nor on the
number of workers, nor on where the training was interrupted.
"""

from __future__ import annotations

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


class SeededImages:
    """A dataset's ``__getitems__``, which torch's loaders prefer: seeds before it loads each image."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __call__(self, turns: list[tuple[int, tuple[int, ...]]]) -> list[Any]:
        """Return the samples of indices that `NumberedBatches` has numbered."""
        samples = []
        for index, key in turns:
            seed_all(*key)
            samples.append(self.dataset[index])
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
        self.start = 0  # batches to skip in the next pass: those done before an interruption
        self._passes = 0

    def __iter__(self) -> Iterator[list[tuple[int, tuple[int, ...]]]]:
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
                key = (self.seed, get_rank(), epoch, place)
                yield [(index, (*key, number)) for number, index in enumerate(batch)]

    def __len__(self) -> int:
        return len(self.batches)


class _TrainLoop:
    """A training loop with `NumberedBatches`, unless its loader was built elsewhere."""

    dataloader: Any

    def __init__(self, runner: Any, dataloader: Any, *args: Any, **kwargs: Any) -> None:
        self._settings: dict[str, Any] | None = None
        if isinstance(dataloader, dict) and isinstance(dataloader.get('sampler'), dict):
            self._settings = dict(dataloader)
            self._settings['batch_sampler'] = dict(
                type='NumberedBatches',
                batches=self._settings.pop('batch_sampler', None),
                seed=runner.seed,
                drop_last=self._settings.pop('drop_last', False),
            )
            dataloader = self._build(runner, **self._settings)
        super().__init__(runner, dataloader, *args, **kwargs)  # type: ignore[call-arg]

    def _build(self, runner: Any, **settings: Any) -> Any:
        """Return a loader whose images are seeded."""
        varied = runner.cfg.get('randomness', {}).get('diff_rank_seed', False)
        loader = runner.build_dataloader(settings, runner.seed, varied)
        loader.dataset.__getitems__ = SeededImages(loader.dataset)
        return loader


@LOOPS.register_module()
class RepeatableEpochLoop(_TrainLoop, EpochBasedTrainLoop):
    """mmengine's loop of epochs, which can resume within an epoch."""

    place = 0  # batches of the current epoch that are done

    def run_epoch(self) -> None:
        """Run an epoch, or the rest of it."""
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        if self._settings:
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
        """Run the rest of the training."""
        if self._settings:
            # mmengine has begun to read the loader, which uses up samplers without end.
            settings = {**self._settings, 'dataset': self.dataloader.dataset}
            self.dataloader = self._build(self.runner, **settings)
            self.dataloader_iterator: Any = _EndlessBatches(self.dataloader, self._iter)
        return super().run()


class _EndlessBatches:
    """A loader's batches, pass after pass; first nothing for the steps done, which mmengine skips."""

    def __init__(self, loader: Any, done: int) -> None:
        self._iterator = self._iterate(loader, done)

    def __next__(self) -> Any:
        return next(self._iterator)

    def skip_iter(self, steps: int) -> None:
        """Leave out steps; mmengine 0.10.7 calls ``next`` for each instead."""
        for _ in range(steps):
            next(self._iterator)

    def _iterate(self, loader: Any, done: int) -> Iterator[Any]:
        yield from itertools.repeat(None, done)
        batches = loader.batch_sampler
        epoch, batches.start = 0, done
        if hasattr(batches.sampler, 'epoch'):  # it comes to an end and starts again
            epoch, batches.start = divmod(done, len(batches))
        while True:
            if hasattr(batches.sampler, 'set_epoch'):
                batches.sampler.set_epoch(epoch)
            yield from loader
            epoch += 1


LOOP_TYPES = {'EpochBasedTrainLoop': RepeatableEpochLoop, 'IterBasedTrainLoop': RepeatableIterLoop}
