"""A pickle that would run code, in each place where a checkpoint can be given: it is never run."""

from __future__ import annotations

import io
import json
import os
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
from tests.commands.bad_inputs import LITE
from tests.commands.test_bad_input import place, run_here  # noqa: F401
from tests.conftest import ROOT

TEACHER = 'mmdet::ld/ld_r18-gflv1-r101_fpn_1x_coco.py'
ALONE = ['--pretrained', 'none', '--cfg-options', 'train_dataloader.num_workers=0']


class Canary:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def canary(place: Path) -> Path:  # noqa: F811
    """A checkpoint that makes the folder `executed` beside it, if it is unpickled."""
    content = {
        'state_dict': {'backbone.conv_stem.weight': torch.zeros(16, 3, 3, 3)},
        'ema_state_dict': {'x': Canary(place / 'executed')},
        'meta': {},
        'optimizer': {},
    }
    torch.save(content, place / 'epoch_1.pth')
    (place / 'last_checkpoint').write_text(str(place / 'epoch_1.pth'))
    return place / 'epoch_1.pth'


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
    'test.py CHECKPOINT': lambda path: ['test', LITE, str(path), '--data', 'SAMPLE'],
    'train.py --resume CHECKPOINT': lambda path: ['train', LITE, '--data', 'SAMPLE', '--resume', str(path)],
    'train.py --resume, from last_checkpoint': lambda path: [
        *('train', LITE, '--data', 'SAMPLE', '--resume', '--work-dir', str(path.parent))
    ],
    'load_from': lambda path: ['train', LITE, '--data', 'SAMPLE', *ALONE, f'load_from={path}'],
    'train.py --pretrained': lambda path: ['train', LITE, '--data', 'SAMPLE', '--pretrained', str(path)],
    'train.py --backbone --pretrained': lambda path: [
        *('train', LITE, '--data', 'SAMPLE', '--backbone', 'GhostNetV2', '--pretrained', str(path))
    ],
    'init_cfg of a Ghost backbone': lambda path: [
        *('train', child(path, LITE, init(path, '')), '--data', 'SAMPLE')
    ],
    "init_cfg of mmdet's ResNet": lambda path: [
        *('train', child(path, LITE, init(path, RESNET) + RESNET_NECK), '--data', 'SAMPLE')
    ],
    'init_cfg of the detector': lambda path: [
        *('train', child(path, LITE, init(path, 'model')), '--data', 'SAMPLE', *ALONE)
    ],
    'EMA': lambda path: [
        *('test', child(path, LITE, "custom_hooks = [dict(type='EMAHook')]"), str(path), '--data', 'SAMPLE')
    ],
    'teacher_ckpt, train.py': lambda path: ['train', teacher(path), '--data', 'SAMPLE'],
    'teacher_ckpt, complexity.py': lambda path: ['complexity', teacher(path)],
    'teacher_ckpt, swap.py': lambda path: ['swap', teacher(path)],
    'weights.py verify': lambda path: ['weights', 'verify', str(path)],
    'weights.py extract': lambda path: ['weights', 'extract', str(path), '-o', 'out.safetensors'],
    'classify.py --pretrained': lambda path: [
        *('classify', str(ROOT / 'docs/detections.jpg'), '--pretrained', str(path))
    ],
    'swap.py --pretrained': lambda path: ['swap', LITE, '--pretrained', str(path)],
}
NOT_READ = ('swap.py --pretrained', 'teacher_ckpt, swap.py', 'teacher_ckpt, complexity.py')


def test_torchvision_weights_are_never_executed(
    canary: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    cached = canary.parent / 'hub/checkpoints' / Path(ResNet18_Weights.DEFAULT.url).name
    cached.parent.mkdir(parents=True)
    cached.write_bytes(canary.read_bytes())
    monkeypatch.setenv('TORCH_HOME', str(canary.parent))
    image = str(ROOT / 'docs/detections.jpg')
    assert run_here('visualize', ['redundancy', 'resnet18', image, '-o', 'x.png'], monkeypatch) == 2
    assert 'refused' in capfd.readouterr().err and not (canary.parent / 'executed').exists()


def teacher(path: Path) -> str:
    return child(path, TEACHER, TEACHES.format(LITE, str(path)))


@pytest.mark.parametrize('name', PLACES)
def test_a_checkpoint_is_never_executed(
    name: str, canary: Path, sample: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    tool, *words = (str(sample) if word == 'SAMPLE' else word for word in PLACES[name](canary))
    code = run_here(tool, words, monkeypatch)
    printed = ''.join(capfd.readouterr())
    assert not (canary.parent / 'executed').exists()
    if name not in NOT_READ:
        assert code == 2 and 'Traceback' not in printed, printed[-3000:]
        assert 'mkdir' in printed and ('refused' in printed or 'unsafe' in printed)


def test_the_canary_sings_where_pickles_are_run(canary: Path) -> None:
    torch.load(canary, weights_only=False)
    assert (canary.parent / 'executed').is_dir()


def test_a_config_within_a_checkpoint_does_not_reach_mmengine(tmp_path: Path) -> None:
    """When it resumes, it runs the text in ``meta['config']``."""
    torch.save({'meta': {'config': 'import os', 'iter': 1}, 'state_dict': {}}, tmp_path / 'old.pth')
    with safe_loading():
        for read in (CheckpointLoader.load_checkpoint, load_checkpoint):
            assert read(str(tmp_path / 'old.pth'))['meta'] == {'iter': 1}


def test_from_python(canary: Path) -> None:
    for entry in (ghost_det.ghostnet_1x, ghost_det.repghostnet_050):
        with pytest.raises(UserError, match='refused'):
            entry(pretrained=str(canary))
    assert not (canary.parent / 'executed').exists()


def test_what_mmengine_fetches(canary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cache stands for a server; object stores go through one function of the fork."""
    monkeypatch.setenv('TORCH_HOME', str(canary.parent / 'torch'))
    monkeypatch.setenv('MMENGINE_HOME', str(canary.parent))
    for folder in ('torch/checkpoints', 'torch/hub/checkpoints'):
        (canary.parent / folder).mkdir(parents=True)
        (canary.parent / folder / 'canary.pth').write_bytes(canary.read_bytes())
    (canary.parent / 'open_mmlab.json').write_text(json.dumps({'canary': canary.name}))
    with safe_loading():
        for address in ('https://host.invalid/canary.pth', 'open-mmlab://canary', 'openmmlab://canary'):
            with pytest.raises((UserError, pickle.UnpicklingError), match='refused|Weights only'):
                CheckpointLoader.load_checkpoint(address)
        if hasattr(checkpoints, '_safe_torch_load'):
            with pytest.raises(UserError, match='refused'):
                checkpoints._safe_torch_load(io.BytesIO(canary.read_bytes()))
    assert not (canary.parent / 'executed').exists()


def test_mmengine_s_reader_is_replaced_only_while_we_read(canary: Path) -> None:
    def readers() -> list[Any]:
        names = ('_safe_torch_load', 'load_url')
        return [getattr(checkpoints, name, None) for name in names] + [dict(CheckpointLoader._schemes)]

    before = readers()
    with pytest.raises(UserError, match='refused'), safe_loading():
        assert all(now is None or now is not old for now, old in zip(readers(), before))
        CheckpointLoader.load_checkpoint(str(canary))
    assert readers() == before
    known = {'weights': torch.zeros(1)}
    with safe_loading({str(canary): known}):
        assert CheckpointLoader.load_checkpoint(str(canary)) is known
        with pytest.raises(UserError, match='refused'):  # handed out once
            CheckpointLoader.load_checkpoint(str(canary))
