"""Images to ImageNet classes: pixels against a naive twin, numbers against torch, and every fault by name."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn

from ghost_det.commands import _classify as module
from ghost_det.commands._classify import (
    CHART,
    Prediction,
    Result,
    classify,
    classify_files,
    draw_chart,
    read_image,
)
from ghost_det.errors import UserError
from ghost_det.weights.imagenet import CLASSES, preprocess
from tests.conftest import ROOT


class Tiny(nn.Module):
    """A classifier that a test can wait for; batch norm and dropout tell whether it is in evaluation mode."""

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
    monkeypatch.setattr(module, 'classifier', lambda name, pretrained: model)
    return model


def pixels(seed: int, height: int = 60, width: int = 80) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(seed)).save(path)
    return path


def broken_files(folder: Path) -> dict[str, Path]:
    """A file of each way to be broken, keyed by what its message has to say."""
    good = save(folder / 'good.jpg').read_bytes()
    header = struct.pack('>IIBBBBB', 40000, 40000, 8, 2, 0, 0, 0)
    bomb = b'\x89PNG\r\n\x1a\n'
    for kind, content in ((b'IHDR', header), (b'IDAT', zlib.compress(b'')), (b'IEND', b'')):
        bomb += struct.pack('>I', len(content)) + kind + content
        bomb += struct.pack('>I', zlib.crc32(kind + content))
    contents = {
        'truncated': good[: len(good) // 2],
        'decompression bomb': bomb,
        'cannot identify': b'no image at all',
    }
    paths = {}
    for number, (message, content) in enumerate(contents.items()):
        paths[message] = folder / f'broken{number}.png'
        paths[message].write_bytes(content)
    paths['too thin'] = folder / 'line.png'
    Image.new('L', (20000, 1)).save(paths['too thin'])
    paths['floating-point'] = folder / 'float.tif'
    Image.fromarray(np.zeros((9, 9), np.float32)).save(paths['floating-point'])
    paths['No such file'] = folder / 'link.png'
    paths['No such file'].symlink_to(folder / 'nowhere.png')
    return paths


def test_a_pipe_is_no_image(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / 'pipe.jpg')
    with pytest.raises(UserError, match='no regular file'):
        read_image(tmp_path / 'pipe.jpg')


def test_class_names_are_imagenets() -> None:
    assert len(CLASSES) == 1000
    assert (CLASSES[0], CLASSES[281], CLASSES[999]) == ('tench', 'tabby', 'toilet tissue')


def naive_input(image: Image.Image) -> np.ndarray[Any, Any]:
    """Short side to 256, the 224 x 224 in the middle, ImageNet's mean and deviation."""
    width, height = image.size
    short = min(width, height)
    image = image.resize((256 * width // short, 256 * height // short), Image.Resampling.BILINEAR)
    left, top = round((image.width - 224) / 2), round((image.height - 224) / 2)
    crop = np.asarray(image)[top : top + 224, left : left + 224] / 255
    return ((crop - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)).transpose(2, 0, 1)


def test_input_is_that_of_a_naive_twin(coco_mini: Path) -> None:
    for path in sorted((coco_mini / 'val2017').glob('*.jpg'))[:8]:
        twin = naive_input(Image.open(path).convert('RGB'))
        np.testing.assert_allclose(preprocess(read_image(path)).numpy(), twin, atol=1e-5)


@pytest.mark.parametrize(('height', 'width'), [(60, 80), (300, 257), (224, 224), (1, 1), (7, 700)])
def test_input_of_any_size(height: int, width: int, tmp_path: Path) -> None:
    Image.fromarray(pixels(0, height, width)).save(tmp_path / 'a.png')
    image = read_image(tmp_path / 'a.png')
    assert preprocess(image).shape == (3, 224, 224)
    np.testing.assert_allclose(preprocess(image).numpy(), naive_input(image), atol=1e-5)


def test_photographs_are_turned_upright(tmp_path: Path) -> None:
    image = Image.fromarray(pixels(0))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held turned by a quarter
    image.save(tmp_path / 'a.png', exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / 'a.png'), np.rot90(pixels(0), -1))


def test_all_kinds_of_pixels_become_rgb(tmp_path: Path) -> None:
    rgb = Image.fromarray(pixels(0))
    grey = np.asarray(rgb.convert('L'))
    path = tmp_path / 'a.png'

    def read_back(image: Image.Image, path: Path = path) -> np.ndarray[Any, Any]:
        image.save(path)
        image = read_image(path)
        assert image.mode == 'RGB'
        return np.asarray(image)

    grey3 = np.stack([grey] * 3, 2)
    np.testing.assert_array_equal(read_back(rgb.convert('L')), grey3)
    for suffix in ('png', 'tif'):
        deep = Image.fromarray(grey.astype(np.uint16) * 256 + 17)
        np.testing.assert_array_equal(read_back(deep, tmp_path / f'a.{suffix}'), grey3)
    palette = rgb.convert('P', palette=Image.Palette.ADAPTIVE)
    np.testing.assert_array_equal(read_back(palette), palette.convert('RGB'))
    np.testing.assert_array_equal(read_back(palette, tmp_path / 'a.gif'), palette.convert('RGB'))
    assert set(np.unique(read_back(rgb.convert('1')))) == {0, 255}
    cmyk = read_back(rgb.convert('CMYK'), tmp_path / 'a.tif')
    np.testing.assert_array_equal(cmyk, rgb)


def test_transparent_parts_are_white(tmp_path: Path) -> None:
    alpha = np.zeros((60, 80), np.uint8)
    alpha[:30] = 255
    rgba = Image.fromarray(np.dstack([pixels(0), alpha]))
    rgba.save(tmp_path / 'a.png')
    image = np.asarray(read_image(tmp_path / 'a.png'))
    np.testing.assert_array_equal(image[:30], pixels(0)[:30])
    assert (image[30:] == 255).all()
    rgba.quantize(8).save(tmp_path / 'palette.png')
    assert (np.asarray(read_image(tmp_path / 'palette.png'))[30:] == 255).all()


def test_a_big_photograph_is_no_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / 'a.png')
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 3000)
    with warnings.catch_warnings(record=True) as warned:
        assert read_image(path).size == (80, 60)
    assert not warned


