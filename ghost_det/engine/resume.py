"""What a resumed training takes up: its place, and gradients and evaluations under way."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

from mmdet.models import BatchSyncRandomResize
from mmdet.registry import HOOKS
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop

from .loops import RepeatableEpochLoop, seed_all


@HOOKS.register_module()
class RepeatableHook(Hook):
    """Seeds every step, and has a training resume as if it had never stopped.

    Besides random numbers (see `ghost_det.engine.loops`) that takes the place within the epoch, and gradients
    that were being accumulated.
    """

    priority = 'HIGHEST'
    EVALUATED = 'evaluated_at'

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Seed by the step."""
        rank = get_rank() if runner.cfg.get('randomness', {}).get('diff_rank_seed') else 0
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
        every = runner.cfg.get('optim_wrapper', {}).get('accumulative_counts', 1)
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
    """Makes up for an evaluation that an interruption cut short, before a resumed training continues."""

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
    They end with it, and when it ends them.
    """

    def __init__(self, then: Callable[[int], None] | None) -> None:
        self.then = then

    def __call__(self, worker: int) -> None:
        """Initialise the worker of this number."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if hasattr(signal, 'sigwaitinfo'):  # Linux: it tells who sent a signal
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
            threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
        if self.then is not None:
            self.then(worker)


def _end_with(parent: int) -> None:
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != parent:
        pass
    os._exit(0)
