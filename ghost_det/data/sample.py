"""A generated detection set: six shapes to find among clutter, for when no real data is at hand.

A class is a shape, and most objects are of their class's typical hue, as many real things are; backgrounds
and clutter are of any hue. Texture, size, tilt and aspect are drawn independently of the class.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ghost_det.utils.files import build_once, cache_root

from .scene import SHAPES, draw_picture

# Part of the cache folder's name: raise it with any change to a pixel or a box, or old caches live on.
VERSION = 1
VAL_FIRST_ID = 500_001
SAMPLES = {'sample': False, 'sample-4x3': True}
"""Names of the generated sets, and whether all images of each have one shape, as those of one camera."""


def _write_split(folder: Path, split: str, count: int, one_shape: bool) -> None:
    pictures = folder / f'{split}2017'
    pictures.mkdir(parents=True)
    first = 1 if split == 'train' else VAL_FIRST_ID
    document: dict[str, Any] = {
        'info': {'description': 'ghost_det generated sample', 'version': str(VERSION), 'year': 2017},
        'licenses': [{'id': 1, 'name': 'CC0', 'url': 'https://creativecommons.org/publicdomain/zero/1.0/'}],
        'images': [],
        'annotations': [],
        'categories': [{'id': n, 'name': name, 'supercategory': 'shape'} for n, name in enumerate(SHAPES, 1)],
    }
    records = document['annotations']
    for number in range(first, first + count):
        image, found = draw_picture(np.random.Generator(np.random.PCG64([first, number])), one_shape)
        # Not cv2.imwrite, which only returns False where write_bytes raises, as on a full disk.
        jpeg = cv2.imencode('.jpg', image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])[1]
        (pictures / f'{number:012d}.jpg').write_bytes(jpeg.tobytes())
        size = {'width': image.shape[1], 'height': image.shape[0]}
        document['images'].append({'id': number, 'file_name': f'{number:012d}.jpg', **size, 'license': 1})
        records += [{'id': len(records) + n, 'image_id': number, **each} for n, each in enumerate(found, 1)]
    target = folder / 'annotations' / f'instances_{split}2017.json'
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(document), encoding='utf-8')


def make_sample(root: Path | None = None, train: int = 480, val: int = 120, one_shape: bool = False) -> Path:
    """Generate the sample set on the first call; return its folder, at once from then on.

    It is laid out as COCO is: `annotations/instances_{train,val}2017.json`, `train2017/*.jpg`,
    `val2017/*.jpg`; pictures are 320 px on the long side. Boxes are (x, y, width, height) in pixels around
    what is in sight of an object, clipped to the image; `area`, in px², and `segmentation`, polygons, are of
    the same. Every object drawn is annotated, and most of it is in sight. A picture depends on its split and
    number only, so a smaller set is the beginning of a larger one.

    Args:
        root: where sets are kept; by default the user's cache.
        train: number of training images.
        val: number of validation images. Each pair of numbers is a set of its own.
        one_shape: all images are 320 x 240 px, as those of one camera are of one shape.

    Raises:
        UserError: the set cannot be written under `root`.
    """
    root = (root or cache_root()).expanduser().absolute()

    def build(folder: Path) -> None:
        _write_split(folder, 'train', train, one_shape)
        _write_split(folder, 'val', val, one_shape)

    return build_once(root / f'sample-v{VERSION}-{train}-{val}{"-4x3" if one_shape else ""}', build)
