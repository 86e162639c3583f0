"""Guards of a training: against signals that would lose it, and losses that mean it is lost."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import statistics
from collections import deque
from types import FrameType
from typing import Any

import torch
from mmdet.registry import HOOKS
from mmengine.dist import all_gather_object, all_reduce, get_world_size
from mmengine.hooks import EMAHook, Hook

from ghost_det.errors import Interrupted, UserError

from .checkpoints import ADVICE, INTERRUPTED

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@HOOKS.register_module()
class InterruptHook(Hook):
    """Saves the training's state and ends it at SIGTERM or SIGINT; a second signal ends it at once.

    All processes of a run stop after the same step, whichever was told first. An evaluation is left at once,
    and the state before it saved.
    """

    priority = 'LOWEST'  # after everything else that a step changes

    def __init__(self) -> None:
        self._told = self._rounds = 0
        self._before: dict[int, Any] = {}

    def before_train(self, runner: Any) -> None:
        """Listen to signals."""
        for number in SIGNALS:
            try:
                self._before[number] = signal.signal(number, self._tell)
            except ValueError:  # not in the main thread, where signals are Python's caller's
                return

    def _tell(self, number: int, frame: FrameType | None) -> None:
        if self._told:
            self.restore()
            signal.raise_signal(number)
        self._told = number
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
            return bool(self._told)
        told = torch.tensor(self._told)
        all_reduce(told, op='max')
        self._told = int(told)
        return bool(self._told)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Save and stop, if told to.

        Raises:
            Interrupted: the state is saved.
        """
        if not self._agreed():
            return
        self.restore()
        runner.save_checkpoint(runner.work_dir, INTERRUPTED, by_epoch=False)
        raise Interrupted(
            f'{signal.Signals(self._told).name} after step {runner.iter + 1} of {runner.max_iters}: saved '
            f'{runner.work_dir}/{INTERRUPTED}; go on with --resume'
        )

    def before_val_epoch(self, runner: Any) -> None:
        """Find out in how many rounds all processes can agree: shares of the images may be unequal."""
        if self._before:
            self._rounds = min(all_gather_object(len(runner.val_dataloader)))

    def after_val_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Stop, if told to.

        Raises:
            Interrupted: the evaluation is left; a resumption makes up for it.
        """
        if not self._before or batch_idx >= self._rounds or not self._agreed():
            return
        self.restore()
        for hook in runner.hooks:
            if isinstance(hook, EMAHook):  # it has put the averages in the weights' place
                hook.after_val_epoch(runner)
        done = dict(epoch=runner.epoch, iter=runner.iter)
        runner.save_checkpoint(runner.work_dir, INTERRUPTED, meta=done)
        raise Interrupted(
            f'{signal.Signals(self._told).name} during the evaluation after step {runner.iter}: saved '
            f'{runner.work_dir}/{INTERRUPTED}; go on with --resume'
        )

    def after_train(self, runner: Any) -> None:
        """Let signals do what they did before."""
        self.restore()


@HOOKS.register_module()
class LossGuardHook(Hook):
    """Stops a training whose loss is no number any more, or far above all that it was.

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
        """Look at the loss.

        Raises:
            UserError: it names the step and its images.
        """
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
