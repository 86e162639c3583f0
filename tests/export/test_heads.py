"""The boxes of a detector as one graph, against those of mmdet's own prediction."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope

pytest.importorskip('torch', '2.6')  # see commands/export.py

from ghost_det.config.load import load_config
from ghost_det.config.query import test_pipeline as evaluation_steps
from ghost_det.deploy import Metadata
from ghost_det.deploy.detector import detections
from ghost_det.deploy.letterbox import image_sizes, letterbox
from ghost_det.errors import UserError
from ghost_det.export.check import compare, predict
from ghost_det.export.export import describe
from ghost_det.export.graph import DetectorGraph, canvas_of
from ghost_det.export.nms import keep_best, nms_settings, top_scores
from ghost_det.swap.probe import build_detector
from tests.conftest import CONFIGS

from .settled import photos, settled

LITE = 'configs/retinanet_ghostnet_fpn_lite.py'
SMALL = {'model.backbone.depth': 18, 'model.neck.in_channels': [64, 128, 256, 512]}
MODELS: dict[str, dict[str, Any]] = {
    **{f'configs/{path.name}': {} for path in CONFIGS if path.name != 'retinanet_ghostnet_fpn.py'},  # as lite
    'configs/faster-rcnn_ghostnet_fpn.py': {
        'model.roi_head.bbox_head.fc_out_channels': 64,
        'model.test_cfg.rpn.max_per_img': 200,
    },
    'mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py': {},
    'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py': {},
    'mmdet::yolox/yolox_tiny_8xb8-300e_coco.py': {'model.test_cfg.score_thr': 0.4},  # mmdet sets no limit
    'mmdet::atss/atss_r50_fpn_1x_coco.py': SMALL,
    'mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py': SMALL,
}


def found(detector: Any, images: list[Any], metadata: Metadata, sizes: Any = None) -> list[Any]:
    pixels, places = letterbox(images, metadata)
    sizes = image_sizes(pixels, places, metadata) if sizes is None else sizes
    with torch.no_grad():
        outs = DetectorGraph(detector).eval()(torch.from_numpy(pixels), torch.from_numpy(sizes))
    return [detections(*each, at) for *each, at in zip(*(out.numpy() for out in outs), places)]


def described(cfg: Any, detector: Any, side: int = 160) -> Metadata:
    canvas = canvas_of(cfg, detector, (side, side))
    return describe(cfg, detector, ('any',), 'any', canvas, False, None)


@pytest.mark.parametrize('name', MODELS)
def test_graph_finds_what_mmdet_finds_in_images_of_every_shape(name: str) -> None:
    cfg, detector = settled(name, **MODELS[name])
    images, metadata = photos(), described(cfg, detector)
    mine = found(detector, images, metadata)
    theirs = [predict(detector, evaluation_steps(cfg), image, metadata) for image in images]
    difference = compare(theirs, mine, 0.5, metadata.max_detections)
    assert difference.unmatched <= 0.01 * difference.boxes and difference.boxes > 20, difference
    assert difference.pixels < 0.1 and difference.score < 1e-3, difference
    assert all((np.diff(each.scores) <= 0).all() for each in mine)


def test_boxes_over_padding_take_no_place_of_others() -> None:
    cfg, detector = settled(LITE)
    image, metadata = photos()[2], described(cfg, detector)  # 16:9: 70 of the canvas's 160 rows are padding
    theirs = predict(detector, evaluation_steps(cfg), image, metadata)
    assert len(theirs) == metadata.max_detections
    for sizes, low, high in ((None, 0, 2), (np.array([[160, 160]]), 11, 200)):  # padding taken for image
        assert low <= compare([theirs], found(detector, [image], metadata, sizes), 0.5, 100).unmatched <= high


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('mmdet::tood/tood_r50_fpn_1x_coco.py', 'TOODHead: cannot be exported'),
        ('mmdet::yolo/yolov3_d53_8xb8-320-273e_coco.py', 'YOLOV3Head: cannot be exported'),
        ('mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', 'MaskRCNN: masks cannot be exported'),
        ('mmdet::detr/detr_r50_8xb2-150e_coco.py', 'DETRHead: cannot be exported'),
        ('mmdet::cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py', 'CascadeRoIHead: cannot be exported'),
    ],
)
def test_what_has_no_export_is_refused_by_name(name: str, message: str) -> None:
    init_default_scope('mmdet')
    with pytest.raises(UserError, match=message):
        DetectorGraph(build_detector(load_config(name).model))
    with pytest.raises(UserError, match='soft_nms'):
        nms_settings({'nms': {'type': 'soft_nms', 'iou_threshold': 0.5}})
    with pytest.raises(UserError, match='max_per_img is -1'):
        nms_settings({'nms': {'iou_threshold': 0.5}, 'max_per_img': -1})


@pytest.mark.parametrize(('boxes', 'classes'), [(50, 1), (400, 7)])
def test_top_scores_are_the_highest(boxes: int, classes: int) -> None:
    scores = torch.rand(3, boxes, classes)
    top, box, label = top_scores(scores, 60)
    highest = scores.flatten(1).topk(min(60, boxes * classes)).values
    assert torch.equal(top.sort(descending=True).values[:, : highest.shape[1]], highest)
    image = torch.arange(3)[:, None]
    assert torch.equal(scores[image, box, label], top)
    assert len({tuple(pair) for pair in torch.stack([box[0], label[0]], 1).tolist()}) == top.shape[1]


def test_keep_best_suppresses_each_image_on_its_own() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [20, 0, 30, 10]]).repeat(2, 1, 1)
    scores = torch.tensor([[0.5, 0.9, 0.3], [0.5, 0.0, 0.0]])
    assert keep_best(boxes, scores, 0.5, 3).tolist() == [[1, 2, -1], [0, -1, -1]]
    assert keep_best(boxes, scores, 0.95, 2).tolist() == [[1, 0], [0, -1]]


def test_canvas_is_that_of_the_config() -> None:
    cfg = load_config(LITE)
    detector = build_detector(cfg.model)
    *canvas, fill = canvas_of(cfg, detector)
    assert canvas == [320, 320, (320, 320), True, 32, (104, 116, 124), False]
    assert fill == pytest.approx((103.53, 116.28, 123.675))
    assert canvas_of(cfg, detector, (64, 96))[:3] == (64, 96, (96, 64))
    with pytest.raises(UserError, match='--size: expected multiples of 32'):
        canvas_of(cfg, detector, (60, 96))
