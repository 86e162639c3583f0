"""Checkpoints that are complete or not there, and finding the newest one."""

from __future__ import annotations

import contextlib
import errno
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmdet.registry import HOOKS
from mmengine.dist import master_only
from mmengine.fileio import register_backend
from mmengine.fileio.backends import LocalBackend
from mmengine.hooks import CheckpointHook

from ghost_det.errors import UserError
from ghost_det.utils.files import PARTIAL, atomic
from ghost_det.weights.checkpoint import load_checkpoint

INTERRUPTED = 'interrupted.pth'
ADVICE = (  # a resumed training takes its learning rate from the checkpoint
    'To continue at a lower learning rate, start again from the last checkpoint: --cfg-options '
    'load_from=CHECKPOINT optim_wrapper.optimizer.lr=...; clip_grad in the config may help, too.'
)
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
ATOMIC = dict(backend='ghost_det.atomic')
"""``backend_args`` of `AtomicBackend`."""


class AtomicBackend(LocalBackend):
    """mmengine's storage of local files, by a temporary file that is renamed when it is on the disk."""

    def put(self, obj: Any, filepath: str | Path) -> None:
        """Write bytes; where the disk is full, the file that was there before stays."""
        try:
            with atomic(Path(filepath), durable=True) as partial:
                partial.write_bytes(obj)
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise UserError(disk_full(Path(filepath), len(obj))) from None


register_backend(ATOMIC['backend'], AtomicBackend)


def disk_full(path: Path, size: int | None = None) -> str:
    """Return the message that a file could not be written, and how to continue."""
    with contextlib.suppress(OSError):
        free = shutil.disk_usage(path.parent).free
        needed = f', {size / 1e6:.1f} MB are needed' if size else ''
        path = Path(f'{path} ({free / 1e6:.1f} MB are free{needed})')
    return (
        f'no space left on the disk for {path}. The checkpoints before it are intact: free some space, then '
        'continue with --resume. default_hooks.checkpoint.max_keep_ckpts in the config limits how many are '
        'kept.'
    )


