"""Bad inputs: files, created where a command line names them as @NAME, and command lines."""

import io
import json
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.conftest import ROOT

Content = bytes | Callable[[Path], None]
GOOD: dict[str, Any] = {
    'images': [{'id': 1, 'file_name': 'a.jpg', 'width': 64, 'height': 48}],
    'annotations': [{'id': 1, 'image_id': 1, 'category_id': 1, 'bbox': [1, 2, 30, 20]}],
    'categories': [{'id': 1, 'name': 'cat'}],
}
FOUND = {'image_id': 1, 'category_id': 1, 'bbox': [1, 2, 30, 20], 'score': 0.9}
LITE = str(ROOT / 'configs/retinanet_ghostnet_fpn_lite.py')
BASE = f'_base_ = {LITE!r}\n'.encode()
CLASSES = ('disc', 'ring', 'square', 'triangle', 'star', 'cross')  # of the generated data
WEIGHTS = {'backbone.conv_stem.weight': torch.zeros(16, 3, 3, 3)}


def changed(key: str, **fields: Any) -> bytes:
    """Return annotations whose first entry of a list has other fields; the value `...` removes one."""
    content = json.loads(json.dumps(GOOD))
    content[key][0].update(fields)
    content[key][0] = {name: value for name, value in content[key][0].items() if value is not ...}
    return json.dumps(content).encode()


def found(**fields: Any) -> bytes:
    return json.dumps([{**FOUND, **fields}]).encode()


