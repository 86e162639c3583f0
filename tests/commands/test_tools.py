"""The tools as a user calls them: in processes of their own, from another folder."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS

from ghost_det import GhostNet
from ghost_det.config.load import load_config
from ghost_det.config.overrides import use_pretrained
from ghost_det.utils.files import sha256
from ghost_det.weights.catalog import PUBLISHED
from ghost_det.weights.checkpoint import load_checkpoint
from tests.conftest import ROOT

LITE = 'configs/retinanet_ghostnet_fpn_lite.py'
FIGURES = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l', 'AR@1', 'AR@10', 'AR@100', 'AR_s@100')


def tool(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, '-m', 'ghost_det_main', name, *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, cwd=ROOT, timeout=600)


@pytest.fixture(scope='module')
def trained(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A work folder after two short epochs, and what the training printed."""
    folder = tmp_path_factory.mktemp('run')
    done = tool(
        'train', LITE, '--data', sample, '--work-dir', folder, '--epochs', '2', '--batch-size', '4',
        '--pretrained', 'none',
        '--tensorboard', '--auto-scale-lr', '--cfg-options', 'default_hooks.logger.interval=1',
        'model.test_cfg.score_thr=0',
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return folder, done.stdout + done.stderr


def test_training_shows_losses_figures_and_what_comes_next(trained: tuple[Path, str]) -> None:
    folder, printed = trained
    assert 'Epoch(train) [2][2/2]' in printed and 'loss_cls' in printed and 'eta' in printed
    assert all(f'| {name} ' in printed for name in FIGURES)
    assert '| disc ' in printed and '| star ' in printed
    assert 'System environment' not in printed
    for name in ('curves.png', 'detections.png'):
        assert (folder / name).read_bytes().startswith(b'\x89PNG')
        assert str(folder / name) in printed
    assert list(folder.glob('*/vis_data/events.out.tfevents*'))
    commands = (folder / 'commands.txt').read_text()
    assert 'ghost-det test ' in commands and '--resume' in commands


def test_the_printed_commands_evaluate_and_resume(trained: tuple[Path, str]) -> None:
    folder, printed = trained
    lines = [line for line in (folder / 'commands.txt').read_text().splitlines() if 'ghost-det ' in line]
    evaluate, resume, repeat = (shlex.split(line) for line in lines)
    assert all(line in printed for line in lines[:2]) and repeat[-1].startswith('randomness.seed=')
    done = subprocess.run(evaluate, capture_output=True, text=True, cwd=ROOT, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    assert '| AR_l@100 ' in done.stdout + done.stderr
    done = subprocess.run([*resume, '--epochs', '3'], capture_output=True, text=True, cwd=ROOT, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    assert 'resumed epoch: 2' in done.stdout + done.stderr
    assert (folder / 'epoch_3.pth').exists()


def test_a_checkpoint_remembers_its_classes(trained: tuple[Path, str], sample: Path, tmp_path: Path) -> None:
    folder, _ = trained
    checkpoint = folder / 'epoch_2.pth'
    classes = torch.load(checkpoint, weights_only=False)['meta']['dataset_meta']['classes']
    assert classes == ('disc', 'ring', 'square', 'triangle', 'star', 'cross')
    content = json.loads((sample / 'annotations/instances_val2017.json').read_text())
    content['categories'].reverse()
    shuffled = tmp_path / 'val.json'
    shuffled.write_text(json.dumps(content))
    figures = []
    for ann_file in (sample / 'annotations/instances_val2017.json', shuffled):
        done = tool(
            'test', LITE, checkpoint, '--val-ann', ann_file, '--val-images', sample / 'val2017',
            '--work-dir', tmp_path / 'work', '--out', tmp_path / 'out.pkl',
            '--cfg-options', 'model.test_cfg.score_thr=0',
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-4000:]
        figures.append(
            [line for line in done.stdout.splitlines() if line.startswith(('| mAP', '| AR', '| disc'))]
        )
    assert figures[0] == figures[1] and len(figures[0]) == 13
    assert (tmp_path / 'out.pkl').exists()


def test_saved_detections_are_evaluated_again_to_the_last_digit(
    trained: tuple[Path, str], sample: Path, tmp_path: Path
) -> None:
    folder, _ = trained
    done = tool(
        'test', LITE, folder / 'epoch_2.pth', '--data', sample, '--work-dir', tmp_path / 'work',
        '--out', tmp_path / 'saved/out.json', '--json', tmp_path / 'test.json',
        '--cfg-options', 'model.test_cfg.score_thr=0',
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    for name in ('pr_curves', 'confusion', 'errors', 'detections'):
        picture = tmp_path / 'work' / f'{name}.png'
        assert picture.read_bytes().startswith(b'\x89PNG') and str(picture) in done.stdout + done.stderr
    (again,) = (line for line in (done.stdout + done.stderr).splitlines() if 'ghost-det eval ' in line)
    words = shlex.split(again.partition('again')[2])
    done = subprocess.run(
        [*words, '--json', tmp_path / 'eval.json'], capture_output=True, text=True, cwd=ROOT, timeout=600
    )
    assert done.returncode == 0, done.stderr[-4000:]
    first, second = (json.loads((tmp_path / f'{name}.json').read_text()) for name in ('test', 'eval'))
    for content in (first, second):
        content['metrics']['bbox'].pop('seconds')
    assert first['metrics'] == second['metrics'] and first['annotations'] == second['annotations']
    assert sum(first['metrics']['bbox']['errors']['counts'].values()) > 100
    assert first['checkpoint']['sha256'] == sha256(folder / 'epoch_2.pth') and first['config'] == LITE
    images = json.loads((sample / 'annotations/instances_val2017.json').read_text())['images']
    saved = json.loads((tmp_path / 'saved/out.json').read_text())
    assert {each['image_id'] for each in saved} == {image['id'] for image in images}
    assert first['metrics']['bbox']['counts']['detections'] == len(saved)
    done = tool(
        'test', LITE, folder / 'epoch_2.pth', '--data', sample, '--work-dir', tmp_path / 'fast', '--fast',
        '--json', tmp_path / 'fast.json', '--cfg-options', 'model.test_cfg.score_thr=0',
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    fast = json.loads((tmp_path / 'fast.json').read_text())['metrics']['bbox']['figures']
    for name, value in first['metrics']['bbox']['figures'].items():
        assert value is None and fast[name] is None or abs(fast[name] - value) < 2e-3, name


@pytest.mark.parametrize(
    ('name', 'arguments', 'messages'),
    [
        ('train', [LITE], [LITE, 'data/coco', '--data sample', '--data FOLDER']),
        ('train', ['configs/none.py'], ['configs/none.py: no such config file', 'retinanet_ghostnet_fpn.py']),
        ('train', [LITE, '--data', 'nowhere'], ['nowhere: expected a folder', 'got nothing']),
        ('train', [LITE, '--data', 'configs'], ['found no train annotations', 'Roboflow']),
        (
            'train',
            [LITE, '--data', 'sample', '--batch-size', '0'],
            ['--batch-size', "'0': expected an integer from 1 up"],
        ),
        (
            'train',
            [LITE, '--data', 'sample', '--pretrained', 'none', '--cfg-options', 'model.backbone.widht=1'],
            ['cannot be built', 'widht'],
        ),
        ('train', [LITE, '--data', 'sample', '--pretrained', 'ghostnet'], ['expected a checkpoint file']),
        ('train', [LITE, '--cfg-options', 'foo'], ['--cfg-options: expected KEY=VALUE']),
        ('test', [LITE, 'none.pth', '--data', 'sample'], ['none.pth: expected a checkpoint file']),
        ('weights', ['show', 'ghostnet_200'], ['no such published weights', 'ghostnetv2_160']),
        ('weights', ['verify', 'README.md'], ['README.md: not weights']),
        (
            'weights',
            ['extract', 'none.pth', '-o', 'x.safetensors'],
            ['none.pth: expected a checkpoint file'],
        ),
        ('test', [LITE, 'README.md', '--data', 'sample'], ['README.md: not a checkpoint']),
        ('eval', ['README.md', 'none.json'], ['none.json: cannot be read']),
        ('eval', ['README.md', 'README.md'], ['README.md: not json']),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(
    name: str, arguments: list[str], messages: list[str], sample: Path
) -> None:
    done = tool(name, *(sample if word == 'sample' else word for word in arguments))
    assert done.returncode == 2
    assert 'Traceback' not in done.stderr and done.stderr.count('error:') == 1
    for message in messages:
        assert message in done.stderr


def test_a_checkpoint_of_another_detector_is_refused(trained: tuple[Path, str], sample: Path) -> None:
    folder, _ = trained
    done = tool(
        'test', 'configs/faster-rcnn_ghostnet_fpn.py', folder / 'epoch_2.pth', '--data', sample,
        '--work-dir', folder / 'other',
    )  # fmt: skip
    assert done.returncode == 2 and 'Traceback' not in done.stderr
    assert 'does not fit' in done.stderr and '6 classes (disc, ring' in done.stderr


def test_a_trained_backbone_is_extracted_and_starts_another_detector(
    trained: tuple[Path, str], tmp_path: Path
) -> None:
    folder, _ = trained
    out = tmp_path / 'backbone.safetensors'
    done = tool('weights', 'extract', folder / 'epoch_2.pth', '-o', out)
    assert done.returncode == 0, done.stderr
    count = len(GhostNet().state_dict())
    assert f'GhostNet of width 1: {count} of {count} tensors from {out}' in done.stdout
    cfg = load_config(ROOT / 'configs/faster-rcnn_ghostnet_fpn.py')
    use_pretrained(cfg, str(out))
    detector = MODELS.build(cfg.model)
    detector.init_weights()
    for key, value in load_checkpoint(folder / 'epoch_2.pth')['state_dict'].items():
        if key.startswith('backbone.'):
            assert torch.equal(detector.state_dict()[key], value), key


def test_published_weights_are_listed_and_shown() -> None:
    done = tool('weights', 'list')
    assert [line.split()[0] for line in done.stdout.splitlines()[1:]] == list(PUBLISHED)
    done = tool('weights', 'show', 'repghostnet_050')
    assert done.returncode == 0
    for part in (
        'timm/repghostnet_050.in1k',
        PUBLISHED['repghostnet_050'].url,
        'MIT',
        'ghost://repghostnet_050',
    ):
        assert part in done.stdout
