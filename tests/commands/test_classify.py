from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from ghost_det.commands import classify as module
from ghost_det.commands.classify import classify, read_rgb
from ghost_det.weights.imagenet import CLASSES, preprocess
from tests.conftest import run_command


class Tiny(nn.Module):
    """A fast classifier, which also shows whether it is in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 32, stride=32), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(), nn.Flatten(),
            nn.Linear(8 * 49, 1000),
        )  # fmt: skip
        self.batches: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.batches.append(len(x))
        logits: Tensor = self.layers(x)
        return logits


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Tiny:
    """The classifier that the command uses, whatever its weights."""
    model = Tiny()

    def load(name: str, pretrained: bool | str) -> Tiny:
        print('loaded', name, pretrained)
        return model

    monkeypatch.setattr('ghost_det.weights.zoo.classifier', load)
    monkeypatch.setattr(sys, 'argv', sys.argv)
    return model


def save(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_predictions_are_the_top_of_the_logits_in_any_batch(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(CLASSES) == module.CLASSES == 1000 and CLASSES[281] == 'tabby'
    images = [save(tmp_path / f'{seed}.png', seed) for seed in range(5)]
    with torch.no_grad():
        logits = tiny.eval()(torch.stack([preprocess(Image.open(path)) for path in images]))
    read: list[Path] = []
    monkeypatch.setattr(module, 'read_rgb', lambda path: read.append(path) or read_rgb(path))
    tiny.batches.clear()
    results = classify(tiny, images, 1000, 2)
    found = [next(results)]
    assert len(read) == 2  # a batch at a time
    found += results
    assert tiny.batches == [2, 2, 1] and [path for path, _ in found] == images
    for (_, result), row in zip(found, logits):
        assert not isinstance(result, Exception)
        assert [each['index'] for each in result] == row.topk(1000).indices.tolist()
        assert all(each['name'] == CLASSES[each['index']] for each in result)
        expected = row.double().softmax(0)
        for each in result:
            assert each['probability'] == pytest.approx(expected[each['index']].item(), rel=1e-4)


def test_json_has_results_and_errors(tiny: Tiny, tmp_path: Path, capsys: Any) -> None:
    tiny.train()
    folder = tmp_path / 'images'
    good = save(folder / 'c ü.png')
    (folder / 'a.png').write_bytes(b'')
    (folder / 'b.png').write_bytes(b'no image at all')
    report = tmp_path / 'report.json'
    options = ['--topk', '2', '--batch-size', '2', '--json', str(report)]
    assert run_command(['classify', str(folder), '--pretrained', 'none', *options]) == 1
    printed = capsys.readouterr()
    assert 'warning: without weights' in printed.err and f'error: {folder}/a.png: ' in printed.err
    assert str(good) in printed.out and '%' in printed.out and 'loaded' not in printed.out
    content = json.loads(report.read_text())
    assert (content['model'], content['weights']) == ('ghostnet_1x', 'none') and not tiny.training
    ((_, expected),) = classify(tiny, [good], 2, 1)
    assert content['images'] == [{'image': str(good), 'predictions': expected}]
    assert [Path(each['image']).name for each in content['errors']] == ['a.png', 'b.png']
    assert sorted(path.name for path in tmp_path.iterdir()) == ['images', 'report.json']
    for weights, asked in (('published', 'True'), ('none', 'False'), ('ghost://x', 'ghost://x')):
        assert run_command(['classify', str(good), '--pretrained', weights, '--json', '-']) == 0
        printed = capsys.readouterr()
        assert json.loads(printed.out)['weights'] == weights
        assert f'loaded ghostnet_1x {asked}' in printed.err  # not on stdout


def test_a_broken_network_is_an_error_and_not_nan(tiny: Tiny, tmp_path: Path) -> None:
    tiny.layers[-1].bias.data.fill_(float('nan'))
    report = tmp_path / 'a.json'
    assert run_command(['classify', str(save(tmp_path / 'a.png')), '--json', str(report)]) == 1
    assert 'NaN or infinite' in report.read_text() and 'NaN,' not in report.read_text()


def test_files_that_cannot_be_written(tiny: Tiny, tmp_path: Path, capsys: Any) -> None:
    image = save(tmp_path / 'a.png')
    for file in (tmp_path, os.devnull, image):
        assert run_command(['classify', str(image), '--json', str(file)]) == 2
        assert capsys.readouterr().err.startswith('error: --json ')
    assert not tiny.batches
