"""A training, its evaluations and its weights, by the commands that a user types."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from mmdet.registry import MODELS

from ghost_det import GhostNet
from ghost_det.config.load import load_config
from ghost_det.config.overrides import use_pretrained
from ghost_det.utils.files import sha256
from ghost_det.weights.catalog import PUBLISHED
from ghost_det.weights.checkpoint import load_checkpoint
from tests.conftest import ROOT, Cli

LITE = 'configs/retinanet_ghostnet_fpn_lite.py'
FIGURES = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l', 'AR@1', 'AR@10', 'AR@100', 'AR_s@100')
ALL_BOXES = ['--cfg-options', 'model.test_cfg.score_thr=0']


@pytest.fixture(scope='module')
def trained(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A work folder after two short epochs, and what the training printed, in a process of its own."""
    folder = tmp_path_factory.mktemp('run')
    words = ['train', LITE, '--data', sample, '--work-dir', folder, '--epochs', '2', '--batch-size', '4']
    words += ['--pretrained', 'none', '--tensorboard', '--auto-scale-lr', *ALL_BOXES]
    done = subprocess.run(
        [sys.executable, '-m', 'ghost_det_main', *words, 'default_hooks.logger.interval=1'],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return folder, done.stdout + done.stderr


def run(cli: Cli, *words: str | Path) -> str:
    done = cli('', *words)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout + done.stderr


def test_training_prints_losses_figures_and_what_comes_next(trained: tuple[Path, str], cli: Cli) -> None:
    folder, printed = trained
    assert 'Epoch(train) [2][2/2]' in printed and 'loss_cls' in printed and 'eta' in printed
    assert all(f'| {name} ' in printed for name in FIGURES)
    assert '| disc ' in printed and '| star ' in printed
    assert 'System environment' not in printed
    for name in ('curves.png', 'detections.png'):
        assert (folder / name).read_bytes().startswith(b'\x89PNG')
        assert str(folder / name) in printed
    assert list(folder.glob('*/vis_data/events.out.tfevents*'))
    lines = [line for line in (folder / 'commands.txt').read_text().splitlines() if line[:1] != '#' and line]
    evaluate, resume, repeat = (shlex.split(line) for line in lines)
    assert all(line in printed for line in lines[:2]) and repeat[-1].startswith('randomness.seed=')
    assert '| AR_l@100 ' in run(cli, *evaluate[1:])
    assert 'resumed epoch: 2' in run(cli, *resume[1:], '--epochs', '3')
    assert (folder / 'epoch_3.pth').exists()


def test_a_checkpoint_remembers_its_classes(
    trained: tuple[Path, str], sample: Path, tmp_path: Path, cli: Cli
) -> None:
    checkpoint = trained[0] / 'epoch_2.pth'
    classes = load_checkpoint(checkpoint)['meta']['dataset_meta']['classes']
    assert tuple(classes) == ('disc', 'ring', 'square', 'triangle', 'star', 'cross')
    content = json.loads((sample / 'annotations/instances_val2017.json').read_text())
    content['categories'].reverse()
    shuffled = tmp_path / 'val.json'
    shuffled.write_text(json.dumps(content))
    figures = []
    for ann_file in (sample / 'annotations/instances_val2017.json', shuffled):
        words = ['test', LITE, checkpoint, '--val-ann', ann_file, '--val-images', sample / 'val2017']
        printed = run(cli, *words, '--work-dir', tmp_path / 'work', '--out', tmp_path / 'out.pkl', *ALL_BOXES)
        starts = ('| mAP', '| AR', '| disc')
        figures.append([line for line in printed.splitlines() if line.startswith(starts)])
    assert figures[0] == figures[1] and len(figures[0]) == 13
    assert (tmp_path / 'out.pkl').exists()


def test_saved_detections_have_the_same_figures_and_fused_norms_nearly(
    trained: tuple[Path, str], sample: Path, tmp_path: Path, cli: Cli
) -> None:
    checkpoint = trained[0] / 'epoch_2.pth'

    def evaluate(name: str, *words: str | Path) -> tuple[str, Any]:
        file = tmp_path / f'{name}.json'
        printed = run(cli, *words, '--json', file)
        return printed, json.loads(file.read_text())

    words = ['test', LITE, checkpoint, '--data', sample, '--work-dir', tmp_path / 'work', *ALL_BOXES]
    printed, first = evaluate('test', *words, '--out', tmp_path / 'saved/out.json')
    for name in ('pr_curves', 'confusion', 'errors', 'detections'):
        picture = tmp_path / 'work' / f'{name}.png'
        assert picture.read_bytes().startswith(b'\x89PNG') and str(picture) in printed
    (again,) = (line for line in printed.splitlines() if 'ghost-det eval ' in line)
    _, second = evaluate('eval', *shlex.split(again.partition('ghost-det ')[2]))
    _, fast = evaluate('fast', *words, '--fast')
    for content in (first, second):
        content['metrics']['bbox'].pop('seconds')
    assert first['metrics'] == second['metrics'] and first['annotations'] == second['annotations']
    assert sum(first['metrics']['bbox']['errors']['counts'].values()) > 100
    assert first['checkpoint']['sha256'] == sha256(checkpoint) and first['config'] == LITE
    images = json.loads((sample / 'annotations/instances_val2017.json').read_text())['images']
    saved = json.loads((tmp_path / 'saved/out.json').read_text())
    assert {each['image_id'] for each in saved} == {image['id'] for image in images}
    assert first['metrics']['bbox']['counts']['detections'] == len(saved)
    for name, value in first['metrics']['bbox']['figures'].items():
        fused = fast['metrics']['bbox']['figures'][name]
        assert value is None and fused is None or abs(fused - value) < 2e-3, name


def test_a_checkpoint_of_another_detector_is_refused(
    trained: tuple[Path, str], sample: Path, tmp_path: Path, cli: Cli
) -> None:
    words = ['test', 'configs/faster-rcnn_ghostnet_fpn.py', trained[0] / 'epoch_2.pth', '--data', sample]
    done = cli('', *words, '--work-dir', tmp_path)
    assert done.returncode == 2 and 'Traceback' not in done.stderr
    assert 'does not fit' in done.stderr and '6 classes (disc, ring' in done.stderr


def test_a_trained_backbone_is_extracted_and_starts_another_detector(
    trained: tuple[Path, str], tmp_path: Path, cli: Cli
) -> None:
    checkpoint = trained[0] / 'epoch_2.pth'
    out = tmp_path / 'backbone.safetensors'
    printed = run(cli, 'weights', 'extract', checkpoint, '-o', out)
    count = len(GhostNet().state_dict())
    assert f'GhostNet of width 1: {count} of {count} tensors from {out}' in printed
    cfg = load_config(ROOT / 'configs/faster-rcnn_ghostnet_fpn.py')
    use_pretrained(cfg, str(out))
    detector = MODELS.build(cfg.model)
    detector.init_weights()
    for key, value in load_checkpoint(checkpoint)['state_dict'].items():
        if key.startswith('backbone.'):
            assert torch.equal(detector.state_dict()[key], value), key


def test_published_weights_are_listed_and_shown(cli: Cli) -> None:
    printed = run(cli, 'weights', 'list')
    assert [line.split()[0] for line in printed.splitlines()[1:]] == list(PUBLISHED)
    printed = run(cli, 'weights', 'show', 'repghostnet_050')
    for part in (
        'timm/repghostnet_050.in1k',
        PUBLISHED['repghostnet_050'].url,
        'MIT',
        'ghost://repghostnet_050',
    ):
        assert part in printed
