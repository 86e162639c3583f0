import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms

from ghost_det.weights.imagenet import CLASSES, preprocess
from ghost_det.weights.zoo import classifier
from tests.conftest import Cli


class Tiny(nn.Module):
    """A fast classifier, which also shows whether it is in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 32, stride=32), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(), nn.Flatten(),
            nn.Linear(8 * 49, 1000),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layers(x)
        return logits


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Tiny:
    """The classifier that the command uses, whatever its weights."""
    model = Tiny()

    def load(name: str, pretrained: bool | str) -> Tiny:
        print('loaded', name, pretrained)
        return model.train()

    monkeypatch.setattr('ghost_det.weights.zoo.classifier', load)
    return model


@pytest.fixture
def image(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'c ü.png')
    return tmp_path / 'c ü.png'


def test_json_has_the_top_of_the_logits_and_errors(tiny: Tiny, image: Path, cli: Cli) -> None:
    folder = image.parent
    (folder / 'a.png').write_bytes(b'')
    (folder / 'b.png').write_bytes(b'no image at all')
    done = cli('classify . --pretrained none --topk 2 --json report.json', cwd=folder)
    assert done.returncode == 1
    assert 'warning: without weights' in done.stderr and 'error: a.png: ' in done.stderr
    assert image.name in done.stdout and '%' in done.stdout and 'loaded ghostnet_1x False' in done.stdout
    content = json.loads((folder / 'report.json').read_text())
    assert (content['model'], content['weights']) == ('ghostnet_1x', 'none')
    with torch.no_grad():
        (logits,) = tiny.eval()(preprocess(Image.open(image))[None])
    values, indices = logits.softmax(0).topk(2)
    (found,) = content['images']
    assert found['image'] == image.name
    for each, index, value in zip(found['predictions'], indices.tolist(), values.tolist(), strict=True):
        assert each == {'index': index, 'name': CLASSES[index], 'probability': pytest.approx(value, rel=1e-4)}
    assert [each['image'] for each in content['errors']] == ['a.png', 'b.png']
    for weights, asked in (('published', 'True'), ('ghost://ghostnet_100', 'ghost://ghostnet_100')):
        assert f'loaded ghostnet_1x {asked}' in cli('classify', image, '--pretrained', weights).stdout


def test_our_weights_know_200_classes(shipped: Path, image: Path, cli: Cli) -> None:
    words = 'classify --pretrained ghostnet_100.tin --json report.json --topk'
    done = cli(words, '200', image, cwd=image.parent)
    assert done.returncode == 0 and "only Tiny-ImageNet's 200 of" in done.stderr
    (found,) = json.loads((image.parent / 'report.json').read_text())['images']
    names = [each['name'] for each in sorted(found['predictions'], key=lambda each: each['index'])]
    assert len(names) == 200 and names[0] == 'goldfish' and names == sorted(names, key=CLASSES.index)
    small = transforms.Compose([transforms.Resize(128), transforms.CenterCrop(128), transforms.ToTensor()])
    scaled = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])(small(Image.open(image)))
    with torch.no_grad():
        (logits,) = classifier('ghostnet_1x', pretrained='ghost://ghostnet_100.tin').eval()(scaled[None])
    assert found['predictions'][0]['probability'] == pytest.approx(float(logits.softmax(0).max()), rel=1e-3)
    assert '--topk 201: expected 1 to 200' in cli(words, '201', image, cwd=image.parent).stderr


def test_a_broken_network_and_a_file_that_cannot_be_written(tiny: Any, image: Path, cli: Cli) -> None:
    tiny.layers[-1].bias.data.fill_(float('nan'))
    assert cli('classify', image, '--json', image.with_name('a.json')).returncode == 1
    report = image.with_name('a.json').read_text()
    assert 'NaN or infinite' in report and 'NaN,' not in report
    for file in (image.parent, '/dev/null', image):
        done = cli('classify', image, '--json', file)
        assert done.returncode == 2 and done.stderr.startswith('error: --json ')
