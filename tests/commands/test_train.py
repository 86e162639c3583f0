"""A training, its evaluations and its weights, by the commands that a user types."""

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from mmdet.registry import MODELS

from ghost_det import GhostNet
from ghost_det.config.load import load_config
from ghost_det.config.overrides import use_pretrained
from ghost_det.utils.files import sha256
from ghost_det.weights.catalog import PUBLISHED, SHIPPED
from ghost_det.weights.checkpoint import load_checkpoint
from tests.conftest import ROOT, Cli, Training

pytestmark = pytest.mark.usefixtures('sooner')
LITE = 'configs/retinanet_ghostnet_fpn_lite.py'
FIGURES = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l', 'AR@1', 'AR@10', 'AR@100', 'AR_s@100')
ALL_BOXES = ['--cfg-options', 'model.test_cfg.score_thr=0']


def run(cli: Cli, *words: str | Path) -> str:
    done = cli('', *words)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout + done.stderr


def test_training_prints_losses_figures_and_what_comes_next(
    trained: Training, tmp_path: Path, cli: Cli
) -> None:
    folder, printed = trained.folder, trained.printed
    assert 'Epoch(train) [2][2/2]' in printed and 'loss_cls' in printed and 'eta' in printed
    assert all(f'| {name} ' in printed for name in FIGURES)
    assert '| disc ' in printed and '| star ' in printed
    for name in ('curves.png', 'detections.png'):
        assert (folder / name).read_bytes().startswith(b'\x89PNG') and str(folder / name) in printed
    assert list(folder.glob('*/vis_data/events.out.tfevents*'))
    lines = [line for line in (folder / 'commands.txt').read_text().splitlines() if line[:1] != '#' and line]
    assert all(line in printed for line in lines[:2])
    copy = shutil.copytree(folder, tmp_path / 'copy')
    evaluate, resume, repeat = (shlex.split(line.replace(str(folder), str(copy))) for line in lines)
    assert repeat[-1].startswith('randomness.seed=')
    assert '| AR_l@100 ' in run(cli, *evaluate[1:])
    resumed = run(cli, *resume[1:], '--epochs', '3')
    assert 'resumed epoch: 2' in resumed and 'System environment' not in resumed
    assert (copy / 'epoch_3.pth').exists()
    before, after = (json.loads((path / 'report.json').read_text()) for path in (folder, copy))
    assert [row[0] for row in after['curves']['loss']] == [1, 2, 3, 4, 5, 6]
    assert after['curves']['loss'][:4] == before['curves']['loss']
    assert after['curves']['mAP'][:2] == before['curves']['mAP'] and len(after['curves']['mAP']) == 3
    assert after['seconds_by_log'] > before['seconds_by_log'] > 0


def test_saved_fused_and_reordered_evaluations_have_the_same_figures(
    trained: Training, sample: Path, tmp_path: Path, cli: Cli
) -> None:
    checkpoint = trained.folder / 'epoch_2.pth'

    def evaluate(name: str, *words: str | Path) -> tuple[str, Any]:
        file = tmp_path / f'{name}.json'
        printed = run(cli, *words, '--json', file)
        content = json.loads(file.read_text())
        content['metrics']['bbox'].pop('seconds')
        return printed, content

    words = ['test', LITE, checkpoint, '--work-dir', tmp_path / 'work', *ALL_BOXES]
    data = ['--data', sample]
    printed, first = evaluate('test', *words, *data, '--out', tmp_path / 'saved/out.json')
    for name in ('pr_curves', 'confusion', 'errors', 'detections'):
        picture = tmp_path / 'work' / f'{name}.png'
        assert picture.read_bytes().startswith(b'\x89PNG') and str(picture) in printed
    metrics = first['metrics']['bbox']
    assert sum(metrics['errors']['counts'].values()) > 100
    assert first['checkpoint']['sha256'] == sha256(checkpoint) and first['config'] == LITE

    (again,) = (line for line in printed.splitlines() if 'ghost-det eval ' in line)
    _, second = evaluate('eval', *shlex.split(again.partition('ghost-det ')[2]))
    assert second['metrics'] == first['metrics'] and second['annotations'] == first['annotations']
    truth = json.loads((sample / 'annotations/instances_val2017.json').read_text())
    saved = json.loads((tmp_path / 'saved/out.json').read_text())
    assert {each['image_id'] for each in saved} == {image['id'] for image in truth['images']}
    assert metrics['counts']['detections'] == len(saved)

    _, fast = evaluate('fast', *words, *data, '--fast')
    for name, value in metrics['figures'].items():
        fused = fast['metrics']['bbox']['figures'][name]
        assert value is None and fused is None or abs(fused - value) < 2e-3, name

    # The checkpoint remembers its classes, whatever their order in the annotations.
    truth['categories'].reverse()
    (tmp_path / 'val.json').write_text(json.dumps(truth))
    data = ['--val-ann', tmp_path / 'val.json', '--val-images', sample / 'val2017']
    _, reordered = evaluate('reordered', *words, *data, '--out', tmp_path / 'out.pkl')
    assert reordered['metrics']['bbox']['figures'] == metrics['figures'] and (tmp_path / 'out.pkl').exists()


def test_a_trained_backbone_is_extracted_and_starts_another_detector(
    trained: Training, tmp_path: Path, cli: Cli
) -> None:
    checkpoint = trained.folder / 'epoch_2.pth'
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
    assert [line.split()[0] for line in printed.splitlines()[1:]] == [*PUBLISHED, *SHIPPED]
    printed = run(cli, 'weights', 'show', 'repghostnet_050')
    url = PUBLISHED['repghostnet_050'].url
    assert all(part in printed for part in ('timm/repghostnet_050', url, 'MIT', 'ghost://repghostnet_050'))
