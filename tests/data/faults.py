"""A generated data set in COCO's layout, and a way to put each kind of problem into it."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ghost_det.data.checks.check import Report

from .makers import orientation_tag

NAMES = ('cat', 'dog', 'cow')
WIDTH, HEIGHT = 64, 48


class Folder:
    """A data set without problems; each problem takes an image of its own, so that they do not meet."""

    def __init__(self, root: Path, train: int = 40, val: int = 8) -> None:
        self.root = root
        self.content: dict[str, Any] = {}
        self.next = 0
        rng = np.random.default_rng(0)
        (root / 'annotations').mkdir(parents=True)
        for split, count, first in (('train', train, 1), ('val', val, 501)):
            (root / f'{split}2017').mkdir()
            images, boxes = [], []
            for n in range(count):
                name = f'{first + n:04d}.jpg'
                images.append({'id': first + n, 'file_name': name, 'width': WIDTH, 'height': HEIGHT})
                boxes.append(self.box(n + 1, first + n, n % 3 + 1, [4 + n % 5, 5, 20, 12]))
                pixels = rng.integers(0, 255, (HEIGHT // 8, WIDTH // 8, 3), np.uint8)
                Image.fromarray(pixels).resize((WIDTH, HEIGHT)).save(root / f'{split}2017' / name)
            categories = [{'id': n + 1, 'name': name} for n, name in enumerate(NAMES)]
            self.content[split] = {'images': images, 'categories': categories, 'annotations': boxes}

    @staticmethod
    def box(number: int, image: int, category: int, bbox: list[float]) -> dict[str, Any]:
        ids = {'id': number, 'image_id': image, 'category_id': category}
        return {**ids, 'bbox': bbox, 'area': abs(bbox[2] * bbox[3]), 'iscrowd': 0}

    def take(self) -> tuple[dict[str, Any], dict[str, Any], Path]:
        """An image of train that has no problem yet, its box, its file."""
        image, box = (self.content['train'][key][self.next] for key in ('images', 'annotations'))
        self.next += 1
        return image, box, self.root / 'train2017' / image['file_name']

    def rename(self, image: dict[str, Any], path: Path, suffix: str) -> Path:
        path.unlink()
        image['file_name'] = Path(image['file_name']).with_suffix(suffix).name
        return path.with_name(image['file_name'])

    def save(self) -> Path:
        for split, content in self.content.items():
            path = self.root / f'annotations/instances_{split}2017.json'
            mark = '\ufeff' if content.pop('mark', False) else ''
            path.write_text(mark + content.get('text', json.dumps(content)))
        return self.root


Put = Callable[[Folder], object]


def box(**values: Any) -> Put:
    return lambda folder: folder.take()[1].update(values)


def resize(width: int, height: int, orientation: int = 1) -> Put:
    """Annotate an image with a size, and give it an orientation."""

    def put(folder: Folder) -> None:
        image, _, path = folder.take()
        image.update(width=width, height=height)
        save_tagged(Image.open(path), path, orientation)

    return put


def convert(suffix: str, change: Callable[[Image.Image], Any]) -> Put:
    """Replace an image by another, made of it."""

    def put(folder: Folder) -> None:
        image, _, path = folder.take()
        picture = change(Image.open(path))
        image.update(width=picture.size[0], height=picture.size[1])
        picture.save(folder.rename(image, path, suffix))

    return put


def to_grey(kind: type, factor: float) -> Callable[[Image.Image], Image.Image]:
    return lambda picture: Image.fromarray(
        (np.asarray(picture.convert('L'), np.float64) * factor).astype(kind)
    )


def same(position: int, key: str) -> Put:
    """Give two images (0) or boxes (1) the same id or file."""

    def put(folder: Folder) -> None:
        first, second = folder.take()[position], folder.take()[position]
        second[key] = first[key]  # type: ignore[index]

    return put


def category(split: str, used: bool = False, **values: Any) -> Put:
    """Add a category, with a box or without."""

    def put(folder: Folder) -> None:
        content = folder.content[split]
        content['categories'].append(values)
        if used:
            image = content['images'][-1]['id']
            content['annotations'].append(folder.box(777, image, values['id'], [1, 2, 9, 9]))

    return put


def backslash(folder: Folder) -> None:
    image, _, path = folder.take()
    (path.parent / 'a').mkdir()
    path.rename(path.parent / 'a' / path.name)
    image['file_name'] = 'a\\' + path.name


def outline(folder: Folder) -> None:
    box = folder.take()[1]
    box.update(segmentation=[[10, 10, 30, 10, 30, 40]])
    del box['bbox'], box['area']


def kinds(report: Report) -> set[str]:
    return {finding.kind for finding in report.findings}


def hashes(root: Path) -> dict[str, str]:
    files = (path for path in sorted(root.rglob('*')) if path.is_file())
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="{}"/>'
    '</rdf:RDF></x:xmpmeta>'
)


def save_tagged(picture: Image.Image, path: Path, orientation: int) -> Path:
    """Save an image with an orientation in EXIF, or in XMP where the file's name starts with it."""
    options: dict[str, Any] = {'exif': orientation_tag(orientation)}
    if path.name.startswith('xmp'):
        xmp = XMP.format(orientation).encode()
        options = {'tiffinfo': {700: xmp}} if path.suffix == '.tif' else {'xmp': xmp}
    elif path.suffix in ('.bmp', '.gif'):
        options = {}  # they have no place for it
    picture.save(path, lossless=True, **options)
    return path


