"""What an evaluation costs: faster-coco-eval and pycocotools, from files to figures.

python -m tools.benchmarks.evaluation --images 5000 --detections 100
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ghost_det.errors import UserError
from ghost_det.evaluation.coco import EVALUATOR, FAST, FIGURES, evaluate
from ghost_det.evaluation.results import read_results, read_truth

from ._common import in_fresh_process, memory, run

CLASSES = 80
BOXES = 7.3  # of COCO val2017 an image
SORTS = 3  # classes an image
KINDS = ('pycocotools', 'ghost_det')


def write_scene(folder: Path, images: int, detections: int, seed: int = 0) -> tuple[Path, Path]:
    """Write ground truth like COCO val2017's, and detections of it as COCO results.

    Half of the detections are ground-truth boxes, moved, some under a wrong class; the others are anywhere.
    """
    rng = np.random.default_rng(seed)
    frequency = 1 / np.arange(1, CLASSES + 1)
    boxes: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for image in range(1, images + 1):
        count = rng.poisson(BOXES)
        sides = np.exp(rng.normal(4.2, 0.9, (count, 2))).clip(4, 400)
        true = np.hstack([rng.random((count, 2)) * ([640, 480] - sides), sides])
        kinds = rng.choice(rng.choice(CLASSES, SORTS, p=frequency / frequency.sum()), count)
        for box, kind, crowd in zip(true.round(2).tolist(), kinds.tolist(), rng.random(count) < 0.01):
            entry = {'id': len(boxes) + 1, 'image_id': image, 'category_id': kind + 1, 'bbox': box}
            boxes.append({**entry, 'area': 0.6 * box[2] * box[3], 'iscrowd': int(crowd)})
        guesses = rng.random((detections, 4)) * [500, 400, 100, 100] + [0, 0, 10, 10]
        taken = rng.integers(0, CLASSES, detections)
        if count:
            source = rng.integers(0, count, detections)
            moved = true[source] + rng.normal(0, 0.15, (detections, 4)) * np.tile(sides[source], 2)
            near = rng.random(detections) < 0.5
            guesses[near] = np.maximum(moved, [-100, -100, 1, 1])[near]
            right = near & (rng.random(detections) < 0.7)
            taken[right] = kinds[source][right]
        scores = rng.random(detections).astype(np.float32).tolist()
        for guess, kind, score in zip(guesses.astype(np.float32).tolist(), taken.tolist(), scores):
            found.append({'image_id': image, 'category_id': kind + 1, 'bbox': guess, 'score': score})
    size = {'width': 640, 'height': 480}
    truth = {
        'images': [{'id': n, 'file_name': f'{n}.jpg', **size} for n in range(1, images + 1)],
        'categories': [{'id': n, 'name': f'class {n}'} for n in range(1, CLASSES + 1)],
        'annotations': boxes,
    }
    paths = folder / 'annotations.json', folder / 'results.json'
    for path, content in zip(paths, (truth, found)):
        path.write_text(json.dumps(content))
    return paths


def measure(annotations: Path, results: Path, kind: str) -> dict[str, Any]:
    """Evaluate in this process, as pycocotools' own example does or as ``ghost-det eval`` does.

    Returns seconds to ``read`` and to ``evaluate``, the ``peak`` of memory over that at the start in MB, and
    the twelve ``figures``.
    """
    before = memory()['rss']
    started = time.perf_counter()
    if kind == 'ghost_det':
        truth = read_truth(annotations)
        found = read_results(results, truth)
        read = time.perf_counter()
        figures = [*evaluate(truth, found).figures.values()]
    else:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        with contextlib.redirect_stdout(io.StringIO()):
            true = COCO(str(annotations))
            loaded = true.loadRes(str(results))
            read = time.perf_counter()
            evaluator = COCOeval(true, loaded, 'bbox')
            evaluator.evaluate()
            evaluator.accumulate()
            evaluator.summarize()
        figures = [float(value) for value in evaluator.stats]
    ended = time.perf_counter()
    peak = memory()['peak'] - before
    return {'read': read - started, 'evaluate': ended - read, 'peak': peak, 'figures': figures}


def evaluation_table(images: int, detections: int, rounds: int) -> Iterator[str]:
    """Yield the lines of a table: seconds, memory and the largest difference of the twelve figures."""
    if EVALUATOR != FAST:
        raise UserError(f'{FAST} is not installed: there is nothing to compare pycocotools with')
    names = ['from files to figures', 'read s', 'evaluate s', 'total s', 'memory MB']
    with tempfile.TemporaryDirectory() as folder:
        paths = write_scene(Path(folder), images, detections)
        found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
        for _ in range(rounds):
            for kind in KINDS:
                found[kind].append(in_fresh_process(measure, *paths, kind))
    yield f'{images} images, {images * detections} detections, {CLASSES} classes, {rounds} rounds'
    yield '  '.join(names)
    seconds: dict[str, tuple[float, float]] = {}
    for kind in KINDS:
        read, evaluated, peak = (
            statistics.median(each[key] for each in found[kind]) for key in ('read', 'evaluate', 'peak')
        )
        seconds[kind] = read + evaluated, evaluated
        row = [kind, f'{read:.1f}', f'{evaluated:.1f}', f'{read + evaluated:.1f}', f'{peak:.0f}']
        yield '  '.join(value.rjust(len(name)) for name, value in zip(names, row))
    total, without_reading = (theirs / ours for theirs, ours in zip(*(seconds[kind] for kind in KINDS)))
    yield f'ratio {total:.1f} from files, {without_reading:.1f} without reading'
    figures = [np.array(found[kind][0]['figures']) for kind in KINDS]
    equal = int((figures[0] == figures[1]).sum())
    largest = float(abs(figures[0] - figures[1]).max())
    yield f'{equal} of {len(FIGURES)} figures equal to the last digit, largest difference {largest:g}'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument('--images', type=int, default=5000, help='(default: %(default)s)')
    parser.add_argument('--detections', type=int, default=100, help='an image (default: %(default)s)')
    parser.add_argument('--rounds', type=int, default=2, help='of both, alternating (default: %(default)s)')
    args = parser.parse_args()
    for line in evaluation_table(args.images, args.detections, args.rounds):
        print(line, flush=True)


if __name__ == '__main__':
    run(main)
