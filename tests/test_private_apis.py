"""Private names of other packages that ghost_det relies on: after an upgrade, these tests name what changed.

Fewer is better: delete the row of a name that is no longer used. `test_no_others_are_used` refuses new ones.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import re
import sys
from collections.abc import Callable

import pytest
import torch
from mmdet.evaluation import CocoMetric
from mmdet.models import BatchSyncRandomResize, DetDataPreprocessor, GFLHead, RPNHead, YOLOXHead
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.optim import ConstantLR
from mmengine.runner import CheckpointLoader, EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch import nn

from tests.conftest import ROOT


def sets(function: Callable[..., object], name: str) -> bool:
    """Tell whether a method sets an attribute of ``self``."""
    return f'self.{name}' in inspect.getsource(function)


def takes(function: Callable[..., object], *names: str) -> bool:
    """Tell whether a function has these parameters, in this order."""
    return tuple(inspect.signature(function).parameters)[: len(names)] == names


PRIVATE: dict[str, Callable[[], bool]] = {
    # engine/resume.py and engine/loops.py: bit-identical resuming
    '_decide_current_val_interval': lambda: takes(EpochBasedTrainLoop._decide_current_val_interval, 'self'),
    '_epoch': lambda: sets(EpochBasedTrainLoop.__init__, '_epoch'),
    '_input_size': lambda: sets(BatchSyncRandomResize.__init__, '_input_size'),
    '_iter': lambda: sets(IterBasedTrainLoop.__init__, '_iter'),
    '_load_from': lambda: sets(Runner.__init__, '_load_from'),
    '_resume': lambda: sets(Runner.__init__, '_resume'),
    '_train_loop': lambda: sets(Runner.__init__, '_train_loop'),
    # engine/runner.py: weights are drawn in one order of memory
    '_init_model_weights': lambda: takes(Runner._init_model_weights, 'self'),
    # engine/checkpoints.py: older files are removed only when the new one is there
    '_save_checkpoint_with_step': lambda: takes(
        CheckpointHook._save_checkpoint_with_step, 'self', 'runner', 'step', 'meta'
    ),
    # engine/loading.py: checkpoints are read without running code; mmengine 0.10.7 has no _safe_torch_load
    '_safe_torch_load': lambda: True,
    '_schemes': lambda: '' in CheckpointLoader._schemes,
    # engine/networks.py
    '_init_layers': lambda: takes(GFLHead._init_layers, 'self'),
    # config/load.py: `_base_ = 'ghost_det::...'`
    '_get_cfg_path': lambda: takes(Config._get_cfg_path, 'cfg_path', 'filename'),
    # config/schedules.py: schedules computed again for another length
    '_global_step': lambda: hasattr(
        ConstantLR(torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)), '_global_step'
    ),
    # evaluation/metric.py, data/dataset.py
    '_coco_api': lambda: sets(CocoMetric.__init__, '_coco_api'),
    # export: heads whose boxes are made as these make them, and what happens to pixels
    '_bbox_decode': lambda: takes(YOLOXHead._bbox_decode, 'self', 'priors', 'bbox_preds'),
    '_channel_conversion': lambda: hasattr(DetDataPreprocessor(bgr_to_rgb=True), '_channel_conversion'),
    '_predict_by_feat_single': lambda: all(
        '_predict_by_feat_single' in vars(head) for head in (BaseDenseHead, GFLHead, RPNHead)
    ),
    # ops, models and visualization, commands/completion.py
    '_ext': lambda: 'mmcv._ext' in sys.modules,
    '_roi_align_backward': lambda: callable(torch.ops.torchvision._roi_align_backward),
    '_actions': lambda: isinstance(argparse.ArgumentParser()._actions, list),
}
BASES = (Runner, CheckpointHook, EpochBasedTrainLoop, IterBasedTrainLoop, GFLHead, BaseDenseHead, CocoMetric)
"""What classes of ours derive from: their private names are not ours."""
OF_PYTHON = {'_asdict', '_replace', '_exit'}  # documented, but for their names


@pytest.mark.parametrize('name', PRIVATE)
def test_a_private_name_is_what_we_rely_on(name: str) -> None:
    assert PRIVATE[name](), f'{name} is no longer what ghost_det relies on'


def test_no_others_are_used() -> None:
    own, used, private = (set[str]() for _ in range(3))
    trees = (ast.parse(path.read_text()) for path in (ROOT / 'ghost_det').rglob('*.py'))
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            own.add(node.name)
            private |= {node.name} if node.name[0] == '_' != node.name[1:2] else set()
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            own.add(node.id)
        elif isinstance(node, ast.Attribute) and node.attr.startswith('_') and node.attr[1] != '_':
            of_self = isinstance(node.value, ast.Name) and node.value.id in ('self', 'cls')
            private.add(node.attr)
            (own if of_self and isinstance(node.ctx, ast.Store) else used).add(node.attr)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            used |= {each.name for each in node.names if each.name.startswith('_') and each.name[1] != '_'}
    theirs = set(re.findall(r'(?:self\.|def )(\w+)', ''.join(map(inspect.getsource, BASES))))
    own -= theirs
    used |= private - own
    assert used - own - OF_PYTHON <= PRIVATE.keys()
    assert len(PRIVATE) < 25
