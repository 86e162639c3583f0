"""A small graph that keeps to the contract of exported detectors: it finds the bright pixels of an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import openvino

from ghost_det.deploy import Metadata
from ghost_det.deploy.backends import openvino_core
from ghost_det.deploy.metadata import KEY

BRIGHT = 200
METADATA: dict[str, Any] = dict(
    format=2,
    name='bright',
    classes=('bright', 'dim'),
    height=64,
    width=64,
    scale=(64, 64),
    dynamic=False,
    keep_ratio=True,
    size_divisor=32,
    pad_value=(103, 116, 123),
    clip_to_canvas=False,
    score_threshold=0.05,
    iou_threshold=0.5,
    max_detections=4,
    precision='fp32',
    ghost_det_version='0.1.0',
    config_sha256='0' * 64,
    checkpoint_sha256='1' * 64,
)
PIXELS = 'pixels = ReduceMin <keepdims = 0> (floats, axis_3)'
GRAPH = """
<ir_version: 9, opset_import: ["": 18]>
bright (uint8[N, HEIGHT, WIDTH, 3] images, int64[N, 2] sizes)
=> (float[N, 4, 4] boxes, float[N, 4] scores, int64[N, 4] labels)
<
    float[1] least = {200}, float[1] one = {1}, float[4] ends = {0, 0, 1, 1}, int64[4] sides = {1, 0, 1, 0},
    int64[1] axis_1 = {1}, int64[1] axis_2 = {2}, int64[1] axis_3 = {3},
    float[4] sure = {0.9, 0.2, 0, 0}, float[4, 1] first = {1, 1, 0, 0}, float[4] kinds = {KIND, 2, 0, 0}
>
{
    floats = Cast <to = 1> (images)
    PIXELS
    above = Greater (pixels, least)
    mask = Cast <to = 1> (above)
    columns = ReduceMax <keepdims = 0> (mask, axis_1)
    lines = ReduceMax <keepdims = 0> (mask, axis_2)
    found = ReduceMax <keepdims = 1> (columns, axis_1)
    x1 = ArgMax <axis = 1> (columns)
    y1 = ArgMax <axis = 1> (lines)
    x2 = ArgMax <axis = 1, select_last_index = 1> (columns)
    y2 = ArgMax <axis = 1, select_last_index = 1> (lines)
    places = Concat <axis = 1> (x1, y1, x2, y2)
    corners = Cast <to = 1> (places)
    outer = Add (corners, ends)
    all_limits = Cast <to = 1> (sizes)
    limits = Gather <axis = 1> (all_limits, sides)
    inside = Min (outer, limits)
    box = Mul (inside, found)
    row = Unsqueeze (box, axis_1)
    boxes = Mul (row, first)
    scores = Mul (found, sure)
    numbers = Mul (found, kinds)
    counted = Sub (numbers, one)
    labels = Cast <to = 7> (counted)
}
"""


def bright_model(metadata: Metadata, label: int = 0, pixels: str = PIXELS) -> Any:
    """Return a graph whose first row is the box around all pixels over `BRIGHT`, of the score 0.9.

    Its second row is the same box of class 1 and score 0.2; without bright pixels all rows are empty.
    """
    sides = ('H', 'W') if metadata.dynamic else (str(metadata.height), str(metadata.width))
    text = GRAPH.replace('HEIGHT, WIDTH', ', '.join(sides)).replace('KIND', str(label + 1))
    model = onnx.parser.parse_model(text.replace('PIXELS', pixels))
    onnx.checker.check_model(model)
    return model


def save(path: Path, metadata: Metadata | None = None, text: str | None = None, label: int = 0) -> Path:
    """Write such a graph, as .onnx or .xml, with metadata or another text in their place."""
    model = bright_model(metadata or Metadata(**METADATA), label)
    if metadata is not None:
        text = metadata.to_json()
    if path.suffix == '.onnx':
        onnx.helper.set_model_props(model, {} if text is None else {KEY: text})
        onnx.save(model, path)
    else:
        converted = openvino_core().read_model(model.SerializeToString())
        if text is not None:
            converted.set_rt_info(text, [KEY])
        openvino.save_model(converted, path, compress_to_fp16=False)
    return path