def saved(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def png(width: int, height: int) -> bytes:
    """Return a PNG that claims a size, with one row of pixels."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack('>I', len(body)) + name + body + struct.pack('>I', zlib.crc32(name + body))

    head = chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 1, 0, 0, 0, 0))
    row = zlib.compress(b'\0' * (1 + (width + 7) // 8))
    return b'\x89PNG\r\n\x1a\n' + head + chunk(b'IDAT', row) + chunk(b'IEND', b'')


def zipped(name: str, content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return file.getvalue()


def images_of(image: Content) -> Callable[[Path], None]:
    """Return a function that creates a data set whose images are all this one."""

    def make(path: Path) -> None:
        (path / 'annotations').mkdir(parents=True)
        for split in ('train', 'val'):
            (path / f'annotations/instances_{split}.json').write_text(json.dumps(GOOD))
            (path / split).mkdir()
            make_file(path / split / 'a.jpg', image)

    return make


def make_file(path: Path, content: Content) -> None:
    path.write_bytes(content) if isinstance(content, bytes) else content(path)


FILES: dict[str, Content] = {
    'good.json': json.dumps(GOOD).encode(),
    'text.json': b'hello',
    'list.json': b'[]',
    'empty.json': b'{"images": [], "annotations": [], "categories": []}',
    'nan.json': changed('annotations', bbox=[0, 0, float('nan'), 1]),
    'noimage.json': changed('annotations', image_id=7),
    'outside.json': changed('images', file_name='../../nothing.jpg'),
    'pipe.json': os.mkfifo,
    'folder.json': Path.mkdir,
    'images': images_of(png(64, 1)),
    'img-zero': images_of(b''),
    'img-bomb': images_of(png(40_000, 40_000)),
    'megapixels': images_of(png(10_000, 11_000)),
    'zero.jpg': b'',
    'text.jpg': b'no image',
    'bomb.png': png(40_000, 40_000),
    'nofiles': Path.mkdir,
    'file': b'a file',
    'exit.py': b'raise SystemExit(0)\n',
    'type.py': BASE + b"model = dict(type='Nope')\n",
    'scalar.py': BASE + b'model = dict(_delete_=True, type=5)\n',
    'code.yaml': b'!!python/object/apply:os.mkdir [executed]\n',
    'folder.py': Path.mkdir,
    'text.pth': b'hello, this is text',
    'folder.pth': Path.mkdir,
    'slip.pth': zipped('../../executed', b'hello'),
    'cut.pth': saved(WEIGHTS)[:-200],
    'bomb.pth': zipped('archive/data.pkl', b'\0' * 30_000_000),
    'list.pth': saved([1, 2]),
    'object.pth': pickle.dumps(Path('x'), 2),
    'other.pth': saved({'state_dict': {'a.weight': torch.zeros(3)}}),
    'stem.pth': saved({'state_dict': WEIGHTS, 'meta': {'dataset_meta': {'classes': CLASSES}}}),
    'step.pth': saved({'meta': {'iter': 'x', 'epoch': 1}, 'state_dict': WEIGHTS, 'optimizer': {}}),
    'html.pth': b'<!DOCTYPE html><html>login</html>',
    'header.safetensors': struct.pack('<Q', 2**60) + b'{"a":1}',
    'found.json': found(),
    'found-image.json': found(image_id=7),
    'found-score.json': found(score=float('nan')),
    'found-less.json': b'[{"image_id": 1}]',
}

_IMAGE = '@images/train/a.jpg'
_DRAWN = (
    ('redundancy resnet51 IMAGE', 'resnet51'),
    ('pyramid detector.xml IMAGE', 'detector.xml'),
    ('redundancy LITE IMAGE', '--pretrained none'),
    ('redundancy resnet18 nowhere.pth IMAGE', 'nowhere.pth'),
    ('redundancy resnet18 nowhere.jpg', 'nowhere.jpg'),
    ('cam resnet18 IMAGE --pretrained none', 'resnet18'),
    ('redundancy resnet18 IMAGE --pretrained none --layer layer3 --size 7', '--size 7'),
)
_ONE = '--pretrained none --cfg-options train_dataloader.num_workers=0 val_dataloader.num_workers=0'
_RUN = f'train LITE --data SAMPLE --batch-size 1 {_ONE}'
_ANN = 'train LITE --train-images @images/train --val-ann @good.json --val-images @images/val --train-ann'


def named(command: str, *names: str) -> list[tuple[str, str]]:
    """Return command lines with files, whose names the message has."""
    return [(f'{command} @{name}', name) for name in names]


def with_values(command: str, option: str, *values: str) -> list[tuple[str, str]]:
    """Return command lines with values of an option, which the message has."""
    return [(f'{command} {option} {value}', option) for value in values]


BEGUN: list[tuple[str, str]] = [
    (f'train LITE --data @img-bomb {_ONE}', 'img-bomb/train/a.jpg'),
    ('train @type.py --data SAMPLE --pretrained none', 'type.py'),
    (f'{_RUN} optim_wrapper.optimizer.type=Nope', 'Nope'),
    (f'{_RUN} train_dataloader.batch_size=0', 'batch_size'),
    (f'{_RUN} model.backbone.widht=1', 'widht'),
    ('test LITE @stem.pth --data SAMPLE', '6 classes (disc, ring'),
    ('train LITE --data SAMPLE --resume @step.pth', 'step.pth'),
]
"""Command lines that start a run, which may leave its log; and what the message must contain."""

CASES: list[tuple[str, str]] = [
    *named(_ANN, 'text.json', 'folder.json', 'pipe.json'),
    *named(_ANN, 'list.json', 'empty.json', 'nan.json', 'noimage.json', 'outside.json'),
    ('train LITE', '--data'),
    *named('train LITE --data', 'file', 'nofiles'),
    *named('complexity', 'exit.py', 'scalar.py'),
    *named('train', 'nothing.py', 'folder.py', 'code.yaml'),
    ('train LITE --cfg-options lr', '--cfg-options'),
    ('train LITE --cfg-options model=5 --data SAMPLE', 'model is 5'),
    ('train LITE --data SAMPLE --backbone Nope', 'Nope'),
    ('train LITE --data SAMPLE --pretrained nope', 'nope'),
    ('swap LITE --pretrained nope', 'nope'),
    ('train LITE --data SAMPLE --pretrained @text.pth', 'text.pth'),
    *with_values('train LITE --data SAMPLE', '--launcher', 'pytorch', 'nope'),
    *with_values('train LITE --data SAMPLE', '--work-dir', '@file/inside', '/proc/nothing'),
    *named('train LITE --data SAMPLE --resume', 'nothing.pth', 'stem.pth'),
    *named('test LITE --data SAMPLE', 'folder.pth', 'text.pth', 'slip.pth', 'bomb.pth', 'object.pth'),
    *with_values('test LITE @stem.pth --data SAMPLE', '--out', 'predictions.txt', '@file/a.pkl'),
    *with_values('test LITE @stem.pth --data SAMPLE', '--show-dir', '@file/a'),
    *with_values('test LITE @stem.pth --data SAMPLE', '--json', '@nofiles'),
    *with_values('test LITE @stem.xml', '--show-dir', 'a'),
    *named('weights verify', 'nothing.pth', 'cut.pth', 'list.pth', 'other.pth', 'html.pth'),
    *named('weights verify', 'header.safetensors'),
    ('weights verify ftp://host/a.pth', 'ftp://host/a.pth'),
    ('weights show ../../etc/passwd', '../../etc/passwd'),
    *named('weights extract -o out.safetensors', 'object.pth', 'other.pth'),
    ('weights extract @stem.pth -o out.pth', 'out.pth'),
    ('weights extract @stem.pth -o @file/out.safetensors', 'cannot be written'),
    *with_values('train LITE', '--epochs', '0'),
    *with_values('classify @zero.jpg', '--topk', '1001'),
    *named('classify --model ghostnet_050 --pretrained none', 'zero.jpg', 'text.jpg', 'bomb.png'),
    *named('classify --pretrained none', 'nofiles', 'nothing.jpg'),
    ('classify @zero.jpg --model nope', 'nope'),
    ('complexity LITE --size 5', '--size'),
    *with_values('swap LITE -o out.py', '--width', 'inf'),
    *with_values('swap LITE -o out.py', '--settings', 'depth'),
    ('swap LITE -o out.py --backbone GhostNet:x', 'GhostNet:x'),
    *named('benchmark', 'nothing.py', 'stem.pth'),
    *with_values('demo x.xml', '--port', '0', '99999'),
    ('doctor --nope', '--nope'),
    ('nope', 'nope'),
    *((f'eval @{name} @good.json', name) for name in ('nothing.json', 'pipe.json', 'text.json', 'good.json')),
    *((f'eval @{name} @good.json', name) for name in ('found-image.json', 'found-score.json')),
    ('eval @found-less.json @good.json', 'found-less.json'),
    ('eval @found.json @text.json', 'text.json'),
    *with_values('eval @found.json @good.json', '--json', '@file/a.json', '@found.json', '@good.json'),
    *with_values('eval @found.json @good.json', '--out-dir', '@file'),
    *with_values('eval @found.json @good.json', '--score', 'nan'),
    ('eval @found.json @good.json --iou-type segm', 'segmentation'),
    ('check-data', '--config'),
    *named('check-data', 'nothing', 'file', 'nofiles'),
    *with_values('check-data @megapixels', '--fix', '@file', '@megapixels/inside', 'a --quick'),
    *with_values('check-data @megapixels', '--html', '@file/a.html'),
    *named('check-data @megapixels --config', 'nothing.py'),
    *named('prepare-coco --root', 'file'),
    *with_values('prepare-coco', '--url', 'ftp://host', 'http://'),
    *with_values('detect @found.json x -o out', '--score', '2'),
    ('detect LITE @stem.pth -o out', LITE),
    ('configs -o mine.py', 'mine.py'),
    *((f'visualize {words.replace("IMAGE", _IMAGE)} -o a.png', name) for words, name in _DRAWN),
    (f'visualize ghost ghostnet_1x {_IMAGE} -o a.jpg', 'a.jpg'),
    (f'visualize ghost ghostnet_1x {_IMAGE} -o {_IMAGE}', '-o images/train/a.jpg'),
]
"""Further command lines, and what the message must contain."""
