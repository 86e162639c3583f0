"""A generated data set in COCO's layout, and a way to put each kind of problem into it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
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


def set_both(change: Callable[[dict[str, Any], dict[str, Any], Path], object]) -> Callable[[Folder], None]:
    def put(folder: Folder) -> None:
        change(*folder.take())

    return put


def exif(orientation: int, size: tuple[int, int]) -> Callable[[Folder], None]:
    def put(folder: Folder) -> None:
        image, _, path = folder.take()
        tag = Image.Exif()
        tag[0x0112] = orientation
        Image.open(path).save(path, exif=tag)
        image.update(width=size[0], height=size[1])

    return put


def convert(mode: str, suffix: str) -> Callable[[Folder], None]:
    def put(folder: Folder) -> None:
        image, _, path = folder.take()
        picture = Image.open(path).convert(mode)
        picture.save(folder.rename(image, path, suffix))

    return put


def deep(folder: Folder) -> None:
    image, _, path = folder.take()
    pixels = cv2.imread(str(path)).astype(np.uint16) * 16  # 12 bits, as cameras have
    cv2.imwrite(str(folder.rename(image, path, '.png')), pixels)


def huge(folder: Folder) -> None:
    image, _, path = folder.take()
    image.update(width=20_000, height=6_000)
    Image.new('1', (20_000, 6_000)).save(folder.rename(image, path, '.png'))


def floats(folder: Folder) -> None:
    image, _, path = folder.take()
    pixels = np.asarray(Image.open(path).convert('L'), np.float32) / 255
    Image.fromarray(pixels).save(folder.rename(image, path, '.tif'))


def doubled(folder: Folder) -> None:
    folder.content['train']['annotations'].append({**folder.take()[1], 'id': 888})


def same_file(folder: Folder) -> None:
    first, _, _ = folder.take()
    image, _, path = folder.take()
    path.unlink()
    image['file_name'] = first['file_name']


def copy_bytes(split: str) -> Callable[[Folder], None]:
    def put(folder: Folder) -> None:
        _, _, path = folder.take()
        other = folder.take()[2] if split == 'train' else folder.root / 'val2017/0501.jpg'
        path.write_bytes(other.read_bytes())

    return put


def twice(key: str, field: str) -> Callable[[Folder], None]:
    def put(folder: Folder) -> None:
        entries = folder.content['train'][key]
        if key == 'categories':
            entries.append({**entries[0], 'id': 9, 'name': 'pig', field: entries[0][field]})
            if field == 'name':
                folder.take()[1]['category_id'] = 9
        else:
            first, second = folder.take(), folder.take()
            at = 0 if key == 'images' else 1
            second[at][field] = first[at][field]

    return put


def class_in_val(folder: Folder) -> None:
    content = folder.content['val']
    content['categories'].append({'id': 7, 'name': 'yak'})
    content['annotations'].append({**content['annotations'][0], 'id': 777, 'category_id': 7})


def backslash(folder: Folder) -> None:
    image, _, path = folder.take()
    (path.parent / 'a').mkdir()
    path.rename(path.parent / 'a' / path.name)
    image['file_name'] = 'a\\' + path.name


def outline(image: dict[str, Any], box: dict[str, Any], path: Path) -> None:
    box.update(segmentation=[[10, 10, 30, 10, 30, 40]])
    del box['bbox'], box['area']


def category(folder: Folder) -> None:
    for content in folder.content.values():
        content['categories'].append({'id': 5, 'name': 'hen', 'supercategory': 'bird'})


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
    'missing split': lambda folder: folder.content.pop('train'),  # a val would be made
}
# Problems that one folder can have together.
TOGETHER: dict[str, Callable[[Folder], None]] = {
    'wrong entry': set_both(lambda image, box, path: box.update(bbox=['1', 2, 3])),
    'id as text': set_both(lambda image, box, path: box.update(image_id=str(image['id']))),
    'name in another form': backslash,
    'no bbox': set_both(outline),
    'image without size': set_both(lambda image, box, path: image.pop('height')),
    'byte order mark': lambda folder: folder.content['train'].update(mark=True),
    'duplicate image id': twice('images', 'id'),
    'duplicate box id': twice('annotations', 'id'),
    'duplicate category id': twice('categories', 'id'),
    'duplicate category name': twice('categories', 'name'),
    'duplicate file name': same_file,
    'unknown category': set_both(lambda image, box, path: box.update(category_id=99)),
    'unknown image': set_both(lambda image, box, path: box.update(image_id=9999)),
    'category without boxes': category,
    'no area or iscrowd': set_both(lambda image, box, path: box.pop('area')),
    'empty duplicate category': lambda folder: folder.content['train']['categories'].insert(
        0, {'id': 6, 'name': NAMES[0], 'supercategory': 'animal'}
    ),
    'impossible area': set_both(lambda image, box, path: box.update(area=-1)),
    'number as text': set_both(lambda image, box, path: box.update(iscrowd='0')),
    'ignored box': set_both(lambda image, box, path: box.update(ignore=1)),
    'rotated box': set_both(lambda image, box, path: box.update(attributes={'rotation': 42.5})),
    'box not finite': set_box([1, math.nan, 5, 5]),
    'swapped corners': set_box([30, 30, -20, -10]),
    'corners for sizes': set_box([30, 20, 60, 45]),
    'empty box': set_box([5, 5, 0, 10]),
    'box outside': set_box([70, 5, 10, 10]),
    'box sticks out': set_box([50, 5, 18, 10]),
    'tiny box': set_box([5, 5, 2.5, 10]),
    'box unlike its polygon': set_both(
        lambda image, box, path: box.update(segmentation=[[10, 10, 30, 10, 30, 40, 10, 40]])
    ),
    'same box twice': doubled,
    'crowd box': set_both(lambda image, box, path: box.update(iscrowd=1)),
    'image without boxes': lambda folder: folder.content['train']['annotations'].remove(folder.take()[1]),
    'missing file': set_both(lambda image, box, path: path.unlink()),
    'unreadable image': set_both(lambda image, box, path: path.write_bytes(path.read_bytes()[:-300])),
    'wrong size': set_both(lambda image, box, path: image.update(width=32, height=24)),
    'EXIF rotation': exif(6, (HEIGHT, WIDTH)),
    'EXIF against boxes': exif(6, (WIDTH, HEIGHT)),
    'grey image': convert('L', '.jpg'),
    'image with alpha': convert('RGBA', '.png'),
    '16-bit image': deep,
    '32-bit image': floats,
    'CMYK image': convert('CMYK', '.jpg'),
    'huge image': huge,
    'same image twice': copy_bytes('train'),
    'image in both splits': copy_bytes('val'),
    'class unknown in train': class_in_val,
    'classes differ': lambda folder: folder.content['val']['categories'].reverse(),
}
# What else the problem brings with it.
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
