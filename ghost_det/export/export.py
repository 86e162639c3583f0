"""A trained detector as one file that needs neither torch nor mmdet, checked against torch."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ghost_det import __version__
from ghost_det.config.query import test_pipeline
from ghost_det.data.dataset import DetectionData
from ghost_det.data.sample import make_sample
from ghost_det.deploy.detector import Detector
from ghost_det.deploy.letterbox import padded_size, place
from ghost_det.deploy.metadata import FORMAT, Metadata
from ghost_det.engine.inference import load_detector
from ghost_det.errors import UserError
from ghost_det.utils.files import require_writable, sha256
from ghost_det.utils.images import Image, read_image

from .accuracy import Truth
from .check import compare, predict, shrunk
from .graph import Canvas, canvas_of
from .heads import suppression
from .onnx import OPSET, need, publishing, to_onnx, write_model

SUFFIXES = {'onnx': '.onnx', 'openvino': '.xml'}
CHECKED = 16
"""Images that torch and the file are compared on."""
SHAPES = (4 / 3, 3 / 4, 16 / 9, 1.0)
"""Width to height of half of them, cropped to it: the data may have images of one shape only."""
TIES = 0.02
"""Share of boxes that one of them alone may find: where two scores differ by less than rounding does, either
may suppress the other, and so on with what those overlap. A wrong graph has all its boxes elsewhere."""


def describe(
    cfg: Any,
    detector: Any,
    classes: tuple[str, ...],
    name: str,
    canvas: Canvas,
    dynamic: bool,
    checkpoint: Path | None,
) -> Metadata:
    """Return what the file will say of itself."""
    settings = (getattr(detector, 'bbox_head', None) or detector.roi_head).test_cfg
    overlap, limit = suppression(settings)
    return Metadata(
        format=FORMAT,
        name=name,
        classes=classes,
        **canvas._asdict(),
        dynamic=dynamic,
        score_threshold=float(settings.get('score_thr', 0)),
        iou_threshold=overlap,
        max_detections=limit,
        precision='fp32',
        ghost_det_version=__version__,
        config_sha256=hashlib.sha256(cfg.pretty_text.encode()).hexdigest(),
        checkpoint_sha256='' if checkpoint is None else sha256(checkpoint),
        opset=OPSET,
    )


def export(
    config: str,
    checkpoint: str,
    out: Path | None = None,
    form: str | None = None,
    size: tuple[int, int] | None = None,
    dynamic: bool = False,
    half: bool = False,
    opset: int = OPSET,
    int8: bool = False,
    max_drop: float = 0.005,
    data: DetectionData | None = None,
    options: dict[str, Any] | None = None,
) -> Iterator[str]:
    """Write a trained detector as ONNX or OpenVINO file, and yield what is to be said of it.

    Args:
        config: that it was trained with.
        checkpoint: its weights.
        out: ``NAME.onnx`` or ``NAME.xml``; beside the checkpoint by default.
        form: ``'onnx'`` or ``'openvino'``; what ``out`` says by default.
        size: height and width of the input; by default what the config's evaluation uses.
        dynamic: whether the input may be of any size.
        half: store weights in 16 bits.
        opset: of ONNX.
        int8: compute in 8-bit integers where the accuracy allows it.
        max_drop: of mAP, that ``int8`` may cost.
        data: to quantise with and to check the file on; by default the config's, where it is here.
        options: ``--cfg-options``.

    Raises:
        UserError: a mistake in the arguments, a detector that cannot be exported, or a file that finds
            something else than torch.
    """
    out = _target(checkpoint, out, form, '_int8' if int8 else '_half' if half else '')
    if int8 and (half or dynamic):
        raise UserError(
            '--int8: not with --half or --dynamic: calibrated for one size, and smaller than half'
        )
    if int8 and out.suffix != '.xml':
        raise UserError(f'--int8: for OpenVINO alone, and -o {out} is ONNX; name an .xml')
    if out.suffix == '.xml':
        need('openvino')
    require_writable(out, '-o', (Path(config), Path(checkpoint)))
    cfg, detector, classes = load_detector(config, checkpoint, options)
    canvas = canvas_of(cfg, detector, size)
    metadata = describe(cfg, detector, classes, Path(config).stem, canvas, dynamic, Path(checkpoint))
    metadata = replace(metadata, precision='int8' if int8 else 'fp16' if half else 'fp32', opset=opset)
    truth = Truth.of(cfg, data, classes)
    if int8 and truth is None:
        raise UserError(
            f'--int8: data is needed to measure mAP on, and that of {config} is not here: --data FOLDER'
        )
    with tempfile.TemporaryDirectory() as folder, publishing(out) as new:
        source = Path(folder) / 'model.onnx'
        yield 'exporting: torch traces the network and ONNX is made of it, half a minute or more'
        to_onnx(detector, canvas, source, dynamic, opset)
        if int8:
            assert truth is not None
            from .quantize import quantized

            plain = Path(folder) / f'plain{out.suffix}'
            write_model(source, plain, replace(metadata, precision='fp32'))
            yield from quantized(plain, new / out.name, metadata, data, truth, max_drop)
        else:
            write_model(source, new / out.name, metadata)
            yield 'checking: mmdet and the file find objects in the same images'
            steps = test_pipeline(cfg)
            yield from checked(detector, steps, new / out.name, _check_images(truth), truth is not None)
    yield f'{out}: {_megabytes(out):.1f} MB, {metadata.precision}, {canvas.height} x {canvas.width}' + (
        ' or any other size' if dynamic else ''
    )
    if truth is not None and size is None and not dynamic:
        yield from _size_hint(truth, metadata)


def _target(checkpoint: str, out: Path | None, form: str | None, kind: str) -> Path:
    """Return the file to write; ``kind`` is the end of its name where none is given."""
    suffix = SUFFIXES[form or 'openvino']
    if out is None:
        source = Path(checkpoint)
        return source.with_name(source.stem + kind + suffix)
    if out.suffix not in SUFFIXES.values() or (form and out.suffix != suffix):
        wanted = suffix if form else '.onnx or .xml (OpenVINO)'
        raise UserError(f'-o {out}: a name that ends in {wanted} is wanted')
    return out


def _megabytes(out: Path) -> float:
    files = [out] if out.suffix == '.onnx' else [out, out.with_suffix('.bin')]
    return sum(file.stat().st_size for file in files) / 1e6


def _check_images(truth: Truth | None) -> list[Image]:
    """Return images to compare on, of the data or generated; every second one is cropped to `SHAPES`."""
    if truth is not None:
        images = [read_image(path) for _, path in truth.images[:CHECKED]]
    else:
        with tempfile.TemporaryDirectory() as folder:
            root = make_sample(Path(folder), train=1, val=CHECKED)
            images = [read_image(path) for path in sorted(root.glob('val*/*'))]
    for number, image in enumerate(images[1::2]):
        height, width = image.shape[:2]
        shape = SHAPES[number % len(SHAPES)]
        images[2 * number + 1] = image[: max(1, round(width / shape)), : max(1, round(height * shape))]
    return images


def _size_hint(truth: Truth, metadata: Metadata) -> Iterator[str]:
    """Yield the canvas that would do, where one that is smaller holds all images as mmdet pads them."""
    free = replace(metadata, dynamic=True)
    sizes = [(image['width'], image['height']) for image in truth.content['images']]
    found = {padded_size([place(*each, free)], free) for each in sizes}
    if len(found) == 1 and found != {(metadata.height, metadata.width)}:
        height, width = found.pop()
        yield (
            f'hint: MMDetection pads every image of the data to {height} x {width}: with --size {height} '
            f'{width}, the file is faster and sees exactly that'
        )


def checked(
    detector: Any, steps: Sequence[Any], path: Path, images: Sequence[Image], real: bool
) -> Iterator[str]:
    """Compare a file with mmdet's own pipeline and prediction, and yield what came of it.

    Args:
        detector: mmdet's own.
        steps: of its test pipeline.
        path: the exported file.
        images: to find objects in.
        real: whether they are of the data rather than generated.

    Raises:
        UserError: they find different objects.
    """
    runtime = Detector(path)
    metadata = runtime.metadata
    wanted, found, smaller = [], [], 0
    for image in images:
        at = place(image.shape[1], image.shape[0], metadata)
        smaller += shrunk(at, metadata)
        # Compared in pixels of the canvas: those of a large image are finer than the network's own steps.
        scale = np.array([at.new_width / at.width, at.new_height / at.height] * 2)
        boxes, scores, labels = predict(detector, steps, image, metadata)
        wanted.append((boxes * scale, scores, labels))
        there = runtime(image)
        found.append((there.boxes * scale, there.scores, there.labels))
    apart = compare(wanted, found, 4.0 if metadata.precision == 'fp16' else 0.5, metadata.max_detections)
    figures = (
        f'{len(images)} images through mmdet and through the file: {apart.boxes} boxes matched, the largest '
        f'differences {apart.pixels:.2g} pixels and {apart.score:.2g} of score'
    )
    single = f'{apart.unmatched} boxes were found by only one of them'
    if apart.unmatched > TIES * apart.boxes:
        raise UserError(
            f'{path.name}: not written: {figures}, and {single}. Please report it with the config'
        )
    if apart.boxes:
        yield f'checked: {figures}' + (f'; {single}, by near ties of scores' if apart.unmatched else '')
    else:
        hint = 'of other data' if real else "of the detector's own objects, with --data"
        yield f'warning: {figures}: that shows nothing; check it on images {hint}'
    if smaller:
        yield (
            f'warning: {smaller} of these images are upright where the canvas is wide, or the reverse: the '
            'file makes them smaller than mmdet does; --dynamic takes them as mmdet does'
        )
