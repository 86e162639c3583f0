from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmdet.registry import METRICS
from pycocotools.mask import encode

from ghost_det.data.dataset import class_names
from ghost_det.evaluation.coco import FIGURES
from ghost_det.evaluation.coco import evaluate as evaluate_again
from ghost_det.evaluation.results import read_results, read_truth, write_results

from .test_coco import by_pycocotools


def predictions(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Ground-truth boxes, moved and relabelled at random, and boxes that are nowhere, as mmdet gives them."""
    rng = np.random.default_rng(0)
    labels = {id_: n for n, id_ in enumerate(sorted(category['id'] for category in content['categories']))}
    samples = []
    for image in content['images']:
        boxes, kinds = [np.array([1, 1, 30, 30]) * rng.uniform(1, 4)], [0]
        for annotation in content['annotations']:
            x, y, w, h = annotation['bbox']
            for _ in range(rng.integers(0, 3) if annotation['image_id'] == image['id'] else 0):
                boxes.append(np.array([x, y, x + w, y + h]) + rng.normal(0, 0.1, 4) * [w, h, w, h])
                right = rng.random() < 0.8
                kinds.append(labels[annotation['category_id']] if right else int(rng.integers(len(labels))))
        instances = {
            'bboxes': torch.tensor(np.array(boxes), dtype=torch.float32),
            'labels': torch.tensor(kinds),
            'scores': torch.tensor(rng.random(len(boxes)).round(2), dtype=torch.float32),
        }
        shape = image['height'], image['width']
        samples.append({'img_id': image['id'], 'ori_shape': shape, 'pred_instances': instances})
    return samples


def as_results(content: dict[str, Any], samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    categories = sorted(category['id'] for category in content['categories'])
    results = []
    for sample in samples:
        instances = [sample['pred_instances'][key].tolist() for key in ('bboxes', 'labels', 'scores')]
        for (x1, y1, x2, y2), label, score in zip(*instances):
            place = {'image_id': sample['img_id'], 'category_id': categories[label]}
            results.append({**place, 'bbox': [x1, y1, x2 - x1, y2 - y1], 'score': score})
    return results


def run_metric(path: Path, samples: list[dict[str, Any]], **settings: Any) -> tuple[Any, dict[str, float]]:
    metric = METRICS.build(dict(type='FullCocoMetric', ann_file=str(path), **settings))
    metric.keep = True
    metric.dataset_meta = {'classes': class_names(path)}
    metric.process({}, samples)
    return metric, metric.evaluate(len(samples))


@pytest.mark.parametrize('source', ['real', 'large ids'])
def test_figures_equal_pycocotools(source: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    folder = request.getfixturevalue('coco_mini' if source == 'real' else 'sample')
    path = folder / f'annotations/instances_{"val" if source == "real" else "train"}2017.json'
    content = json.loads(path.read_text())
    if source == 'large ids':
        for image in content['images']:
            image['id'] += 10**17
        for box in content['annotations']:
            box['image_id'] += 10**17
        path = tmp_path / 'large.json'
        path.write_text(json.dumps(content))
    samples = predictions(content)
    results = as_results(content, samples)
    metric, found = run_metric(path, samples)
    expected = by_pycocotools(content, results).stats.tolist()
    assert 0 < expected[0] < 1 and expected[6] < expected[7]  # the limits have an effect
    assert [found[f'coco/bbox_{name}'] for name in FIGURES] == expected
    assert sum(key.endswith('_precision') for key in found) == len(class_names(path))
    write_results(tmp_path / 'found.json', metric.detections['bbox'])
    assert json.loads((tmp_path / 'found.json').read_text()) == results


def test_masks_are_evaluated_with_boxes(sample: Path, tmp_path: Path) -> None:
    content = json.loads((sample / 'annotations/instances_val2017.json').read_text())
    ids = [category['id'] for category in content['categories']]
    samples = []
    for image in content['images']:
        shape = image['height'], image['width']
        own = [box for box in content['annotations'] if box['image_id'] == image['id']]
        boxes, codes = [], []
        for box in own:
            del box['area'], box['iscrowd']  # which the metric fills in
            x, y, w, h = box['bbox']
            box['segmentation'] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
            picture = np.zeros(shape, dtype=np.uint8, order='F')
            picture[round(y) : round(y + h), round(x) : round(x + w)] = 1
            boxes.append([x, y, x + w, y + h])
            codes.append(encode(picture))
        found = {
            'bboxes': torch.tensor(boxes).reshape(-1, 4),
            'labels': torch.tensor([ids.index(box['category_id']) for box in own], dtype=torch.long),
            'scores': torch.ones(len(boxes)),
            'mask_scores': torch.full((len(boxes),), 0.5),
            'masks': codes,
        }
        samples.append({'img_id': image['id'], 'ori_shape': shape, 'pred_instances': found})
    path = tmp_path / 'masks.json'
    path.write_text(json.dumps(content))
    metric, figures = run_metric(path, samples, metric=['bbox', 'segm'])
    assert figures['coco/bbox_mAP'] > 0.99 and 0.8 < figures['coco/segm_mAP'] <= 1
    assert {each['score'] for each in metric.detections['segm']} == {0.5}
    write_results(tmp_path / 'segm.json', metric.detections['segm'])
    truth = read_truth(path, 'segm')
    again = evaluate_again(truth, read_results(tmp_path / 'segm.json', truth, 'segm'), 'segm')
    assert [figures[f'coco/segm_{name}'] for name in FIGURES] == list(again.figures.values())
    with pytest.raises(ValueError, match=r'proposal'):
        run_metric(path, samples, metric='proposal')
