"""Whole detectors side by side: from an image's pixels to boxes, in torch and exported.

    python -m tools.benchmarks.detectors --size 320

All are untrained, with scores that leave as many candidates as those of trained ones. The others are compared
with the first CONFIG in eager torch.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmdet.structures import DetDataSample
from torch import Tensor, nn

import ghost_det.register  # noqa: F401
from ghost_det.commands.benchmark import CALLS
from ghost_det.config.load import load_config
from ghost_det.deploy.detector import Detector
from ghost_det.errors import UserError
from ghost_det.export.export import describe
from ghost_det.export.graph import canvas_of
from ghost_det.export.onnx import to_onnx, write_model
from ghost_det.swap.probe import build_detector
from ghost_det.swap.swap import swap_backbone
from ghost_det.utils.timing import interleave

from ._common import SEPARATOR, TORCH, Row, add_options, choose, in_torch, print_tables, rows_of, run, settle

CONFIGS = ('gfl_ghostnet_ghostpan_lite', 'retinanet_ghostnet_fpn_lite')
SHIPPED = {
    'RetinaNet ResNet-50': 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py',
    'SSDLite MobileNetV2': 'mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py',
    'RTMDet-tiny': 'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py',
    'YOLOX-nano': 'mmdet::yolox/yolox_nano_8xb8-300e_coco.py',
}
ENGINES = ('eager', 'fast', 'onnxruntime', 'openvino')
UNTRAINED = ', untrained scores'
CANDIDATES = 200
"""Scores above a detector's own threshold, of an image: as many as trained ones leave."""
SETTLED = 256
"""Side of the images for the norms: larger than a test's, so that coarse maps have more than one value."""
LOGITS = 2.0
"""Standard deviation of logits."""


def readers(configs: Sequence[str]) -> dict[str, Callable[[], Any]]:
    """Return by name what reads a detector's config: those given, the first with ResNet-50, and mmdet's."""
    found = {Path(path).stem: partial(load_config, path) for path in configs}
    first = configs[0]
    return {
        **found,
        f'{Path(first).stem} with ResNet-50': lambda: swap_backbone(load_config(first), 'ResNet', depth=50),
        **{name: partial(load_config, path) for name, path in SHIPPED.items()},
    }


def build(cfg: Any, image: np.ndarray, candidates: int | None) -> tuple[Any, int]:
    """Build a detector, untrained, whose norms fit random images; return it and its number of candidates.

    ``candidates`` is how many scores of the image shall pass the threshold; ``None`` lets all scores be about
    the middle of their range, as of a network that nothing initialised: the worst case of post-processing.
    """
    if 'bbox_head' not in cfg.model:
        raise UserError(f'{cfg.filename}: expected a one-stage detector (with model.bbox_head)')
    torch.manual_seed(0)
    detector = build_detector(cfg.model)
    noise = np.random.default_rng(1).integers(0, 256, (4, SETTLED, SETTLED, 3), dtype=np.uint8)
    data = prepare(detector, noise)
    settle(detector, data['inputs'], data_samples=data['data_samples'], mode='tensor')
    return detector, adjust_scores(detector, image, candidates)


def prepare(detector: Any, images: np.ndarray) -> dict[str, Any]:
    """Return images ``(N, H, W, 3)`` as the detector's own preprocessor gives them to its network."""
    side = images.shape[1:3]
    meta = dict(img_shape=side, ori_shape=side, scale_factor=(1.0, 1.0), pad_shape=side)
    inputs = list(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous())
    samples = [DetDataSample(metainfo=dict(meta)) for _ in images]
    return detector.data_preprocessor({'inputs': inputs, 'data_samples': samples}, False)


@torch.no_grad()
def adjust_scores(detector: Any, image: np.ndarray, candidates: int | None) -> int:
    """Scale and shift what all scores depend on until so many of an image's pass; return how many do."""
    made: dict[int, nn.Conv2d] = {}
    hooks = [
        module.register_forward_hook(lambda layer, _, output: made.update({id(output): layer}))
        for module in detector.bbox_head.modules()
        if isinstance(module, nn.Conv2d)
    ]
    data = prepare(detector, image[None])
    outputs = detector(data['inputs'], data['data_samples'], mode='tensor')
    for hook in hooks:
        hook.remove()
    head = detector.bbox_head
    softmax = not getattr(head, 'use_sigmoid_cls', True)
    has_objectness = hasattr(head, 'multi_level_conv_obj')  # YOLOX's
    changed = outputs[2] if has_objectness else outputs[0]
    if any(id(level) not in made for level in changed):
        raise UserError(f"{type(head).__name__}: its scores are not a convolution's output")
    logits = torch.cat([_rows(level, 1 if has_objectness else head.cls_out_channels) for level in changed])
    classes = torch.cat([_rows(level, head.cls_out_channels) for level in outputs[0]])
    gain = float(LOGITS / logits.std().clamp_min(1e-9))

    def count(shift: float) -> int:
        moved = gain * logits
        if softmax:
            moved[:, -1] -= shift  # the background, of which there is then less
            scores = moved.softmax(1)[:, :-1]
        else:
            scores = (moved + shift).sigmoid()
        if has_objectness:
            scores = scores * classes.sigmoid().amax(1, keepdim=True)
        return int((scores > detector.test_cfg.score_thr).sum())

    shift = -gain * float(logits.median()) if candidates is None else _least(count, candidates)
    for layer in {id(each): each for each in (made[id(level)] for level in changed)}.values():
        if layer.bias is None:
            layer.bias = nn.Parameter(torch.zeros(layer.out_channels))
        layer.weight *= gain
        layer.bias *= gain
        if softmax:
            layer.bias.view(-1, head.cls_out_channels)[:, -1] -= shift
        else:
            layer.bias += shift
    for layer in getattr(head, 'rtm_reg', ()):
        layer.bias += 2  # RTMDet's distances are negative otherwise: NMS would have no boxes to compare
    return count(shift)


