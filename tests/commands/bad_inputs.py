"""Bad inputs: files, made where a command line names them as @NAME; command lines; what must be said."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from tests.conftest import ROOT

GOOD: dict[str, Any] = {
    'images': [{'id': 1, 'file_name': 'a.jpg', 'width': 64, 'height': 48}],
    'annotations': [{'id': 1, 'image_id': 1, 'category_id': 1, 'bbox': [1, 2, 30, 20]}],
    'categories': [{'id': 1, 'name': 'cat'}],
}

FOUND = {'image_id': 1, 'category_id': 1, 'bbox': [1, 2, 30, 20], 'score': 0.9}


def changed(key: str, **fields: Any) -> bytes:
    """Return annotations whose first entry of a list has other fields; of `...` as a value, without them."""
    content = json.loads(json.dumps(GOOD))
    content[key][0].update(fields)
    content[key][0] = {name: value for name, value in content[key][0].items() if value is not ...}
    return json.dumps(content).encode()


def twice(key: str) -> bytes:
    return json.dumps({**GOOD, key: GOOD[key] * 2}).encode()


def saved(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def png(width: int, height: int) -> bytes:
    """Return a PNG that is small as a file, of black pixels."""
    packer = zlib.compressobj(9)
    row = b'\0' * (1 + (width + 7) // 8)
    data = b''.join(packer.compress(row * 1000) for _ in range(height // 1000)) + packer.flush()

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack('>I', len(body)) + name + body + struct.pack('>I', zlib.crc32(name + body))

    head = chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 1, 0, 0, 0, 0))
    return b'\x89PNG\r\n\x1a\n' + head + chunk(b'IDAT', data) + chunk(b'IEND', b'')


def zipped(*parts: tuple[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts:
            archive.writestr(name, content)
    return file.getvalue()


def folder(path: Path) -> None:
    path.mkdir()


def sparse(path: Path) -> None:
    with path.open('wb') as file:
        file.truncate(2**42)


def images(path: Path) -> None:
    path.mkdir()
    (path / 'a.jpg').write_bytes(png(64, 1000))


def images_of(image: bytes | Callable[[Path], None]) -> Callable[[Path], None]:
    """Return a maker of a data set whose images are all this one."""

    def make(path: Path) -> None:
        (path / 'annotations').mkdir(parents=True)
        for split in ('train', 'val'):
            (path / f'annotations/instances_{split}.json').write_text(json.dumps(GOOD))
            (path / split).mkdir()
            make_file(path / split / 'a.jpg', image)

    return make


def make_file(path: Path, content: bytes | Callable[[Path], None]) -> None:
    path.write_bytes(content) if isinstance(content, bytes) else content(path)


LITE = str(ROOT / 'configs/retinanet_ghostnet_fpn_lite.py')
_BASE = f'_base_ = {LITE!r}\n'.encode()
_SVG = b'<svg xmlns="http://www.w3.org/2000/svg"/>'
JPEG = bytes.fromhex('ffd8ffe000104a46494600010100000100010000')
WEIGHTS = {'backbone.conv_stem.weight': torch.zeros(16, 3, 3, 3)}

FILES: dict[str, bytes | Callable[[Path], None]] = {
    'good.json': json.dumps(GOOD).encode(),
    'images': images,
    'text.json': b'hello',
    'cut.json': json.dumps(GOOD).encode()[:-9],
    'zero.json': b'',
    'latin.json': json.dumps(GOOD, ensure_ascii=False).replace('cat', 'k\xe4').encode('latin-1'),
    'deep.json': b'[' * 100_000,
    'nested.json': b'{"images": ' + b'[' * 100_000 + b']' * 100_000 + b'}',
    'folder.json': folder,
    'list.json': b'[]',
    'null.json': b'null',
    'lacks.json': b'{"images": [], "categories": []}',
    'digits.json': b'{"images": [' + b'9' * 5000 + b']}',
    'sparse.json': sparse,
    'empty.json': b'{"images": [], "annotations": [], "categories": []}',
    'hugeid.json': changed('images', id=10**30),
    'hugebox.json': changed('annotations', bbox=[0, 0, 10**400, 1]),
    'nan.json': changed('annotations', bbox=[0, 0, float('nan'), 1]),
    'string.json': changed('annotations', bbox=['0', 0, 5, 5]),
    'boxnull.json': changed('annotations', bbox=None),
    'nobox.json': changed('annotations', bbox=...),
    'corners.json': changed('annotations', bbox=[9, 9, -5, -5]),
    'three.json': changed('annotations', bbox=[1, 2, 3]),
    'noimage.json': changed('annotations', image_id=7),
    'nocategory.json': changed('annotations', category_id=7),
    'width.json': changed('images', width=-64),
    'height.json': changed('images', height='48'),
    'nul.json': changed('images', file_name='a\0.jpg'),
    'surrogate.json': changed('images', file_name='\ud800.jpg'),
    'noname.json': changed('images', file_name=...),
    'newline.json': changed('images', file_name='a\n.jpg'),
    'outside.json': changed('images', file_name='../../nothing.jpg'),
    'absolute.json': changed('images', file_name='/nothing/a.jpg'),
    'class.json': changed('categories', name=[5]),
    'noboxes.json': json.dumps({**GOOD, 'annotations': []}).encode(),
    'twice.json': twice('images'),
    'classtwice.json': twice('categories'),
    'entry.json': json.dumps({**GOOD, 'annotations': [5]}).encode(),
    'img-zero': images_of(b''),
    'img-cut': images_of(JPEG),
    'img-text': images_of(b'no image'),
    'img-svg': images_of(_SVG),
    'img-folder': images_of(folder),
    'img-bomb': images_of(png(40_000, 40_000)),
    'zero.jpg': b'',
    'text.jpg': b'no image',
    'svg.jpg': _SVG,
    'bomb.png': png(40_000, 40_000),
    'nofiles': folder,
    'syntax.py': b'model = dict(\n',
    'raises.py': b'model = 1 / 0\n',
    'nomodel.py': b'a = 1\n',
    'type.py': _BASE + b"model = dict(type='Nope')\n",
    'absent.py': _BASE + b"custom_imports = dict(imports=['nowhere_parts'])\n",
    'exit.py': b'raise SystemExit(0)\n',
    'scalar.py': _BASE + b'model = dict(_delete_=True, type=5)\n',
    'circle.py': b"_base_ = './circle.py'\n",
    'nobase.py': b"_base_ = './nothing.py'\n",
    'mmdet.py': b"_base_ = 'mmdet::nothing/nothing.py'\n",
    'config.txt': _BASE,
    'config.yaml': b'model: {type: RetinaNet}\n',
    'code.yaml': b'!!python/object/apply:os.mkdir [executed]\n',
    'config.json': b'{"model": ',
    'latin.py': b"a = '\xe4'\n",
    'folder.py': folder,
    'zero.pth': b'',
    'text.pth': b'hello, this is text',
    'folder.pth': folder,
    'zip.pth': zipped(('a.txt', b'hello')),
    'slip.pth': zipped(('../../executed', b'hello')),
    'cut.pth': saved(WEIGHTS)[:-200],
    'bomb.pth': zipped(('archive/data.pkl', b'\0' * 300_000_000)),
    'list.pth': saved([1, 2]),
    'numbers.pth': saved({1: torch.zeros(1)}),
    'object.pth': pickle.dumps(Path('x'), 2),
    'other.pth': saved({'state_dict': {'a.weight': torch.zeros(3)}}),
    'stem.pth': saved({'state_dict': WEIGHTS}),
    'header.safetensors': struct.pack('<Q', 2**60) + b'{"a":1}',
    'cut.safetensors': struct.pack('<Q', 60) + b'{"a": {"dtype": "F32"',
    'html.pth': b'<!DOCTYPE html><html>login</html>',
    'lfs.pth': b'version https://git-lfs.github.com/spec/v1\noid sha256:0\n',
    'file': b'a file',
    'pipe.json': os.mkfifo,
    'found.json': json.dumps([FOUND]).encode(),
    'found-image.json': json.dumps([{**FOUND, 'image_id': 7}]).encode(),
    'found-category.json': json.dumps([{**FOUND, 'category_id': 7}]).encode(),
    'found-score.json': json.dumps([{**FOUND, 'score': float('nan')}]).encode(),
    'found-box.json': json.dumps([{**FOUND, 'bbox': [1, 2, 3]}]).encode(),
    'found-less.json': json.dumps([{'image_id': 1}]).encode(),
    'megapixels': images_of(png(10_000, 11_000)),
    'step.pth': saved({'meta': {'iter': 'x', 'epoch': 1}, 'state_dict': WEIGHTS, 'optimizer': {}}),
}


class Case(NamedTuple):
    """A command line, parts of the one message, and whether the run may have begun and left its log."""

    command: str
    parts: tuple[str, ...]
    begun: bool = False


def annotations(name: str, *parts: str) -> Case:
    command = (
        f'train LITE --train-ann @{name} --train-images @images --val-ann @good.json --val-images @images'
    )
    return Case(command, (name, *parts))


def begun(command: str, *parts: str) -> Case:
    return Case(command, parts, begun=True)


def said(command: str, *parts: str) -> Case:
    return Case(command, parts)


_ALONE = '--pretrained none --cfg-options train_dataloader.num_workers=0 val_dataloader.num_workers=0'
_RUN = f'train LITE --data SAMPLE --batch-size 1 {_ALONE}'

CASES: list[Case] = [
    *(
        annotations(name, 'not json')
        for name in ('text.json', 'cut.json', 'zero.json', 'latin.json', 'digits.json')
    ),
    *(annotations(name, 'nested too deep') for name in ('deep.json', 'nested.json')),
    annotations('folder.json', 'no such annotation file'),
    annotations('sparse.json', 'split it'),
    annotations('empty.json', 'empty'),
    *(annotations(name, 'COCO') for name in ('list.json', 'null.json', 'lacks.json')),
    *(
        annotations(name, 'bbox')
        for name in (
            'hugebox.json',
            'nan.json',
            'string.json',
            'boxnull.json',
            'nobox.json',
            'corners.json',
            'three.json',
        )
    ),
    annotations('hugeid.json', 'images[0]', 'id'),
    annotations('noimage.json', 'image_id 7'),
    annotations('nocategory.json', 'category_id 7'),
    annotations('width.json', 'width'),
    annotations('height.json', 'height'),
    *(annotations(name, 'file_name') for name in ('nul.json', 'noname.json')),
    *(
        annotations(name, '--train-images')
        for name in ('surrogate.json', 'newline.json', 'outside.json', 'absolute.json')
    ),
    annotations('class.json', 'name'),
    annotations('noboxes.json', 'no boxes'),
    annotations('twice.json', 'two images'),
    annotations('classtwice.json', 'two categories'),
    annotations('entry.json', 'annotations[0]'),
    *(
        begun(f'train LITE --data @{name} {_ALONE}', f'{name}/train/a.jpg', 'not an image', '--fix')
        for name in ('img-zero', 'img-cut', 'img-text', 'img-svg', 'img-bomb')
    ),
    said(f'train LITE --data @img-folder {_ALONE}', 'a.jpg', '--train-images'),
    *(
        said(f'classify @{name} --model ghostnet_050 --pretrained none', name)
        for name in ('zero.jpg', 'text.jpg', 'svg.jpg', 'bomb.png')
    ),
    said('classify @nofiles --pretrained none', 'nofiles', 'no images'),
    said('classify @nothing.jpg --pretrained none', 'nothing.jpg', 'no such file'),
    *(
        said(f'{tool} @{name}', name, part)
        for tool, name, part in (
            ('train', 'nothing.py', 'no such config'),
            ('train', 'folder.py', 'no such config'),
            ('complexity', 'syntax.py', 'line'),
            ('complexity', 'raises.py', 'division by zero'),
            ('train', 'nomodel.py', 'it has no model'),
            ('swap', 'circle.py', 'cannot be read'),
            ('train', 'nobase.py', 'nothing.py'),
            ('train', 'mmdet.py', 'cannot be read'),
            ('train', 'config.txt', '.py'),
            ('train', 'config.yaml', '.yaml could run code'),
            ('train', 'code.yaml', '.yaml could run code'),
            ('complexity', 'config.json', 'cannot be read'),
            ('complexity', 'latin.py', 'config'),
            ('complexity', 'type.py', 'Nope'),
            ('complexity', 'absent.py', 'imports nowhere_parts, which is not here'),
            ('complexity', 'exit.py', 'cannot be read as a config: SystemExit'),
            ('swap', 'scalar.py', 'type'),
            ('complexity', 'scalar.py', 'type'),
        )
    ),
    begun('train @type.py --data SAMPLE --pretrained none', 'type.py', 'Nope'),
    *(
        begun(f'{_RUN} {option}', 'retinanet_ghostnet_fpn_lite.py', *parts)
        for option, *parts in (
            ('optim_wrapper.optimizer.type=Nope', 'Nope'),
            ('optim_wrapper.accumulative_counts=0', 'cannot be built'),
            ('train_dataloader.batch_size=0', 'batch_size'),
            ('train_dataloader.dataset.nope=1', 'nope'),
            ('default_hooks.logger.type=Nope', 'Nope'),
            ('model.backbone.widht=1', 'widht'),
            ('model.backbone.out_indices=(0,1)', 'first step', 'out_indices'),
            ('model.neck.in_channels=[1,2,3,4]', 'first step', 'channels'),
            ('param_scheduler.0.type=Nope', 'Nope'),
            ('train_cfg.type=Nope', 'Nope'),
        )
    ),
    *(
        said(f'{command} @{name}', name, part)
        for command in ('test LITE --data SAMPLE', 'train LITE --data SAMPLE --pretrained none --resume')
        for name, part in (
            ('nothing.pth', 'found nothing'),
            ('folder.pth', 'found a folder'),
            ('zero.pth', 'not a checkpoint'),
            ('text.pth', 'not a checkpoint'),
            ('zip.pth', 'not a checkpoint'),
            ('slip.pth', 'not a checkpoint'),
            ('cut.pth', 'not a checkpoint'),
            ('bomb.pth', 'memory'),
            ('list.pth', 'found list'),
            ('numbers.pth', 'named weights'),
            ('object.pth', 'refused'),
        )
    ),
    begun('test LITE @stem.pth --data SAMPLE', 'stem.pth', 'does not fit'),
    said('train LITE --data SAMPLE --resume @stem.pth', 'stem.pth', 'only weights'),
    *(
        said(f'weights {command}', name, part)
        for name, part in (
            ('nothing.pth', 'nothing'),
            ('folder.pth', 'folder'),
            ('zero.pth', 'empty'),
            ('text.pth', 'not weights'),
            ('zip.pth', 'not a checkpoint'),
            ('slip.pth', 'not a checkpoint'),
            ('cut.pth', 'damaged'),
            ('bomb.pth', 'memory'),
            ('list.pth', 'found list'),
            ('object.pth', 'refused'),
            ('header.safetensors', 'damaged'),
            ('cut.safetensors', 'damaged'),
            ('html.pth', 'a web page'),
            ('lfs.pth', 'Git LFS'),
        )
        for command in (f'verify @{name}', f'extract @{name} -o out.safetensors')
    ),
    said('weights verify @other.pth', 'other.pth', 'none of GhostNet'),
    said('weights extract @other.pth -o out.safetensors', 'other.pth', 'prefix'),
    said('weights extract @stem.pth -o out.pth', 'out.pth', '.safetensors'),
    said('weights extract @stem.pth -o @file/out.safetensors', 'cannot be written'),
    said('weights show ../../etc/passwd', 'no such published weights'),
    said('weights verify ftp://host/a.pth', 'ftp://host/a.pth'),
    *(
        said(f'train LITE --{option} {value}', option)
        for option in ('epochs', 'batch-size')
        for value in ('0', '-1', 'x', 'nan', '1.5')
    ),
    *(
        said(f'classify @zero.jpg --{option} {value}', option)
        for option in ('topk', 'batch-size')
        for value in ('0', '-1', 'x', 'nan')
    ),
    said('classify @zero.jpg --topk 1001 --pretrained none', 'topk 1001'),
    said('classify @zero.jpg --model nope', 'nope'),
    *(
        said(f'{tool} --size {size}', '--size')
        for tool in ('complexity LITE', 'swap LITE -o out.py')
        for size in ('0 -5', 'x 5', '5')
    ),
    *(said(f'swap LITE -o out.py --width {value}', '--width') for value in ('0', '-1', 'x', 'nan', 'inf')),
    said('swap LITE -o out.py --backbone Nope', 'Nope'),
    said('swap LITE -o out.py --backbone GhostNet:x', 'GhostNet:x'),
    said('swap LITE -o out.txt', 'out.txt'),
    said('swap LITE -o @file/out.py', 'cannot be written'),
    said('swap LITE -o out.py --settings depth', '--settings'),
    *(said(f'benchmark LITE --rounds {value}', '--rounds') for value in ('0', '-1', 'x')),
    said('benchmark LITE --size 5', '--size'),
    said('benchmark @nothing.py', 'nothing.py'),
    said('benchmark @stem.pth', 'stem.pth', 'after its config'),
    said('benchmark LITE --json @folder.json', '--json'),
    said('doctor --nope', '--nope'),
    said('train LITE --cfg-options lr', 'KEY=VALUE'),
    said('train LITE --cfg-options model=5 --data SAMPLE', 'model is 5'),
    said('train LITE --data SAMPLE --backbone Nope', 'Nope'),
    said('train LITE --data SAMPLE --backbone :2', '--backbone'),
    said('train LITE --data @file', 'a file'),
    said('train LITE --data @nofiles', 'nofiles', 'layouts'),
    said('train LITE', 'data/coco', '--data'),
    said('train LITE --launcher pytorch', '--launcher pytorch', 'torchrun'),
    said('train LITE --launcher slurm', '--launcher slurm', 'srun'),
    said('train LITE --launcher nope', '--launcher'),
    said('WORLD_SIZE=abc RANK=0 train LITE --data SAMPLE', 'WORLD_SIZE', 'abc'),
    said('WORLD_SIZE=2 RANK=x train LITE --data SAMPLE', 'RANK', 'x'),
    said(
        'WORLD_SIZE=abc RANK=0 LOCAL_RANK=0 MASTER_ADDR=h train LITE --data SAMPLE --launcher pytorch',
        'WORLD_SIZE',
    ),
    said('train LITE --data SAMPLE --work-dir @file', '--work-dir'),
    said('train LITE --data SAMPLE --work-dir @file/inside', '--work-dir', 'cannot be written'),
    said('train LITE --data SAMPLE --work-dir /proc/nothing', '/proc/nothing', 'cannot be written'),
    said('test LITE @stem.pth --data SAMPLE --out predictions.txt', '.pkl'),
    said('test LITE @stem.pth --data SAMPLE --out @file/a.pkl', '--out'),
    said('test LITE @stem.pth --data SAMPLE --show-dir @file/a', '--show-dir'),
    annotations('pipe.json', 'no such annotation file'),
    said('train LITE --data SAMPLE --resume @step.pth --pretrained none', 'step.pth'),
    *(
        said(f'eval @{name} @good.json', name, part)
        for name, part in (
            ('nothing.json', 'nothing'),
            ('folder.json', 'folder'),
            ('pipe.json', 'a pipe'),
            ('text.json', 'not json'),
            ('sparse.json', 'split it'),
            ('good.json', 'list'),
            ('found-image.json', 'image_id 7'),
            ('found-category.json', 'category_id 7'),
            ('found-score.json', 'score'),
            ('found-box.json', 'bbox'),
            ('found-less.json', 'category_id'),
        )
    ),
    said('eval @found.json @cut.json', 'cut.json', 'not json'),
    said('eval @found.json @good.json --json @file/a.json', '--json'),
    said('eval @found.json @good.json --out-dir @file', '--out-dir'),
    said('eval @found.json @good.json --score x', '--score'),
    said('eval @found.json @good.json --iou-type segm', 'segmentation'),
    said('check_data', '--config'),
    said('check_data @nothing', 'nothing'),
    said('check_data @file', 'a file'),
    said('check_data @nofiles', 'nofiles', 'layouts'),
    said('check_data @megapixels --fix @file', '--fix'),
    said('check_data @megapixels --fix @megapixels/inside', '--fix'),
    said('check_data @megapixels --html @file/a.html', '--html'),
    said('check_data @megapixels --json @file/a.json', '--json'),
    said('check_data @megapixels --config @nothing.py', 'nothing.py'),
    *(said(f'check_data @megapixels --jobs {value}', '--jobs') for value in ('0', '-1', 'x')),
    *(
        said(f'prepare_coco --{option} {value}', option)
        for option in ('subset', 'jobs')
        for value in ('0', '-1', 'x')
    ),
    said('prepare_coco --root @file', 'file'),
    said('prepare_coco --root @nofiles --url ftp://host', '--url', 'ftp://host'),
    said('prepare_coco --splits nope', '--splits'),
    said('train LITE --data SAMPLE --pretrained nope', 'nope'),
    said('train LITE --data SAMPLE --pretrained @text.pth', 'text.pth'),
    said('train LITE --data SAMPLE --pretrained ghost://nope', 'nope'),
]