def test_broken_images_are_named_and_the_rest_go_on(tiny: Tiny, tmp_path: Path) -> None:
    paths = broken_files(tmp_path)
    order = [*paths.values(), tmp_path / 'good.jpg']
    results = list(classify(tiny, order, batch_size=2))
    assert [result.image for result in results] == order
    for message, result in zip(paths, results):
        assert result.error and message in result.error and str(result.image) in result.error
        assert result.predictions == ()
    assert results[-1].error is None and len(results[-1].predictions) == 5


@pytest.mark.parametrize('topk', [1, 5, 1000])
def test_predictions_are_the_top_of_the_logits(topk: int, tiny: Tiny, tmp_path: Path) -> None:
    images = [save(tmp_path / f'{seed}.png', seed) for seed in range(3)]
    results = list(classify(tiny, images, topk))
    assert not tiny.training
    with torch.no_grad():
        logits = tiny(torch.stack([preprocess(Image.open(path)) for path in images]))
    for result, row in zip(results, logits):
        assert [p.index for p in result.predictions] == row.topk(topk).indices.tolist()
        assert all(p.name == CLASSES[p.index] for p in result.predictions)
        expected = row.double().exp() / row.double().exp().sum()
        for p in result.predictions:
            assert p.probability == pytest.approx(expected[p.index].item(), rel=1e-4)
    if topk == 1000:
        assert sum(p.probability for p in results[0].predictions) == pytest.approx(1, abs=1e-5)


def test_batched_results_equal_single_ones(tiny: Tiny, coco_mini: Path) -> None:
    images = sorted((coco_mini / 'val2017').glob('*.jpg'))[:7]
    single = list(classify(tiny, images, batch_size=1))
    tiny.batches.clear()
    batched = list(classify(tiny, images, batch_size=3))
    assert tiny.batches == [3, 3, 1]
    for one, other in zip(single, batched):
        assert one.image == other.image
        assert [p.index for p in one.predictions] == [p.index for p in other.predictions]
        for p, q in zip(one.predictions, other.predictions):
            assert p.probability == pytest.approx(q.probability, rel=1e-4)


