"""A small graph that keeps to the contract of exported detectors: it finds the bright pixels of an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ghost_det.deploy import Metadata
from ghost_det.deploy.backends import openvino_core
from ghost_det.deploy.metadata import KEY

ROWS = 4
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
    max_detections=ROWS,
    precision='fp32',
    ghost_det_version='0.1.0',
    config_sha256='0' * 64,
    checkpoint_sha256='1' * 64,
    opset=18,
)


def bright_model(metadata: Metadata, label: int = 0) -> Any:
    """Return a graph whose first row is the box around all pixels over `BRIGHT`, of the score 0.9.

    Its second row is the same box of class 1 and score 0.2; without bright pixels all rows are empty.
    """
    nodes: list[Any] = []

    def node(kind: str, *inputs: str, **attributes: Any) -> str:
        name = f'{kind}_{len(nodes)}'
        nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    values: dict[str, Any] = {
        'bright': np.array([BRIGHT], np.float32),
        'axis_c': np.array([3]),
        'axis_h': np.array([1]),
        'axis_w': np.array([2]),
        'axis_1': np.array([1]),
        'one': np.array([1], np.float32),
        'sides': np.array([1, 0, 1, 0]),
        'eye': np.array([0.9, 0.2] + [0] * (ROWS - 2), np.float32),
        'first': np.array([[1], [1]] + [[0]] * (ROWS - 2), np.float32),
        'labels_found': np.array([label + 1, 2] + [0] * (ROWS - 2), np.float32),
    }
    pixels = node('ReduceMin', node('Cast', 'images', to=TensorProto.FLOAT), 'axis_c', keepdims=0)
    mask = node('Cast', node('Greater', pixels, 'bright'), to=TensorProto.FLOAT)
    found = node('ReduceMax', node('ReduceMax', mask, 'axis_w', keepdims=0), 'axis_1', keepdims=1)
    sides = []
    for across in ('axis_h', 'axis_w'):  # of x, of y
        line = node('ReduceMax', mask, across, keepdims=0)
        first = node('ArgMax', line, axis=1, keepdims=1)
        last = node('ArgMax', line, axis=1, keepdims=1, select_last_index=1)
        sides += [node('Cast', side, to=TensorProto.FLOAT) for side in (first, last)]
    x1, x2, y1, y2 = sides
    box = node('Concat', x1, y1, node('Add', x2, 'one'), node('Add', y2, 'one'), axis=1)
    # Clipped to the image's own size, as a graph that left it out would lose that input in OpenVINO.
    limits = node('Gather', node('Cast', 'sizes', to=TensorProto.FLOAT), 'sides', axis=1)
    box = node('Mul', node('Min', box, limits), found)
    rows = node('Mul', node('Unsqueeze', box, 'axis_1'), 'first')
    nodes.append(helper.make_node('Identity', [rows], ['boxes']))
    nodes.append(helper.make_node('Mul', [found, 'eye'], ['scores']))
    labels = node('Sub', node('Mul', found, 'labels_found'), 'one')
    nodes.append(helper.make_node('Cast', [labels], ['labels'], to=TensorProto.INT64))
    size = ['H', 'W'] if metadata.dynamic else [metadata.height, metadata.width]
    graph = helper.make_graph(
        nodes,
        'bright',
        [
            helper.make_tensor_value_info('images', TensorProto.UINT8, ['N', *size, 3]),
            helper.make_tensor_value_info('sizes', TensorProto.INT64, ['N', 2]),
        ],
        [
            helper.make_tensor_value_info('boxes', TensorProto.FLOAT, ['N', ROWS, 4]),
            helper.make_tensor_value_info('scores', TensorProto.FLOAT, ['N', ROWS]),
            helper.make_tensor_value_info('labels', TensorProto.INT64, ['N', ROWS]),
        ],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 18)], ir_version=9)
    onnx.checker.check_model(model)
    return model


def save(path: Path, metadata: Metadata | None = None, text: str | None = None, label: int = 0) -> Path:
    """Write such a graph, as .onnx or .xml, with metadata or another text in their place."""
    model = bright_model(metadata or Metadata(**METADATA), label)
    if metadata is not None:
        text = metadata.to_json()
    if path.suffix == '.onnx':
        helper.set_model_props(model, {} if text is None else {KEY: text})
        onnx.save(model, path)
        return path
    import openvino

    converted = openvino_core().read_model(model.SerializeToString())
    if text is not None:
        converted.set_rt_info(text, [KEY])
    openvino.save_model(converted, path, compress_to_fp16=False)
    return path
