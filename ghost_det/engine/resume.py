"""Random numbers that follow from a seed and a place in the training, so that a resumed one draws the same.

A training's random state lies in many generators: those of Python, NumPy and torch, in the main process and
in every loader worker. Here none of them needs keeping: before each step, and before each image is loaded,
all are seeded from the training's seed and the number of the step, or of the image's turn. What is drawn
then depends on neither what was drawn before, nor how many workers there are, nor where it was interrupted.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from mmdet.models import BatchSyncRandomResize
from mmdet.registry import DATA_SAMPLERS, HOOKS, LOOPS
from mmengine.dist import get_rank
from mmengine.hooks import Hook
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


class Turn(int):
    """The index of an image, with the numbers that make its turn in the training unique."""

    key: tuple[int, ...]

    def __new__(cls, index: int, key: tuple[int, ...] = ()) -> Turn:
        """Return the index with its key."""
        turn = super().__new__(cls, index)
        turn.key = key
        return turn

    def __reduce__(self) -> tuple[Any, ...]:
        return Turn, (int(self), self.key)


class SeededImages:
    """Loads images, each after seeding by its `Turn`; a dataset's ``__getitems__``, which torch asks first.

    Args:
        dataset: a map-style dataset.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __call__(self, turns: list[int]) -> list[Any]:
        """Return the samples of the indices."""
        samples = []
        for turn in turns:
            if isinstance(turn, Turn):
                seed_all(*turn.key)
            samples.append(self.dataset[int(turn)])
        return samples


@DATA_SAMPLERS.register_module()
class NumberedBatches:
    """Batches of another batch sampler, with each index's turn, from any place in the epoch on.

    Args:
        sampler: yields indices.
        batch_size: number of indices in a batch.
        seed: of the training.
        batches: config of the batch sampler; torch's own if ``None``.
        drop_last: leave out a last, smaller batch; for torch's own.

    Attributes:
        start: how many batches to leave out, once: those that were trained on before an interruption.
    """

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
        self.start = 0
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
                yield [Turn(index, (*key, number)) for number, index in enumerate(batch)]

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
        varied = runner._randomness_cfg.get('diff_rank_seed', False)
        loader = runner.build_dataloader({**self._settings, **changed}, runner.seed, varied)
        if not hasattr(loader.dataset, '__getitems__'):
            loader.dataset.__getitems__ = SeededImages(loader.dataset)
        return loader

    def is_numbered(self) -> bool:
        """Tell whether the place in the data is known, as it is with samplers that mmengine built."""
        return isinstance(self.dataloader.batch_sampler, NumberedBatches)


@LOOPS.register_module()
class RepeatableEpochLoop(_Numbered, EpochBasedTrainLoop):
    """mmengine's loop of epochs, which can go on from within an epoch.

    Attributes:
        place: how many batches of the present epoch are done.
    """

    place = 0

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


@HOOKS.register_module()
class RepeatableHook(Hook):
    """Seeds every step, and has a resumed training go on as if it had never stopped.

    Beside random numbers (see this module's docstring) that takes the place within the epoch, gradients that
    were being accumulated, and an evaluation that was due when the training stopped.
    """

    priority = 'HIGHEST'
    EVALUATED = 'evaluated_at'

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Seed by the step."""
        rank = get_rank() if runner._randomness_cfg.get('diff_rank_seed') else 0
        seed_all(runner.seed, rank, runner.iter)

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Remember that this state has been evaluated, in what checkpoints keep."""
        runner.message_hub.update_info(self.EVALUATED, runner.iter)

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Add the place in the epoch, and gradients under way."""
        meta, loop = checkpoint['meta'], runner.train_loop
        step = meta['iter']
        within = meta['epoch'] == loop.epoch and isinstance(loop, RepeatableEpochLoop)
        meta['place'] = loop.place + step - loop.iter if within else 0
        meta['batches'] = len(loop.dataloader)
        meta['began'] = getattr(runner, 'began', 0)
        meta['sizes'] = [module._input_size for module in _resizers(runner.model)]
        every = getattr(runner.optim_wrapper, '_accumulative_counts', 1)
        if step % every and 'optimizer' in checkpoint:
            checkpoint['gradients'] = {
                name: parameter.grad
                for name, parameter in runner.model.named_parameters()
                if parameter.grad is not None
            }

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Take up the place in the epoch, and gradients under way."""
        loop = runner._train_loop
        if not runner._resume or isinstance(loop, dict):
            return
        meta = checkpoint['meta']
        batches, now = meta.get('batches'), len(loop.dataloader)
        if batches not in (None, now):
            runner.logger.warning(
                f'--resume: an epoch had {batches} steps and has {now} now (another batch size, number of '
                'processes or data set): an epoch under way is started again.'
            )
        elif isinstance(loop, RepeatableEpochLoop):
            loop.place = meta.get('place', 0)
        for module, size in zip(_resizers(runner.model), meta.get('sizes', [])):
            module._input_size = size and tuple(size)
        for name, parameter in runner.model.named_parameters():
            gradient = checkpoint.get('gradients', {}).get(name)
            if gradient is not None:
                parameter.grad = gradient.to(parameter.device)


def _resizers(model: Any) -> list[Any]:
    """Return mmdet's parts that choose, at each step, the size of the next."""
    return [module for module in model.modules() if isinstance(module, BatchSyncRandomResize)]


@HOOKS.register_module()
class DueEvaluationHook(Hook):
    """Makes up for an evaluation that an interruption cut short, before a resumed training goes on."""

    priority = 'LOWEST'

    def before_train(self, runner: Any) -> None:
        """Evaluate, if the loop would have done so at this place and has not."""
        loop = runner.train_loop
        by_epoch = isinstance(loop, EpochBasedTrainLoop)
        done, end = (loop.epoch, loop.max_epochs) if by_epoch else (loop.iter, loop.max_iters)
        loop._decide_current_val_interval()
        due = done >= max(loop.val_begin, 1) and (done % loop.val_interval == 0 or done == end)
        if runner.val_loop is None or not due or getattr(loop, 'place', None):
            return
        if runner.message_hub.runtime_info.get(RepeatableHook.EVALUATED) != loop.iter:
            runner.logger.info(f'The evaluation after {loop.iter} steps was not finished: it is done now.')
            hub = runner.message_hub  # as the evaluation would have found it at the end of that step
            hub.update_info('iter', loop.iter - 1)
            hub.update_info('epoch', loop.epoch - by_epoch)
            runner.val_loop.run()


class PatientWorker:
    """Initialises a loader worker, which then outlives signals sent to all processes of a run.

    A scheduler's signal reaches the workers too, and without them the main process could not end its step.
    They end with it, and when it tells them to.

    Args:
        then: the loader's own ``worker_init_fn``.
    """

    def __init__(self, then: Callable[[int], None] | None) -> None:
        self.then = then

    def __call__(self, worker: int) -> None:
        """Initialise the worker of this number."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if hasattr(signal, 'sigwaitinfo'):  # Linux: it tells who sent a signal
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
            threading.Thread(target=_end_when_told, args=(os.getppid(),), daemon=True).start()
        if self.then is not None:
            self.then(worker)


def _end_when_told(parent: int) -> None:
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != parent:
        pass
    os._exit(0)
