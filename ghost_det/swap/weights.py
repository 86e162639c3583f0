"""The neck and heads of a trained detector, for the same detector with another backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ghost_det.errors import UserError
from ghost_det.utils.files import require_writable, write_or_fail
from ghost_det.weights.checkpoint import differences
from ghost_det.weights.load import read_tensors

from .probe import build_detector


def keep_weights(cfg: Any, checkpoint: str, file: Path) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors of a checkpoint that fit outside of the backbone, and lines on the others.

    ``file``, which is to lie next to the config, becomes its ``load_from``. mmengine loads it after the
    backbone's ``init_cfg``, which it leaves as it is, because it has no tensor of a backbone.
    """
    require_writable(file, '--keep-weights', [Path(checkpoint)])
    found = {key.removeprefix('module.'): value for key, value in read_tensors(checkpoint).items()}
    expected, others = (
        {key: value for key, value in tensors.items() if 'backbone' not in key.split('.')}
        for tensors in (build_detector(cfg.model).state_dict(), found)
    )
    fits = [key for key in expected if key in others and others[key].shape == expected[key].shape]
    if not fits:
        raise UserError(f'--keep-weights {checkpoint}: none of its {len(found)} tensors fits neck or heads')
    cfg.load_from = '{{ fileDirname }}/' + file.name
    unknown = len(others.keys() - expected.keys())
    left_out = f'{len(found) - len(others)} of the old backbone' + (f', {unknown} unknown' if unknown else '')
    lines = [f'kept: {len(fits)} of {len(expected)} tensors of neck and heads; left out: {left_out}']
    lines += [f'not kept: {problem}' for problem in differences(expected, others)]
    return {key: others[key].clone() for key in fits}, lines


def write_weights(tensors: dict[str, Tensor], file: Path) -> None:
    """Write a file in torch's format, the only one that mmengine's ``load_from`` reads."""
    # As a stream, because torch refuses the hidden name of the temporary file.
    with write_or_fail(file, '--keep-weights') as partial, partial.open('wb') as stream:
        torch.save({'state_dict': tensors}, stream)
