"""Checkpoints that are complete or not there, and finding the newest one."""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections import deque
from collections.abc import Mapping
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
# A resumed training takes its learning rate from the checkpoint.
ADVICE = (
    'To train on at a lower learning rate, start again from the last checkpoint: --cfg-options '
    'load_from=CHECKPOINT optim_wrapper.optimizer.lr=...; clip_grad in the config may help, too.'
)
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


ATOMIC = dict(backend='ghost_det.atomic')
"""``backend_args`` of `AtomicBackend`."""


class AtomicBackend(LocalBackend):
    """mmengine's storage of local files, by a temporary file that is renamed when it is on the disk."""

    def put(self, obj: Any, filepath: str | Path) -> None:
        """Write bytes; where the disk is full, what was there before is still there."""
        try:
            with atomic(Path(filepath), durable=True) as partial:
                partial.write_bytes(obj)
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise UserError(disk_full(Path(filepath), len(obj))) from None


register_backend(ATOMIC['backend'], AtomicBackend)


def disk_full(path: Path, size: int | None = None) -> str:
    """Return a message: a file could not be written, what is needed, and what is still there."""
    with contextlib.suppress(OSError):
        free = shutil.disk_usage(path.parent).free
        needed = f', {size / 1e6:.1f} MB are needed' if size else ''
        path = Path(f'{path} ({free / 1e6:.1f} MB are free{needed})')
    return (
        f'no space left on the disk for {path}. The checkpoints before it are intact: free some space, then '
        'resume with --resume. default_hooks.checkpoint.max_keep_ckpts in the config sets how many are kept.'
    )


