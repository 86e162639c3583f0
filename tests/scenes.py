"""Ground truth and detections with everything in them that evaluators may disagree about."""

from __future__ import annotations

from typing import Any

import numpy as np

SIDES = (0.0, 8.0, 32.0, 32.0, 50.0, 96.0, 96.0, 120.0)  # 32² and 96² are the borders between sizes
BORDERS = (1024.0, 9216.0, np.nextafter(1024.0, 0), np.nextafter(9216.0, 1e9))
SHIFTS = [1 / 3, 0.25, 0.2, 1 / 9, 1 / 19, 0.0]  # of a box by its width: IoU 0.5, 0.6, 0.667, 0.8, 0.9, 1
CATEGORIES = (7, 3, 90, 12, 44)  # out of order; the last has no ground truth
IMAGES = 24


def annotations(boxes: list[dict[str, Any]], images: int, categories: tuple[int, ...]) -> dict[str, Any]:
    """An annotation file's content, with ids for the boxes."""
    return {
        'images': [
            {'id': n * 5 + 1, 'file_name': f'{n}.jpg', 'width': 400, 'height': 300} for n in range(images)
        ],
        'categories': [{'id': category, 'name': f'class {category}'} for category in categories],
        'annotations': [{'id': number, **box} for number, box in enumerate(boxes, start=1)],
    }


def hard_scene(seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Crowds, sizes on the borders, no area, equal scores, overlaps on the thresholds, empty images."""
    rng = np.random.default_rng(seed)
    boxes: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []

    def detect(image: int, category: int, box: list[float], score: float) -> None:
        # Of 32-bit numbers, as a detector's are; a few coarse ones, so that many are equal.
        score = float(np.float32(round(score, 1) if rng.random() < 0.7 else score))
        found.append({'image_id': image, 'category_id': category, 'bbox': box, 'score': score})

    for number in range(IMAGES):
        image = number * 5 + 1
        if number % 6 == 0:  # no ground truth, and every other one no detection either
            if number % 12 == 0:
                detect(image, 7, [5.0, 5.0, 40.0, 40.0], rng.random())
            continue
        for _ in range(rng.integers(1, 12)):
            width, height = rng.choice(SIDES, 2)
            x, y = rng.integers(0, 300), rng.integers(0, 200)
            category = int(rng.choice(CATEGORIES[:4]))
            box = [float(x), float(y), float(width), float(height)]
            area = float(rng.choice(BORDERS)) if rng.random() < 0.2 else float(width * height)
            crowd = int(rng.random() < 0.15)
            true = {'image_id': image, 'category_id': category, 'bbox': box, 'area': area, 'iscrowd': crowd}
            boxes += [true] * (2 if rng.random() < 0.1 else 1)  # the same box twice
            if number % 6 == 1:
                continue  # ground truth without detections
            for _ in range(rng.integers(0, 5)):
                kind = category if rng.random() < 0.8 else int(rng.choice(CATEGORIES))
                moved = [x + rng.choice(SHIFTS) * width, float(y), float(width), float(height)]
                detect(image, kind, [float(value) for value in moved], rng.random())
            if crowd:
                for _ in range(4):  # within it
                    detect(image, category, [float(x), float(y), width / 2, height / 3], rng.random())
        if number % 6 == 2:
            for _ in range(150):  # of one class, over COCO's limit of 100
                x, y, w, h = (float(value) for value in rng.integers(0, 200, 4))
                detect(image, 3, [x - 50, y, w, h], rng.random())  # outside the image, some of them
        if number % 6 == 3:
            detect(image, 12, [-500.0, -500.0, 20.0, 20.0], 0.9)
            detect(image, 12, [10.0, 10.0, 0.0, 0.0], 0.9)
    order = rng.permutation(len(found))
    return annotations(boxes, IMAGES, CATEGORIES), [found[index] for index in order]
