"""Hooks: a progress bar, memory layout, the mean loss, and guards against signals and lost losses."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import statistics
import sys
import time
from collections import deque
from types import FrameType
from typing import Any

import torch
from mmdet.registry import HOOKS
from mmengine.dist import all_gather_object, all_reduce, get_world_size, is_main_process
from mmengine.hooks import EMAHook, Hook
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from ghost_det.errors import Interrupted, UserError
from ghost_det.models.fuse import optimize

from .checkpoints import ADVICE, INTERRUPTED

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@HOOKS.register_module()
class InterruptHook(Hook):
    """Saves the training's state and ends it at SIGTERM or SIGINT; a second signal ends it at once.

    All processes of a run stop after the same step, whichever got the signal. An evaluation is left at once,
    and the state before it saved.
    """

    priority = 'LOWEST'  # after everything else that a step changes

    def __init__(self) -> None:
        self._signal = self._rounds = 0
        self._before: dict[int, Any] = {}

    def before_train(self, runner: Any) -> None:
        """Listen to signals."""
        for number in SIGNALS:
            try:
                self._before[number] = signal.signal(number, self._note_signal)
            except ValueError:  # not in the main thread, where signals are Python's caller's
                return

    def _note_signal(self, number: int, frame: FrameType | None) -> None:
        if self._signal:
            self.restore()
            signal.raise_signal(number)
        self._signal = number
        # Not print, which fails where the signal has come in the midst of another one.
        with contextlib.suppress(OSError):
            os.write(2, f'{signal.Signals(number).name}: stopping after this step\n'.encode())

    def restore(self) -> None:
        """Let signals do what they did before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _agreed(self) -> bool:
        if get_world_size() == 1:
            return bool(self._signal)
        agreed = torch.tensor(self._signal)
        all_reduce(agreed, op='max')
        self._signal = int(agreed)
        return bool(self._signal)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Save and stop after a signal."""
        if not self._agreed():
            return
        self.restore()
        runner.save_checkpoint(runner.work_dir, INTERRUPTED, by_epoch=False)
        raise Interrupted(
            f'{signal.Signals(self._signal).name} after step {runner.iter + 1} of {runner.max_iters}: saved '
            f'{runner.work_dir}/{INTERRUPTED}; continue with --resume'
        )

    def before_val_epoch(self, runner: Any) -> None:
        """Find out in how many rounds all processes can agree: shares of the images may be unequal."""
        if self._before:
            self._rounds = min(all_gather_object(len(runner.val_dataloader)))

    def after_val_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Stop after a signal."""
        if not self._before or batch_idx >= self._rounds or not self._agreed():
            return
        self.restore()
        for hook in runner.hooks:
            if isinstance(hook, EMAHook):  # it has put the averages in the weights' place
                hook.after_val_epoch(runner)
        done = dict(epoch=runner.epoch, iter=runner.iter)
        runner.save_checkpoint(runner.work_dir, INTERRUPTED, meta=done)
        raise Interrupted(
            f'{signal.Signals(self._signal).name} during the evaluation after step {runner.iter}: saved '
            f'{runner.work_dir}/{INTERRUPTED}; continue with --resume'
        )

    def after_train(self, runner: Any) -> None:
        """Let signals do what they did before."""
        self.restore()


@HOOKS.register_module()
class LossGuardHook(Hook):
    """Stops a training whose loss is NaN or infinite, or far above all that it was.

    Args:
        factor: how many times the median of the last hundred losses is too much; ``None`` for no limit.
        patience: how many such losses in a row are borne; with fp16 ten, as it finds its loss scale so.
    """

    priority = 'VERY_HIGH'  # before a checkpoint is written; after the mean over processes

    def __init__(self, factor: float | None = 1000.0, patience: int | None = None) -> None:
        self.factor = factor
        self.patience = patience
        self._last: deque[float] = deque(maxlen=100)
        self._faults = 0

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Look at the loss."""
        if not outputs or 'loss' not in outputs:
            return
        loss = float(outputs['loss'].detach())
        usual = statistics.median(self._last) if len(self._last) >= 20 else math.inf
        limit = usual * self.factor if self.factor and usual > 0 else math.inf
        if math.isfinite(loss) and loss <= limit:
            self._last.append(loss)
            self._faults = 0
            return
        self._faults += 1
        scaled = hasattr(runner.optim_wrapper, 'loss_scaler')
        if self._faults <= (self.patience if self.patience is not None else 10 * scaled):
            return
        parts = ', '.join(
            f'{key} {float(value.detach()):.4g}' for key, value in outputs.items() if key != 'loss'
        )
        before = f'; it was {usual:.3g}' if math.isfinite(usual) else ''
        raise UserError(
            f'the loss is {loss:g} at step {runner.iter + 1} (epoch {runner.epoch + 1}; {parts}{before}): '
            'the training has diverged and stops. Images of this step: '
            f'{", ".join(_images(data_batch)) or "unknown"}. The checkpoints before it are kept. '
            f'Look at these images and their boxes (ghost-det check-data). {ADVICE}'
        )


def _images(batch: Any) -> list[str]:
    """Return the names of a step's images, of all processes."""
    samples = batch.get('data_samples', []) if isinstance(batch, dict) else []
    names = [str(getattr(sample, 'img_path', getattr(sample, 'img_id', '?'))) for sample in samples]
    return [name for part in all_gather_object(names) for name in part]


