"""What a resumed training restores: its place, accumulated gradients, and an unfinished evaluation."""

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

_EVALUATED = 'evaluated_at'


@HOOKS.register_module()
class RepeatableHook(Hook):
    """Seeds every step, and saves and restores what mmengine's checkpoints lack.

    That is the place within the epoch, gradients that are being accumulated, and the next random image size.
    """

    priority = 'HIGHEST'

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        rank = get_rank() if runner.cfg.get('randomness', {}).get('diff_rank_seed') else 0
        seed_all(runner.seed, rank, runner.iter)

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        runner.message_hub.update_info(_EVALUATED, runner.iter)

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        meta, loop = checkpoint['meta'], runner.train_loop
        within = meta['epoch'] == loop.epoch and isinstance(loop, RepeatableEpochLoop)
        meta['place'] = loop.place + meta['iter'] - loop.iter if within else 0
        meta['batches'] = len(loop.dataloader)
        meta['began'] = getattr(runner, 'began', 0)
        meta['sizes'] = [module._input_size for module in _resizers(runner.model)]
        every = runner.cfg.get('optim_wrapper', {}).get('accumulative_counts', 1)
        if meta['iter'] % every and 'optimizer' in checkpoint:
            parameters = runner.model.named_parameters()
            checkpoint['gradients'] = {name: each.grad for name, each in parameters if each.grad is not None}

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        loop = runner._train_loop
        if not runner._resume or isinstance(loop, dict):
            return
        meta = checkpoint['meta']
        batches, now = meta.get('batches'), len(loop.dataloader)
        if batches not in (None, now):
            runner.logger.warning(
                f'--resume: an epoch had {batches} steps and has {now} now: an unfinished one starts again.'
            )
        elif isinstance(loop, RepeatableEpochLoop):
            loop.place = meta.get('place', 0)
        for module, size in zip(_resizers(runner.model), meta.get('sizes', [])):
            module._input_size = size and tuple(size)
        gradients = checkpoint.get('gradients', {})
        for name, parameter in runner.model.named_parameters():
            if name in gradients:
                parameter.grad = gradients[name].to(parameter.device)


def _resizers(model: Any) -> list[Any]:
    """Return the modules of mmdet that choose, at each step, the image size of the next."""
    return [module for module in model.modules() if isinstance(module, BatchSyncRandomResize)]


@HOOKS.register_module()
class DueEvaluationHook(Hook):
    """Repeats an evaluation that was interrupted, before a resumed training continues."""

    priority = 'LOWEST'

    def before_train(self, runner: Any) -> None:
        loop = runner.train_loop
        by_epoch = isinstance(loop, EpochBasedTrainLoop)
        done, end = (loop.epoch, loop.max_epochs) if by_epoch else (loop.iter, loop.max_iters)
        loop._decide_current_val_interval()
        due = done >= max(loop.val_begin, 1) and (done % loop.val_interval == 0 or done == end)
        if runner.val_loop is None or not due or getattr(loop, 'place', None):
            return
        hub = runner.message_hub
        if hub.runtime_info.get(_EVALUATED) != loop.iter:
            runner.logger.info(f'The evaluation after {loop.iter} steps was interrupted: it is repeated now.')
            hub.update_info('iter', loop.iter - 1)  # as at the end of that step
            hub.update_info('epoch', loop.epoch - by_epoch)
            runner.val_loop.run()


def init_worker(worker: int, then: Callable[[int], None] | None = None) -> None:
    """Initialise a loader worker, which then outlives signals sent to all processes of a run.

    A scheduler's signal reaches the workers too, and without them the main process could not end its step.
    They end when it does, or when it ends them.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, 'sigwaitinfo'):  # Linux, which tells the sender of a signal
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    if then is not None:
        then(worker)


def _end_with(parent: int) -> None:
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != parent:
        pass
    os._exit(0)
