"""Start-up time and memory of each process over the size of the annotations.

python -m tools.benchmarks.annotations --scales 1 3 10
python -m tools.benchmarks.annotations --write big.json --scales 1
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any, TextIO

from mmdet.datasets import CocoDataset
from torch.utils.data import DataLoader

from ghost_det.data.dataset import class_names

from ._common import in_fresh_process, memory, run

# Of COCO train2017, and what its polygons have on average.
IMAGES, BOXES, CLASSES, POINTS = 118_287, 860_001, 80, 27
BATCH = 100


def write_annotations(path: Path, scale: float, polygons: bool = False) -> None:
    """Write an annotation file of COCO's make and ``scale`` times the size of its train2017.

    Images have as many boxes as in COCO on average, boxes are random, polygons have 27 points, the average of
    COCO's; no image files are written. It is written as it is made, in little memory.
    """
    rng = random.Random(0)
    images, boxes = max(1, round(IMAGES * scale)), max(1, round(BOXES * scale))
    kind = {'supercategory': 'thing'}
    categories = [{'id': n, 'name': f'class {n}', **kind} for n in range(1, CLASSES + 1)]
    with path.open('w') as file:
        file.write(f'{{"info": {{}}, "licenses": [], "categories": {json.dumps(categories)},\n"images": [')
        _write(file, (_image(n) for n in range(1, images + 1)))
        file.write('],\n"annotations": [')
        _write(file, (_box(rng, n, images, polygons) for n in range(1, boxes + 1)))
        file.write(']}\n')


def _write(file: TextIO, entries: Iterable[dict[str, Any]]) -> None:
    for n, entry in enumerate(entries):
        file.write((',\n' if n else '') + json.dumps(entry))


def _image(number: int) -> dict[str, Any]:
    return {
        'license': number % 8 + 1,
        'file_name': f'{number:012d}.jpg',
        'coco_url': f'http://images.cocodataset.org/train2017/{number:012d}.jpg',
        'height': 480,
        'width': 640,
        'date_captured': '2013-11-14 11:18:45',
        'flickr_url': f'http://farm9.staticflickr.com/8186/{8119368305 + number}_4e622c8349_z.jpg',
        'id': number,
    }


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


class _Probe:
    """A dataset whose items are those of another, read as in training but without the image.

    Workers take batches in turn: the end of each of the last batches is the end of one worker's share.
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

    Returns seconds to check the file and to build the dataset, and MB: resident in this process at the
    ``start``, after building (``main``) and at the ``peak``; of a worker that has read its share of the
    images, the ``private`` memory and the ``pss``, in which a page that n processes share counts 1/n.
    """
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
    settings: dict[str, Any] = dict(collate_fn=list, multiprocessing_context='fork')
    loader = DataLoader(_Probe(dataset, workers), BATCH, num_workers=workers, **settings)
    ends = [found for batch in loader for _, found in batch if found is not None]
    return {
        'images': float(len(dataset)),
        'check_s': checked - started,
        'build_s': built - checked,
        'start': before['rss'],
        'main': main['rss'],
        'peak': main['peak'],
        'private': mean(end['private'] for end in ends),
        'pss': mean(end['pss'] for end in ends),
    }


def annotation_table(
    scales: Sequence[float], workers: int, serialize: Sequence[bool], polygons: bool, folder: Path | None
) -> Iterator[str]:
    """Yield the lines of a Markdown table; mmdet keeps polygons whether masks are trained or not."""
    heads = ['scale', 'images', 'file (MB)', 'serialized', 'check (s)', 'build (s)', 'start (MB)']
    heads += ['process (MB)', 'its peak (MB)', 'worker, private (MB)', 'worker share (MB)']
    yield f'| {" | ".join(heads)} |'
    yield '|---' * len(heads) + '|'
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        for scale in scales:
            path = Path(scratch) / 'annotations.json'
            write_annotations(path, scale, polygons)
            for serialized in serialize:
                found = in_fresh_process(measure, path, serialized, workers)
                row = [f'{scale:g}', f'{found["images"]:.0f}', f'{path.stat().st_size / 1e6:.0f}']
                row += ['yes' if serialized else 'no', f'{found["check_s"]:.1f}', f'{found["build_s"]:.1f}']
                row += [f'{found[key]:.0f}' for key in ('start', 'main', 'peak', 'private', 'pss')]
                yield f'| {" | ".join(row)} |'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    scales = "sizes in units of COCO train2017's (default: 1 3 10, which needs 15 GB of memory)"
    parser.add_argument('--scales', type=float, nargs='+', default=[1.0, 3.0, 10.0], metavar='N', help=scales)
    parser.add_argument('--workers', type=int, default=2, help='of the loader (default: %(default)s)')
    parser.add_argument('--polygons', action='store_true', help='with masks, as for instance segmentation')
    parser.add_argument('--serialize', choices=['yes', 'no', 'both'], default='both', help='serialize_data')
    parser.add_argument('--folder', type=Path, help='for the generated files (default: the temporary one)')
    parser.add_argument('--write', type=Path, metavar='FILE', help='only write those of the first scale')
    args = parser.parse_args()
    if args.write:
        write_annotations(args.write, args.scales[0], args.polygons)
        return
    serialize = {'yes': [True], 'no': [False], 'both': [True, False]}[args.serialize]
    for line in annotation_table(args.scales, args.workers, serialize, args.polygons, args.folder):
        print(line, flush=True)


if __name__ == '__main__':
    run(main)
