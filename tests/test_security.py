"""A pickle that would run code, in each place where a checkpoint can be given: it is never run."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.runner import CheckpointLoader
from mmengine.runner import checkpoint as checkpoints
from torchvision.models import ResNet18_Weights

import ghost_det
from ghost_det.engine.loading import safe_loading
from ghost_det.errors import UserError
from ghost_det.weights.checkpoint import load_checkpoint
from tests.conftest import ROOT, Cli
from tests.weights.test_checkpoint import canary

LITE = str(ROOT / 'configs/retinanet_ghostnet_fpn_lite.py')
TEACHER = 'mmdet::ld/ld_r18-gflv1-r101_fpn_1x_coco.py'
TRAIN = ['--data', 'SAMPLE', '--pretrained', 'none', '--cfg-options', 'train_dataloader.num_workers=0']
IMAGE = str(ROOT / 'docs/detections.jpg')


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    """A checkpoint that creates the folder `executed` next to it if it is unpickled."""
    content = {
        'state_dict': {'backbone.conv_stem.weight': torch.zeros(16, 3, 3, 3)},
        'ema_state_dict': {'x': canary(tmp_path / 'executed')},
        'meta': {},
        'optimizer': {},
    }
    torch.save(content, tmp_path / 'epoch_1.pth')
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_1.pth'))
    return tmp_path / 'epoch_1.pth'


def child(path: Path, base: str, text: str) -> str:
    config = path.parent / 'child.py'
    config.write_text(f'_base_ = {base!r}\n{text}\n')
    return str(config)


def init(path: Path, part: str) -> str:
    weights = f"init_cfg=dict(type='Pretrained', checkpoint={str(path)!r})"
    return f'model = dict({weights})' if part == 'model' else f'model = dict(backbone=dict({part}{weights}))'


RESNET_NECK = "\nmodel['neck'] = dict(in_channels=[64, 128, 256, 512])"
RESNET = "_delete_=True, type='ResNet', depth=18, "
TEACHES = "model = dict(backbone=dict(init_cfg=None), teacher_config='{}', teacher_ckpt={!r})"
PLACES: dict[str, Callable[[Path], list[str]]] = {
    'test CHECKPOINT': lambda path: ['test', LITE, str(path), '--data', 'SAMPLE'],
    'train --resume CHECKPOINT': lambda path: ['train', LITE, '--data', 'SAMPLE', '--resume', str(path)],
    'train --resume': lambda path: [
        *('train', LITE, '--data', 'SAMPLE', '--resume', '--work-dir', str(path.parent))
    ],
    'load_from': lambda path: ['train', LITE, *TRAIN, f'load_from={path}'],
    'train --pretrained': lambda path: ['train', LITE, '--data', 'SAMPLE', '--pretrained', str(path)],
    "init_cfg of mmdet's ResNet": lambda path: [
        *('train', child(path, LITE, init(path, RESNET) + RESNET_NECK), '--data', 'SAMPLE')
    ],
    'init_cfg of the detector': lambda path: ['train', child(path, LITE, init(path, 'model')), *TRAIN],
    'EMA': lambda path: [
        *('test', child(path, LITE, "custom_hooks = [dict(type='EMAHook')]"), str(path), '--data', 'SAMPLE')
    ],
    'teacher_ckpt': lambda path: [
        *('train', child(path, TEACHER, TEACHES.format(LITE, str(path))), '--data', 'SAMPLE')
    ],
    'weights extract': lambda path: ['weights', 'extract', str(path), '-o', 'out.safetensors'],
    'classify --pretrained': lambda path: ['classify', IMAGE, '--pretrained', str(path)],
}


@pytest.mark.parametrize('name', PLACES)
def test_a_checkpoint_is_never_executed(name: str, trap: Path, sample: Path, cli: Cli) -> None:
    words = (str(sample) if word == 'SAMPLE' else word for word in PLACES[name](trap))
    done = cli('', *words, cwd=trap.parent)
    printed = done.stdout + done.stderr
    assert not (trap.parent / 'executed').exists()
    assert done.returncode == 2 and 'Traceback' not in printed, printed[-3000:]
    assert 'mkdir' in printed and ('refused' in printed or 'unsafe' in printed)


def test_weights_of_torchvision_are_never_executed(trap: Path, cli: Cli) -> None:
    cached = trap.parent / 'hub/checkpoints' / Path(ResNet18_Weights.DEFAULT.url).name
    cached.parent.mkdir(parents=True)
    cached.write_bytes(trap.read_bytes())
    words = ['visualize', 'redundancy', 'resnet18', IMAGE, '-o', 'x.png']
    done = cli('', *words, cwd=trap.parent, TORCH_HOME=str(trap.parent))
    assert done.returncode == 2 and 'refused' in done.stderr and not (trap.parent / 'executed').exists()


def test_the_trap_works_where_pickles_are_run(trap: Path) -> None:
    torch.load(trap, weights_only=False)
    assert (trap.parent / 'executed').is_dir()


def test_a_config_within_a_checkpoint_does_not_reach_mmengine(tmp_path: Path) -> None:
    """When it resumes, it runs the text in ``meta['config']``."""
    torch.save({'meta': {'config': 'import os', 'iter': 1}, 'state_dict': {}}, tmp_path / 'old.pth')
    with safe_loading():
        for read in (CheckpointLoader.load_checkpoint, load_checkpoint):
            assert read(str(tmp_path / 'old.pth'))['meta'] == {'iter': 1}


def test_from_python(trap: Path) -> None:
    with pytest.raises(UserError, match='refused'):
        ghost_det.ghostnet_1x(pretrained=str(trap))
    assert not (trap.parent / 'executed').exists()


def test_what_mmengine_fetches(trap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cache stands for a server; object stores go through one function of the fork."""
    monkeypatch.setenv('TORCH_HOME', str(trap.parent / 'torch'))
    monkeypatch.setenv('MMENGINE_HOME', str(trap.parent))
    for folder in ('torch/checkpoints', 'torch/hub/checkpoints'):
        (trap.parent / folder).mkdir(parents=True)
        (trap.parent / folder / 'canary.pth').write_bytes(trap.read_bytes())
    (trap.parent / 'open_mmlab.json').write_text(json.dumps({'canary': trap.name}))
    with safe_loading():
        for address in ('https://host.invalid/canary.pth', 'open-mmlab://canary', 'openmmlab://canary'):
            with pytest.raises((UserError, pickle.UnpicklingError), match='refused|Weights only'):
                CheckpointLoader.load_checkpoint(address)
        if hasattr(checkpoints, '_safe_torch_load'):
            with pytest.raises(UserError, match='refused'):
                checkpoints._safe_torch_load(io.BytesIO(trap.read_bytes()))
    assert not (trap.parent / 'executed').exists()


def test_mmengine_s_reader_is_replaced_only_while_we_read(trap: Path) -> None:
    def readers() -> list[Any]:
        names = ('_safe_torch_load', 'load_url')
        return [getattr(checkpoints, name, None) for name in names] + [dict(CheckpointLoader._schemes)]

    before = readers()
    with pytest.raises(UserError, match='refused'), safe_loading():
        assert all(now is None or now is not old for now, old in zip(readers(), before))
        CheckpointLoader.load_checkpoint(str(trap))
    assert readers() == before
    known = {'weights': torch.zeros(1)}
    with safe_loading({str(trap): known}):
        assert CheckpointLoader.load_checkpoint(str(trap)) is known
        with pytest.raises(UserError, match='refused'):  # handed out once
            CheckpointLoader.load_checkpoint(str(trap))