@HOOKS.register_module()
class ChannelsLastHook(Hook):
    """Lay the model's weights out channels-last, which every convolution's output then follows.

    Args:
        enabled: the switch.
    """

    priority = 'VERY_HIGH'

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled

    def _apply(self, runner: Any) -> None:
        if self.enabled:
            runner.model.to(memory_format=torch.channels_last)

    before_train = before_val = before_test = _apply


@HOOKS.register_module()
class OptimizeHook(Hook):
    """Make the model faster before a test, by `ghost_det.optimize`; its weights are loaded by then."""

    def before_test(self, runner: Any) -> None:
        """Fold the model's norms and branches, in place."""
        optimize(runner.model.eval())


@HOOKS.register_module()
class ProgressHook(Hook):
    """tqdm's bar, with the time left, over training and evaluation; nothing where stderr is no terminal.

    mmengine's log lines, which carry the losses and the time left as well, continue above the bar.

    Attributes:
        seconds: wall time of all the training, and of the evaluations within it.
    """

    priority = 'LOW'

    def __init__(self) -> None:
        self.seconds = {'train': 0.0, 'evaluate': 0.0}
        self._bars: list[tuple[str, tqdm[Any], float]] = []
        self._redirect: Any = None

    def _open(self, runner: Any, name: str, total: int, done: int = 0) -> None:
        hidden = not (is_main_process() and sys.stderr and sys.stderr.isatty())  # None where it is closed
        if self._redirect is None and not hidden:  # it forgets which levels the console shows
            self._redirect = logging_redirect_tqdm([runner.logger])
            self._redirect.__enter__()
        bar = tqdm(total=total, initial=done, desc=name, unit='it', leave=name == 'train', disable=hidden)
        self._bars.append((name, bar, time.perf_counter()))

    def _close(self) -> None:
        name, bar, opened = self._bars.pop()
        bar.close()
        self.seconds[name] += time.perf_counter() - opened
        if not self._bars and self._redirect is not None:
            self._redirect.__exit__(None, None, None)
            self._redirect = None

    def before_train(self, runner: Any) -> None:
        """Open the bar of all the training."""
        self._open(runner, 'train', runner.max_iters, runner.iter)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Move the bar and show the loss."""
        bar = self._bars[-1][1]
        if outputs and not bar.disable:
            bar.set_postfix(epoch=runner.epoch + 1, loss=f'{float(outputs["loss"]):.3f}', refresh=False)
        bar.update()

    def after_train(self, runner: Any) -> None:
        """Close the bar."""
        self._close()

    def before_val_epoch(self, runner: Any) -> None:
        """Open the bar of one evaluation, under the training's."""
        self._open(runner, 'evaluate', len(runner.val_dataloader))

    def before_test_epoch(self, runner: Any) -> None:
        """Open the bar of one evaluation."""
        self._open(runner, 'evaluate', len(runner.test_dataloader))

    def after_val_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Move the bar."""
        self._bars[-1][1].update()

    after_test_iter = after_val_iter

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Close the bar."""
        self._close()

    after_test_epoch = after_val_epoch


@HOOKS.register_module()
class MeanLossHook(Hook):
    """Log the mean of the losses of all processes, where mmengine logs those of the first."""

    priority = 'HIGHEST'  # before what reads them

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Replace each loss by the mean over the processes, all in one exchange."""
        losses = {key: value for key, value in (outputs or {}).items() if isinstance(value, torch.Tensor)}
        if outputs is None or not losses or get_world_size() == 1:
            return
        values = torch.stack([value.detach().float().mean() for value in losses.values()])
        all_reduce(values, op='mean')
        outputs.update(zip(losses, values))
