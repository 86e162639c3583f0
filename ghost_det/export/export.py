"""Export a trained detector to one file that needs neither torch nor mmdet, checked against torch."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ghost_det import __version__
from ghost_det.config.query import test_pipeline
from ghost_det.data.dataset import DetectionData
from ghost_det.deploy.backends import FORMATS, model_files
from ghost_det.deploy.metadata import FORMAT, Metadata
from ghost_det.engine.inference import load_detector
from ghost_det.errors import UserError
from ghost_det.utils.files import require_writable, sha256
from ghost_det.utils.system import missing

from .accuracy import GroundTruth
from .check import check_file, check_images
from .graph import Canvas, canvas_of
from .nms import nms_settings
from .onnx import publishing, to_onnx, write_model
from .raw import raw_metadata


def describe(
    cfg: Any,
    detector: Any,
    classes: tuple[str, ...],
    name: str,
    canvas: Canvas,
    dynamic: bool,
    checkpoint: Path | None,
) -> Metadata:
    """Return the description to store in the file."""
    settings = (getattr(detector, 'bbox_head', None) or detector.roi_head).test_cfg
    overlap, limit = nms_settings(settings)
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
    )


def export(
    config: str,
    checkpoint: str,
    out: Path | None = None,
    size: tuple[int, int] | None = None,
    dynamic: bool = False,
    half: bool = False,
    int8: bool = False,
    max_drop: float = 0.005,
    raw: bool = False,
    data: DetectionData | None = None,
    options: dict[str, Any] | None = None,
) -> Iterator[str]:
    """Write a trained detector for ONNX, OpenVINO or ncnn, and yield lines to print.

    The options are those of ``ghost-det export``. The file is compared with torch, on ``data``, on the
    config's own or on generated images, and not written if it finds other objects.
    """
    if raw and (half or int8):
        raise UserError('--raw cannot be combined with --half or --int8')
    out = choose_target(Path(checkpoint), out, half, int8, raw)
    for_ncnn = out.suffix == '.ncnn'
    raw = raw or for_ncnn
    if raw and dynamic:
        raise UserError('--dynamic cannot be combined with --raw or with ncnn, whose files have one size')
    if int8 and (half or dynamic):
        raise UserError('--int8 cannot be combined with --half or --dynamic')
    more = ['nncf'] if int8 else ['pnnx', 'ncnn'] if for_ncnn else []
    absent = missing(('onnxscript', 'openvino', *more))
    if absent:
        extras = 'export,ncnn' if for_ncnn else 'export'
        raise UserError(f'needs {", ".join(absent)}: pip install "ghost-det[{extras}]"')
    for end in FORMATS[out.suffix].files:
        require_writable(out.with_suffix(end), '-o', (Path(config), Path(checkpoint)))
    cfg, detector, classes = load_detector(config, checkpoint, options)
    canvas = canvas_of(cfg, detector, size)
    plain = describe(cfg, detector, classes, Path(config).stem, canvas, dynamic, Path(checkpoint))
    maps = raw_metadata(detector) if raw else {}
    metadata = replace(plain, precision='int8' if int8 else 'fp16' if half else 'fp32', **maps)
    truth = GroundTruth.of(cfg, data, classes)
    if int8 and truth is None:
        raise UserError(f'--int8 needs data to measure mAP; {config} has none on this machine: use --data')
    with tempfile.TemporaryDirectory() as folder, publishing(out) as new:
        source = Path(folder) / 'model.onnx'  # pnnx changes other names
        yield 'exporting: tracing the network and converting it to ONNX, half a minute or more'
        to_onnx(detector, canvas, source, dynamic, metadata.strides)
        file = source.with_name(out.name) if int8 else new / out.name
        write_model(source, file, plain if int8 else metadata)
        yield 'checking: comparing the file with mmdet on the same images'
        images = check_images(None if truth is None else [path for _, path in truth.images])
        yield from check_file(detector, test_pipeline(cfg), file, images)
        if int8 and truth is not None:
            from .quantize import quantize

            yield from quantize(file, new / out.name, metadata, data, truth, max_drop)
    size_mb = sum(file.stat().st_size for file in model_files(out)) / 1e6
    any_size = ' or any other size' if dynamic else ''
    yield f'{out}: {size_mb:.1f} MB, {metadata.precision}, {canvas.height} x {canvas.width}{any_size}'


def choose_target(checkpoint: Path, out: Path | None, half: bool, int8: bool, raw: bool) -> Path:
    """Return the file to write, by default one next to the checkpoint."""
    if out is None:
        end = '_raw.onnx' if raw else '_int8.xml' if int8 else '_half.xml' if half else '.xml'
        out = checkpoint.with_name(checkpoint.stem + end)
    if out.suffix not in FORMATS:
        raise UserError(f'-o: expected a name that ends in .onnx, .xml (OpenVINO) or .ncnn, got {out}')
    for option, chosen, ends in (
        ('--raw', raw, ['.onnx', '.ncnn']),
        ('--half', half, ['.xml', '.ncnn']),
        ('--int8', int8, ['.xml']),
    ):
        if chosen and out.suffix not in ends:
            raise UserError(f'{option}: expected a name that ends in {" or ".join(ends)}, got -o {out}')
    return out
