from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmdet.registry import METRICS
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from pycocotools.mask import encode

from ghost_det.data.dataset import class_names
from ghost_det.evaluation.coco import FIGURES, UNDEFINED
from ghost_det.evaluation.coco import evaluate as evaluate_again
from ghost_det.evaluation.results import read_results, read_truth, write_results


def predictions(coco: COCO, seed: int) -> list[dict[str, Any]]:
    """True boxes, moved and relabelled at random, and boxes that are nowhere."""
    rng = np.random.default_rng(seed)
    labels = {category: label for label, category in enumerate(coco.getCatIds())}
    samples = []
    for image in coco.imgs.values():
        boxes, kinds = [], []
        for annotation in coco.loadAnns(coco.getAnnIds(image['id'])):
            x, y, w, h = annotation['bbox']
            for _ in range(rng.integers(0, 3)):
                shift = rng.normal(0, 0.1, 4) * [w, h, w, h]
                boxes.append(np.array([x, y, x + w, y + h]) + shift)
                kinds.append(
                    labels[annotation['category_id']] if rng.random() < 0.8 else rng.integers(len(labels))
                )
        boxes += [np.array([1, 1, 30, 30]) * rng.uniform(1, 4)]
        kinds += [0]
        samples.append(
            {
                'img_id': image['id'],
                'ori_shape': (image['height'], image['width']),
                'pred_instances': {
                    'bboxes': torch.tensor(np.array(boxes), dtype=torch.float32),
                    'labels': torch.tensor(kinds),
                    'scores': torch.tensor(rng.random(len(boxes)).round(2), dtype=torch.float32),
                },
            }
        )
    return samples


def twelve_by_pycocotools(coco: COCO, samples: list[dict[str, Any]]) -> list[float]:
    categories = coco.getCatIds()
    results = [
        {
            'image_id': sample['img_id'],
            'category_id': categories[int(label)],
            'bbox': [x1, y1, x2 - x1, y2 - y1],
            'score': float(score),
        }
        for sample in samples
        for box, label, score in zip(*(sample['pred_instances'][k] for k in ('bboxes', 'labels', 'scores')))
        for x1, y1, x2, y2 in [box.tolist()]
    ]
    run = COCOeval(coco, coco.loadRes(results), 'bbox')
    run.evaluate()
    run.accumulate()
    run.summarize()
    return [float(value) for value in run.stats]


def evaluate(annotations: Path, samples: list[dict[str, Any]]) -> dict[str, float]:
    metric = METRICS.build(dict(type='FullCocoMetric', ann_file=str(annotations), metric='bbox'))
    metric.dataset_meta = {'classes': class_names(annotations)}
    metric.process({}, samples)
    found: dict[str, float] = metric.evaluate(len(samples))
    return found


@pytest.mark.parametrize('seed', [0, 1])
def test_the_twelve_figures_are_pycocotools_own(sample: Path, seed: int) -> None:
    annotations = sample / 'annotations/instances_train2017.json'
    coco = COCO(str(annotations))
    samples = predictions(coco, seed)
    found = evaluate(annotations, samples)
    wanted = twelve_by_pycocotools(coco, samples)
    assert 0 < wanted[0] < 1 and wanted[6] < wanted[7] <= wanted[8]  # the limits do bite
    assert [found[f'coco/bbox_{name}'] for name in FIGURES] == wanted
    assert sum(key.endswith('_precision') for key in found) == len(class_names(annotations))


def test_real_coco(coco_mini: Path) -> None:
    annotations = coco_mini / 'annotations/instances_val2017.json'
    coco = COCO(str(annotations))
    samples = predictions(coco, 0)
    found = evaluate(annotations, samples)
    wanted = twelve_by_pycocotools(coco, samples)
    assert [found[f'coco/bbox_{name}'] for name in FIGURES] == wanted


def test_large_ids_are_evaluated_and_kept(sample: Path, tmp_path: Path) -> None:
    content = json.loads((sample / 'annotations/instances_val2017.json').read_text())
    for image in content['images']:
        image['id'] += 10**17
    for box in content['annotations']:
        box['image_id'] += 10**17
    path = tmp_path / 'large.json'
    path.write_text(json.dumps(content))
    coco = COCO(str(path))
    samples = predictions(coco, 0)
    metric = METRICS.build(dict(type='FullCocoMetric', ann_file=str(path)))
    metric.keep = True
    metric.dataset_meta = {'classes': class_names(path)}
    metric.process({}, samples)
    found = metric.evaluate(len(samples))
    wanted = twelve_by_pycocotools(coco, samples)
    assert 0 < wanted[0] < 1 and [found[f'coco/bbox_{name}'] for name in FIGURES] == wanted
    write_results(tmp_path / 'found.json', metric.detections['bbox'])
    kept = {each['image_id'] for each in json.loads((tmp_path / 'found.json').read_text())}
    assert kept <= set(coco.getImgIds()) and len(kept) > 1


