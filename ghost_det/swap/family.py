"""The cost of each network of the family as a detector's backbone."""

from collections.abc import Mapping
from typing import Any

from ghost_det.models import NETWORKS
from ghost_det.utils.text import table

from .probe import count

TIMES = dict(GhostNet='1', GhostNetV2='1.2 to 1.6', GhostNetV3='1.3 to 1.5', RepGhostNet='0.7 to 0.9')
"""CPU time relative to GhostNet's in torch, ONNX Runtime and OpenVINO: docs/results.md, The family."""


def family_table(backbone: Mapping[str, Any], height: int, width: int) -> str:
    """Return a table of all networks with the width and levels of ``backbone``, for an input in pixels."""
    rows = []
    for name in NETWORKS:
        cfg = {'type': name, 'width': backbone['width'], 'out_indices': backbone['out_indices']}
        params, macs = count({'backbone': cfg}, height, width)['backbone']
        rows.append([name, f'{params / 1e6:.2f}', f'{(macs or 0) / 1e9:.2f}', TIMES[name]])
    head = [f'at width {backbone["width"]:g}', 'parameters (M)', 'multiply-adds (G)', 'CPU time']
    return f'{table(head, rows)}\nCPU time: relative to GhostNet, at width 1, measured in docs/results.md'
