"""Images to ImageNet classes: input and numbers compared with naive ones, and every error by name."""

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

from ghost_det import commands
from ghost_det.commands import classify as module
from ghost_det.commands.classify import CHART, Prediction, Result, classify, draw_chart, read_rgb
from ghost_det.weights.imagenet import CLASSES, preprocess


class Tiny(nn.Module):
    """A classifier that a test can wait for; batch norm and dropout show whether it is in evaluation mode."""

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
    model = Tiny()
    monkeypatch.setattr('ghost_det.weights.zoo.classifier', lambda name, pretrained: model)
    return model


def run(*words: str | Path) -> int:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(sys, 'argv', ['ghost-det', 'classify', *map(str, words)])
        commands.main()
    return int(end.value.code or 0)


def pixels(seed: int, height: int = 60, width: int = 80) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(seed)).save(path)
    return path


def naive_input(image: Image.Image) -> np.ndarray[Any, Any]:
    """Short side to 256, the 224 x 224 in the middle, ImageNet's mean and deviation."""
    width, height = image.size
    short = min(width, height)
    image = image.resize((256 * width // short, 256 * height // short), Image.Resampling.BILINEAR)
    left, top = round((image.width - 224) / 2), round((image.height - 224) / 2)
    crop = np.asarray(image)[top : top + 224, left : left + 224] / 255
    return ((crop - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)).transpose(2, 0, 1)


def test_class_names_are_imagenets() -> None:
    assert len(CLASSES) == module.CLASSES == 1000
    assert (CLASSES[0], CLASSES[281], CLASSES[999]) == ('tench', 'tabby', 'toilet tissue')


@pytest.mark.parametrize(('height', 'width'), [(60, 80), (300, 257), (224, 224), (1, 1), (7, 700)])
def test_input_of_any_size_is_that_of_a_naive_reference(height: int, width: int, tmp_path: Path) -> None:
    Image.fromarray(pixels(0, height, width)).save(tmp_path / 'a.png')
    image = read_rgb(tmp_path / 'a.png')
    assert preprocess(image).shape == (3, 224, 224)
    np.testing.assert_allclose(preprocess(image).numpy(), naive_input(image), atol=1e-5)


def test_photographs_are_upright_and_all_kinds_of_pixels_become_rgb(tmp_path: Path) -> None:
    rgb = Image.fromarray(pixels(0))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held turned by a quarter
    rgb.save(tmp_path / 'a.png', exif=exif)
    np.testing.assert_array_equal(read_rgb(tmp_path / 'a.png'), np.rot90(pixels(0), -1))
    grey = np.asarray(rgb.convert('L'))
    palette = rgb.convert('P', palette=Image.Palette.ADAPTIVE)
    deep = Image.fromarray(grey.astype(np.uint16) * 256 + 17)
    for image, expected in (
        (rgb.convert('L'), np.stack([grey] * 3, 2)),
        (deep, np.stack([grey] * 3, 2)),
        (palette, palette.convert('RGB')),
    ):
        image.save(tmp_path / 'b.png')
        np.testing.assert_array_equal(read_rgb(tmp_path / 'b.png'), expected)


@pytest.mark.parametrize('topk', [1, 1000])
def test_predictions_are_the_top_of_the_logits(topk: int, tiny: Tiny, tmp_path: Path) -> None:
    images = [save(tmp_path / f'{seed}.png', seed) for seed in range(3)]
    results = list(classify(tiny, images, topk, 16))
    assert not tiny.training
    with torch.no_grad():
        logits = tiny(torch.stack([preprocess(Image.open(path)) for path in images]))
    for result, row in zip(results, logits):
        assert [p.index for p in result.predictions] == row.topk(topk).indices.tolist()
        assert all(p.name == CLASSES[p.index] for p in result.predictions)
        expected = row.double().exp() / row.double().exp().sum()
        for p in result.predictions:
            assert p.probability == pytest.approx(expected[p.index].item(), rel=1e-4)


def test_images_are_read_batch_by_batch_and_results_are_those_of_single_ones(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [save(tmp_path / f'{seed}.png', seed) for seed in range(5)]
    single = list(classify(tiny, images, 5, 1))
    read: list[Path] = []
    monkeypatch.setattr(module, 'read_rgb', lambda path: read.append(path) or read_rgb(path))
    tiny.batches.clear()
    batched = classify(tiny, images, 5, 2)
    found = [next(batched)]
    assert len(read) == 2
    found += batched
    assert tiny.batches == [2, 2, 1]
    for one, other in zip(single, found, strict=True):
        assert one.image == other.image
        assert [p.index for p in one.predictions] == [p.index for p in other.predictions]


def test_json_has_results_and_errors_of_images_in_their_order(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / 'images'
    good = save(folder / 'c ü.png')
    (folder / 'a.png').write_bytes(b'')
    (folder / 'b.png').write_bytes(b'no image at all')
    Image.new('L', (20000, 1)).save(folder / 'd.png')
    report = tmp_path / 'report.json'
    assert run(folder, '--pretrained', 'none', '--topk', 2, '--batch-size', 2, '--json', report) == 1
    printed = capsys.readouterr()
    assert 'warning: without weights' in printed.err and f'error: {folder}/a.png: ' in printed.err
    assert str(good) in printed.out and '%' in printed.out
    content = json.loads(report.read_text())
    (expected,) = classify(tiny, [good], 2, 1)
    assert (content['model'], content['weights']) == ('ghostnet_1x', 'none')
    assert content['images'] == [{'image': str(good), 'predictions': [vars(p) for p in expected.predictions]}]
    errors = [(Path(each['image']).name, each['error']) for each in content['errors']]
    assert [name for name, _ in errors] == ['a.png', 'b.png', 'd.png'] and 'too thin' in errors[2][1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ['images', 'report.json']
    assert run(good, '--pretrained', 'mine.pth', '--json', '-') == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)['weights'] == 'mine.pth' and not printed.err


def test_a_network_gone_wrong_is_an_error_and_not_nan(tiny: Tiny, tmp_path: Path) -> None:
    tiny.layers[-1].bias.data.fill_(float('nan'))
    report = tmp_path / 'a.json'
    assert run(save(tmp_path / 'a.png'), '--json', report) == 1
    assert 'NaN or infinite' in report.read_text() and 'NaN,' not in report.read_text()


def test_weights_reach_the_classifier_and_its_words_not_stdout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[str, bool | str]] = []

    def classifier(name: str, pretrained: bool | str) -> Tiny:
        asked.append((name, pretrained))
        print('downloading')
        return Tiny()

    monkeypatch.setattr('ghost_det.weights.zoo.classifier', classifier)
    image = save(tmp_path / 'a.png')
    for weights in ('published', 'none', 'ghost://x'):
        run(image, '--pretrained', weights, '--json', '-')
        assert json.loads(capsys.readouterr().out)['weights'] == weights
    assert asked == [('ghostnet_1x', True), ('ghostnet_1x', False), ('ghostnet_1x', 'ghost://x')]


def test_charts_of_equal_names_lie_apart_and_are_no_photographs(tiny: Tiny, tmp_path: Path) -> None:
    names = ('a/x.jpg', 'a/x.png', 'b/c/x.jpg', 'b/$x^$ 猫.png')
    images = [save(tmp_path / name) for name in names]
    for _ in range(2):
        assert run(tmp_path / 'a', tmp_path / 'b', '--out', tmp_path) == 0
    charts = [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob(f'*{CHART}'))]
    assert charts == sorted(f'{path.relative_to(tmp_path).as_posix()}{CHART}' for path in images)


def test_a_chart_shows_20_classes_at_most(tmp_path: Path) -> None:
    predictions = tuple(Prediction(i, CLASSES[i], 1 / (i + 2)) for i in range(30))
    sizes = []
    for count in (1, 20, 30):
        draw_chart(Result(save(tmp_path / 'a.png'), predictions[:count]), tmp_path / 'chart.png')
        with Image.open(tmp_path / 'chart.png') as chart:
            assert chart.format == 'PNG'
            sizes.append(chart.size)
    assert sizes[0] != sizes[1] == sizes[2]


@pytest.mark.skipif(sys.platform == 'win32', reason='names are text there')
def test_names_that_are_no_text(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = Path(os.fsdecode(os.fsencode(tmp_path) + b'/\xff.png'))
    try:
        save(image)
    except OSError:
        pytest.skip('this file system takes text only')
    assert run(tmp_path, '--json', tmp_path / 'a.json', '--out', tmp_path / 'out') == 0
    assert '\\udcff.png' in capsys.readouterr().out
    assert json.loads((tmp_path / 'a.json').read_text())['images'][0]['image'] == str(image)


def test_places_that_cannot_be_written(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = save(tmp_path / 'a.png')
    for words in (('--json', tmp_path), ('--json', os.devnull), ('--json', image), ('--out', image)):
        assert run(image, *words) == 2
        assert capsys.readouterr().err.startswith(f'error: {words[0]} ')
    assert run(tmp_path / 'nowhere.jpg') == 2
    assert 'nowhere.jpg: no such file or folder' in capsys.readouterr().err
    assert not tiny.batches


def test_an_interrupted_run_leaves_an_older_report(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = tmp_path / 'a.json'
    report.write_text('{}')

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, 'draw_chart', stop)
    assert run(save(tmp_path / 'a.png'), '--json', report, '--out', tmp_path) == 130
    assert report.read_text() == '{}'
