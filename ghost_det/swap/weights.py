"""What an old detector learned in its neck and heads, for the same detector with another backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ghost_det.errors import UserError
from ghost_det.utils.files import require_writable, write_or_fail
from ghost_det.weights.checkpoint import differences
from ghost_det.weights.load import read_tensors

from .probe import build_detector

_LISTED = 20


class Kept(NamedTuple):
    """The tensors of a checkpoint that a detector with another backbone takes over, and the others."""

    file: Path
    tensors: dict[str, Tensor]
    total: int  # of the detector's, without its backbone
    problems: list[str]  # why the rest of them is not there
    left_out: str

    def write(self) -> None:
        """Write the file in torch's format, the only one that mmengine's ``load_from`` reads."""
        with write_or_fail(self.file, '--keep-weights') as partial:
            with partial.open('wb') as file:  # by its hidden name, torch would refuse it
                torch.save({'state_dict': self.tensors}, file)

    def __str__(self) -> str:
        count = f'{len(self.tensors)} of {self.total} tensors of neck and heads'
        lines = [f'kept: {count}, in {self.file}; {self.left_out}']
        lines += [f'not kept: {problem}' for problem in self.problems[:_LISTED]]
        more = len(self.problems) - _LISTED
        return '\n'.join([*lines, *([f'not kept: {more} more'] if more > 0 else [])])


def keep_weights(cfg: Any, checkpoint: str, out: str) -> Kept:
    """Read the tensors that fit a swapped detector outside of its backbone; make them its ``load_from``.

    mmengine loads that file after the backbone's ``init_cfg``, which it leaves as it is. It lies next to the
    config ``out``, and is found there from any folder.
    """
    file = Path(out).with_suffix('.kept.pth')
    require_writable(file, '--keep-weights', [Path(checkpoint)])
    found = {key.removeprefix('module.'): value for key, value in read_tensors(checkpoint).items()}
    state = build_detector(cfg.model).state_dict()
    expected, others = (
        {key: value for key, value in tensors.items() if 'backbone' not in key.split('.')}
        for tensors in (state, found)
    )
    tensors = {
        key: others[key].clone()
        for key, value in expected.items()
        if key in others and others[key].shape == value.shape
    }
    if not tensors:
        raise UserError(f'--keep-weights {checkpoint}: none of its {len(found)} tensors fits neck or heads')
    backbone, unknown = len(found) - len(others), len(others.keys() - expected.keys())
    cfg.load_from = '{{ fileDirname }}/' + file.name
    left_out = f'left out: {backbone} of the old backbone' + (f', {unknown} unknown' if unknown else '')
    return Kept(file, tensors, len(expected), differences(expected, others), left_out)
