from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.dataset import pseudo_collate
from mmengine.hub import get_config
from mmengine.logging import MessageHub
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

from ghost_det.config.load import load_config
from ghost_det.config.overrides import use_pretrained
from ghost_det.config.shipped import is_config
from ghost_det.data.dataset import find_data, use_data
from ghost_det.errors import UserError
from ghost_det.weights.catalog import Shipped, published
from tests.conftest import CONFIGS, ROOT

LITE = ROOT / 'configs/retinanet_ghostnet_fpn_lite.py'
FULL = ROOT / 'configs/retinanet_ghostnet_fpn.py'
STANDARD = {'retinanet_ghostnet_fpn': 'retinanet', 'faster-rcnn_ghostnet_fpn': 'faster-rcnn'}
each = pytest.mark.parametrize('config', CONFIGS, ids=lambda p: p.stem)


@pytest.fixture(autouse=True)
def scope() -> None:
    if not DefaultScope.check_instance_created('ghost_det_tests'):
        DefaultScope.get_instance('ghost_det_tests', scope_name='mmdet')


def shrink(cfg: Any) -> None:
    """Shrink what makes a CPU step slow but has no part in whether it works."""
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        for step in loader.dataset.pipeline:
            if 'scale' in step:
                step.scale = (160, 160)
    cfg.model.data_preprocessor.batch_augments = None
    if 'rpn' in cfg.model.train_cfg:
        cfg.model.train_cfg.rpn_proposal.max_per_img = cfg.model.test_cfg.rpn.max_per_img = 50


@each
def test_config_trains_a_step_and_predicts(config: Path, sample: Path, tmp_path: Path) -> None:
    lines = [line for line in config.read_text().splitlines() if not line.startswith('#')]
    assert len(lines) < 20
    cfg = load_config(config)
    shrink(cfg)
    backbone = cfg.model.backbone
    weights = published(cfg.load_from or backbone.init_cfg.checkpoint)
    assert isinstance(weights, Shipped) == ('lite' in config.stem)
    assert (weights.network, weights.width) == (backbone.type, backbone.width)
    use_pretrained(cfg, 'none')
    assert backbone.init_cfg is None and cfg.load_from is None
    use_data(cfg, find_data(sample), tmp_path)
    cfg.train_dataloader.update(batch_size=2, num_workers=0, persistent_workers=False)
    cfg.val_dataloader.update(num_workers=0, persistent_workers=False)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    assert list(model.backbone.out_channels) == cfg.model.neck.in_channels
    model.init_weights()
    wrapper = Runner.build_optim_wrapper(type('R', (), {'model': model})(), cfg.optim_wrapper)
    MessageHub.get_current_instance().update_info('iter', 0)  # which the loop of a training does
    before = model.backbone.conv_stem.weight.detach().clone()
    losses = model.train_step(next(iter(Runner.build_dataloader(cfg.train_dataloader))), wrapper)
    assert losses['loss'].isfinite() and losses['loss'] > 0
    assert not torch.equal(model.backbone.conv_stem.weight, before)
    model.eval()
    dataset = Runner.build_dataloader(cfg.val_dataloader).dataset
    with torch.no_grad():
        (found,) = model.test_step(pseudo_collate([dataset[0]]))
    assert isinstance(found, DetDataSample)
    boxes, scores = found.pred_instances.bboxes, found.pred_instances.scores
    assert boxes.shape == (len(scores), 4) and boxes.isfinite().all()
    height, width = found.ori_shape
    assert (boxes >= 0).all() and (boxes[:, 0::2] <= width).all() and (boxes[:, 1::2] <= height).all()


@pytest.mark.parametrize(('ours', 'family'), STANDARD.items())
def test_standard_configs_differ_from_mmdets_only_in_the_backbone(ours: str, family: str) -> None:
    cfg = load_config(ROOT / f'configs/{ours}.py')
    base = get_config(f'mmdet::{family.replace("-", "_")}/{family}_r50_fpn_1x_coco.py')
    for key, value in base.model.items():
        if key == 'neck':
            assert {**value, 'in_channels': None} == {**cfg.model.neck, 'in_channels': None}
        elif key != 'backbone':
            assert cfg.model[key] == value, key
    assert cfg.train_cfg.max_epochs == 12
    assert cfg.train_dataloader.dataset.pipeline == base.train_dataloader.dataset.pipeline
    assert cfg.optim_wrapper.optimizer == base.optim_wrapper.optimizer


