"""Exported files: what they find, what they say of themselves, and what is refused."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from filelock import FileLock
from onnx import version_converter

from ghost_det.config.load import load_config
from ghost_det.config.query import test_pipeline as evaluation_steps
from ghost_det.data.dataset import DetectionData
from ghost_det.data.layouts import Split
from ghost_det.deploy import Detections, Detector
from ghost_det.deploy import detector as runtime
from ghost_det.deploy.backends import openvino_core
from ghost_det.deploy.metadata import KEY, Metadata
from ghost_det.engine.inference import TorchDetector
from ghost_det.errors import UserError
from ghost_det.export import accuracy
from ghost_det.export import export as exporting
from ghost_det.export.accuracy import evaluate_file
from ghost_det.export.check import Difference, check_file, check_images, compare, predict
from ghost_det.export.export import describe, export
from ghost_det.export.graph import Canvas
from ghost_det.export.onnx import OPSET, publishing, to_onnx, write_model, write_openvino
from ghost_det.utils.files import sha256
from tests.conftest import ROOT

from .settled import HEIGHT, WIDTH, canvases, photos, settled

CONFIG = 'configs/retinanet_ghostnet_fpn_lite.py'
# As small as the configs go: half the width, two stages of the backbone, pooled to further levels.
BACKBONE = {
    'model.backbone.width': 0.5,
    'model.backbone.out_indices': (0, 1),
    'model.neck.in_channels': [12, 20],
    'model.neck.out_channels': 16,
}
SMALL = BACKBONE | {
    'model.neck.start_level': 0,
    'model.neck.num_outs': 3,
    'model.bbox_head.num_ins': 3,
    'model.bbox_head.anchor_generator.strides': [4, 8, 16],
    'model.bbox_head.in_channels': 16,
    'model.bbox_head.feat_channels': 16,
    'model.bbox_head.stacked_convs': 1,
    'model.bbox_head.num_classes': 3,
}
FASTER = BACKBONE | {
    'model.neck.num_outs': 3,
    'model.rpn_head.anchor_generator.strides': [4, 8, 16],
    'model.roi_head.bbox_roi_extractor.featmap_strides': [4, 8],
    'model.rpn_head.in_channels': 16,
    'model.rpn_head.feat_channels': 16,
    'model.roi_head.bbox_roi_extractor.out_channels': 16,
    'model.roi_head.bbox_head.in_channels': 16,
    'model.roi_head.bbox_head.fc_out_channels': 32,
    'model.roi_head.bbox_head.num_classes': 3,
    'model.test_cfg.rpn.max_per_img': 100,
    'model.test_cfg.rcnn.score_thr': 0.1,
}
MODELS = {'small': (CONFIG, SMALL), 'faster': ('configs/faster-rcnn_ghostnet_fpn.py', FASTER)}
CANVAS = Canvas(HEIGHT, WIDTH, (WIDTH, HEIGHT), True, 32, (104, 116, 124), False)
STEPS = evaluation_steps(load_config(CONFIG))
CLASSES = ('cat', 'dog', 'bird')
NEWEST = onnx.defs.onnx_opset_version()


def small() -> tuple[Any, Any]:
    return settled(CONFIG, **SMALL)


@pytest.fixture(scope='session')
def exported(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Callable[[str], Path]:
    """A detector of `MODELS` as ONNX, of any input size, which the workers of a test run share."""
    folder = tmp_path_factory.getbasetemp()
    folder = folder if worker_id == 'master' else folder.parent

    def make(name: str) -> Path:
        path = folder / f'{name}.onnx'
        with FileLock(f'{path}.lock'):
            if not path.exists():
                config, options = MODELS[name]
                with publishing(path) as new:
                    to_onnx(settled(config, **options)[1], CANVAS, new / path.name, dynamic=True)
        return path

    return make


@pytest.fixture(scope='session')
def source(exported: Callable[[str], Path]) -> Path:
    return exported('small')


def metadata(**changes: Any) -> Metadata:
    cfg, detector = small()
    made = describe(cfg, detector, CLASSES, 'small', CANVAS, True, None)
    return Metadata(**{**made.__dict__, **changes})


def compared(path: Path, detector: Any, images: Any, near: float = 0.5) -> Difference:
    """How far a file is from mmdet in some images, which it is given as one batch."""
    runtime = Detector(path)
    theirs = [predict(detector, STEPS, image, runtime.metadata) for image in images]
    return compare(theirs, list(runtime.stream(images, batch=len(images))), near, 100)


@pytest.mark.parametrize(
    ('name', 'suffix'),
    [('small', '.onnx'), ('small', '.xml'), pytest.param('faster', '.onnx', marks=pytest.mark.slow)],
)
def test_file_finds_what_mmdet_finds_in_images_of_any_size(
    exported: Callable[[str], Path], tmp_path: Path, name: str, suffix: str
) -> None:
    config, options = MODELS[name]
    cfg, detector = settled(config, **options)
    path = tmp_path / f'{name}{suffix}'
    write_model(exported(name), path, describe(cfg, detector, CLASSES, name, CANVAS, True, None))
    for images in (canvases(2), canvases(3, 64, 192), *([image] for image in photos())):
        apart = compared(path, detector, images)
        assert apart.unmatched == 0 and apart.boxes > (10 if name == 'small' else 30), apart
        assert apart.pixels < 0.05 and apart.score < 1e-4, apart
    names = {file.suffix for file in tmp_path.iterdir()}
    assert names == ({'.onnx'} if suffix == '.onnx' else {'.xml', '.bin'})


@pytest.mark.parametrize('opset', [OPSET, OPSET + 1, NEWEST])
def test_file_is_valid_and_runs_in_each_opset(source: Path, opset: int) -> None:
    model = version_converter.convert_version(onnx.load(source), opset)
    onnx.checker.check_model(model, full_check=True)
    assert [(each.domain, each.version) for each in model.opset_import] == [('', opset)]
    images = canvases(2)
    inputs = {'images': images, 'sizes': np.array([[96, 160], [128, 128]])}
    expected = onnxruntime.InferenceSession(str(source)).run(None, inputs)
    given = onnxruntime.InferenceSession(model.SerializeToString()).run(None, inputs)
    for one, other in zip(expected, given):
        np.testing.assert_allclose(one, other, atol=1e-4)
    boxes, _, labels = expected
    assert (labels >= 0).sum() > 20
    assert boxes[0].max(axis=0).tolist() <= [160, 96, 160, 96] and boxes[1].max() <= 128


def test_file_has_only_standard_operators_and_no_trace_of_this_machine(source: Path) -> None:
    model = onnx.load(source)
    assert {node.domain for node in model.graph.node} == {''} and not model.functions
    assert 'BatchNormalization' not in {node.op_type for node in model.graph.node}
    text = source.read_bytes()
    assert str(ROOT).encode() not in text and b'site-packages' not in text
    kinds = {each.name: each.type.tensor_type.elem_type for each in model.graph.input}
    assert kinds == {'images': onnx.TensorProto.UINT8, 'sizes': onnx.TensorProto.INT64}
    assert [each.name for each in model.graph.output] == ['boxes', 'scores', 'labels']


@pytest.mark.parametrize('suffix', ['.onnx', '.xml'])
def test_half_is_half_the_size_and_finds_nearly_the_same(source: Path, tmp_path: Path, suffix: str) -> None:
    sizes = []
    for precision in ('fp16', 'fp32'):
        path = tmp_path / f'{precision}{suffix}'
        write_model(source, path, metadata(precision=precision))
        sizes.append(sum(file.stat().st_size for file in tmp_path.glob(f'{precision}.[ob]*')))
    apart = compared(tmp_path / f'fp16{suffix}', small()[1], canvases(2), 4.0)
    assert apart.boxes > 100 and apart.unmatched <= 6, apart
    assert sizes[0] < 0.8 * sizes[1]


def test_metadata_say_what_the_file_is(source: Path, tmp_path: Path) -> None:
    cfg, detector = small()
    made = describe(
        cfg, detector, CLASSES, 'small', Canvas(64, 96, (96, 64), True, 32, (1, 2, 3), False), True, source
    )
    assert made.score_threshold == 0.05 and made.iou_threshold == 0.5 and made.max_detections == 100
    assert made.classes == CLASSES and (made.height, made.width) == (64, 96)
    assert len(made.config_sha256) == len(made.checkpoint_sha256) == 64
    path = tmp_path / 'x.onnx'
    write_model(source, path, made)
    assert Detector(path).metadata == made
    said = {each.key: each.value for each in onnx.load(path).metadata_props}
    assert json.loads(said[KEY])['classes'] == list(CLASSES)


def fixed(source: Path, path: Path, height: int, width: int) -> Path:
    model = openvino_core().read_model(source)
    model.reshape({'images': [-1, height, width, 3]})
    write_openvino(model, path, metadata(dynamic=False, height=height, width=width, scale=(width, height)))
    return path


def test_a_file_that_finds_other_objects_is_refused(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = fixed(source, tmp_path / 'small.xml', 160, 160)
    _, detector = small()
    (line,) = check_file(detector, STEPS, path, photos())
    assert line.startswith('checked: 4 images through mmdet and through the file: ')
    bias = detector.bbox_head.retina_cls.bias.data
    for change in (0.5, -100):
        bias += change
        with pytest.raises(UserError, match='small.xml: not written: '):
            list(check_file(detector, STEPS, path, photos()))
        bias -= change
    # A file that takes padding for image.
    monkeypatch.setattr(runtime, 'image_sizes', lambda pixels, places, _: np.full((len(places), 2), 160))
    with pytest.raises(UserError, match='small.xml: not written: '):
        list(check_file(detector, STEPS, path, photos()))


def test_images_that_mmdet_would_turn_the_canvas_for_are_reported(source: Path, tmp_path: Path) -> None:
    path = fixed(source, tmp_path / 'small.xml', HEIGHT, WIDTH)
    lines = list(check_file(small()[1], STEPS, path, photos()))
    assert lines[0].startswith('checked: ') and lines[1].startswith('warning: 1 of these images'), lines


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


def test_nothing_is_left_of_a_file_that_fails(tmp_path: Path) -> None:
    out = tmp_path / 'deep' / 'x.xml'
    with pytest.raises(RuntimeError), publishing(out) as folder:
        (folder / 'x.bin').write_bytes(b'half')
        raise RuntimeError
    assert list(out.parent.iterdir()) == []


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('trained') / 'epoch_1.pth'
    _, detector = small()
    torch.save({'state_dict': detector.state_dict(), 'meta': {'dataset_meta': {'classes': CLASSES}}}, path)
    return path


@pytest.mark.parametrize(
    ('name', 'settings'),
    [
        ('-o', dict(out=Path('x.engine'))),
        ('-o', dict(out=Path('x.onnx'), form='openvino')),
        ('--size', dict(size=(50, 64))),
        ('--opset', dict(opset=17, size=(64, 64))),
        ('--opset', dict(opset=NEWEST + 1, size=(64, 64))),
        ('--int8', dict(int8=True, half=True)),
        ('--int8', dict(int8=True, dynamic=True)),
        ('--int8', dict(int8=True)),
        ('--int8', dict(int8=True, out=Path('x.onnx'))),
        ('none.pth', dict(checkpoint='none.pth')),
    ],
)
def test_user_errors_leave_nothing(
    name: str, settings: dict[str, Any], checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=name):
        list(export(str(ROOT / CONFIG), **{'checkpoint': str(checkpoint), 'options': dict(SMALL)} | settings))
    assert [path.name for path in checkpoint.parent.iterdir()] == ['epoch_1.pth']
    assert not list(tmp_path.iterdir())


@pytest.fixture
def no_export(source: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The file that is there already, in place of another minute of exporting."""

    def copied(detector: Any, canvas: Any, path: Path, dynamic: bool, opset: int) -> None:
        path.write_bytes(source.read_bytes())

    monkeypatch.setattr(exporting, 'to_onnx', copied)
    yield