@HOOKS.register_module()
class KeepingCheckpointHook(CheckpointHook):
    """mmengine's checkpoints, where an old one is removed only after the new one is saved.

    mmengine removes first: interrupted then, a training that keeps one checkpoint had none.
    """

    def __init__(
        self, *args: Any, max_keep_ckpts: int = -1, backend_args: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        if backend_args is None and '://' not in str(kwargs.get('out_dir')):
            backend_args = ATOMIC
        super().__init__(*args, backend_args=backend_args, **kwargs)
        self.newest = max_keep_ckpts
        self._replaced: list[str] = []

    def before_train(self, runner: Any) -> None:
        super().before_train(runner)
        if runner.iter:  # the training before may have been killed before it did so
            self._remove_oldest(runner.epoch if self.by_epoch else runner.iter)

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Refuse to save a network with NaN or infinite values, which would replace a good one."""
        model = runner.model  # the checkpoint may have averaged weights in their place
        statistics = [(key, value) for key, value in model.named_buffers() if '.running_' in key]
        state = dict([*model.named_parameters(), *statistics])
        lost = [key for key, value in state.items() if not torch.isfinite(value).all()]
        if lost:
            raise UserError(
                f'at step {runner.iter + 1}: {len(lost)} of {len(state)} tensors of the network are NaN or '
                f'infinite, the first is {lost[0]}: the training has diverged, and nothing is saved. '
                f'The checkpoints before it are kept. {ADVICE}'
            )

    def _save_best_checkpoint(self, runner: Any, metrics: dict[str, Any]) -> None:
        backend: Any = self.file_backend
        backend.remove = self._replaced.append  # until the better one is saved
        try:
            super()._save_best_checkpoint(runner, metrics)
        finally:
            del backend.remove

    def _save_checkpoint_with_step(self, runner: Any, step: int, meta: dict[str, Any]) -> None:
        # mmengine calls this once a new best checkpoint is saved, too, to save its name.
        info = runner.message_hub.runtime_info
        best = {Path(str(info[key])).name for key in info if key.startswith('best_ckpt')}
        for name in {Path(path).name for path in self._replaced} - best:
            if name.startswith('best_'):  # the paths may come from a checkpoint of any origin
                self._remove(name)
        self._replaced.clear()
        super()._save_checkpoint_with_step(runner, step, meta)
        self._remove_oldest(step)
        remove_interrupted(runner.work_dir)

    @master_only
    def _remove_oldest(self, last: int) -> None:
        before, after = self.filename_tmpl.split('{}')
        names = self.file_backend.list_dir_or_file(self.out_dir, list_dir=False)
        numbers = [name.removeprefix(before).removesuffix(after) for name in names]
        steps = sorted(int(number) for number in numbers if number.isdecimal() and int(number) <= last)
        for step in steps[: -self.newest] if self.newest > 0 else ():
            self._remove(self.filename_tmpl.format(step))

    @master_only
    def _remove(self, name: str) -> None:
        path = self.file_backend.join_path(self.out_dir, name)
        if name.endswith('.pth') and self.file_backend.isfile(path):
            type(self.file_backend).remove(self.file_backend, path)


@master_only
def remove_interrupted(work_dir: str) -> None:
    """Remove the checkpoint of an interruption, once a later one is saved."""
    (Path(work_dir) / INTERRUPTED).unlink(missing_ok=True)


@master_only
def remove_partial(work_dir: str) -> None:
    """Remove the unfinished files of killed trainings."""
    for path in Path(work_dir).glob(f'{PARTIAL}*'):
        path.unlink(missing_ok=True)


def saved_in(work_dir: str) -> list[Path]:
    """Return the checkpoints of a work folder that a training may resume from."""
    return [path for name in ('epoch_*.pth', 'iter_*.pth', INTERRUPTED) for path in Path(work_dir).glob(name)]


class Saved(NamedTuple):
    """A checkpoint that a training can resume from, and its content."""

    path: str
    content: dict[str, Any]

    @property
    def meta(self) -> dict[str, Any]:
        """The place in the training."""
        return self.content['meta']  # type: ignore[no-any-return]

    @property
    def order(self) -> tuple[int, int]:
        """When the training was started, in nanoseconds, and its steps."""
        return self.meta.get('began', 0), self.meta['iter']


def read_saved(path: str | Path) -> Saved:
    """Read a checkpoint that a training can resume from."""
    content = load_checkpoint(path)
    meta = content.get('meta')
    if 'optimizer' not in content or not isinstance(meta, dict) or not {'iter', 'epoch'} <= meta.keys():
        raise UserError(
            f'{path} holds only weights, not the state of a training; '
            f'to start from them: --cfg-options load_from={path}'
        )
    return Saved(str(path), content)


def find_checkpoint(work_dir: str, resume: str | None) -> tuple[Saved | None, list[str]]:
    """Return the checkpoint that ``--resume`` names, and a line on each that cannot be used.

    For ``'auto'``, it is the intact one of the last start with the most steps.
    """
    if resume != 'auto':
        return (None if resume is None else read_saved(resume)), []
    newest: Saved | None = None
    damaged = []
    for path in saved_in(work_dir):
        try:
            saved = read_saved(path)
        except UserError as error:
            damaged.append(str(error))
            continue
        if newest is None or saved.order > newest.order:
            newest = saved
    if newest is None and damaged:
        raise UserError(
            f'--resume: no checkpoint of {work_dir} is intact: {"; ".join(damaged)}. '
            'Remove them, or leave --resume out, to start from the beginning'
        )
    return newest, damaged


def require_longer(cfg: Any, saved: Saved) -> None:
    """Raise a `UserError` if a training is to be shorter than it already is."""
    meta = saved.meta
    for key, unit, done in (
        ('max_epochs', 'epochs', meta['epoch'] + (meta.get('place', 0) > 0)),
        ('max_iters', 'steps', meta['iter']),
    ):
        if cfg.train_cfg.get(key, done) < done:
            raise UserError(
                f'--resume: {saved.path} has been trained for {done} {unit}, and this training has '
                f'{cfg.train_cfg[key]} (--epochs, or train_cfg.{key} in the config): give it {done} or more, '
                f'or evaluate the checkpoint with ghost-det test'
            )
