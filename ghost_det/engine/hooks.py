"""Hooks: signals, diverging losses, memory layout, folding, a progress bar, and the mean loss."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import statistics
import threading
import time
from collections import deque
from types import FrameType
from typing import Any

import torch
from mmdet.registry import HOOKS
from mmengine.dist import all_gather_object, all_reduce, get_world_size, is_main_process
from mmengine.hooks import EMAHook, Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import BaseLoop
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from ghost_det.errors import Interrupted, UserError
from ghost_det.models.fuse import optimize
from ghost_det.weights.load import load_pretrained_detector

from .checkpoints import ADVICE, ATOMIC, INTERRUPTED
from .networks import Deferred

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@HOOKS.register_module()
class InterruptHook(Hook):
    """Saves the training and ends it at SIGTERM or SIGINT; a second signal ends it at once.

    All processes of a run stop after the same step, whichever got the signal. A single process leaves an
    evaluation at once and saves the state before it; several finish it first.
    """

    priority = 'LOWEST'  # after everything else that a step changes

    def __init__(self) -> None:
        self._signal = 0
        self._before: dict[int, Any] = {}

    def before_train(self, runner: Any) -> None:
        if threading.current_thread() is threading.main_thread():  # else they are the caller's
            self._before = {number: signal.signal(number, self._note_signal) for number in SIGNALS}

    def _note_signal(self, number: int, frame: FrameType | None) -> None:
        if self._signal:
            self.restore()
            signal.raise_signal(number)
        self._signal = number
        with contextlib.suppress(OSError):  # print fails if the signal interrupts another one
            os.write(2, f'{signal.Signals(number).name}: stopping after this step\n'.encode())

    def restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _stop(self, runner: Any, when: str, **saving: Any) -> None:
        self.restore()
        runner.save_checkpoint(runner.work_dir, INTERRUPTED, backend_args=ATOMIC, **saving)
        name = signal.Signals(self._signal).name
        raise Interrupted(f'{name} {when}: saved {runner.work_dir}/{INTERRUPTED}; continue with --resume')

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any, outputs: Any = None) -> None:
        agreed = torch.tensor(self._signal)
        all_reduce(agreed, op='max')
        self._signal = int(agreed)
        if self._signal:
            self._stop(runner, f'after step {runner.iter + 1} of {runner.max_iters}', by_epoch=False)

    def after_val_iter(self, runner: Any, batch_idx: int, data_batch: Any, outputs: Any = None) -> None:
        if not self._signal or get_world_size() > 1:
            return
        for hook in runner.hooks:
            if isinstance(hook, EMAHook):  # it has put the averages in the weights' place
                hook.after_val_epoch(runner)
        done = dict(epoch=runner.epoch, iter=runner.iter)
        self._stop(runner, f'during the evaluation after step {runner.iter}', meta=done)

    def after_train(self, runner: Any) -> None:
        self.restore()


@HOOKS.register_module()
class LossGuardHook(Hook):
    """Stops a training whose loss is NaN, infinite, or far above those before.

    Args:
        factor: the limit, as a multiple of the median of the last hundred losses; ``None`` for no limit.
        patience: how many such losses in a row are ignored: by default none, or with fp16 ten, by which it
            finds its loss scale.
    """

    priority = 'VERY_HIGH'  # before a checkpoint is written; after the mean over processes

    def __init__(self, factor: float | None = 1000.0, patience: int | None = None) -> None:
        self.factor = factor
        self.patience = patience
        self._last: deque[float] = deque(maxlen=100)
        self._bad = 0

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any, outputs: Any = None) -> None:
        if not outputs or 'loss' not in outputs:
            return
        loss = float(outputs['loss'].detach())
        usual = statistics.median(self._last) if len(self._last) >= 20 else math.inf
        limit = usual * self.factor if self.factor and usual > 0 else math.inf
        if math.isfinite(loss) and loss <= limit:
            self._last.append(loss)
            self._bad = 0
            return
        self._bad += 1
        scaled = hasattr(runner.optim_wrapper, 'loss_scaler')
        if self._bad <= (self.patience if self.patience is not None else 10 * scaled):
            return
        parts = [f'{key} {float(value.detach()):.4g}' for key, value in outputs.items() if key != 'loss']
        before = f'; it was {usual:.3g}' if math.isfinite(usual) else ''
        raise UserError(
            f'the loss is {loss:g} at step {runner.iter + 1} (epoch {runner.epoch + 1}; {", ".join(parts)}'
            f'{before}): the training has diverged and stops. Images of this step: '
            f'{", ".join(_images(data_batch)) or "unknown"} (ghost-det check-data checks them). {ADVICE}'
        )


def _images(batch: Any) -> list[str]:
    """Return the names of the images of a step, in all processes."""
    samples = batch.get('data_samples', []) if isinstance(batch, dict) else []
    names = [str(getattr(sample, 'img_path', getattr(sample, 'img_id', '?'))) for sample in samples]
    return [name for part in all_gather_object(names) for name in part]


@HOOKS.register_module()
class ChannelsLastHook(Hook):
    """Lay the model's weights out channels-last, if ``enabled``; the outputs of convolutions follow."""

    priority = 'VERY_HIGH'

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled

    def _apply(self, runner: Any) -> None:
        if self.enabled:
            runner.model.to(memory_format=torch.channels_last)

    before_train = before_val = before_test = _apply


