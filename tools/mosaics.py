"""A detection data set of real images in COCO layout: mosaics of Tiny-ImageNet's tiles, with their boxes.

python -m tools.mosaics CACHE FOLDER --images 4000
ghost-det train gfl_ghostnet_ghostpan_lite --data FOLDER --pretrained ghostnet_100.tin

CACHE is what `tools.pretrain pack` writes. Each mosaic is cut by random straight lines into tiles of 40 to
160 px, about 22 of them; every tile of a split is used once before any is used again.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

SIDE = 320
LEAST, MOST = 40, 160  # sides of a tile

Rectangle = tuple[int, int, int, int]  # x, y, width, height


def cut(rectangle: Rectangle, chance: random.Random) -> Iterator[Rectangle]:
    """Yield the tiles into which straight cuts, each right across its rectangle, divide it."""
    x, y, width, height = rectangle
    longest = max(width, height)
    if longest < 2 * LEAST or (longest <= MOST and chance.random() < 0.4):
        yield rectangle
        return
    at = chance.randint(LEAST, longest - LEAST)
    if width == longest:
        parts = (x, y, at, height), (x + at, y, width - at, height)
    else:
        parts = (x, y, width, at), (x, y + at, width, height - at)
    for part in parts:
        yield from cut(part, chance)


def write_split(cache: Path, folder: Path, split: str, count: int, seed: int = 0) -> tuple[int, int]:
    """Write ``count`` mosaics and their annotations; return the numbers of images and boxes."""
    images = np.load(cache / f'{split}_images.npy', mmap_mode='r')
    labels, boxes = np.load(cache / f'{split}_labels.npy'), np.load(cache / f'{split}_boxes.npy')
    chance = random.Random(f'{split} {seed}')
    (folder / split).mkdir(parents=True, exist_ok=True)
    content: dict[str, list[Any]] = {'images': [], 'annotations': []}
    names = (cache / 'classes.txt').read_text().split()
    content['categories'] = [{'id': i, 'name': name} for i, name in enumerate(names)]
    queue: list[int] = []
    for number in range(count):
        canvas = np.empty((SIDE, SIDE, 3), np.uint8)
        for x, y, width, height in cut((0, 0, SIDE, SIDE), chance):
            if not queue:
                queue = chance.sample(range(len(images)), len(images))
            tile = queue.pop()
            canvas[y : y + height, x : x + width] = cv2.resize(images[tile], (width, height))
            unit = np.array((width, height, width, height)) / images.shape[1]
            left, top, right, bottom = (boxes[tile] + (0, 0, 1, 1)) * unit  # the last pixel counts
            box = [x + left, y + top, min(right, width) - left, min(bottom, height) - top]
            if min(box[2:]) < 4:
                continue
            content['annotations'].append(
                dict(
                    id=len(content['annotations']) + 1,
                    image_id=number,
                    category_id=int(labels[tile]),
                    bbox=[round(float(value), 2) for value in box],
                    area=round(float(box[2] * box[3]), 2),
                    iscrowd=0,
                )
            )
        name = f'{number:06d}.jpg'
        cv2.imwrite(str(folder / split / name), canvas[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
        content['images'].append(dict(id=number, file_name=name, width=SIDE, height=SIDE))
    annotations = folder / 'annotations' / f'instances_{split}.json'
    annotations.parent.mkdir(exist_ok=True)
    annotations.write_text(json.dumps(content))
    return count, len(content['annotations'])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('cache', type=Path)
    parser.add_argument('folder', type=Path)
    parser.add_argument('--images', type=int, default=4000, help='of train; val has a tenth')
    args = parser.parse_args()
    for split, count in (('train', args.images), ('val', max(1, args.images // 10))):
        print('{}: {} images, {} boxes'.format(split, *write_split(args.cache, args.folder, split, count)))


if __name__ == '__main__':
    main()
