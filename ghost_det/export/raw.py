"""A detector without its post-processing, for ncnn or as ONNX: an image in, each level's maps out."""

from __future__ import annotations

import subprocess
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from mmdet.models import GFLHead, RetinaHead, RetinaSepBNHead
from mmdet.models.task_modules import DeltaXYWHBBoxCoder
from torch import Tensor, nn

from ghost_det.deploy.metadata import Metadata, RawHead
from ghost_det.deploy.raw import INPUT
from ghost_det.errors import UserError

from .graph import Canvas, deployed, exact_fill, normalisation
from .heads import find_head
from .onnx import quiet, save_onnx


class RawGraph(nn.Module):
    """A one-stage detector of mmdet, in evaluation mode, with its normalization.

    Shape:
        An image ``(1, 3, H, W)``, 0 to 255 in OpenCV's order, to the scores (after the sigmoid) and the boxes
        of each level in turn, these as the head gives them.
    """

    def __init__(self, detector: Any) -> None:
        super().__init__()
        self.detector = detector
        swapped, mean, std = normalisation(detector)
        scale = torch.diag(1 / torch.tensor(std))
        self.normalise = nn.Conv2d(3, 3, 1)
        self.normalise.weight.data = (scale.flip(1) if swapped else scale).reshape(3, 3, 1, 1)
        self.normalise.bias = nn.Parameter(-torch.tensor(mean) / torch.tensor(std))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the maps."""
        scores, boxes = self.detector.bbox_head(self.detector.extract_feat(self.normalise(image)))
        return tuple(maps for level in zip(scores, boxes) for maps in (level[0].sigmoid(), level[1]))


def raw_head(detector: Any) -> RawHead:
    """Return how a detector's maps become boxes, or raise a `UserError` if our runtime cannot do it."""
    head: Any = getattr(find_head(detector), 'head', None)
    coder: Any = getattr(head, 'bbox_coder', None)
    spread = isinstance(head, GFLHead)
    deltas = isinstance(head, RetinaHead | RetinaSepBNHead) and type(coder) is DeltaXYWHBBoxCoder
    if not (spread or deltas) or not head.use_sigmoid_cls or not coder.clip_border:
        name = type(getattr(detector, 'bbox_head', detector)).__name__
        raise UserError(f'{name}: only GFL and RetinaNet can be exported without post-processing or for ncnn')
    limit = head.test_cfg.get('nms_pre', -1)
    return RawHead(
        strides=[int(stride[0]) for stride in head.prior_generator.strides],
        anchors=[anchors.tolist() for anchors in head.prior_generator.base_anchors],
        bins=head.reg_max + 1 if spread else 0,
        means=[] if spread else [float(mean) for mean in coder.means],
        stds=[] if spread else [float(std) for std in coder.stds],
        candidates=limit if limit > 0 else None,
        min_side=max(0.0, float(head.test_cfg.get('min_bbox_size', -1))),
        fill=exact_fill(detector),
    )


def write_raw(detector: nn.Module, canvas: Canvas, out: Path, metadata: Metadata) -> None:
    """Write a folded copy of a detector without post-processing, as ncnn or ONNX by the suffix of ``out``."""
    assert metadata.raw is not None
    graph = RawGraph(deployed(detector)).eval().requires_grad_(False)
    example = torch.zeros(1, 3, canvas.height, canvas.width)
    names = metadata.raw.outputs()
    if out.suffix == '.onnx':
        save_onnx(graph, (example,), out, [INPUT], names, metadata=metadata)
        return
    with tempfile.TemporaryDirectory() as folder, quiet(), torch.no_grad():
        warnings.simplefilter('ignore')
        trace: Any = torch.jit.trace
        trace(graph, example).save(f'{folder}/model.pt')
        _convert(Path(folder), list(example.shape))
        text = (Path(folder) / 'model.ncnn.param').read_text('utf-8')
        blobs = {'in0': INPUT, **{f'out{place}': name for place, name in enumerate(names)}}
        renamed = [' '.join(blobs.get(word, word) for word in line.split()) for line in text.splitlines()]
        out.with_name(f'{out.name}.param').write_text('\n'.join(renamed) + '\n', 'utf-8')
        out.with_name(f'{out.name}.bin').write_bytes((Path(folder) / 'model.ncnn.bin').read_bytes())
    out.with_name(f'{out.name}.json').write_text(metadata.to_json(), 'utf-8')


def _convert(folder: Path, shape: list[int]) -> None:
    """Convert ``model.pt`` in a folder to ncnn, with weights in 16 bits, which is pnnx's default."""
    import pnnx

    command = [pnnx.EXEC_PATH, 'model.pt', f'inputshape={str(shape).replace(" ", "")}']
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors='replace')
    if done.returncode or not (folder / 'model.ncnn.param').is_file():
        lines = (done.stderr or done.stdout).strip().splitlines() or ['no message']
        raise UserError(f'pnnx cannot convert this network: {lines[-1][:200]}')
