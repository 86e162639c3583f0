"""Files without post-processing: their maps, and the boxes that the runtime and C++ make of them."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import torch

pytest.importorskip('torch', '2.6')  # see commands/export.py

from ghost_det.deploy import Detections, Detector
from ghost_det.deploy.maps import find_boxes, map_names
from ghost_det.deploy.metadata import Metadata
from ghost_det.errors import UserError
from ghost_det.export.check import compare, predict
from ghost_det.export.export import choose_target, describe
from ghost_det.export.graph import deployed
from ghost_det.export.onnx import to_onnx, write_model
from ghost_det.export.raw import RawGraph, raw_metadata
from tests.conftest import ROOT

from .settled import HEIGHT, WIDTH, canvases, photos, settled
from .test_export import BACKBONE, CANVAS, CLASSES, CONFIG, FASTER, NECK, SMALL, STEPS

GFL = BACKBONE | {
    'model.neck': NECK | dict(start_level=0),
    'model.bbox_head': dict(in_channels=16, feat_channels=16, stacked_convs=1, num_classes=3),
    'model.bbox_head.anchor_generator.strides': [4, 8],
}
MODELS = {'gfl': ('configs/gfl_ghostnet_ghostpan_lite.py', GFL), 'retinanet': (CONFIG, SMALL)}
NCNN = Path(os.environ.get('NCNN_ROOT', '/usr'))
IMAGES = [*photos(), canvases(1, 48, 208)[0], canvases(1, 192, 32)[0][:189, :27]]


@functools.cache
def made(name: str) -> tuple[Any, Metadata]:
    config, options = MODELS[name]
    cfg, detector = settled(config, **options)
    described = describe(cfg, detector, CLASSES, name, CANVAS, False, None)
    return detector, replace(described, **raw_metadata(detector))


def written(name: str, path: Path, precision: str = 'fp32') -> Path:
    detector, metadata = made(name)
    source = path.with_name('source.onnx')
    to_onnx(detector, CANVAS, source, strides=metadata.strides)
    write_model(source, path, replace(metadata, precision=precision))
    return path


@pytest.fixture(params=MODELS)
def exported(request: Any, tmp_path: Path) -> tuple[str, Path]:
    for package in ('pnnx', 'ncnn'):
        pytest.importorskip(package, reason=f'{package} is in the extra ncnn')
    return request.param, written(request.param, tmp_path / 'small.ncnn', 'fp16')


def same(path: Path, name: str, near: float) -> None:
    """Compare a file with mmdet in images of all shapes."""
    opened, detector = Detector(path), made(name)[0]
    assert replace(opened.metadata, precision='fp32', weights_sha256='') == made(name)[1]
    theirs = [predict(detector, STEPS, image, opened.metadata) for image in IMAGES]
    difference = compare(theirs, list(opened.stream(IMAGES, batch=3)), near, 100)
    assert difference.boxes > 100 and difference.unmatched <= 0.02 * difference.boxes, difference


@pytest.mark.parametrize('name', MODELS)
def test_boxes_from_the_maps_of_an_onnx_file_are_those_of_mmdet(name: str, tmp_path: Path) -> None:
    path = written(name, tmp_path / 'raw.onnx')
    same(path, name, 0.1)
    model = onnx.load(path)
    assert [each.name for each in model.graph.input] == ['image']
    assert [each.name for each in model.graph.output] == ['scores_4', 'boxes_4', 'scores_8', 'boxes_8']
    assert not {node.op_type for node in model.graph.node} & {'NonMaxSuppression', 'TopK'}


def test_boxes_from_ncnn_are_those_of_mmdet(exported: tuple[str, Path]) -> None:
    name, path = exported
    same(path, name, 4.0)


def test_maps_of_ncnn_are_those_of_torch_to_half_precision(exported: tuple[str, Path]) -> None:
    import ncnn

    name, path = exported
    pixels = np.ascontiguousarray(canvases(1)[0].transpose(2, 0, 1), np.float32)
    net = ncnn.Net()
    assert net.load_param(f'{path}.param') == 0 and net.load_model(f'{path}.bin') == 0
    extractor = net.create_extractor()
    extractor.input('image', ncnn.Mat(pixels))
    detector, metadata = made(name)
    assert metadata.strides == (4, 8)
    with torch.no_grad():
        expected = RawGraph(deployed(detector)).eval()(torch.from_numpy(pixels)[None])
    for output, maps in zip(map_names(metadata.strides), expected, strict=True):
        code, found = extractor.extract(output)
        near = 0.01 * float(maps.abs().max())
        np.testing.assert_allclose(np.array(found), maps[0].numpy(), rtol=0, atol=near)
        assert code == 0


@pytest.mark.skipif(not shutil.which('g++'), reason='needs g++')
@pytest.mark.skipif(
    not (NCNN / 'include/ncnn/net.h').exists(), reason='needs ncnn for C++ in /usr or NCNN_ROOT'
)
def test_example_in_cpp_finds_what_the_runtime_finds(exported: tuple[str, Path], tmp_path: Path) -> None:
    source, program = ROOT / 'docs/examples/ncnn/main.cpp', tmp_path / 'detect'
    places = ['-I', NCNN / 'include/ncnn', '-L', NCNN / 'lib']
    subprocess.run(['g++', '-O1', '-std=c++17', source, *places, '-lncnn', '-o', program], check=True)
    detector = Detector(exported[1])
    results = []
    for number, image in enumerate(IMAGES):
        picture = tmp_path / f'{number}.ppm'
        cv2.imwrite(str(picture), image)
        done = subprocess.run([program, exported[1], picture], capture_output=True, text=True, check=True)
        rows = np.array([line.split() for line in done.stdout.splitlines()], np.float64)
        results.append(Detections(rows[:, 2:], rows[:, 1], rows[:, 0]))
    difference = compare([detector(image) for image in IMAGES], results, 0.5, 100)
    assert difference.boxes > 100 and difference.unmatched <= 0.02 * difference.boxes, difference


def test_other_heads_are_refused_by_name() -> None:
    _, detector = settled('configs/faster-rcnn_ghostnet_fpn.py', **FASTER)
    with pytest.raises(UserError, match='only plain GFL and RetinaNet'):
        raw_metadata(detector)


@pytest.mark.parametrize(
    'out, chosen', [('a.xml', '--raw'), ('a.onnx', '--half'), ('a.ncnn', '--int8'), ('a.pt', '-o')]
)
def test_formats_without_an_option_are_refused(out: str, chosen: str) -> None:
    options = [chosen == option for option in ('--half', '--int8', '--raw')]
    with pytest.raises(UserError, match=f'{chosen}: expected a name that ends in'):
        choose_target(Path('epoch_1.pth'), Path(out), *options)


def test_no_boxes_from_maps_without_scores() -> None:
    metadata = replace(made('gfl')[1], score_threshold=1.0)
    maps = [np.zeros((count, HEIGHT // s, WIDTH // s), np.float32) for s in (4, 8) for count in (3, 4)]
    boxes, scores, labels = find_boxes(lambda image: maps, canvases(1), np.array([[HEIGHT, WIDTH]]), metadata)
    assert [[len(part) for part in parts] for parts in (boxes, scores, labels)] == [[0]] * 3


def test_maps_that_are_not_those_of_the_metadata_are_refused(tmp_path: Path) -> None:
    path = written('gfl', tmp_path / 'raw.onnx')
    model = onnx.load(path)
    for change in (
        dict(strides=(8, 16)),
        dict(strides=(4,)),
        dict(classes=CLASSES[1:]),
        dict(height=HEIGHT * 2),
    ):
        model.metadata_props[0].value = replace(made('gfl')[1], **change).to_json()
        onnx.save(model, path)
        with pytest.raises(UserError, match=f'{path}: cannot be run'):
            Detector(path)(IMAGES[0])


def test_ncnn_files_that_do_not_belong_together_are_refused(exported: tuple[str, Path]) -> None:
    path = exported[1]
    for suffix, old, new in (
        ('.param', b'scores_8', b'scores_9'),
        ('.param', b' image', b' pixels'),
        ('.json', b'[4, 8]', b'[4.0, 8]'),
        ('.json', b'"classes": [', b'"classes": [1, '),
        ('.json', b'{', b'\xff{'),
    ):
        file = Path(f'{path}{suffix}')
        content = file.read_bytes()
        assert old in content, suffix
        file.write_bytes(content.replace(old, new))
        with pytest.raises(UserError, match=str(path)):
            Detector(path)(IMAGES[0])
        file.write_bytes(content)
    assert len(Detector(path)(IMAGES[0]))
    weights = Path(f'{path}.bin')
    weights.write_bytes(bytes(4) + weights.read_bytes())
    with pytest.raises(UserError, match=f'{weights}: does not belong'):
        Detector(path)