def _rows(level: Tensor, channels: int) -> Tensor:
    return level[0].reshape(-1, channels, *level.shape[2:]).permute(0, 2, 3, 1).reshape(-1, channels)


def _least(count: Callable[[float], int], expected: int) -> float:
    low, high = -60.0, 60.0
    for _ in range(24):  # to about 1e-5: a margin over what another order of sums changes
        middle = (low + high) / 2
        low, high = (middle, high) if count(middle) < expected else (low, middle)
    return high


def torch_runner(engine: str, detector: Any, image: np.ndarray, side: int) -> Callable[[], Any]:
    """Return mmdet's own test step, from pixels to boxes."""
    detector = in_torch(engine, detector)
    scale = (side / image.shape[1], side / image.shape[0])
    meta = dict(img_shape=(side, side), ori_shape=image.shape[:2], scale_factor=scale)

    def call() -> Any:
        resized = cv2.resize(image, (side, side))
        pixels = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))
        with torch.inference_mode():
            sample = DetDataSample(metainfo=dict(meta))
            return detector.test_step({'inputs': [pixels], 'data_samples': [sample]})[0].pred_instances

    return call


def export(cfg: Any, detector: Any, path: Path, image: np.ndarray) -> None:
    """Write a detector for images of this size."""
    canvas = canvas_of(cfg, detector, image.shape[:2])
    bare = path.with_name('bare.onnx')
    to_onnx(detector, canvas, bare)
    classes = tuple(f'class {label}' for label in range(detector.bbox_head.num_classes))
    write_model(bare, path, describe(cfg, detector, classes, path.stem, canvas, False, None))


def measure(
    configs: Sequence[str], side: int, threads: int, only: Sequence[str], seconds: float
) -> tuple[str, list[Row]]:
    """Return the baseline and the rows; the input is a square, the image has twice its side."""
    torch.set_num_threads(threads)
    cfgs = readers(configs)
    names = [*cfgs, *(f'{Path(path).stem}{UNTRAINED}' for path in configs)]
    every = [f'{name}{SEPARATOR}{engine}' for name in names for engine in ENGINES]
    chosen = choose(every, only, every[0])
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    source = image.repeat(2, 0).repeat(2, 1)  # which halves to the image again, exactly
    built: dict[str, Any] = {}
    calls, notes = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for contender in chosen:
            name, engine = contender.split(SEPARATOR)
            if name not in built:
                cfg = cfgs[name.removesuffix(UNTRAINED)]()
                built[name] = cfg, *build(cfg, image, None if name.endswith(UNTRAINED) else CANDIDATES)
            cfg, detector, candidates = built[name]
            if engine in TORCH:
                calls[contender] = torch_runner(engine, detector, source, side)
            else:
                path = Path(folder) / f'{name} {engine}{".onnx" if engine == "onnxruntime" else ".xml"}'
                export(cfg, detector, path, image)
                calls[contender] = partial(Detector(path, threads=threads), source)
            notes[contender] = f'{candidates:,} candidates, {len(calls[contender]().scores)} boxes'
        samples = interleave(calls, seconds=seconds, calls=CALLS, warm=1)
    rows = rows_of(samples, chosen[0], side, 1, threads)
    return chosen[0], [row._replace(note=notes[row.contender]) for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    lite = '(default: two lite ones)'
    parser.add_argument('configs', nargs='*', default=CONFIGS, metavar='CONFIG', help=lite)
    parser.add_argument('--size', type=int, default=320, help='side of the input (default: %(default)s)')
    add_options(parser)
    args = parser.parse_args()
    baseline, rows = measure(args.configs, args.size, args.threads, args.only, args.seconds)
    print_tables([rows], baseline, args.json)


if __name__ == '__main__':
    run(main)
