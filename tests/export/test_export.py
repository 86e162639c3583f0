"""Exported files: what they find, what they say of themselves, and what is refused."""

from __future__ import annotations

import functools
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import torch
from filelock import FileLock

pytest.importorskip('torch', '2.6')  # see commands/export.py

from ghost_det.config.load import load_config
from ghost_det.config.query import test_pipeline as evaluation_steps
from ghost_det.data.dataset import DetectionData
from ghost_det.data.layouts import Split
from ghost_det.deploy import Detections, Detector
from ghost_det.deploy import detector as runtime
from ghost_det.deploy.backends import openvino_core
from ghost_det.deploy.metadata import KEY, Metadata
from ghost_det.errors import UserError
from ghost_det.export import accuracy, check
from ghost_det.export import export as exporting
from ghost_det.export.accuracy import evaluate_file
from ghost_det.export.check import Difference, check_file, check_images, compare, predict
from ghost_det.export.export import describe
from ghost_det.export.graph import Canvas
from ghost_det.export.onnx import to_onnx, write_model, write_openvino
from ghost_det.utils.files import sha256
from tests.conftest import ROOT, run_command

from .settled import HEIGHT, WIDTH, canvases, photos, settled

CONFIG = 'configs/retinanet_ghostnet_fpn_lite.py'
# As small as the configs go: half the width, two stages of the backbone, two levels.
BACKBONE = {'model.backbone': dict(width=0.5, out_indices=(0, 1))}
NECK = dict(in_channels=[12, 20], out_channels=16, num_outs=2)
SMALL = BACKBONE | {
    'model.neck': NECK | dict(start_level=0),
    'model.bbox_head': dict(num_ins=2, in_channels=16, feat_channels=16, stacked_convs=1, num_classes=3),
    'model.bbox_head.anchor_generator.strides': [4, 8],
}
FASTER = BACKBONE | {
    'model.neck': NECK,
    'model.rpn_head': dict(in_channels=16, feat_channels=16, anchor_generator=dict(strides=[4, 8])),
    'model.roi_head.bbox_roi_extractor': dict(featmap_strides=[4, 8], out_channels=16),
    'model.roi_head.bbox_head': dict(in_channels=16, fc_out_channels=32, num_classes=3),
    'model.test_cfg': dict(rpn=dict(max_per_img=100), rcnn=dict(score_thr=0.1)),
}
MODELS = {'small': (CONFIG, SMALL), 'faster': ('configs/faster-rcnn_ghostnet_fpn.py', FASTER)}
FILL = (103.53, 116.28, 123.675)
CANVAS = Canvas(HEIGHT, WIDTH, (WIDTH, HEIGHT), True, 32, (104, 116, 124), False, FILL)
STEPS = evaluation_steps(load_config(CONFIG))
CLASSES = ('cat', 'dog', 'bird')


@functools.cache
def made(name: str = 'small') -> tuple[Any, Any]:
    """The config and the detector of one of `MODELS`."""
    config, options = MODELS[name]
    return settled(config, **options)


