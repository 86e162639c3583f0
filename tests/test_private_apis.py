"""Private names of other packages that ghost_det relies on: no more than these. Fewer is better."""

from __future__ import annotations

import ast
import inspect
import re

from mmdet.evaluation import CocoMetric
from mmdet.models import GFLHead
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmengine.hooks import CheckpointHook
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner

from tests.conftest import ROOT

PRIVATE = {
    # engine: bit-identical resuming, one order of drawn weights, files that are written whole
    *('_decide_current_val_interval', '_epoch', '_input_size', '_iter', '_load_from', '_resume'),
    *('_train_loop', '_init_model_weights', '_save_checkpoint_with_step', '_init_layers'),
    *('_schemes', '_Unpickler'),  # checkpoints are read without running code
    *('_get_cfg_path', '_global_step'),  # config: `_base_ = 'ghost_det::...'`, and other lengths
    '_coco_api',  # evaluation, data
    *('_bbox_decode', '_channel_conversion', '_predict_by_feat_single'),  # export
    *('_roi_align_backward', '_actions'),  # ops, commands/completion.py
}
BASES = (Runner, CheckpointHook, EpochBasedTrainLoop, IterBasedTrainLoop, GFLHead, BaseDenseHead, CocoMetric)
"""What classes of ours derive from: their private names are not ours."""
OF_PYTHON = {'_asdict', '_replace', '_exit'}  # documented, but for their names


def test_no_other_private_names_are_used() -> None:
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
    assert used - own - OF_PYTHON == PRIVATE