# Problems that leave no room for others in the split.
SPLIT_PROBLEMS: dict[str, Put] = {
    'wrong json': lambda folder: folder.content['train'].update(text='{"images": [],\n"annotations": [,]}'),
    'empty split': lambda folder: folder.content['train'].update(images=[], annotations=[]),
    'no boxes': lambda folder: folder.content['train'].update(annotations=[]),
    'missing split': lambda folder: folder.content.pop('train'),  # without val, one would be split off
}
# Problems that only the full check finds.
OPENED: dict[str, Put] = {
    'unreadable image': lambda folder: os.truncate(folder.take()[2], 500),
    'wrong size': resize(32, 24),
    'EXIF rotation': resize(HEIGHT, WIDTH, orientation=6),
    'grey image': convert('.jpg', lambda picture: picture.convert('L')),
    'image with alpha': convert('.png', lambda picture: picture.convert('RGBA')),
    '16-bit image': convert('.png', to_grey(np.uint16, 16)),  # 12 bits, as of cameras
    '32-bit image': convert('.tif', to_grey(np.float32, 1 / 255)),
    'CMYK image': convert('.jpg', lambda picture: picture.convert('CMYK')),
    'huge image': convert('.png', lambda picture: Image.new('1', (20_000, 6_000))),
    'same image twice': lambda folder: shutil.copy(folder.take()[2], folder.take()[2]),
    'image in both splits': lambda folder: shutil.copy(folder.root / 'val2017/0501.jpg', folder.take()[2]),
}
# Problems that one folder can have together.
TOGETHER: dict[str, Put] = {
    'wrong entry': box(bbox=['1', 2, 3]),
    'id as text': lambda folder: folder.take()[1].update(image_id=str(folder.next)),
    'name in another form': backslash,
    'no bbox': outline,
    'image without size': lambda folder: folder.take()[0].pop('height'),
    'byte order mark': lambda folder: folder.content['train'].update(mark=True),
    'duplicate image id': same(0, 'id'),
    'duplicate box id': same(1, 'id'),
    'duplicate category id': category('train', id=1, name='pig'),
    'duplicate category name': category('train', used=True, id=9, name=NAMES[0]),
    'duplicate file name': same(0, 'file_name'),
    'unknown category': box(category_id=99),
    'unknown image': box(image_id=9999),
    'category without boxes': lambda folder: [
        category(split, id=5, name='hen', supercategory='bird')(folder) for split in ('train', 'val')
    ],
    'no area or iscrowd': lambda folder: folder.take()[1].pop('area'),
    'empty duplicate category': category('train', id=6, name=NAMES[0], supercategory='animal'),
    'impossible area': box(area=-1),
    'number as text': box(iscrowd='0'),
    'ignored box': box(ignore=1),
    'rotated box': box(attributes={'rotation': 42.5}),
    'box not finite': box(bbox=[1, math.nan, 5, 5]),
    'swapped corners': box(bbox=[30, 30, -20, -10]),
    'corners for sizes': box(bbox=[30, 20, 60, 45]),
    'empty box': box(bbox=[5, 5, 0, 10]),
    'box outside': box(bbox=[70, 5, 10, 10]),
    'box sticks out': box(bbox=[50, 5, 18, 10]),
    'tiny box': box(bbox=[5, 5, 2.5, 10]),
    'box unlike its polygon': box(segmentation=[[10, 10, 30, 10, 30, 40, 10, 40]]),
    'same box twice': lambda folder: folder.content['train']['annotations'].append(
        {**folder.take()[1], 'id': 888}
    ),
    'crowd box': box(iscrowd=1),
    'image without boxes': lambda folder: folder.content['train']['annotations'].remove(folder.take()[1]),
    'missing file': lambda folder: folder.take()[2].unlink(),
    'EXIF against boxes': resize(WIDTH, HEIGHT, orientation=6),
    **OPENED,
    'class unknown in train': category('val', used=True, id=7, name='yak'),
    'classes differ': lambda folder: folder.content['val']['categories'].reverse(),
}
# What else a problem brings with it.
SIDE_EFFECTS = {
    'wrong entry': {'image without boxes'},
    'no bbox': {'no area or iscrowd'},
    'duplicate image id': {'image without boxes', 'unknown image'},
    'duplicate category id': {'classes differ', 'category without boxes'},
    'duplicate category name': {'classes differ'},
    'unknown image': {'image without boxes'},
    'huge image': {'grey image'},
    'class unknown in train': {'classes differ'},
}