@pytest.fixture(scope='session')
def source(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The small detector as ONNX, of any input size, which the workers of a test run share."""
    folder = tmp_path_factory.getbasetemp()
    path = (folder if worker_id == 'master' else folder.parent) / 'small.onnx'
    with FileLock(f'{path}.lock'):
        if not path.exists():
            to_onnx(made()[1], CANVAS, path, dynamic=True)
    return path


def metadata(name: str = 'small', **changes: Any) -> Metadata:
    return replace(describe(*made(name), CLASSES, name, CANVAS, True, None), **changes)


def compared(path: Path, detector: Any, images: Any, near: float = 0.5) -> Difference:
    """How far a file is from mmdet in some images, which it is given as one batch."""
    opened = Detector(path)
    theirs = [predict(detector, STEPS, image, opened.metadata) for image in images]
    return compare(theirs, list(opened.stream(images, batch=len(images))), near, 100)


@pytest.mark.parametrize(
    ('name', 'suffix'),
    [('small', '.onnx'), ('small', '.xml'), pytest.param('faster', '.onnx', marks=pytest.mark.slow)],
)
def test_file_finds_what_mmdet_finds_in_images_of_any_size(
    source: Path, tmp_path: Path, name: str, suffix: str
) -> None:
    path = tmp_path / f'{name}{suffix}'
    if name != 'small':
        source = path
        to_onnx(made(name)[1], CANVAS, source, dynamic=True)
    write_model(source, path, metadata(name))
    assert replace(Detector(path).metadata, weights_sha256='') == metadata(name)
    for images in (canvases(2), canvases(3, 64, 192), *([image] for image in photos())):
        difference = compared(path, made(name)[1], images)
        assert difference.unmatched == 0 and difference.boxes > (10 if name == 'small' else 30), difference
        assert difference.pixels < 0.05 and difference.score < 1e-4, difference


def test_file_has_only_standard_operators_and_no_trace_of_this_machine(source: Path, tmp_path: Path) -> None:
    path = tmp_path / 'small.onnx'
    write_model(source, path, metadata())
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [(each.domain, each.version) for each in model.opset_import] == [('', 18)]
    assert {node.domain for node in model.graph.node} == {''} and not model.functions
    assert 'BatchNormalization' not in {node.op_type for node in model.graph.node}
    text = path.read_bytes()
    assert str(ROOT).encode() not in text and b'site-packages' not in text
    kinds = {each.name: each.type.tensor_type.elem_type for each in model.graph.input}
    assert kinds == {'images': onnx.TensorProto.UINT8, 'sizes': onnx.TensorProto.INT64}
    assert [each.name for each in model.graph.output] == ['boxes', 'scores', 'labels']
    said = {each.key: json.loads(each.value) for each in model.metadata_props}[KEY]
    assert (said['classes'], said['height'], said['width']) == ([*CLASSES], HEIGHT, WIDTH)
    assert (said['score_threshold'], said['iou_threshold'], said['max_detections']) == (0.05, 0.5, 100)


def test_half_is_half_the_size_and_finds_nearly_the_same(source: Path, tmp_path: Path) -> None:
    for precision in ('fp16', 'fp32'):
        write_model(source, tmp_path / f'{precision}.xml', metadata(precision=precision))
    small, full = ((tmp_path / f'{precision}.bin').stat().st_size for precision in ('fp16', 'fp32'))
    difference = compared(tmp_path / 'fp16.xml', made()[1], canvases(2), 4.0)
    assert difference.boxes > 100 and difference.unmatched <= 6, difference
    assert small < 0.6 * full


def fixed(source: Path, path: Path, height: int, width: int) -> Path:
    model = openvino_core().read_model(source)
    model.reshape({'images': [-1, height, width, 3]})
    write_openvino(model, path, metadata(dynamic=False, height=height, width=width, scale=(width, height)))
    return path


def test_a_file_that_finds_other_objects_is_refused(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = fixed(source, tmp_path / 'small.xml', 160, 160)
    _, detector = made()
    (line,) = check_file(detector, STEPS, path, photos())
    assert line.startswith('checked: 4 images through mmdet and through the file: ')
    bias = detector.bbox_head.retina_cls.bias.data
    for change in (0.5, -100):
        bias += change
        with pytest.raises(UserError, match='small.xml: not written: '):
            list(check_file(detector, STEPS, path, photos()))
        bias -= change
    wide = fixed(source, tmp_path / 'wide.xml', HEIGHT, WIDTH)
    first, second = check_file(detector, STEPS, wide, photos())  # mmdet would turn the canvas
    assert first.startswith('checked: ') and second.startswith('warning: 1 of these images')
    # A file that takes padding for image.
    monkeypatch.setattr(runtime, 'image_sizes', lambda pixels, places, _: np.full((len(places), 2), 160))
    with pytest.raises(UserError, match='small.xml: not written: '):
        list(check_file(detector, STEPS, path, photos()))


def test_half_of_the_compared_images_have_the_shapes_of_cameras(tmp_path: Path) -> None:
    path = tmp_path / '1.png'
    cv2.imwrite(str(path), canvases(1, 96, 208)[0])
    shapes = [each.shape[:2] for each in check_images([path] * 10)]
    assert shapes[::2] == [(96, 208)] * 5
    assert shapes[1::2] == [(96, 128), (96, 72), (96, 171), (96, 96), (96, 128)]


def test_comparison_counts_what_only_one_side_has() -> None:
    boxes = np.array([[0, 0, 9, 9], [20, 20, 30, 30]], np.float32)
    scores, labels = np.array([0.9, 0.8], np.float32), np.array([0, 1])
    one = Detections(boxes, scores, labels)
    moved = Detections(boxes + 0.25, scores - 0.001, labels)
    assert compare([one], [moved], 0.5, 100) == Difference(2, 0.25, pytest.approx(0.001, 1e-3), 0)  # type: ignore[arg-type]
    assert compare([one], [replace(one, labels=np.array([0, 0]))], 0.5, 100).unmatched == 2
    for count, unmatched in ((1, 1), (0, 2)):
        first = Detections(boxes[:count], scores[:count], labels[:count])
        assert compare([one], [first], 0.5, 100).unmatched == unmatched


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A config and a checkpoint of it."""
    folder = tmp_path_factory.mktemp('trained')
    cfg, detector = made()
    cfg.dump(folder / 'small.py')
    content = {'state_dict': detector.state_dict(), 'meta': {'dataset_meta': {'classes': CLASSES}}}
    torch.save(content, folder / 'epoch_1.pth')
    return str(folder / 'small.py'), folder / 'epoch_1.pth'


@pytest.mark.parametrize(
    ('words', 'name'),
    [
        ('-o x.engine', '-o'),
        ('-o x.onnx --half', '--half'),
        ('-o x.onnx --int8', '--int8'),
        ('--int8 --half', '--int8'),
        ('--int8 --dynamic', '--int8'),
        ('--int8', '--int8 needs data'),
        ('--size 50 64', '--size'),
        ('none.pth', 'none.pth'),
    ],
)
def test_user_errors_leave_nothing(
    words: str, name: str, trained: tuple[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(sys, 'argv', sys.argv)
    config, checkpoint = trained
    monkeypatch.chdir(checkpoint.parent)
    before = set(checkpoint.parent.iterdir())
    checkpoints = [] if words == 'none.pth' else [str(checkpoint)]
    assert run_command(['export', config, *checkpoints, *words.split()]) == 2
    said = capsys.readouterr().err
    assert name in said and 'Traceback' not in said
    assert set(checkpoint.parent.iterdir()) == before


def test_export_writes_a_checked_file_next_to_the_checkpoint(
    source: Path, trained: tuple[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    # The file that is there already, in place of another minute of exporting.
    monkeypatch.setattr(exporting, 'to_onnx', lambda *words: words[2].write_bytes(source.read_bytes()))
    monkeypatch.setattr(exporting, 'check_images', lambda files: [*canvases(4), *photos()])
    monkeypatch.setattr(sys, 'argv', sys.argv)
    config, checkpoint = trained
    words = ['export', config, str(checkpoint), '--size', '128', '160', '--dynamic']
    for names, name, value in ((vars(check), 'TIES', -1), (sys.modules, 'openvino', None)):
        with monkeypatch.context() as patch:
            patch.setitem(names, name, value)
            assert run_command(words) == 2
        assert not list(checkpoint.parent.glob('epoch_1.[!p]*'))
    capsys.readouterr()
    assert run_command(words) == 0
    path, lines = checkpoint.with_suffix('.xml'), capsys.readouterr().out.splitlines()
    assert [line.split(':')[0] for line in lines] == ['exporting', 'checking', 'checked', str(path)]
    assert lines[2].startswith('checked: 8 images through mmdet and through the file: ')
    assert lines[3].endswith('fp32, 128 x 160 or any other size')
    written = Detector(path).metadata
    assert written.classes == CLASSES and len(written.config_sha256) == len(written.checkpoint_sha256) == 64
    assert path.with_suffix('.bin').exists()


def test_a_file_is_evaluated_and_compared_with_its_checkpoint(
    source: Path, trained: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, checkpoint = trained
    path, annotations = tmp_path / 'small.xml', tmp_path / 'val.json'
    write_model(source, path, metadata(checkpoint_sha256=sha256(checkpoint)))
    images, boxes = [], []
    for number, image in enumerate(photos(), 1):
        height, width = image.shape[:2]
        images.append({'id': number, 'file_name': f'{number}.png', 'height': height, 'width': width})
        cv2.imwrite(str(tmp_path / f'{number}.png'), image)
        # What torch finds is the ground truth: the mAP of a file that finds the same is 1.
        for each in predict(made()[1], STEPS, image, metadata()).to_coco(number, [7, 8, 9]):
            _, _, wide, high = each['bbox']
            boxes.append({**each, 'id': len(boxes) + 1, 'area': wide * high, 'iscrowd': 0})
    categories = [{'id': number, 'name': name} for number, name in enumerate(CLASSES, 7)]
    annotations.write_text(json.dumps({'images': images, 'annotations': boxes, 'categories': categories}))
    data = DetectionData(None, Split(annotations, tmp_path), CLASSES)
    options = {'test_dataloader.dataset.pipeline.1.scale': (WIDTH, HEIGHT)}
    settings = (str(path), config, options, data, str(tmp_path / 'out'), None)
    lines = list(evaluate_file(*settings, str(tmp_path / 'figures.json')))
    assert lines[0] == f'{path}: fp32, 4 images' and lines[-1].startswith('not compared with torch')
    figures = json.loads((tmp_path / 'figures.json').read_text())
    assert figures['metrics']['bbox']['figures']['mAP'] == 1
    assert len(json.loads((tmp_path / 'out/found.json').read_text())) == len(boxes)
    monkeypatch.setattr(accuracy, 'evaluate_saved', lambda *_, **__: iter(()))  # is slow
    shutil.copy(checkpoint, tmp_path)  # is found in the file's folder
    *_, last = evaluate_file(*settings)
    assert last == 'mAP 1.0000 of the file, 1.0000 of its checkpoint in torch'
    monkeypatch.setattr(runtime, 'image_sizes', lambda pixels, places, _: np.full((len(places), 2), 80))
    *_, last = evaluate_file(*settings)
    assert last.startswith('warning: mAP 0.')
    monkeypatch.setattr(exporting, 'to_onnx', lambda *words: words[2].write_bytes(source.read_bytes()))
    with pytest.raises(UserError, match='q.xml: not written: '):  # before it is quantized
        list(exporting.export(config, str(checkpoint), tmp_path / 'q.xml', int8=True, data=data))
    assert not list(tmp_path.glob('q.*'))
    categories[0]['name'] = 'cow'
    annotations.write_text(json.dumps({'images': images, 'annotations': boxes, 'categories': categories}))
    with pytest.raises(UserError, match="'cat'.*cow"):
        next(evaluate_file(*settings))
