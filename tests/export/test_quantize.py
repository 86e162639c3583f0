import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip('torch', '2.6')  # see commands/export.py

from ghost_det.deploy import Detector, Metadata
from ghost_det.deploy.backends import openvino_core
from ghost_det.errors import UserError
from ghost_det.export.accuracy import GroundTruth
from ghost_det.export.onnx import read_folded, write_openvino
from ghost_det.export.quantize import pick_evenly, quantization_settings, quantize

from . import exported
from .exported import BRIGHT, bright_model

METADATA = Metadata(**exported.METADATA)
# Steps in 8 bits are too coarse for the threshold behind it.
CONVOLUTION = """
    plane = Constant <value = float[1, 3, 1, 1] {1, 0, 0}> ()
    planes = Transpose <perm = [0, 3, 1, 2]> (floats)
    grey = Conv (planes, plane)
    pixels = Squeeze (grey, axis_1)
"""


def test_what_follows_the_last_convolution_stays_in_floating_point() -> None:
    model = openvino_core().read_model(bright_model(METADATA, pixels=CONVOLUTION).SerializeToString())
    ignored = set(quantization_settings(model)['ignored_scope'].names)
    kinds = {op.get_friendly_name(): op.get_type_name() for op in model.get_ordered_ops()}
    assert {'Squeeze', 'Greater', 'ReduceMax', 'Minimum'} <= {kinds[name] for name in ignored}
    assert not {'Convolution', 'Transpose', 'Parameter', 'Constant'} & {kinds[name] for name in ignored}


def test_depthwise_convolutions_are_quantized_by_channel(tmp_path: Path) -> None:
    import nncf
    import onnx

    weights = np.random.default_rng(0).normal(size=(4, 1, 3, 3)).astype(np.float32)
    text = '<ir_version: 8, opset_import: ["" : 18]> net (float[N, 4, 8, 8] x) => (float[N, 4, 6, 6] y) '
    model = onnx.parser.parse_model(text + '{ y = Conv <group = 4> (x, kernels) }')
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, 'kernels'))
    onnx.save(model, tmp_path / 'depthwise.onnx')
    data = nncf.Dataset([np.ones((1, 4, 8, 8), np.float32)])
    small = nncf.quantize(read_folded(tmp_path / 'depthwise.onnx'), data, subset_size=1)
    (layer,) = (each for each in small.get_ops() if each.get_type_name() == 'GroupConvolution')
    ranges = layer.input_value(1).get_node().input_value(1)
    assert list(ranges.get_shape()) == [4, 1, 1, 1, 1]  # else OpenVINO runs the layer in float32


def test_a_layer_that_costs_too_much_is_reverted(tmp_path: Path) -> None:
    images, objects = [], []
    for number in range(4):
        image = np.full((64, 64, 3), 40, np.uint8)
        image[5:25, 5 + number : 25 + number] = 229 if number == 0 else BRIGHT + 1
        if number:
            # In steps of 229 / 127 or 229 / 255 it is over the threshold as well.
            image[45:60, 45:60] = BRIGHT
        cv2.imwrite(str(tmp_path / f'{number}.png'), image)
        images.append({'id': number, 'file_name': f'{number}.png', 'height': 64, 'width': 64})
        box = {'bbox': [5 + number, 5, 20, 20], 'area': 400, 'iscrowd': 0}
        objects.append({'id': number + 1, 'image_id': number, 'category_id': 1, **box})
    annotations = tmp_path / 'truth.json'
    categories = [{'id': 1, 'name': 'bright'}, {'id': 2, 'name': 'dim'}]
    annotations.write_text(json.dumps({'images': images, 'annotations': objects, 'categories': categories}))
    source = tmp_path / 'source.xml'
    model = bright_model(METADATA, pixels=CONVOLUTION)
    write_openvino(openvino_core().read_model(model.SerializeToString()), source, METADATA)
    truth = GroundTruth.read(annotations, tmp_path, METADATA.classes)
    lines = {}
    for allowed in (2.0, 0.01):  # more than can be lost, even of an mAP that is not defined, which is -1
        out = tmp_path / f'small-{allowed}.xml'
        small = replace(METADATA, precision='int8')
        lines[allowed] = list(quantize(source, out, small, None, truth, allowed))
    assert len(lines[2.0]) == len(lines[0.01]) == 2, lines
    assert '1.0000 in 32 bits' in lines[2.0][1] and '1.0000 in 8' not in lines[2.0][1], lines
    assert '1.0000 in 32 bits, 1.0000 in 8 (+0.0000)' in lines[0.01][1], lines
    many, few = (int(lines[allowed][1].split()[-2]) for allowed in (2.0, 0.01))
    assert many > few, lines
    weights = out.with_suffix('.bin')
    weights.write_bytes(weights.read_bytes() + b'more')
    with pytest.raises(UserError, match=f'{weights}: does not belong to {out}'):
        Detector(out)
    annotations.write_text(json.dumps({'images': images, 'annotations': [], 'categories': categories}))
    truth = GroundTruth.read(annotations, tmp_path, METADATA.classes)
    with pytest.raises(UserError, match='no object in 4 images'):
        list(quantize(source, out, small, None, truth, 0.01))


@pytest.mark.parametrize(('count', 'most'), [(3, 5), (5, 5), (599, 300), (1001, 500)])
def test_some_of_many_images_are_from_all_of_the_list(count: int, most: int) -> None:
    places = pick_evenly(count, most)
    assert len(places) == min(count, most) and places[0] == 0 and max(np.diff(places)) <= -(-count // most)
    assert count - 1 - places[-1] <= count // most