class OptimizeHook(Hook):
    """Make the model faster before a test, once its weights are loaded; see `ghost_det.optimize`."""

    def before_test(self, runner: Any) -> None:
        optimize(runner.model.eval())


@HOOKS.register_module()
class ProgressHook(Hook):
    """tqdm's bar, with the time left, over training and evaluation, if stderr is a terminal.

    mmengine's log lines, which have losses and the time left as well, continue above the bar.

    Attributes:
        seconds: wall time of all the training, ``'train'``, and of the evaluations in it, ``'evaluate'``.
    """

    priority = 'LOW'

    def __init__(self) -> None:
        self.seconds = {'train': 0.0, 'evaluate': 0.0}
        self._bars: list[tuple[str, tqdm[Any], float]] = []
        self._redirect = contextlib.ExitStack()

    def _open(self, runner: Any, name: str, total: int, done: int = 0) -> None:
        hidden = None if is_main_process() else True  # None: unless stderr is a terminal
        bar = tqdm(total=total, initial=done, desc=name, unit='it', leave=name == 'train', disable=hidden)
        if not self._bars and not bar.disable:
            self._redirect.enter_context(logging_redirect_tqdm([runner.logger]))
        self._bars.append((name, bar, time.perf_counter()))

    def _close(self, *_: Any, **__: Any) -> None:
        name, bar, opened = self._bars.pop()
        bar.close()
        self.seconds[name] += time.perf_counter() - opened
        if not self._bars:
            self._redirect.close()

    def _advance(self, *_: Any, **__: Any) -> None:
        self._bars[-1][1].update()

    def before_train(self, runner: Any) -> None:
        self._open(runner, 'train', runner.max_iters, runner.iter)

    def before_val_epoch(self, runner: Any) -> None:
        self._open(runner, 'evaluate', len(runner.val_dataloader))

    def before_test_epoch(self, runner: Any) -> None:
        self._open(runner, 'evaluate', len(runner.test_dataloader))

    after_train_iter = after_val_iter = after_test_iter = _advance
    after_train = after_val_epoch = after_test_epoch = _close


@HOOKS.register_module()
class MeanLossHook(Hook):
    """Log the mean of the losses of all processes; mmengine logs those of the first."""

    priority = 'HIGHEST'  # before what reads them

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any, outputs: Any = None) -> None:
        if not outputs or get_world_size() == 1:
            return
        losses = {key: value for key, value in outputs.items() if isinstance(value, torch.Tensor)}
        values = torch.stack([value.detach().float().mean() for value in losses.values()])
        all_reduce(values, op='mean')
        outputs.update(zip(losses, values))


@HOOKS.register_module()
class DetectorWeightsHook(Hook):
    """Loads the detector of ``load_from='ghost://NAME'``, all but its class layer, or raises an error."""

    priority = 'HIGHEST'  # averaged weights start as copies

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        weights = checkpoint.get('state_dict')
        if not isinstance(weights, Deferred):
            return
        if not isinstance(runner._train_loop, BaseLoop) or runner._resume:
            raise UserError(f'{weights.source}: can only start a training: its class layer is not loaded')
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        if any('Pretrained' in str(getattr(module, 'init_cfg', None)) for module in model.modules()):
            raise UserError(
                f"load_from={weights.source} would replace the weights of the model's init_cfg: "
                'choose one (load_from = None, or init_cfg = None)'
            )
        runner.logger.info(str(load_pretrained_detector(model, weights.source)))
        checkpoint['state_dict'] = model.state_dict()  # which mmengine loads next
