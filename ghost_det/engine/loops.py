"""Random numbers that follow from a seed and a place in the training, so that a resumed one draws the same.

A training's random state lies in many generators: those of Python, NumPy and torch, in the main process and
in every loader worker. Here none of them needs keeping: before each step, and before each image is loaded,
all are seeded from the training's seed and the number of the step, or of the image's turn. What is drawn
then depends on neither what was drawn before, nor how many workers there are, nor where it was interrupted.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from mmdet.registry import DATA_SAMPLERS, LOOPS
from mmengine.dist import get_rank
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, TestLoop, ValLoop
from mmengine.runner.loops import _InfiniteDataloaderIterator
from torch.utils.data import BatchSampler

from .messages import FIRST_STEP, explain_errors


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


class SeededIndex(int):
    """The index of an image, with the numbers that make its turn in the training unique."""

    key: tuple[int, ...]

    def __new__(cls, index: int, key: tuple[int, ...] = ()) -> SeededIndex:
        """Return the index with its key."""
        seeded = super().__new__(cls, index)
        seeded.key = key
        return seeded

    def __reduce__(self) -> tuple[Any, ...]:
        return SeededIndex, (int(self), self.key)


class SeededImages:
    """A dataset's ``__getitems__``, which torch asks first: loads each image after seeding by its index."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __call__(self, indices: list[int]) -> list[Any]:
        """Return the samples of the indices."""
        samples = []
        for index in indices:
            if isinstance(index, SeededIndex):
                seed_all(*index.key)
            samples.append(self.dataset[int(index)])
        return samples


@DATA_SAMPLERS.register_module()
class NumberedBatches:
    """Batches of another batch sampler, with each index's turn, from any place in the epoch on."""

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
        self.sampler = sampler  # where mmengine tells a new epoch
        self.batch_size = batch_size
        self.seed = seed
        self.start = 0  # batches to leave out, once: those done before an interruption
        self._passes = 0

    def __iter__(self) -> Iterator[list[int]]:
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
                yield [SeededIndex(index, (*key, number)) for number, index in enumerate(batch)]

    def __len__(self) -> int:
        return len(self.batches)


class _Loop:
    """A loop that explains errors of its first step as the config's."""

    runner: Any
    _stepped = False

    def run_iter(self, *step: Any) -> None:
        """Run a step."""
        if self._stepped:
            super().run_iter(*step)  # type: ignore[misc]
            return
        with explain_errors(str(self.runner.cfg.filename), FIRST_STEP):
            super().run_iter(*step)  # type: ignore[misc]
        self._stepped = True


class _Numbered(_Loop):
    """What makes a training loop's images repeatable."""

    dataloader: Any

    def __init__(self, runner: Any, dataloader: Any, *args: Any, **kwargs: Any) -> None:
        self._settings: dict[str, Any] = {}
        if isinstance(dataloader, dict) and isinstance(dataloader.get('sampler'), dict):
            self._settings = dict(dataloader)
            self._settings['batch_sampler'] = dict(
                type='NumberedBatches',
                batches=self._settings.pop('batch_sampler', None),
                seed=runner.seed,
                drop_last=self._settings.pop('drop_last', False),
            )
            dataloader = self._build(runner)  # before loops that start its workers at once
        super().__init__(runner, dataloader, *args, **kwargs)  # type: ignore[call-arg]

    def _build(self, runner: Any, **changed: Any) -> Any:
        """Return a loader whose images are seeded."""
        varied = runner.cfg.get('randomness', {}).get('diff_rank_seed', False)
        loader = runner.build_dataloader({**self._settings, **changed}, runner.seed, varied)
        if not hasattr(loader.dataset, '__getitems__'):
            loader.dataset.__getitems__ = SeededImages(loader.dataset)
        return loader

    def is_numbered(self) -> bool:
        """Tell whether the place in the data is known, as it is with samplers that mmengine built."""
        return isinstance(self.dataloader.batch_sampler, NumberedBatches)


@LOOPS.register_module()
class RepeatableEpochLoop(_Numbered, EpochBasedTrainLoop):
    """mmengine's loop of epochs, which can resume within an epoch."""

    place = 0  # batches of the present epoch that are done

    def run_epoch(self) -> None:
        """Run an epoch, or what is left of it."""
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        if self.place and self.is_numbered():
            self.dataloader.batch_sampler.start = self.place
        for index, batch in enumerate(self.dataloader, self.place):
            self.run_iter(index, batch)
            self.place = index + 1
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1
        self.place = 0


@LOOPS.register_module()
class RepeatableIterLoop(_Numbered, IterBasedTrainLoop):
    """mmengine's loop of iterations, which resumes without loading what was trained on before."""

    def run(self) -> Any:
        """Run what is left of the training."""
        if self._iter and self.is_numbered():
            # Rebuilt, as loaders that work ahead have taken from this one's sampler.
            self.dataloader = self._build(self.runner, dataset=self.dataloader.dataset)
            self.dataloader_iterator: Any = _Skipped(self._iterate_from, self._iter)
        return super().run()

    def _iterate_from(self, step: int) -> Any:
        """Return mmengine's iterator over the batches from a step on."""
        batches = self.dataloader.batch_sampler
        epoch, batches.start = 0, step
        if hasattr(batches.sampler, 'epoch'):  # it comes to an end and starts again
            epoch, batches.start = divmod(step, len(batches))
            batches.sampler.set_epoch(epoch)
        iterator = _InfiniteDataloaderIterator(self.dataloader)
        iterator._epoch = epoch
        return iterator


class _Skipped:
    """Gives nothing for the steps done, which mmengine goes through first; then the batches after them.

    Their iterator is made last, as hooks have the sampler begin again, and loaders work ahead.
    """

    def __init__(self, iterate_from: Callable[[int], Any], steps: int) -> None:
        self._iterate_from = iterate_from
        self._steps = self._left = steps
        self._iterator: Any = None

    def skip_iter(self, steps: int) -> None:
        self._left -= steps

    def __next__(self) -> Any:
        if self._left > 0:
            self._left -= 1
            return None
        if self._iterator is None:
            self._iterator = self._iterate_from(self._steps)
        return next(self._iterator)


class ExplainedValLoop(_Loop, ValLoop):
    """mmengine's loop of evaluations within a training."""


class ExplainedTestLoop(_Loop, TestLoop):
    """mmengine's loop of an evaluation."""


LOOP_TYPES = {
    'EpochBasedTrainLoop': RepeatableEpochLoop,
    'IterBasedTrainLoop': RepeatableIterLoop,
    'ValLoop': ExplainedValLoop,
    'TestLoop': ExplainedTestLoop,
}
