"""Detectors of torch in files, with random weights."""

from pathlib import Path

import torch

from tests.export.settled import settled

LITE = 'configs/retinanet_ghostnet_fpn_lite.py'
PLAIN = {
    'model.backbone': dict(_delete_=True, type='ResNet', depth=18, out_indices=(1, 2, 3)),
    'model.neck.in_channels': [128, 256, 512],
}
"""Makes of `LITE` one without ghost modules."""


def save_torch(folder: Path, **options: object) -> tuple[Path, Path]:
    """Write a config and a checkpoint of it."""
    cfg, detector = settled(LITE, **options)
    cfg.dump(folder / 'light.py')
    classes = tuple(f'thing {number}' for number in range(detector.bbox_head.num_classes))
    content = {'state_dict': detector.state_dict(), 'meta': {'dataset_meta': {'classes': classes}}}
    torch.save(content, folder / 'light.pth')
    return folder / 'light.py', folder / 'light.pth'