@HOOKS.register_module()
class KeepingCheckpointHook(CheckpointHook):
    """mmengine's checkpoints, where an old one is removed only after the new one is saved.

    mmengine removes first: interrupted then, a training that keeps one checkpoint had none.
    """

    max_keep_ckpts: int
    keep_ckpt_ids: Any
    _best_before: Mapping[str, str | None] = {}

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Refuse to save a network with NaN or infinite values, for which a good one would be removed."""
        model = runner.model  # whose weights may be next to averaged ones in the checkpoint
        statistics = [(key, value) for key, value in model.named_buffers() if '.running_' in key]
        state = dict([*model.named_parameters(), *statistics])
        lost = [key for key, value in state.items() if not torch.isfinite(value).all()]
        if lost:
            raise UserError(
                f'at step {runner.iter + 1}: {len(lost)} of {len(state)} tensors of the '
                f'network are NaN or infinite, {lost[0]} for one: it has diverged and is not saved. '
                f'The checkpoints before it are kept. {ADVICE}'
            )

    def _save_checkpoint_with_step(self, runner: Any, step: int, meta: dict[str, Any]) -> None:
        for key, path in self._best().items():
            before = Path(self._best_before.get(key) or '').name  # it comes from a checkpoint, of any origin
            if path and before != Path(path).name and before.startswith('best_') and before.endswith('.pth'):
                self._remove(before)  # the new best one is saved
        most = self.max_keep_ckpts
        if most > 0:
            steps = [kept for kept in self.keep_ckpt_ids if kept != step] + [step]
            # A training that is killed before the oldest is removed finds here that it has one too many.
            runner.message_hub.update_info('keep_ckpt_ids', steps)
        self.max_keep_ckpts = -1
        super()._save_checkpoint_with_step(runner, step, meta)
        self.max_keep_ckpts = most
        if most > 0:
            for old in steps[:-most]:
                self._remove(self.filename_tmpl.format(old))
            self.keep_ckpt_ids = deque(steps[-most:])
        remove_interrupted(runner.work_dir)

    def _save_best_checkpoint(self, runner: Any, metrics: dict[str, Any]) -> None:
        before = self._best_before = self._best()
        self._set_best(dict.fromkeys(before))  # so that mmengine does not remove them
        super()._save_best_checkpoint(runner, metrics)
        self._set_best({key: path or before.get(key) for key, path in self._best().items()})
        self._best_before = {}

    def _best(self) -> dict[str, str | None]:
        """Return the best checkpoint by each metric; of a single metric, by ``''``."""
        several = getattr(self, 'best_ckpt_path_dict', None)
        return dict(several) if several else {'': getattr(self, 'best_ckpt_path', None)}

    def _set_best(self, paths: Mapping[str, str | None]) -> None:
        if '' in paths:
            self.best_ckpt_path = paths['']
        else:
            self.best_ckpt_path_dict = dict(paths)

    @master_only
    def _remove(self, name: str, but: str = '', prefix: str = '') -> None:
        """Remove a checkpoint from the folder of this training; the name may come from a checkpoint."""
        path = self.file_backend.join_path(self.out_dir, name)
        if (
            name != but
            and name.startswith(prefix)
            and name.endswith('.pth')
            and self.file_backend.isfile(path)
        ):
            self.file_backend.remove(path)


@master_only
def remove_interrupted(work_dir: str) -> None:
    """Remove the checkpoint of an interruption, once a later one is there."""
    (Path(work_dir) / INTERRUPTED).unlink(missing_ok=True)


@master_only
def remove_partial(work_dir: str) -> None:
    """Remove what killed trainings had begun to write."""
    for path in Path(work_dir).glob(f'{PARTIAL}*'):
        path.unlink(missing_ok=True)


def saved_in(work_dir: str) -> list[Path]:
    """Return the checkpoints of a work folder that a training may resume from."""
    return [path for name in ('epoch_*.pth', 'iter_*.pth', INTERRUPTED) for path in Path(work_dir).glob(name)]


class Saved(NamedTuple):
    """A checkpoint that a training can resume from, and what it holds."""

    path: str
    content: dict[str, Any]

    @property
    def meta(self) -> dict[str, Any]:
        """What it says of its place in the training."""
        return self.content['meta']  # type: ignore[no-any-return]

    @property
    def began(self) -> int:
        """When its training was started, in nanoseconds; 0 where it does not say."""
        found = self.meta.get('began')
        return found if isinstance(found, int) else 0


def newest_checkpoint(work_dir: str) -> tuple[Saved | None, list[str]]:
    """Return the checkpoint to resume from, and a line on each that cannot be used.

    Of those that are intact, it is that of the last start, and of the most steps.
    """
    problems = []
    newest: Saved | None = None
    for path in sorted(saved_in(work_dir), key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            saved = read_saved(path)
        except UserError as error:
            problems.append(str(error))
            continue
        if newest is None or (saved.began, saved.meta['iter']) > (newest.began, newest.meta['iter']):
            newest = saved
    return newest, problems


def read_saved(path: str | Path) -> Saved:
    """Read the checkpoint of a training."""
    content = load_checkpoint(path)
    meta = content.get('meta')
    if not isinstance(meta, dict) or 'optimizer' not in content:
        raise UserError(
            f'{path} holds only weights, not the state of a training; '
            f'to start from them: --cfg-options load_from={path}'
        )
    for key, default in {'iter': None, 'epoch': None, 'place': 0, 'seed': 0}.items():
        number = meta.get(key, default)
        if not isinstance(number, int) or not 0 <= number < 2**63:
            raise UserError(f'{path}: damaged: its meta.{key} is {str(number)[:40]}; expected a number')
    return Saved(str(path), content)


def find_checkpoint(work_dir: str, resume: str | None) -> tuple[Saved | None, list[str]]:
    """Return what ``--resume`` means, if anything, and a line on each newer checkpoint that is damaged."""
    if resume != 'auto':
        return (None if resume is None else read_saved(resume)), []
    newest, damaged = newest_checkpoint(work_dir)
    if newest is None and damaged:
        raise UserError(
            f'--resume: no checkpoint of {work_dir} is intact: {"; ".join(damaged)}. '
            'Remove them, or leave --resume out, to start from the beginning'
        )
    return newest, damaged


def resume_with(cfg: Any, resume: str | None, saved: Saved | None) -> None:
    """Set, in place, what a config says of resuming: the seed is the checkpoint's."""
    cfg.resume = False  # the runner gets what to resume from
    if resume is not None:
        cfg.load_from = None
    seed = saved and saved.meta.get('seed')
    if seed is not None:
        cfg.randomness = {**(cfg.get('randomness') or {}), 'seed': seed}


def require_longer(cfg: Any, saved: Saved) -> None:
    """Stop where a training is to be shorter than it already is."""
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
