"""A generated data set in COCO's layout, and a way to put each kind of problem into it."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ghost_det.data.checks.check import Report

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
            images = [
                {'id': first + n, 'file_name': f'{first + n:04d}.jpg', 'width': WIDTH, 'height': HEIGHT}
                for n in range(count)
            ]
            for image in images:
                pixels = rng.integers(0, 255, (HEIGHT // 8, WIDTH // 8, 3), np.uint8)
                picture = Image.fromarray(pixels).resize((WIDTH, HEIGHT))
                picture.save(root / f'{split}2017' / image['file_name'])
            self.content[split] = {
                'images': images,
                'categories': [{'id': n + 1, 'name': name} for n, name in enumerate(NAMES)],
                'annotations': [
                    self.box(n + 1, image['id'], n % 3 + 1, [4 + n % 5, 5, 20, 12])
                    for n, image in enumerate(images)
                ],
            }

    @staticmethod
    def box(number: int, image: int, category: int, bbox: list[float]) -> dict[str, Any]:
        return {
            'id': number, 'image_id': image, 'category_id': category, 'bbox': bbox,
            'area': abs(bbox[2] * bbox[3]), 'iscrowd': 0,
        }  # fmt: skip

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
            if isinstance(content, str):
                path.write_text(content)
            else:
                mark = '\ufeff' if content.pop('mark', False) else ''
                path.write_text(mark + json.dumps(content))
        return self.root


def set_box(bbox: list[float]) -> Callable[[Folder], None]:
    return lambda folder: folder.take()[1].update(bbox=bbox)


def with_box(change: Callable[[dict[str, Any]], object]) -> Callable[[Folder], None]:
    return lambda folder: change(folder.take()[1]) and None


def resize(width: int, height: int, orientation: int = 1) -> Callable[[Folder], None]:
    """Annotate an image with a size, and give it an orientation."""

    def put(folder: Folder) -> None:
        image, _, path = folder.take()
        image.update(width=width, height=height)
        if orientation > 1:
            save_tagged(Image.open(path), path, orientation)

    return put


def convert(suffix: str, change: Callable[[Image.Image], Any]) -> Callable[[Folder], None]:
    """Replace an image by another, made of it."""

    def put(folder: Folder) -> None:
        image, _, path = folder.take()
        picture = change(Image.open(path))
        image.update(width=picture.size[0], height=picture.size[1])
        picture.save(folder.rename(image, path, suffix))

    return put


def to_16_bit(picture: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(picture.convert('L')).astype(np.uint16) * 16)  # 12 bits, as of cameras


def to_float(picture: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(picture.convert('L'), np.float32) / 255)


def copy_bytes(split: str) -> Callable[[Folder], object]:
    def put(folder: Folder) -> None:
        _, _, path = folder.take()
        other = folder.take()[2] if split == 'train' else folder.root / 'val2017/0501.jpg'
        path.write_bytes(other.read_bytes())

    return put


def same_file(folder: Folder) -> None:
    first, (image, _, path) = folder.take()[0], folder.take()
    path.unlink()
    image['file_name'] = first['file_name']


def same_id(position: int) -> Callable[[Folder], None]:
    """Give two images (0) or boxes (1) the same id."""
    return lambda folder: folder.take()[position].update(id=folder.take()[position]['id'])  # type: ignore[union-attr]


def category(split: str, used: bool = False, **values: Any) -> Callable[[Folder], None]:
    """Add a category, with a box or without."""

    def put(folder: Folder) -> None:
        content = folder.content[split]
        content['categories'].append(values)
        if used:
            content['annotations'].append(
                folder.box(777, content['images'][-1]['id'], values['id'], [1, 2, 9, 9])
            )

    return put


def backslash(folder: Folder) -> None:
    image, _, path = folder.take()
    (path.parent / 'a').mkdir()
    path.rename(path.parent / 'a' / path.name)
    image['file_name'] = 'a\\' + path.name


def outline(box: dict[str, Any]) -> None:
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
    tag = Image.Exif()
    tag[0x0112] = orientation
    options: dict[str, Any] = {'exif': tag}
    if path.name.startswith('xmp'):
        xmp = XMP.format(orientation).encode()
        options = {'tiffinfo': {700: xmp}} if path.suffix == '.tif' else {'xmp': xmp}
    elif path.suffix in ('.bmp', '.gif'):
        options = {}  # they have no place for it
    picture.save(path, lossless=True, **options)
    return path


# Problems that leave no room for others in the split.
ALONE: dict[str, Callable[[Folder], object]] = {
    'wrong json': lambda folder: folder.content.update(train='{"images": [],\n"annotations": [,]}'),
    'empty split': lambda folder: folder.content['train'].update(images=[], annotations=[]),
    'no boxes': lambda folder: folder.content['train'].update(annotations=[]),
    'missing split': lambda folder: folder.content.pop('train'),  # without val, one would be split off
}
# Problems that one folder can have together.
TOGETHER: dict[str, Callable[[Folder], object]] = {
    'wrong entry': with_box(lambda box: box.update(bbox=['1', 2, 3])),
    'id as text': with_box(lambda box: box.update(image_id=str(box['image_id']))),
    'name in another form': backslash,
    'no bbox': with_box(outline),
    'image without size': lambda folder: folder.take()[0].pop('height'),
    'byte order mark': lambda folder: folder.content['train'].update(mark=True),
    'duplicate image id': same_id(0),
    'duplicate box id': same_id(1),
    'duplicate category id': category('train', id=1, name='pig'),
    'duplicate category name': category('train', used=True, id=9, name=NAMES[0]),
    'duplicate file name': same_file,
    'unknown category': with_box(lambda box: box.update(category_id=99)),
    'unknown image': with_box(lambda box: box.update(image_id=9999)),
    'category without boxes': lambda folder: [
        category(split, id=5, name='hen', supercategory='bird')(folder) for split in ('train', 'val')
    ],
    'no area or iscrowd': with_box(lambda box: box.pop('area')),
    'empty duplicate category': category('train', id=6, name=NAMES[0], supercategory='animal'),
    'impossible area': with_box(lambda box: box.update(area=-1)),
    'number as text': with_box(lambda box: box.update(iscrowd='0')),
    'ignored box': with_box(lambda box: box.update(ignore=1)),
    'rotated box': with_box(lambda box: box.update(attributes={'rotation': 42.5})),
    'box not finite': set_box([1, math.nan, 5, 5]),
    'swapped corners': set_box([30, 30, -20, -10]),
    'corners for sizes': set_box([30, 20, 60, 45]),
    'empty box': set_box([5, 5, 0, 10]),
    'box outside': set_box([70, 5, 10, 10]),
    'box sticks out': set_box([50, 5, 18, 10]),
    'tiny box': set_box([5, 5, 2.5, 10]),
    'box unlike its polygon': with_box(
        lambda box: box.update(segmentation=[[10, 10, 30, 10, 30, 40, 10, 40]])
    ),
    'same box twice': lambda folder: folder.content['train']['annotations'].append(
        {**folder.take()[1], 'id': 888}
    ),
    'crowd box': with_box(lambda box: box.update(iscrowd=1)),
    'image without boxes': lambda folder: folder.content['train']['annotations'].remove(folder.take()[1]),
    'missing file': lambda folder: folder.take()[2].unlink(),
    'unreadable image': lambda folder: os.truncate(folder.take()[2], 500),
    'wrong size': resize(32, 24),
    'EXIF rotation': resize(HEIGHT, WIDTH, orientation=6),
    'EXIF against boxes': resize(WIDTH, HEIGHT, orientation=6),
    'grey image': convert('.jpg', lambda picture: picture.convert('L')),
    'image with alpha': convert('.png', lambda picture: picture.convert('RGBA')),
    '16-bit image': convert('.png', to_16_bit),
    '32-bit image': convert('.tif', to_float),
    'CMYK image': convert('.jpg', lambda picture: picture.convert('CMYK')),
    'huge image': convert('.png', lambda picture: Image.new('1', (20_000, 6_000))),
    'same image twice': copy_bytes('train'),
    'image in both splits': copy_bytes('val'),
    'class unknown in train': category('val', used=True, id=7, name='yak'),
    'classes differ': lambda folder: folder.content['val']['categories'].reverse(),
}
# What else a problem brings with it.
BESIDES = {
    'wrong entry': {'image without boxes'},
    'no bbox': {'no area or iscrowd'},
    'duplicate image id': {'image without boxes', 'unknown image'},
    'duplicate category id': {'classes differ', 'category without boxes'},
    'duplicate category name': {'classes differ'},
    'unknown image': {'image without boxes'},
    'huge image': {'grey image'},
    'class unknown in train': {'classes differ'},
}
