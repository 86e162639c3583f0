"""Measurements of what a training costs: the memory that annotations take in each process."""

from __future__ import annotations

import json
import os
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ghost_det.errors import UserError
from ghost_det.utils.timing import apart

# Of COCO train2017, and what its polygons have on average.
IMAGES, BOXES, CLASSES, POINTS = 118_287, 860_001, 80, 27
MIB = 2**20
BATCH = 100


def write_annotations(path: Path, scale: float, polygons: bool = False) -> None:
    """Write an annotation file of COCO's make and ``scale`` times the size of its train2017.

    Images have as many boxes as in COCO on average, boxes are random, polygons have 27 points, the average of
    COCO's; no image files are written. It is written as it is made, in little memory.
    """
    rng = random.Random(0)
    images, boxes = max(1, round(IMAGES * scale)), max(1, round(BOXES * scale))
    with path.open('w') as file:
        categories = [
            {'id': n, 'name': f'class {n}', 'supercategory': 'thing'} for n in range(1, CLASSES + 1)
        ]
        file.write(f'{{"info": {{}}, "licenses": [], "categories": {json.dumps(categories)},\n"images": [')
        file.writelines(
            ('' if n == 1 else ',\n')
            + json.dumps(
                {
                    'license': n % 8 + 1,
                    'file_name': f'{n:012d}.jpg',
                    'coco_url': f'http://images.cocodataset.org/train2017/{n:012d}.jpg',
                    'height': 480,
                    'width': 640,
                    'date_captured': '2013-11-14 11:18:45',
                    'flickr_url': f'http://farm9.staticflickr.com/8186/{8119368305 + n}_4e622c8349_z.jpg',
                    'id': n,
                }
            )
            for n in range(1, images + 1)
        )
        file.write('],\n"annotations": [')
        file.writelines(
            ('' if n == 1 else ',\n') + json.dumps(_box(rng, n, images, polygons))
            for n in range(1, boxes + 1)
        )
        file.write(']}\n')


def _box(rng: random.Random, number: int, images: int, polygons: bool) -> dict[str, Any]:
    width, height = rng.uniform(4, 300), rng.uniform(4, 300)
    x, y = rng.uniform(0, 640 - width), rng.uniform(0, 480 - height)
    outline = [x, y, x + width, y + height]
    for _ in range(POINTS - 2):
        outline += [rng.uniform(x, x + width), rng.uniform(y, y + height)]
    return {
        'segmentation': [[round(value, 2) for value in outline]] if polygons else [],
        'area': round(width * height, 5),
        'iscrowd': 0,
        'image_id': number % images + 1,
        'bbox': [round(value, 2) for value in (x, y, width, height)],
        'category_id': rng.randint(1, CLASSES),
        'id': number,
    }


def memory(pid: int | str = 'self') -> dict[str, float]:
    """Return a process's memory in MiB: resident, proportional (shared pages divided), private; and peak."""
    found = {}
    for name in ('smaps_rollup', 'status'):
        for line in Path(f'/proc/{pid}/{name}').read_text().splitlines():
            key, _, rest = line.partition(':')
            if rest.endswith(' kB'):
                found[key] = int(rest.split()[0]) / 1024
    private = found['Private_Clean'] + found['Private_Dirty']
    return {'rss': found['Rss'], 'pss': found['Pss'], 'private': private, 'peak': found['VmHWM']}


class _Probe:
    """A dataset whose items are those of another, read as in training but without the image.

    Workers take batches in turns: the end of each of the last batches is the end of one worker's share.
    """

    def __init__(self, dataset: Any, workers: int) -> None:
        self.dataset = dataset
        self.first_last = -(-len(dataset) // BATCH) - workers

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[int, dict[str, float] | None]:
        info = self.dataset.get_data_info(index)
        # Reading it may move every object's count of references, and with it the page that it is on.
        boxes = sum(len(instance['bbox']) for instance in info['instances'])
        ends = (index + 1) % BATCH == 0 or index + 1 == len(self)
        last = ends and index // BATCH >= self.first_last
        return boxes, {'pid': os.getpid(), **memory()} if last else None


def measure(path: Path, serialize: bool, workers: int) -> dict[str, float]:
    """Build the training dataset of an annotation file in this process, and read it through by workers.

    Returns:
        Seconds to check the file and to build the dataset, and MiB: resident in this process at the
        ``start``, after building (``main``) and at the ``peak``; of a worker that has read its share of the
        images, the ``private`` memory and the ``pss``, in which a page that n processes share counts 1/n.
    """
    from mmdet.datasets import CocoDataset
    from torch.utils.data import DataLoader

    from ghost_det.data.dataset import class_names

    before = memory()
    started = time.perf_counter()
    classes = class_names(path)
    checked = time.perf_counter()
    dataset = CocoDataset(
        ann_file=str(path),
        data_prefix=dict(img=''),
        metainfo=dict(classes=classes),
        filter_cfg=dict(filter_empty_gt=True, min_size=32),
        serialize_data=serialize,
        pipeline=[],
    )
    built = time.perf_counter()
    main = memory()
    loader: DataLoader[Any] = DataLoader(
        _Probe(dataset, workers),  # type: ignore[arg-type]
        batch_size=BATCH,
        num_workers=workers,
        collate_fn=list,
        multiprocessing_context='fork',
    )
    last: dict[float, dict[str, float]] = {}
    for batch in loader:
        last.update((found['pid'], found) for _, found in batch if found is not None)

    def mean(key: str) -> float:
        return sum(each[key] for each in last.values()) / len(last)

    return {
        'images': float(len(dataset)),
        'check_s': checked - started,
        'build_s': built - checked,
        'start': before['rss'],
        'main': main['rss'],
        'peak': main['peak'],
        'private': mean('private'),
        'pss': mean('pss'),
    }


def annotation_table(
    scales: Sequence[float],
    workers: int,
    serialize: Sequence[bool] = (True, False),
    polygons: bool = False,
    folder: Path | None = None,
) -> Iterator[str]:
    """Yield the lines of a table: seconds and memory over the size of the annotations, in COCO train2017s.

    mmdet keeps polygons in memory whether masks are trained or not.

    Raises:
        UserError: a number that is not positive, or no such folder.
    """
    if workers < 1 or min(scales) <= 0:
        raise UserError(f'--workers {workers} --scales {min(scales):g}: positive numbers are wanted')
    if folder is not None and not folder.is_dir():
        raise UserError(f'--folder {folder}: there is no such folder')
    names = ['scale', 'images', 'file MB', 'serialized', 'check s', 'build s', 'start MB', 'main MB']
    names += ['peak MB', 'worker private MB', 'worker share MB']
    yield '  '.join(names)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        for scale in scales:
            path = Path(scratch) / 'annotations.json'
            write_annotations(path, scale, polygons)
            size = path.stat().st_size / 1e6
            for serialized in serialize:
                found = apart(measure, path, serialized, workers)
                mb = {key: f'{value * MIB / 1e6:.0f}' for key, value in found.items()}
                row = [f'{scale:g}', f'{found["images"]:.0f}', f'{size:.0f}', 'yes' if serialized else 'no']
                row += [f'{found["check_s"]:.1f}', f'{found["build_s"]:.1f}']
                row += [mb[key] for key in ('start', 'main', 'peak', 'private', 'pss')]
                yield '  '.join(value.rjust(len(name)) for name, value in zip(names, row))
            path.unlink()
