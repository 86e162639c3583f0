"""Small data sets in the layouts of Pascal VOC, YOLO and COCO, and their boxes as a training gets them."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

from mmdet.datasets import CocoDataset
from PIL import Image

from ghost_det.data.annotations import survey
from ghost_det.data.dataset import find_data

NAMES = [f'im {n}' for n in range(20)]
PLACES = 'train: images/train\nval: images/val\n'


def orientation_tag(orientation: int) -> Image.Exif:
    tag = Image.Exif()
    tag[0x0112] = orientation
    return tag


def picture(path: Path, size: tuple[int, int] = (40, 30), orientation: int = 1) -> None:
    """Write an image that is the same for the same path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = random.Random(os.fsencode(path)).randbytes(size[0] * size[1] * 3)
    Image.frombytes('RGB', size, pixels).save(path, exif=orientation_tag(orientation))


def thing(name: str, *box: float, difficult: int = 0) -> str:
    """An object of Pascal VOC."""
    corners = ''.join(f'<{k}> {v}</{k}>' for k, v in zip(('xmin', 'ymin', 'xmax', 'ymax'), box))
    end = f'<difficult>{difficult}</difficult><bndbox>{corners}</bndbox></object>'
    return f'<object><name> {name} </name>{end}'


def label(path: Path, text: str = '') -> None:
    """Write an xml file of Pascal VOC: this text, or a dog."""
    tree(path.parent, {path.name: f'<annotation>{text or thing("dog", 3.5, 2, 20, 15)}</annotation>'})


def voc(root: Path, images: str, labels: str, names: list[str] = NAMES, suffix: str = '.jpg') -> Path:
    """Write a Pascal VOC set of dogs and cats."""
    for number, name in enumerate(names):
        picture(root / images / f'{name}{suffix}')
        label(root / labels / f'{name}.xml', thing(('dog', 'cat')[number % 2], 3.5, 2, 20, 15))
    return root


def voc_lists(root: Path, **names: list[str]) -> None:
    """Write a Pascal VOC set with lists of these names."""
    voc(root, 'JPEGImages', 'Annotations')
    for name, lines in names.items():
        tree(root, {f'ImageSets/Main/{name}.txt': ''.join(f'{line}\n' for line in lines)})


def yolo(root: Path, images: str, labels: str, classes: str = '') -> None:
    """Write ten images of two classes with labels of YOLO."""
    for number in range(10):
        picture(root / images / f'{number}.jpg')
        tree(root, {f'{labels}/{number}.txt': f'{number % 2} .5 .5 .2 .2\n'})
    if classes:
        (root / classes).write_text('dog\ncat\n')


def yolo_pair(root: Path, yaml: str, rows: str = '0 0.5 0.5 0.5 0.5\n') -> Path:
    """Write one image for train and one for val, both turned to 30 x 40 by EXIF, with these labels."""
    for split in ('train', 'val'):
        picture(root / f'images/{split}/a.jpg', orientation=6)
    return tree(root, {'data.yaml': yaml, 'labels/train/a.txt': rows, 'labels/val/a.txt': rows})


def read_boxes(root: Path, split: str = 'train') -> dict[str, list[tuple[str, list[float]]]]:
    """Find a data set and return class and box in pixels of each object, by the image's name."""
    path = getattr(find_data(root), split).annotations
    content = json.loads(path.read_text())
    names = {category['id']: category['name'] for category in content['categories']}
    files = {image['id']: Path(image['file_name']).name for image in content['images']}
    found: dict[str, list[tuple[str, list[float]]]] = {file: [] for file in files.values()}
    for box in content['annotations']:
        corner = [round(value, 3) for value in box['bbox']]
        found[files[box['image_id']]].append((names[box['category_id']], corner))
    return found


def split_files(data: Any) -> tuple[set[str], set[str]]:
    """Return the images of train and of val."""
    return {*survey(data.train.annotations).table.files}, {*survey(data.val.annotations).table.files}


def tree(root: Path, texts: dict[str, str], images: str = '') -> Path:
    """Write texts, and an image of 10 x 10 px for each name."""
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    for name in images.split():
        picture(root / name, (10, 10))
    return root


def coco(path: Path, images: Path, count: int = 20, prefix: str = '') -> Path:
    """Write a COCO file of dogs and cats, and its images."""
    given = content(['dog', 'cat'], used=[n % 2 for n in range(count)])
    size = {'width': 40, 'height': 30}
    given['images'] = [{'id': n, 'file_name': f'{prefix}{n}.jpg', **size} for n in range(count)]
    for n, box in enumerate(given['annotations']):
        picture(images / f'{n}.jpg')
        box['image_id'] = n
    return tree(path.parent, {path.name: json.dumps(given)}) / path.name


def content(names: list[str], used: list[int] | None = None, first: int = 1) -> dict[str, Any]:
    """A COCO dictionary of an 8 x 8 image with one box of each used category."""
    box = {'image_id': 0, 'bbox': [1, 1, 4, 4], 'area': 16, 'iscrowd': 0}
    return {
        'images': [{'id': 0, 'file_name': '0.jpg', 'width': 8, 'height': 8}],
        'categories': [{'id': 10 * i, 'name': name} for i, name in enumerate(names)],
        'annotations': [
            {**box, 'id': n, 'category_id': 10 * i}
            for n, i in enumerate(range(len(names)) if used is None else used, first)
        ],
    }


def write(path: Path, content: dict[str, Any], images: Path | None = None) -> Path:
    """Write a COCO dictionary, and empty files for its images."""
    tree(images or path.parent, {image['file_name']: '' for image in content['images']})
    return tree(path.parent, {path.name: json.dumps(content)}) / path.name


def write_both(root: Path, content: dict[str, Any]) -> Path:
    """Write a COCO dictionary as train and as val, in Roboflow's layout; return the file of val."""
    return [write(root / split / '_annotations.coco.json', content) for split in ('train', 'valid')][1]


def built(path: Path, kind: type[Any] = CocoDataset, **settings: Any) -> Any:
    """A dataset of mmdet as in a training."""
    common = dict(data_prefix=dict(img=''), metainfo=dict(classes=('cat', 'dog')), pipeline=[])
    filters = dict(filter_empty_gt=True, min_size=32)
    return kind(ann_file=str(path), **{'filter_cfg': filters, **common, **settings})
