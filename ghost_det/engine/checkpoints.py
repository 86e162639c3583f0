"""Checkpoints that are complete or not there, and finding the newest one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmdet.registry import HOOKS
from mmengine.dist import master_only
from mmengine.fileio import register_backend
from mmengine.fileio.backends import LocalBackend
from mmengine.hooks import CheckpointHook

from ghost_det.errors import UserError
from ghost_det.utils.files import atomic
from ghost_det.weights.checkpoint import load_checkpoint

INTERRUPTED = 'interrupted.pth'
ADVICE = (  # a resumed training takes its learning rate from the checkpoint
    'The checkpoints before it are kept. To continue from one at a lower learning rate: --cfg-options '
    'load_from=CHECKPOINT optim_wrapper.optimizer.lr=...'
)
ATOMIC = dict(backend='ghost_det.atomic')
"""``backend_args`` of `AtomicBackend`."""


class AtomicBackend(LocalBackend):
    """mmengine's storage of local files, by a temporary file that is renamed when it is on the disk."""

    def put(self, obj: Any, filepath: str | Path) -> None:
        """Write bytes; if the disk is full, the file that was there before stays."""
        with atomic(Path(filepath), durable=True) as partial:
            partial.write_bytes(obj)

    def remove(self, filepath: str | Path) -> None:
        """Leave a file, as mmengine removes it before the next is saved; see `KeepingCheckpointHook`."""


register_backend(ATOMIC['backend'], AtomicBackend)


@HOOKS.register_module()
class KeepingCheckpointHook(CheckpointHook):
    """mmengine's checkpoints, where an old one is removed only after the new one is saved.

    mmengine removes first: interrupted then, a training that keeps one checkpoint had none.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if kwargs.get('backend_args') is None and '://' not in str(kwargs.get('out_dir')):
            kwargs['backend_args'] = ATOMIC
        super().__init__(*args, **kwargs)

    def before_train(self, runner: Any) -> None:
        super().before_train(runner)
        if runner.iter:  # the training before may have been killed before it did so
            self._remove_old(runner, runner.epoch if self.by_epoch else runner.iter)

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Refuse to save a network with NaN or infinite values, which would replace a good one."""
        model = runner.model  # the checkpoint may have averaged weights in their place
        statistics = [(key, value) for key, value in model.named_buffers() if '.running_' in key]
        state = dict([*model.named_parameters(), *statistics])
        lost = [key for key, value in state.items() if not torch.isfinite(value).all()]
        if lost:
            raise UserError(
                f'at step {runner.iter + 1}: {len(lost)} of {len(state)} tensors of the network are NaN or '
                f'infinite, first {lost[0]}: the training has diverged and is not saved. {ADVICE}'
            )

    def _save_checkpoint_with_step(self, runner: Any, step: int, meta: dict[str, Any]) -> None:
        # mmengine calls this once a new best checkpoint is saved, too, to save its name.
        super()._save_checkpoint_with_step(runner, step, meta)
        self._remove_old(runner, step)
        remove_leftovers(runner.work_dir, INTERRUPTED)

    @master_only
    def _remove_old(self, runner: Any, last: int) -> None:
        """Remove all but the newest checkpoints up to a step, and those that are no longer the best."""
        if not isinstance(self.file_backend, AtomicBackend):
            return  # mmengine has removed them
        names = {path.name for path in Path(self.out_dir).iterdir() if path.is_file()}
        info = runner.message_hub.runtime_info
        best = {Path(str(info[key])).name for key in info if key.startswith('best_ckpt')} & names
        series = {_without_number(name) for name in best}
        old = [name for name in names - best if name[:5] == 'best_' and _without_number(name) in series]
        before, after = self.filename_tmpl.split('{}')
        numbers = [name.removeprefix(before).removesuffix(after) for name in names]
        steps = sorted(int(number) for number in numbers if number.isdecimal() and int(number) <= last)
        surplus = steps[: -self.max_keep_ckpts] if self.max_keep_ckpts > 0 else []
        old += [self.filename_tmpl.format(step) for step in surplus]
        for name in old:
            self._remove(name)

    def _remove(self, name: str) -> None:
        (Path(self.out_dir) / name).unlink(missing_ok=True)


def _without_number(name: str) -> str:
    return re.sub(r'\d+(\D*)$', r'\1', name)


@master_only
def remove_leftovers(work_dir: str, pattern: str) -> None:
    """Remove files of trainings that were killed or interrupted."""
    for path in Path(work_dir).glob(pattern):
        path.unlink(missing_ok=True)


def saved_in(work_dir: str) -> list[Path]:
    """Return the checkpoints of a work folder that a training may resume from."""
    return [path for name in ('epoch_*.pth', 'iter_*.pth', INTERRUPTED) for path in Path(work_dir).glob(name)]


class Saved(NamedTuple):
    """A checkpoint that a training can resume from, its content, and the place in the training."""

    path: str
    content: dict[str, Any]
    meta: dict[str, Any]


def read_saved(path: str | Path) -> Saved:
    """Read a checkpoint that a training can resume from."""
    content = load_checkpoint(path)
    meta = content.get('meta')
    if 'optimizer' not in content or not isinstance(meta, dict) or not {'iter', 'epoch'} <= meta.keys():
        raise UserError(f'{path} holds only weights; to start from them: --cfg-options load_from={path}')
    return Saved(str(path), content, meta)


def find_checkpoint(work_dir: str, resume: str | None) -> tuple[Saved | None, list[str]]:
    """Return the checkpoint that ``--resume`` names, and a line on each that cannot be used.

    For ``'auto'``, it is the intact one of the last start with the most steps.
    """
    if resume not in (None, 'auto') and not Path(resume).expanduser().is_file():
        raise UserError(f'--resume {resume}: no such checkpoint file')
    if resume != 'auto':
        return (None if resume is None else read_saved(resume)), []
    newest: Saved | None = None
    order = (-1, -1)
    damaged = []
    for path in saved_in(work_dir):
        try:
            saved = read_saved(path)
        except UserError as error:
            damaged.append(str(error))
            continue
        started_and_steps = saved.meta.get('began', 0), saved.meta['iter']
        if started_and_steps > order:
            newest, order = saved, started_and_steps
    if newest is None and damaged:
        raise UserError(f'--resume: no checkpoint of {work_dir} is intact: {"; ".join(damaged)}')
    return newest, damaged


def require_longer(cfg: Any, saved: Saved) -> None:
    """Raise a `UserError` if a training is already longer than it should become."""
    epochs = saved.meta['epoch'] + (saved.meta.get('place', 0) > 0)
    for key, unit, done in (('max_epochs', 'epochs', epochs), ('max_iters', 'steps', saved.meta['iter'])):
        length = cfg.train_cfg.get(key, done)
        if length < done:
            raise UserError(
                f'--resume: {saved.path} is already trained for {done} {unit}, more than {length}: set '
                f'--epochs (or train_cfg.{key}) to {done} or more, or evaluate it with ghost-det test'
            )
