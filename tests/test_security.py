"""A pickle that would run code, in each place where a checkpoint can be given: it is never run."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path

import pytest
import torch
from mmengine.runner import CheckpointLoader
from mmengine.runner import checkpoint as checkpoints
from torchvision.models import ResNet18_Weights

from ghost_det.engine.loading import safe_loading
from ghost_det.errors import UserError
from ghost_det.weights.checkpoint import load_checkpoint
from tests.conftest import ROOT, Cli
from tests.weights.test_checkpoint import canary

LITE = str(ROOT / 'configs/retinanet_ghostnet_fpn_lite.py')
NAMES = {
    'LITE': LITE,
    'IMAGE': str(ROOT / 'docs/detections.jpg'),
    'OPTIONS': '--data SAMPLE --pretrained none --cfg-options train_dataloader.num_workers=0',
}
INIT = "init_cfg=dict(type='Pretrained', checkpoint='PATH')"
RESNET = f"dict(_delete_=True, type='ResNet', depth=18, {INIT}), neck=dict(in_channels=[64, 128, 256, 512])"
CONFIGS = {
    'resnet.py': (LITE, f'model = dict(backbone={RESNET})'),
    'detector.py': (LITE, f'model = dict({INIT})'),
    'ema.py': (LITE, "custom_hooks = [dict(type='EMAHook')]"),
    'teacher.py': (
        'mmdet::ld/ld_r18-gflv1-r101_fpn_1x_coco.py',
        f"model = dict(backbone=dict(init_cfg=None), teacher_config='{LITE}', teacher_ckpt='PATH')",
    ),
}


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    """A checkpoint that creates the folder `executed` next to it if it is unpickled."""
    content = {
        'state_dict': {'backbone.conv_stem.weight': torch.zeros(16, 3, 3, 3)},
        'ema_state_dict': {'x': canary(tmp_path / 'executed')},
        'meta': {},
        'optimizer': {},
    }
    path = tmp_path / 'epoch_1.pth'
    torch.save(content, path)
    (tmp_path / 'last_checkpoint').write_text(str(path))
    cache = tmp_path / 'hub/checkpoints'
    cache.mkdir(parents=True)
    for name in (Path(ResNet18_Weights.DEFAULT.url).name, 'canary-01234567.pth'):
        (cache / name).write_bytes(path.read_bytes())
    for name, (base, text) in CONFIGS.items():
        (tmp_path / name).write_text(f'_base_ = {base!r}\n{text.replace("PATH", str(path))}\n')
    return path


@pytest.mark.parametrize(
    'line',
    [
        'test LITE PATH --data SAMPLE',
        'test ema.py PATH --data SAMPLE',
        'train LITE --data SAMPLE --resume PATH',
        'train LITE --data SAMPLE --resume --work-dir .',
        'train LITE --data SAMPLE --pretrained PATH',
        'train LITE OPTIONS load_from=PATH',
        'train resnet.py --data SAMPLE',
        'train detector.py OPTIONS',
        'train teacher.py --data SAMPLE',
        'weights extract PATH -o out.safetensors',
        'classify IMAGE --pretrained PATH',
        'visualize redundancy resnet18 IMAGE -o x.png',
    ],
)
def test_a_checkpoint_is_never_executed(line: str, trap: Path, sample: Path, cli: Cli) -> None:
    for name, value in {**NAMES, 'PATH': str(trap), 'SAMPLE': str(sample)}.items():
        line = line.replace(name, value)
    done = cli(line, cwd=trap.parent, TORCH_HOME=str(trap.parent))
    printed = done.stdout + done.stderr
    assert not (trap.parent / 'executed').exists()
    assert done.returncode == 2 and 'Traceback' not in printed, printed[-3000:]
    assert 'mkdir' in printed and ('refused' in printed or 'unsafe' in printed)


def test_a_config_within_a_checkpoint_does_not_reach_mmengine(tmp_path: Path) -> None:
    """When it resumes, it runs the text in ``meta['config']``."""
    torch.save({'meta': {'config': 'import os', 'iter': 1}, 'state_dict': {}}, tmp_path / 'old.pth')
    with safe_loading():
        for read in (CheckpointLoader.load_checkpoint, load_checkpoint):
            assert read(str(tmp_path / 'old.pth'))['meta'] == {'iter': 1}


def test_what_mmengine_fetches_is_never_executed(trap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cache stands for a server; object stores go through one function of the fork."""
    monkeypatch.setenv('TORCH_HOME', str(trap.parent))
    monkeypatch.setenv('MMENGINE_HOME', str(trap.parent))
    (trap.parent / 'checkpoints').symlink_to('hub/checkpoints')
    (trap.parent / 'open_mmlab.json').write_text(json.dumps({'canary': trap.name}))
    with safe_loading():
        for address in (
            'https://host.invalid/canary-01234567.pth',
            'open-mmlab://canary',
            'openmmlab://canary',
        ):
            with pytest.raises((UserError, pickle.UnpicklingError), match='refused|Weights only'):
                CheckpointLoader.load_checkpoint(address)
        if hasattr(checkpoints, '_safe_torch_load'):
            with pytest.raises(UserError, match='refused'):
                checkpoints._safe_torch_load(io.BytesIO(trap.read_bytes()))
    assert not (trap.parent / 'executed').exists()
    torch.load(trap, weights_only=False)
    assert (trap.parent / 'executed').is_dir()  # the trap works where pickles are run


def test_mmengine_s_reader_is_replaced_only_while_we_read(trap: Path) -> None:
    before = {**vars(checkpoints), **CheckpointLoader._schemes}
    with pytest.raises(UserError, match='refused'), safe_loading():
        CheckpointLoader.load_checkpoint(str(trap))
    assert {**vars(checkpoints), **CheckpointLoader._schemes} == before
    known = {'weights': torch.zeros(1)}
    with safe_loading({str(trap): known}):
        assert CheckpointLoader.load_checkpoint(str(trap)) is known
        with pytest.raises(UserError, match='refused'):  # handed out once
            CheckpointLoader.load_checkpoint(str(trap))
