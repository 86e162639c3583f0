"""Whole detectors beside each other: from an image's pixels to boxes, in torch and exported."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from ghost_det.config.load import load_config
from ghost_det.deploy.backends import INPUT, SIZES
from ghost_det.deploy.detector import Detector
from ghost_det.export.export import describe
from ghost_det.export.graph import canvas_of
from ghost_det.export.onnx import to_onnx, write_model, write_openvino
from ghost_det.swap.probe import complexity
from ghost_det.swap.swap import swap_backbone
from ghost_det.utils.timing import apart, interleave

from .annotations import MIB, memory
from .engines import CALIBRATION, SEPARATOR, TORCH, choose, quantised, torch_threads
from .rows import Results, Row, timed
from .untrained import CANDIDATES, Image, build

CONFIGS = ('retinanet_ghostnet_fpn_lite', 'retinanet_ghostnet_ghostpan_lite')
SHIPPED = {
    'RetinaNet ResNet-50': 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py',
    'SSDLite MobileNetV2': 'mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py',
    'RTMDet-tiny': 'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py',
    'YOLOX-tiny': 'mmdet::yolox/yolox_tiny_8xb8-300e_coco.py',
}
UNTRAINED = ', untrained scores'
CALLS = 2


def contenders(configs: Sequence[str]) -> dict[str, Callable[[], Any]]:
    """Return by name what reads a detector's config: those given, the first with ResNet-50, and mmdet's.

    Args:
        configs: paths of configs.
    """
    found = {Path(path).stem: partial(load_config, path) for path in configs}
    first = configs[0]
    return {
        **found,
        f'{Path(first).stem} with ResNet-50': lambda: swap_backbone(load_config(first), 'ResNet', depth=50),
        **{name: partial(load_config, path) for name, path in SHIPPED.items()},
    }


def in_torch(engine: str, detector: Any, image: Image, side: int) -> Callable[[], Any]:
    """Return mmdet's own test step, from pixels to boxes; ``detector`` is left as it is."""
    from mmdet.structures import DetDataSample

    if engine != 'eager':
        from ghost_det.models.optimize import optimize

        detector = optimize(copy.deepcopy(detector), compile=engine == 'compiled')
    scale = (side / image.shape[1], side / image.shape[0])
    meta = dict(img_shape=(side, side), ori_shape=image.shape[:2], scale_factor=scale)

    def call() -> Any:
        resized = cv2.resize(image, (side, side))
        pixels = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))
        with torch.inference_mode():
            sample = DetDataSample(metainfo=dict(meta))
            return detector.test_step({'inputs': [pixels], 'data_samples': [sample]})[0].pred_instances

    return call


def in_runtime(path: Path, image: Image, threads: int) -> Callable[[], Any]:
    """Return a call of an exported detector, from pixels to boxes."""
    detector = Detector(path, threads=threads)
    return lambda: detector(image)


def footprint(path: Path, image: Image, threads: int) -> float:
    """Return the MB that loading an exported detector and running it adds to this process at the peak."""
    before = memory()['rss']
    call = in_runtime(path, image, threads)
    for _ in range(3):
        call()
    return (memory()['peak'] - before) * MIB / 1e6


@dataclass(frozen=True)
class _Subject:
    cfg: Any
    detector: Any
    candidates: int

    @classmethod
    def built(cls, cfg: Any, image: Image, untrained: bool) -> _Subject:
        return cls(cfg, *build(cfg, image, None if untrained else CANDIDATES))

    def exported(self, name: str, engine: str, image: Image, folder: Path) -> Path | None:
        """Write the detector for an engine that is not torch."""
        if engine in TORCH:
            return None
        canvas = canvas_of(self.cfg, self.detector, image.shape[:2])
        bare = folder / f'{name} bare.onnx'
        if not bare.exists():
            to_onnx(self.detector, canvas, bare)
        classes = tuple(f'class {label}' for label in range(self.detector.bbox_head.num_classes))
        metadata = describe(self.cfg, self.detector, classes, name, canvas, False, None)
        out = folder / f'{name} {engine}{".onnx" if engine == "onnxruntime" else ".xml"}'
        if 'int8' in engine:
            inputs = {INPUT: image[None], SIZES: np.array([image.shape[:2]])}
            model = quantised(bare, [inputs] * CALIBRATION)
            write_openvino(model, out, replace(metadata, precision='int8'))
        else:
            write_model(bare, out, metadata)
        return out


def detector_results(
    configs: Sequence[str],
    side: int,
    threads: Sequence[int],
    only: Sequence[str],
    engines: Sequence[str],
    seconds: float,
    with_memory: bool = False,
) -> Iterator[Results]:
    """Yield the results so far, after each number of threads.

    ``only`` are parts of ``DETECTOR: ENGINE``, see `choose`; the first config's, eager, is the baseline. The
    input is a square of ``side`` pixels, the image has twice that.

    Raises:
        UserError: a package is missing, or a config cannot be used.
    """
    cfgs = contenders(configs)
    names = [*cfgs, *(f'{Path(path).stem}{UNTRAINED}' for path in configs)]
    labels = [f'{name}{SEPARATOR}{engine}' for name in names for engine in engines]
    labels = choose(labels, only, labels[0])
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    source = image.repeat(2, 0).repeat(2, 1)  # which halves to the image again, to the bit
    subjects = {
        name: _Subject.built(cfgs[name.removesuffix(UNTRAINED)](), image, name.endswith(UNTRAINED))
        for name in dict.fromkeys(label.split(SEPARATOR)[0] for label in labels)
    }
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        paths = {}
        for label in labels:
            name, engine = label.split(SEPARATOR)
            paths[label] = subjects[name].exported(name, engine, image, Path(folder))
        for count in threads:
            rows += _measure(subjects, paths, source, side, count, seconds, with_memory)
            yield Results('detectors', labels[0], tuple(rows))


def _measure(
    subjects: dict[str, _Subject],
    paths: dict[str, Path | None],
    source: Image,
    side: int,
    threads: int,
    seconds: float,
    with_memory: bool,
) -> list[Row]:
    calls, boxes, rows = {}, {}, []
    with torch_threads(threads):
        for label, path in paths.items():
            name, engine = label.split(SEPARATOR)
            if path is None:
                calls[label] = in_torch(engine, subjects[name].detector, source, side)
            else:
                calls[label] = in_runtime(path, source, threads)
            boxes[label] = len(calls[label]().scores)
        samples = interleave(calls, seconds=seconds, calls=CALLS, warm=1)
    for label, path in paths.items():
        name, engine = label.split(SEPARATOR)
        parts = complexity(subjects[name].detector, side, side).values()
        rows.append(
            Row(
                *(name, engine, side, side, 1, threads),
                **timed(samples[label], next(iter(samples.values()))),
                parameters=sum(parameters for parameters, _ in parts),
                macs=sum(macs for _, macs in parts),
                memory=apart(footprint, path, source, threads) if with_memory and path else None,
                note=f'{subjects[name].candidates:,} candidates, {boxes[label]} boxes',
            )
        )
    return rows
