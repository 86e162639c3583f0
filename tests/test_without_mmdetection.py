"""The examples of docs/without-mmdetection.md run, in a process that has no OpenMMLab package."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import ghost_det
from tests.conftest import ROOT
from tests.models.contract import randomise

PAGE = (ROOT / 'docs/without-mmdetection.md').read_text()
BLOCKS = dict(re.findall(r'```python title="(.+?)\.py"\n(.*?)```', PAGE, re.DOTALL))
ENVIRONMENT = dict(os.environ, PYTHONPATH=str(ROOT), HF_HUB_OFFLINE='1')
WITHOUT = """
import sys
sys.modules.update(dict.fromkeys(('mmengine', 'mmcv', 'mmdet')))
import ghost_det, torch
torch.manual_seed(0)
torch.set_num_threads(1)

def moves(network, loss):
    before = network.conv_stem.weight.detach().clone()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    loss.backward()
    optimizer.step()
    assert loss.isfinite() and not torch.equal(before, network.conv_stem.weight)
"""
DATA = """
images = [torch.rand(3, 96, 128), torch.rand(3, 128, 96)]
boxes = torch.tensor([[8.0, 8, 40, 60]])
targets = [dict(boxes=boxes, labels=torch.tensor([label])) for label in (3, 7)]
for model in (retinanet, faster_rcnn):
    model.transform.min_size, model.transform.max_size = (96,), 128
    moves(model.backbone.body, sum(model(images, targets).values()))
with torch.no_grad():
    found = faster_rcnn.eval()(images)
assert all(len(each['boxes']) == len(each['scores']) for each in found)
image = images[0]
retinanet.score_thresh, retinanet.detections_per_img = 0.0, 50
torch.nn.init.normal_(retinanet.head.classification_head.cls_logits.weight, std=30.0)  # scores that differ
"""
COMPARE = """
import numpy, onnxruntime
session = onnxruntime.InferenceSession('retinanet.onnx', providers=['CPUExecutionProvider'])
for image in (image, torch.rand(3, 96, 128)):
    got = session.run(None, {'image': image.numpy()})
    with torch.no_grad():
        expected = retinanet([image])[0]
    assert len(expected['boxes']) > 20
    tables = []
    for boxes, scores, labels in (got, [expected[key].numpy() for key in ('boxes', 'scores', 'labels')]):
        rows = numpy.column_stack([labels, boxes, scores])
        tables.append(rows[numpy.lexsort(rows.T[2::-1])])  # scores that are almost equal change places
    numpy.testing.assert_allclose(*tables, rtol=1e-3, atol=1e-3)
"""
DETECTORS = """
from transformers import (
    DeformableDetrConfig, DeformableDetrForObjectDetection, DFineConfig, DFineForObjectDetection
)
small = dict(d_model=32, decoder_layers=2, encoder_ffn_dim=32, decoder_ffn_dim=32, num_queries=20)
config.update(dict(small, encoder_hidden_dim=32, decoder_in_channels=[32] * 3))
dfine = DFineConfig(**{k: v for k, v in config.to_dict().items() if k != 'model_type'})
deformable = DeformableDetrConfig(
    backbone_config=GhostConfig(), use_timm_backbone=False, encoder_layers=1, **small
)
x = torch.rand(2, 3, 96, 96)
target = dict(class_labels=torch.tensor([1]), boxes=torch.tensor([[0.5, 0.5, 0.2, 0.3]]))
for kind, its in (
    (RTDetrForObjectDetection, config),
    (DFineForObjectDetection, dfine),
    (DeformableDetrForObjectDetection, deformable),
):
    model = kind(its).train()
    (network,) = [each.network for each in model.modules() if isinstance(each, GhostBackbone)]
    moves(network, model(x, labels=[target, target]).loss)
    model.eval().save_pretrained(kind.__name__)
    opened = kind.from_pretrained(kind.__name__).eval()
    with torch.no_grad():
        a, b = model(x), opened(x)
    assert torch.equal(a.logits, b.logits) and torch.equal(a.pred_boxes, b.pred_boxes), kind
"""
WEIGHTS = """
published = ghost_det.classifier('ghostnet_100')
torch.save(published.state_dict(), 'own.pth')
assert ghost_det.load_pretrained(backbone, 'own.pth').loaded == 502
assert torch.equal(backbone.conv_stem.weight, published.conv_stem.weight)
"""
UNET = """
masks = unet(torch.rand(2, 3, 64, 96))
assert masks.shape == (2, 4, 64, 96)
moves(unet.encoder.network, torch.nn.functional.cross_entropy(masks, torch.randint(4, (2, 64, 96))))
"""


@pytest.mark.parametrize(
    ('prefix', 'needs', 'code'),
    [
        ('extractor', 'torch', ['extractor']),
        (
            'torchvision',
            'torchvision',
            ['torchvision_detector', 'torchvision_build', DATA, 'torchvision_export', COMPARE],
        ),
        (
            'transformers',
            'transformers',
            ['transformers_backbone', 'transformers_model', 'transformers_detector', WEIGHTS, DETECTORS],
        ),
        ('smp', 'segmentation_models_pytorch', ['smp_encoder', 'smp_unet', UNET]),
    ],
)
def test_examples_run(prefix: str, needs: str, code: list[str], tmp_path: Path) -> None:
    pytest.importorskip(needs)
    if prefix == 'torchvision':
        pytest.importorskip('onnxruntime')
    assert {name for name in BLOCKS if name.startswith(prefix)} <= set(code)
    assert all(len([*filter(None, text.splitlines())]) <= 15 for text in BLOCKS.values())
    program = WITHOUT + '\n'.join(BLOCKS.get(part, part) for part in code)
    done = subprocess.run(
        [sys.executable, '-c', program], cwd=tmp_path, capture_output=True, text=True, env=ENVIRONMENT
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_timm_cuts_the_trunk_as_the_page_says() -> None:
    timm = pytest.importorskip('timm')
    theirs = timm.create_model('ghostnet_100', features_only=True).eval()
    full = randomise(timm.create_model('ghostnet_100')).eval()
    ours = ghost_det.feature_extractor('ghostnet_100').eval()
    for network in (theirs, ours):
        names = {key.replace('blocks_', 'blocks.'): key for key in network.state_dict()}
        network.load_state_dict({key: full.state_dict()[name] for name, key in names.items()})
    kept, trunk = (sum(p.numel() for p in each.parameters()) / 1e6 for each in (theirs, ours))
    assert f'{kept:.3f} {trunk:.3f} {1 - kept / trunk:.0%}' == '0.948 2.516 62%'
    assert f'| {kept:.3f} M |' in PAGE and f'| {trunk:.3f} M |' in PAGE
    taps = []
    for position in (1, 3, 5, 7):
        ours.blocks[position].register_forward_hook(lambda module, inputs, output: taps.append(output))
    x = torch.rand(1, 3, 96, 128)
    with torch.no_grad():
        ours(x)
        for got, expected in zip(taps, theirs(x)[1:], strict=True):
            assert torch.equal(got, expected)
