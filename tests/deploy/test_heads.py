"""The boxes of a detector as one graph, against those of mmdet's own prediction."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope

from ghost_det.config import load_config
from ghost_det.deploy.graph import DetectorGraph, canvas_of
from ghost_det.deploy.heads import strongest
from ghost_det.deploy.reference import compare, predict
from ghost_det.deploy.standard import keep_best
from ghost_det.errors import UserError
from ghost_det.trial import build_alone

from ..conftest import CONFIGS
from .settled import canvases, settled

OURS = [f'configs/{path.name}' for path in CONFIGS]
OTHERS = [
    'mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py',
    'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py',
    'mmdet::yolox/yolox_tiny_8xb8-300e_coco.py',
    'mmdet::atss/atss_r50_fpn_1x_coco.py',
    'mmdet::gfl/gfl_r50_fpn_1x_coco.py',
    'mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py',
    'mmdet::vfnet/vfnet_r50_fpn_1x_coco.py',
]


def found(detector: Any, images: np.ndarray[Any, Any]) -> list[Any]:
    with torch.no_grad():
        outs = [each.numpy() for each in DetectorGraph(detector).eval()(torch.from_numpy(images))]
    return [
        tuple(part[labels >= 0] for part in (boxes, scores, labels)) for boxes, scores, labels in zip(*outs)
    ]


@pytest.mark.parametrize('name', [*OURS, *OTHERS])
def test_graph_finds_what_mmdet_finds(name: str) -> None:
    options = {'model.test_cfg.score_thr': 0.3} if 'yolox' in name else {}  # more than the graph gives out
    _, detector = settled(name, **options)
    images = canvases()
    mine, limit = found(detector, images), 300 if 'rtmdet' in name else 200 if 'ssd' in name else 100
    apart = compare(predict(detector, images), mine, 0.5, limit)
    assert apart.unmatched == 0 and apart.boxes > 20, apart
    assert apart.pixels < 0.05 and apart.score < 1e-3, apart
    assert all((np.diff(scores) <= 0).all() for _, scores, _ in mine)


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('mmdet::tood/tood_r50_fpn_1x_coco.py', 'TOODHead: no export'),
        ('mmdet::yolo/yolov3_d53_8xb8-320-273e_coco.py', 'YOLOV3Head: no export'),
        ('mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', 'MaskRCNN: no export for masks'),
        ('mmdet::detr/detr_r50_8xb2-150e_coco.py', 'DETRHead: no export'),
        ('mmdet::cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py', 'CascadeRoIHead: no export'),
    ],
)
def test_what_has_no_export_is_refused_by_name(name: str, message: str) -> None:
    init_default_scope('mmdet')
    with pytest.raises(UserError, match=message):
        DetectorGraph(build_alone(load_config(name).model))


def test_soft_suppression_is_refused() -> None:
    options = {'model.test_cfg.nms.type': 'soft_nms'}
    _, detector = settled('configs/retinanet_ghostnet_fpn_lite.py', **options)
    with pytest.raises(UserError, match='soft_nms.*plain non-maximum suppression'):
        found(detector, canvases())


@pytest.mark.parametrize(('boxes', 'classes'), [(50, 1), (50, 7), (400, 1), (400, 7)])
def test_strongest_are_the_highest_scores(boxes: int, classes: int) -> None:
    scores = torch.rand(3, boxes, classes)
    top, box, label = strongest(scores, 60)
    wanted = scores.flatten(1).topk(min(60, boxes * classes)).values
    assert torch.equal(top.sort(descending=True).values[:, : wanted.shape[1]], wanted)
    image = torch.arange(3)[:, None]
    assert torch.equal(scores[image, box, label], top)
    assert len({tuple(pair) for pair in torch.stack([box[0], label[0]], 1).tolist()}) == top.shape[1]


def test_keep_best_suppresses_each_image_alone() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [20, 0, 30, 10]]).repeat(2, 1, 1)
    scores = torch.tensor([[0.5, 0.9, 0.3], [0.5, 0.0, 0.0]])
    assert keep_best(boxes, scores, 0.5, 3).tolist() == [[1, 2, -1], [0, -1, -1]]
    assert keep_best(boxes, scores, 0.95, 2).tolist() == [[1, 0], [0, -1]]


def test_canvas_is_that_of_the_config() -> None:
    cfg, detector = settled('configs/retinanet_ghostnet_fpn_lite.py')
    canvas = canvas_of(cfg, detector)
    assert canvas == (320, 320, (320, 320), True, 32, (104, 116, 124))
    assert canvas_of(cfg, detector, (64, 96))[:2] == (64, 96)
    with pytest.raises(UserError, match='--size 60 96: multiples of 32'):
        canvas_of(cfg, detector, (60, 96))