def test_a_config_of_another_project_inherits_ours(tmp_path: Path) -> None:
    child = tmp_path / 'mine.py'
    child.write_text(
        f"_base_ = '{ROOT}/configs/retinanet_ghostnet_fpn.py'\n"
        "custom_imports = dict(imports=['ghost_det'])\n"
        'model = dict(backbone=dict(width=1.3), neck=dict(in_channels=[32, 52, 144, 208]))\n'
    )
    # In a fresh process: nothing but the config brings ghost_det in.
    code = (
        'import sys; from mmengine.config import Config; cfg = Config.fromfile(sys.argv[1]);'
        'from mmengine.registry import init_default_scope; init_default_scope("mmdet");'
        'from mmdet.registry import MODELS; model = MODELS.build(cfg.model);'
        'print(type(model.backbone).__name__, model.backbone.out_channels)'
    )
    words = [sys.executable, '-c', code, str(child)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith('GhostNet (32, 52, 144, 208)')


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (None, 'no such config file'),
        ('model = dict(', 'not a config: .*line 1'),
        ('x = 1', 'it has no model, train_dataloader, val_dataloader, val_evaluator'),
        ("_base_ = './nothing.py'", 'not a config: FileNotFoundError'),
        ("custom_imports = dict(imports=['nowhere_parts'])", 'nowhere_parts'),
        (f"_base_ = '{LITE}'\noptim_wrapper = 3", 'optim_wrapper is 3; expected dict'),
    ],
)
def test_bad_configs_are_named_with_their_problem(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / 'bad.py'
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message) as error:
        load_config(path)
    assert str(path) in str(error.value) and '\n' not in str(error.value)


def test_options_that_do_not_fit_are_named() -> None:
    with pytest.raises(UserError, match='cannot be applied to'):
        load_config(LITE, {'param_scheduler.7.end': 3})


def test_configs_are_told_from_other_models() -> None:
    assert all(map(is_config, ('x.py', 'x.json', 'mmdet::a/b', 'retinanet_ghostnet_fpn_lite')))
    assert not any(map(is_config, ('x.onnx', 'x.xml', 'ghostnet_100', 'resnet50')))


def test_pretrained_weights_of_our_detector() -> None:
    whole = 'ghost://gfl_ghostnet.tin'
    cfg = load_config('gfl_ghostnet_ghostpan_lite')
    assert cfg.load_from == whole and not cfg.model.backbone.get('init_cfg')
    use_pretrained(cfg, 'ghostnet_100')
    assert cfg.load_from is None and cfg.model.backbone.init_cfg.checkpoint == 'ghost://ghostnet_100'
    use_pretrained(cfg, 'gfl_ghostnet.tin')
    assert cfg.load_from == whole and cfg.model.backbone.init_cfg is None
    cfg = load_config(FULL)
    use_pretrained(cfg, 'gfl_ghostnet.tin')
    assert cfg.load_from is None and cfg.model.backbone.init_cfg.checkpoint == whole
    cfg = load_config(FULL, {'load_from': 'neck_and_heads.pth'})  # as of ghost-det swap --keep-weights
    use_pretrained(cfg, 'none')
    assert cfg.load_from == 'neck_and_heads.pth'


def test_pretrained_weights_of_the_backbone() -> None:
    for source, checkpoint in (('ghostnet_100', 'ghost://ghostnet_100'), ('a/b.pth', 'a/b.pth')):
        cfg = load_config(FULL)
        use_pretrained(cfg, source)
        assert cfg.model.backbone.init_cfg == dict(type='Pretrained', checkpoint=checkpoint)
        assert cfg.model.backbone.norm_eval
    cfg = load_config(
        FULL, {'model.backbone.frozen_stages': 1, 'model.backbone.norm_cfg.requires_grad': False}
    )
    use_pretrained(cfg, 'none')
    assert cfg.model.backbone.init_cfg is None and cfg.model.backbone.norm_cfg.requires_grad
    assert cfg.model.backbone.norm_eval is False and cfg.model.backbone.frozen_stages == -1
    cfg.model.backbone.type = 'ResNet'
    with pytest.raises(UserError, match='not supported for ResNet'):
        use_pretrained(cfg, 'ghostnet_100')
    cfg.model.backbone = dict(type='ResNet', depth=50)  # where norm_eval is the default
    use_pretrained(cfg, 'none')
    assert cfg.model.backbone.norm_eval is False and cfg.model.backbone.frozen_stages == -1
    del cfg.model.backbone
    with pytest.raises(UserError, match='no backbone in model or model.detector'):
        use_pretrained(cfg, 'none')
