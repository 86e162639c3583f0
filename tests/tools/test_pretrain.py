"""Pretraining on Tiny-ImageNet: images as arrays, exact resume, mosaics whose boxes fit their objects."""

from __future__ import annotations

import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.logging import MessageHub
from mmengine.structures import InstanceData
from pycocotools.coco import COCO
from torchvision.models import mobilenet_v2

from ghost_det.swap.probe import build_detector
from ghost_det.weights.load import read_tensors
from tests.conftest import ROOT
from tools.benchmarks.pretraining import BACKBONES, IMAGENET, PEERS, config_of
from tools.benchmarks.pretraining import main as compare
from tools.mosaics import write_split
from tools.pretrain import Training, pack

NAMES = ('n01443537', 'n02124075')
COUNT = {'train': 12, 'val': 4}


@pytest.fixture(scope='module')
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images in the layout of Tiny-ImageNet: a green rectangle on grey, with its box; packed."""
    folder = tmp_path_factory.mktemp('tiny')
    chance = np.random.default_rng(0)
    (folder / 'wnids.txt').write_text('\n'.join(reversed(NAMES)))
    val = []
    for split, count in COUNT.items():
        for name in NAMES:
            lines = []
            images = folder / split / ('images' if split == 'val' else f'{name}/images')
            images.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                left, top, right, bottom = (*chance.integers(0, 20, 2), *chance.integers(40, 64, 2))
                image = np.full((64, 64, 3), 128, np.uint8)
                image[top : bottom + 1, left : right + 1] = (0, 255, 0)
                cv2.imwrite(str(images / f'{name}_{i}.JPEG'), image)
                lines.append(f'{name}_{i}.JPEG\t{left}\t{top}\t{right}\t{bottom}')
                val.append(lines[-1].replace('\t', f'\t{name}\t', 1))
            if split == 'train':
                (folder / split / name / f'{name}_boxes.txt').write_text('\n'.join(lines))
                val.clear()
    (folder / 'val/val_annotations.txt').write_text('\n'.join(val))
    pack(folder, folder / 'cache')
    return folder / 'cache'


def test_arrays_hold_the_images(cache: Path) -> None:
    images, labels = np.load(cache / 'train_images.npy'), np.load(cache / 'train_labels.npy')
    assert (cache / 'classes.txt').read_text().split() == sorted(NAMES)
    assert images.shape == (24, 64, 64, 3) and labels.tolist() == [0] * 12 + [1] * 12
    for i, (x1, y1, x2, y2) in enumerate(np.load(cache / 'train_boxes.npy').astype(int)):
        inside = images[i, y1 + 2 : y2 - 1, x1 + 2 : x2 - 1].reshape(-1, 3).mean(0)
        assert np.abs(inside - (0, 255, 0)).max() < 12


def test_resume_is_exact(cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def training(name: str, seed: int = 0) -> Training:
        options = dict(sizes=['32:1', '64:1'], batch_size=8, lr=0.01, weight_decay=1e-4, seed=seed)
        return Training(Namespace(cache=cache, out=tmp_path / name, network='ghostnet_050', **options))

    training('whole.safetensors').run()
    training('parts.safetensors').run(until=4)
    assert not (tmp_path / 'parts.safetensors').exists()
    with pytest.raises(SystemExit, match='belongs to another or a longer training'):
        training('parts.safetensors', seed=1)
    training('parts.safetensors').run()
    whole, parts = (read_tensors(tmp_path / f'{name}.safetensors') for name in ('whole', 'parts'))
    assert all(torch.equal(value, parts[key]) for key, value in whole.items())
    printed = capsys.readouterr().out
    assert printed.count('top-1') == 4 and 'resumed after step 4 of 6' in printed
    assert whole['classifier.weight'].shape == (2, 480) and whole['conv_stem.weight'].dtype == torch.float16


def test_boxes_of_mosaics(cache: Path, tmp_path: Path) -> None:
    for split in COUNT:
        assert write_split(cache, tmp_path, split, 3)[1] > 30
    found = COCO(str(tmp_path / 'annotations/instances_train.json'))
    assert {c['name'] for c in found.dataset['categories']} == {*NAMES}
    for name, boxes in ((i['file_name'], found.imgToAnns[i['id']]) for i in found.dataset['images']):
        image = cv2.imread(str(tmp_path / 'train' / name))
        assert image.shape == (320, 320, 3)
        green = (image[..., 1].astype(int) - image[..., 2] > 64).astype(np.uint8)
        inside = np.zeros_like(green)
        for box in boxes:
            x, y, width, height = box['bbox']
            inside[round(y) : round(y + height), round(x) : round(x + width)] = 1
        assert (green != inside).mean() < 0.045  # within a pixel of the edges


def test_the_table_of_starts_is_printed_by_its_command(tmp_path: Path) -> None:
    for seed, ap in enumerate((0.25, 0.35)):
        figures = dict(
            data='a', start='scratch', seed=seed, epochs=2, seconds=60, curve=[[1, 0.1, 0.2], [2, ap, 0.5]]
        )
        (tmp_path / str(seed)).mkdir()
        (tmp_path / str(seed) / 'figures.json').write_text(json.dumps(figures))
    command = [sys.executable, '-m', 'tools.benchmarks.pretraining', '--out', tmp_path, '--table']
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    cells = [cell.strip() for cell in shown.splitlines()[-1].strip('| ').split('|')]
    assert cells == ['a', 'scratch', '2', '2', '10.0', '10.0', '30.0 ± 7.1', '50.0', '1.0']


@pytest.fixture(scope='module')
def mobilenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('torchvision') / 'mobilenet_v2.pth'
    torch.save(mobilenet_v2(weights=None).state_dict(), path)
    return path


@pytest.mark.parametrize('start', [*BACKBONES, 'retinanet', *PEERS])
def test_other_detectors_compute_a_loss(start: str, mobilenet: Path, tmp_path: Path) -> None:
    config = config_of(start, mobilenet, tmp_path)
    assert config.load_from is None
    assert (config.model.backbone.get('init_cfg') is None) == (start not in ('retinanet', *IMAGENET))
    detector = build_detector(config.model)
    side, width = (320, 320) if 'ssd' in start else (224, 194)
    found = InstanceData(bboxes=torch.tensor([[20.0, 30, 120, 150]]), labels=torch.tensor([1]))
    sample = DetDataSample(metainfo=dict(img_shape=(side, width)), gt_instances=found)
    inputs = [torch.zeros(3, side, width, dtype=torch.uint8)] * 2
    samples = [sample, sample.clone()]  # the preprocessor adds to each
    MessageHub.get_current_instance().update_info('iter', 0)  # for the size of the step
    data = detector.data_preprocessor(dict(inputs=inputs, data_samples=samples), True)
    loss, _ = detector.parse_losses(detector(**data, mode='loss'))
    assert torch.isfinite(loss)


@pytest.mark.slow
def test_starts_compared(sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ['train_dataloader.batch_size=4', 'model.data_preprocessor.batch_augments=None']
    words = f'--data {sample}:2 --start scratch --seeds 0 1 --out {tmp_path} --options {" ".join(options)}'
    for _ in range(2):  # the second time, nothing is left to train
        compare(words.split())
    printed = capsys.readouterr().out
    assert printed.count("'AP50':") == 2
    name, start, epochs, seeds, *aps, ap50, minutes = printed.splitlines()[-1].strip('| ').split('|')
    assert (name.strip(), start.strip(), int(epochs), int(seeds)) == (sample.name, 'scratch', 2, 2)
    curves = [json.loads(path.read_text())['curve'] for path in sorted(tmp_path.glob('*/figures.json'))]
    assert [len(curve) for curve in curves] == [2, 2]
    assert float(ap50) == pytest.approx(50 * sum(curve[-1][2] for curve in curves), abs=0.06)