def test_a_size_without_ground_truth_is_minus_one_whatever_is_found(tmp_path: Path) -> None:
    content = {
        'images': [{'id': 1, 'file_name': 'a.jpg', 'width': 64, 'height': 64}],
        'categories': [{'id': 1, 'name': 'cat'}],
        'annotations': [
            {'id': 1, 'image_id': 1, 'category_id': 1, 'bbox': [0, 0, 8, 8], 'area': 64, 'iscrowd': 0}
        ],
    }
    path = tmp_path / 'a.json'
    path.write_text(json.dumps(content))
    one = {
        'img_id': 1,
        'ori_shape': (64, 64),
        'pred_instances': {
            'bboxes': torch.tensor([[0.0, 0, 8, 8]]),
            'labels': torch.tensor([0]),
            'scores': torch.tensor([0.9]),
        },
    }
    found = evaluate(path, [one])
    assert found['coco/bbox_mAP'] == pytest.approx(1) and found['coco/bbox_AR@1'] == 1
    assert found['coco/bbox_mAP_s'] == pytest.approx(1)
    assert found['coco/bbox_mAP_m'] == found['coco/bbox_mAP_l'] == -1
    none = {**one, 'pred_instances': {k: v[:0] for k, v in one['pred_instances'].items()}}
    found = evaluate(path, [none])
    wanted = [UNDEFINED if name.endswith(('m', 'l', 'm@100', 'l@100')) else 0 for name in FIGURES]
    assert [found[f'coco/bbox_{name}'] for name in FIGURES] == wanted


def test_masks_are_evaluated_beside_boxes(sample: Path, tmp_path: Path) -> None:
    content = json.loads((sample / 'annotations/instances_val2017.json').read_text())
    sizes = {image['id']: (image['height'], image['width']) for image in content['images']}
    samples = []
    for image, (height, width) in sizes.items():
        boxes, kinds, codes = [], [], []
        for box in content['annotations']:
            if box['image_id'] != image:
                continue
            x, y, w, h = box['bbox']
            box['segmentation'] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
            picture = np.zeros((height, width), dtype=np.uint8, order='F')
            picture[round(y) : round(y + h), round(x) : round(x + w)] = 1
            boxes.append([x, y, x + w, y + h])
            kinds.append([c['id'] for c in content['categories']].index(box['category_id']))
            codes.append(encode(picture))
        found = {
            'bboxes': torch.tensor(boxes).reshape(-1, 4),
            'labels': torch.tensor(kinds, dtype=torch.long),
            'scores': torch.ones(len(boxes)),
            'masks': codes,
        }
        samples.append({'img_id': image, 'ori_shape': (height, width), 'pred_instances': found})
    path = tmp_path / 'masks.json'
    path.write_text(json.dumps(content))
    metric = METRICS.build(dict(type='FullCocoMetric', ann_file=str(path), metric=['bbox', 'segm']))
    metric.keep = True
    metric.dataset_meta = {'classes': class_names(path)}
    metric.process({}, samples)
    figures = metric.evaluate(len(samples))
    assert figures['coco/bbox_mAP'] > 0.99 and 0.8 < figures['coco/segm_mAP'] <= 1
    assert set(figures) > {f'coco/segm_{name}' for name in FIGURES}
    assert len(metric.detections['segm']) == len(content['annotations'])
    write_results(tmp_path / 'segm.json', metric.detections['segm'])
    truth = read_truth(path)
    again = evaluate_again(truth, read_results(tmp_path / 'segm.json', truth, 'segm'), 'segm')
    assert [figures[f'coco/segm_{name}'] for name in FIGURES] == list(again.figures.values())


def test_another_metric_is_refused(sample: Path) -> None:
    path = str(sample / 'annotations/instances_val2017.json')
    with pytest.raises(ValueError, match='expected metric bbox, segm or both, got .proposal'):
        METRICS.build(dict(type='FullCocoMetric', ann_file=path, metric='proposal'))