@pytest.mark.usefixtures('no_export')
def test_export_writes_a_checked_file_beside_the_checkpoint(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, 'check_images', lambda files: [*canvases(12), *photos()])
    path = checkpoint.with_suffix('.xml')
    lines = list(
        export(str(ROOT / CONFIG), str(checkpoint), size=(128, 160), dynamic=True, options=dict(SMALL))
    )
    assert [line.split(':')[0] for line in lines] == ['exporting', 'checking', 'checked', str(path)]
    assert lines[2].startswith('checked: 16 images through mmdet and through the file: 1')
    assert lines[3].endswith('fp32, 128 x 160 or any other size')
    assert Detector(path).metadata.classes == CLASSES
    assert {each.suffix for each in checkpoint.parent.iterdir()} == {'.pth', '.xml', '.bin'}


def test_without_the_extra_its_name_is_in_the_message(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, 'openvino', None)
    with pytest.raises(UserError, match=r"pip install 'ghost-det\[export\]'"):
        list(export(str(ROOT / CONFIG), str(checkpoint), options=dict(SMALL)))


def test_the_figures_of_a_file_are_compared_with_those_of_its_checkpoint(
    source: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / 'small.xml'
    write_model(source, path, metadata(checkpoint_sha256=sha256(checkpoint)))
    options = {**SMALL, 'test_dataloader.dataset.pipeline.1.scale': (WIDTH, HEIGHT)}
    (tmp_path / 'val').mkdir()
    images, boxes = [], []
    for number, image in enumerate(photos(), 1):
        height, width = image.shape[:2]
        images.append({'id': number, 'file_name': f'{number}.png', 'height': height, 'width': width})
        cv2.imwrite(str(tmp_path / 'val' / f'{number}.png'), image)
        found = TorchDetector(str(ROOT / CONFIG), str(checkpoint), options=options)(image)
        # What torch finds is the ground truth: its mAP is 1, and so is that of a file that finds the same.
        for each in found.to_coco(number, [1, 2, 3]):
            _, _, wide, high = each['bbox']
            boxes.append({**each, 'id': len(boxes) + 1, 'area': wide * high, 'iscrowd': 0})
    categories = [{'id': number, 'name': name} for number, name in enumerate(CLASSES, 1)]
    annotations = tmp_path / 'val.json'
    annotations.write_text(json.dumps({'images': images, 'annotations': boxes, 'categories': categories}))
    data = DetectionData(None, Split(annotations, tmp_path / 'val'), CLASSES)

    def last_line(**settings: Any) -> str:
        folder = str(tmp_path / 'out')
        return list(evaluate_file(str(path), str(ROOT / CONFIG), options, data, folder, **settings))[-1]

    assert last_line().startswith('not compared with torch: --checkpoint FILE')
    monkeypatch.setattr(accuracy, 'evaluate_saved', lambda *_, **__: iter(()))  # is slow
    with pytest.raises(UserError, match='--checkpoint .*val.json'):
        last_line(checkpoint=str(annotations))
    assert last_line(checkpoint=str(checkpoint)).startswith(
        'mAP 1.0000 of the file, 1.0000 of its checkpoint'
    )
    shutil.copy(checkpoint, tmp_path)  # found in the file's folder
    monkeypatch.setattr(runtime, 'image_sizes', lambda pixels, places, _: np.full((len(places), 2), 80))
    assert last_line().startswith('warning: mAP 0.')