def test_images_are_read_batch_by_batch(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []

    def counted(path: Path) -> Image.Image:
        read.append(path)
        return read_image(path)

    monkeypatch.setattr(module, 'read_image', counted)
    results = classify(tiny, [save(tmp_path / f'{i}.png') for i in range(6)], batch_size=2)
    next(results)
    assert len(read) == 2


def test_a_network_gone_wrong_is_an_error_and_not_nan(tiny: Tiny, tmp_path: Path) -> None:
    tiny.layers[-1].bias.data.fill_(float('nan'))
    (result,) = classify(tiny, [save(tmp_path / 'a.png')])
    assert result.error and 'no finite numbers' in result.error
    report = tmp_path / 'a.json'
    assert classify_files([tmp_path], 'tiny', json_file=str(report)) == 1
    assert 'NaN' not in report.read_text()


@pytest.mark.parametrize(('topk', 'batch_size'), [(0, 1), (1001, 1), (5, 0), (5, -1)])
def test_numbers_out_of_range(topk: int, batch_size: int, tiny: Tiny) -> None:
    with pytest.raises(UserError, match=r'(topk|batch size) -?\d+: a number from 1'):
        next(classify(tiny, [Path('a.png')], topk, batch_size))
    with pytest.raises(UserError, match=r'(topk|batch size) -?\d+: a number from 1'):
        classify_files([Path('a.png')], 'tiny', topk=topk, batch_size=batch_size)


def test_json_has_results_and_errors(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / 'images/a.png'
    good = save(tmp_path / 'images/b ü.png')
    broken.write_bytes(b'')
    report = tmp_path / 'report.json'
    assert classify_files([tmp_path / 'images'], 'tiny', 'none', 2, json_file=str(report)) == 1
    printed = capsys.readouterr()
    assert str(broken) in printed.err and 'without weights' in printed.err
    assert str(good) in printed.out and '%' in printed.out
    content = json.loads(report.read_text())
    (expected,) = classify(tiny, [good], 2)
    assert (content['model'], content['weights']) == ('tiny', 'none')
    assert content['images'] == [{'image': str(good), 'predictions': [vars(p) for p in expected.predictions]}]
    assert set(content['images'][0]['predictions'][0]) == {'index', 'name', 'probability'}
    (error,) = content['errors']
    assert error['image'] == str(broken) and 'cannot identify' in error['error']
    assert sorted(path.name for path in tmp_path.iterdir()) == ['images', 'report.json']

    classify_files([good], 'tiny', 'mine.pth', json_file='-')
    printed = capsys.readouterr()
    assert json.loads(printed.out)['weights'] == 'mine.pth' and not printed.err


def test_weights_reach_the_classifier_and_its_words_not_stdout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[str, bool | str]] = []

    def classifier(name: str, pretrained: bool | str) -> Tiny:
        asked.append((name, pretrained))
        print('downloading')
        return Tiny()

    monkeypatch.setattr(module, 'classifier', classifier)
    image = save(tmp_path / 'a.png')
    for weights in ('published', 'none', 'ghost://x'):
        classify_files([image], 'tiny', weights, json_file='-')
        assert json.loads(capsys.readouterr().out)['weights'] == weights
    assert asked == [('tiny', True), ('tiny', False), ('tiny', 'ghost://x')]


def test_charts_of_equal_names_lie_apart(tiny: Tiny, tmp_path: Path) -> None:
    images = [save(tmp_path / name) for name in ('a/x.jpg', 'a/x.png', 'b/c/x.jpg', 'b/$x^$ 猫.png')]
    out = tmp_path / 'out'
    classify_files([tmp_path / 'a', tmp_path / 'b'], 'tiny', out=out)
    charts = [path.relative_to(out).as_posix() for path in sorted(out.rglob('*.*'))]
    assert charts == sorted(f'{path.relative_to(tmp_path).as_posix()}{CHART}' for path in images)
    with Image.open(out / f'a/x.jpg{CHART}') as chart:
        assert chart.format == 'PNG' and 500 < chart.width < 1500 and 300 < chart.height < 600


def test_charts_of_an_earlier_run_are_no_photographs(tiny: Tiny, tmp_path: Path) -> None:
    save(tmp_path / 'a.png')
    for _ in range(2):
        classify_files([tmp_path], 'tiny', out=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ['a.png', f'a.png{CHART}']


def test_a_chart_has_a_bar_of_each_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []

    def savefig(figure: Figure, path: Path, **_: object) -> None:
        figures.append(figure)
        path.touch()

    monkeypatch.setattr(Figure, 'savefig', savefig)
    image = save(tmp_path / 'a.png')
    predictions = tuple(Prediction(i, CLASSES[i], 1 / (i + 2)) for i in range(30))
    for count in (1, 5, 30):
        draw_chart(Result(image, predictions[:count]), tmp_path / 'chart.png')
        left, right = figures[-1].axes
        shown = min(count, module.CHART_BARS)
        assert [label.get_text() for label in right.get_yticklabels()] == list(CLASSES[:shown])
        assert [text.get_text() for text in right.texts][:2] == ['50.0%', '33.3%'][:shown]
        assert right.containers[1].datavalues.tolist() == [p.probability for p in predictions[:shown]]
        assert left.get_title() == 'a.png' and left.images


@pytest.mark.skipif(sys.platform == 'win32', reason='names are text there')
def test_names_that_are_no_text(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = Path(os.fsdecode(os.fsencode(tmp_path) + b'/\xff.png'))
    try:
        save(image)
    except OSError:
        pytest.skip('this file system takes text only')
    assert classify_files([tmp_path], 'tiny', json_file=str(tmp_path / 'a.json'), out=tmp_path / 'out') == 0
    assert '\\udcff.png' in capsys.readouterr().out
    assert json.loads((tmp_path / 'a.json').read_text())['images'][0]['image'] == str(image)


def test_places_that_cannot_be_written(tiny: Tiny, tmp_path: Path) -> None:
    image = save(tmp_path / 'a.png')
    for report in (tmp_path, tmp_path / 'none/a.json', Path(os.devnull)):
        with pytest.raises(UserError, match='is wanted for the JSON'):
            classify_files([image], 'tiny', json_file=str(report))
    assert not tiny.batches
    with pytest.raises(UserError, match='cannot be written'):
        classify_files([image], 'tiny', out=image)


def test_an_interrupted_run_leaves_an_older_report(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = tmp_path / 'a.json'
    report.write_text('{}')

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, 'draw_chart', stop)
    with pytest.raises(KeyboardInterrupt):
        classify_files([save(tmp_path / 'a.png')], 'tiny', json_file=str(report), out=tmp_path)
    assert report.read_text() == '{}'


def tool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, '-m', 'ghost_det_main', 'classify', *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, cwd=ROOT, timeout=300)


def test_the_tool_goes_on_after_a_broken_image(tmp_path: Path) -> None:
    save(tmp_path / 'b.png')
    (tmp_path / 'a.png').write_bytes(b'')
    done = tool(tmp_path, '--pretrained', 'none', '--topk', '3', '--json', '-', '--out', tmp_path / 'out')
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    assert (
        f'error: {tmp_path / "a.png"}' in done.stderr and 'warning: a network without weights' in done.stderr
    )
    content = json.loads(done.stdout)
    assert content['model'] == 'ghostnet_1x' and len(content['images'][0]['predictions']) == 3
    assert (tmp_path / f'out/b.png{CHART}').read_bytes().startswith(b'\x89PNG')


def test_the_tool_names_a_mistake() -> None:
    done = tool('nowhere.jpg')
    assert done.returncode == 2 and done.stderr == 'error: nowhere.jpg: no such file or folder\n'
