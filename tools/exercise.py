"""A detector on random images: trained for one step, and asked for boxes."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs, demo_track_inputs
from mmengine.config import ConfigDict
from mmengine.logging import MessageHub
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.structures import InstanceData

from ghost_det.config.shipped import mmdet_folder
from ghost_det.swap.probe import PROPOSALS, fix_ssd, without_sync_bn, without_weights

SIDES = (128, 256, 512)  # pixels of the square images, the next where a detector needs larger maps


def all_parts(node: Any) -> Iterator[Mapping[str, Any]]:
    """Yield every dictionary in a config."""
    if isinstance(node, Mapping):
        yield node
        node = list(node.values())
    if isinstance(node, list | tuple):
        for value in node:
            yield from all_parts(value)


def exercise(detector: Mapping[str, Any], optim_wrapper: Any = None) -> Any:
    """Train a detector for one step on random images, by SGD by default, let it predict, and return it."""
    MessageHub.get_current_instance().update_info_dict({'iter': 0, 'epoch': 0})  # which a training does
    for side in SIDES:
        try:
            return _exercise(without_sync_bn(dict(detector)), copy.deepcopy(optim_wrapper), side)
        except (RuntimeError, ValueError, IndexError, AssertionError):
            if side == SIDES[-1]:
                raise
    raise AssertionError('SIDES is empty')


def _exercise(cfg: dict[str, Any], optim_wrapper: Any, side: int) -> Any:
    for key in ('backbone', 'teacher_backbone'):
        if key in cfg:
            cfg[key] = ConfigDict(without_weights(cfg[key]))
    cfg.pop('init_cfg', None)
    if isinstance(cfg.get('teacher_config'), str):  # a path in a clone of mmdet
        cfg['teacher_config'] = str(mmdet_folder() / cfg['teacher_config'].removeprefix('configs/'))
    if 'teacher_ckpt' in cfg:
        cfg['teacher_ckpt'] = None
    cfg.setdefault('data_preprocessor', ConfigDict(type='DetDataPreprocessor', pad_size_divisor=32))
    if cfg['data_preprocessor'].get('batch_augments'):
        cfg['data_preprocessor']['batch_augments'] = None  # some pad to 1024 pixels
    for part, key in (('train_cfg', 'rpn_proposal'), ('test_cfg', 'rpn')):
        if (cfg.get(part) or {}).get(key):
            cfg[part][key]['max_per_img'] = PROPOSALS  # mask heads take seconds for a thousand
    torch.manual_seed(0)
    detector = fix_ssd(revert_sync_batchnorm(MODELS.build(ConfigDict(cfg))))
    detector.init_weights()
    detector.train()
    if hasattr(detector, 'set_epoch'):
        detector.set_epoch(0)  # which a hook does
    data = _inputs(cfg, side)
    wrapper = build_optim_wrapper(detector, optim_wrapper or dict(optimizer=dict(type='SGD', lr=1e-3)))
    images = detector.data_preprocessor(data, True)
    loss, _ = detector.parse_losses(detector(**images, mode='loss'))
    if not loss.isfinite():
        raise RuntimeError(f'the loss is {loss.item()}')
    wrapper.backward(loss)
    slopes = [p.grad for p in detector.backbone.parameters() if p.requires_grad]
    reached = sum(slope is not None for slope in slopes)
    moved = any(slope is not None and slope.any() for slope in slopes[: len(slopes) // 2])  # not zero by init
    if slopes and (reached <= len(slopes) / 2 or not moved):
        raise RuntimeError(f'the loss reaches {reached} of {len(slopes)} tensors of the backbone')
    wrapper.step()
    detector.eval()
    first = {key: batch[:1] for key, batch in data.items()}
    with torch.no_grad():
        found = detector.test_step(first)
    if len(found) != 1:
        raise RuntimeError(f'one image gave {len(found)} predictions')
    return detector


def _inputs(cfg: Mapping[str, Any], side: int) -> dict[str, Any]:
    """Make two random images, or two frames of a video, with random boxes."""
    with_mask = 'mask' in str(cfg).lower()  # others take them for boxes
    settings = dict(image_shapes=(3, side, side), num_classes=_classes(cfg), with_mask=with_mask)
    if cfg['data_preprocessor'].get('type') == 'TrackDataPreprocessor':
        found: dict[str, Any] = demo_track_inputs(1, 2, key_frames_inds=[0], num_items=[2], **settings)
        return found
    found = demo_mm_inputs(2, num_items=[2, 3], with_semantic=True, **settings)
    for sample in found['data_samples']:
        sample.gt_instances.labels -= 1  # its generator starts at 1
        if not cfg.get('rpn_head'):
            sample.proposals = InstanceData(bboxes=sample.gt_instances.bboxes)  # which Fast R-CNN is given
    return found


def _classes(detector: Mapping[str, Any]) -> int:
    """Return the smallest number of classes that a part knows, plus one, as mmdet's generator counts."""
    keys = ('num_classes', 'num_things_classes')
    counts = [part[key] for part in all_parts(detector) for key in keys if key in part]
    return min([count for count in counts if isinstance(count, int) and count > 0], default=80) + 1
