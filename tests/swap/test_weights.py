from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.registry import DefaultScope

from ghost_det.config.shipped import mmdet_folder
from ghost_det.data.dataset import find_data, use_data
from ghost_det.errors import UserError
from ghost_det.models import GhostNet
from ghost_det.swap.probe import build_detector
from ghost_det.swap.swap import swap
from ghost_det.swap.weights import keep_weights
from ghost_det.weights.checkpoint import load_checkpoint
from tests.conftest import ROOT, Cli

from .test_swap import small

THEIR_TRAIN = mmdet_folder().with_name('tools') / 'train.py'


def make_old(path: Path) -> dict[str, torch.Tensor]:
    """Save a checkpoint of a small detector with ResNet, and return its weights."""
    DefaultScope.get_instance('ghost_det_tests', scope_name='mmdet')
    state = build_detector(small().model).state_dict()
    weights = {key: torch.randn(value.shape) for key, value in state.items()}
    torch.save({'meta': {}, 'state_dict': {f'module.{key}': value for key, value in weights.items()}}, path)
    return weights


def test_mmdet_s_own_train_py_loads_what_was_kept_and_the_backbone_s_weights(
    cli: Cli, tmp_path: Path, sample: Path
) -> None:
    old = make_old(tmp_path / 'old.pth')
    backbone = GhostNet(out_indices=(0, 1, 2, 3)).state_dict()
    torch.save(backbone, tmp_path / 'ghostnet.pth')
    cfg = small()
    use_data(cfg, find_data(sample), tmp_path)  # of 6 classes; the old detector knows one
    cfg.train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=1, val_interval=2)
    cfg.optim_wrapper.optimizer.update(lr=0.0, weight_decay=0.0)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
    cfg.model.backbone.init_cfg = None
    cfg.dump(tmp_path / 'base.py')
    words = f'swap base.py -o configs/mine.py --pretrained {tmp_path}/ghostnet.pth --keep-weights old.pth'
    done = cli(words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = re.search(r'kept: (\d+) of (\d+) .*left out: (\d+) of the old backbone\n', done.stdout)
    assert said, done.stdout
    total = sum(not key.startswith('backbone.') for key in old)
    refused = re.findall('^not kept: (.*)$', done.stdout, re.MULTILINE)
    # The neck's first convolutions take other channels, and the head's last one has other classes.
    assert [line.split(':')[0] for line in refused] == [
        *(f'neck.lateral_convs.{i}.conv.weight' for i in range(3)),
        'neck.fpn_convs.3.conv.weight',  # add_extra_convs='on_input'
        *(f'bbox_head.retina_cls.{each}' for each in ('weight', 'bias')),
    ]
    assert [*map(int, said.groups())] == [total - 6, total, len(old) - total]
    kept = torch.load(tmp_path / 'configs/mine.kept.pth', weights_only=True)['state_dict']
    assert len(kept) == total - 6 and not any('backbone' in key for key in kept)
    other = tmp_path / 'elsewhere'
    other.mkdir()
    words = [sys.executable, str(THEIR_TRAIN), '../configs/mine.py', '--work-dir', 'out']
    env = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
    trained = subprocess.run(words, cwd=other, env=env, capture_output=True, text=True)
    assert trained.returncode == 0, trained.stderr[-3000:]
    assert 'tensors from' in trained.stdout + trained.stderr  # our line on the backbone's weights
    after = load_checkpoint(other / 'out/epoch_1.pth')['state_dict']
    start = {**{f'backbone.{key}': value for key, value in backbone.items()}, **kept}
    learned = {key for key in start if not re.search('running_|num_batches', key)}
    assert len(learned) > 250 and not [key for key in learned if not after[key].equal(start[key])]
    assert {key for key in after if not key.startswith('backbone.')} - kept.keys() == {
        line.split(':')[0] for line in refused
    }


def test_a_checkpoint_that_fits_nothing_and_an_input_as_output_are_refused(tmp_path: Path) -> None:
    swapped = swap(small(), 'GhostNet', 'none')
    torch.save({'neck.gone': torch.zeros(1)}, tmp_path / 'other.pth')
    with pytest.raises(UserError, match='none of its 1 tensors fits'):
        keep_weights(swapped.config, str(tmp_path / 'other.pth'), tmp_path / 'mine.kept.pth')
    make_old(tmp_path / 'mine.kept.pth')
    with pytest.raises(UserError, match='would replace an input'):
        keep_weights(swapped.config, str(tmp_path / 'mine.kept.pth'), tmp_path / 'mine.kept.pth')
