"""What mmengine offers by config alone, tried on the lite config: mixed precision, accumulation, EMA."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from ghost_det.data.dataset import find_data
from ghost_det.engine.test import test as evaluate
from ghost_det.engine.train import train
from ghost_det.weights.checkpoint import load_checkpoint
from tests.conftest import ROOT

LITE = str(ROOT / 'configs/retinanet_ghostnet_fpn_lite.py')
OPTIONS = {
    'train_dataloader.batch_size': 2,
    'train_dataloader.num_workers': 0,
    'train_dataloader.persistent_workers': False,
    'train_dataloader.sampler.shuffle': False,
    'default_hooks.logger.interval': 1,
    'param_scheduler.0.start_factor': 1.0,  # or there is nothing to see in four steps
}


@HOOKS.register_module(force=True)
class StemHook(Hook):
    """Keep the stem's weights and its output's type after each iteration."""

    def before_train(self, runner: Any) -> None:
        stem = runner.model.backbone.conv_stem
        self.types = set()
        stem.register_forward_hook(lambda _, __, out: self.types.add(out.dtype))
        self.weights = [stem.weight.detach().clone()]

    def after_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        self.weights.append(runner.model.backbone.conv_stem.weight.detach().clone())


def run(sample: Path, work_dir: Path, epochs: int = 1, resume: Any = None, **options: Any) -> Any:
    runner = train(
        LITE,
        find_data(sample),
        pretrained='none',
        epochs=epochs,
        amp=options.pop('amp', False),
        resume=resume,
        work_dir=str(work_dir),
        options={**OPTIONS, 'randomness.seed': 0, 'custom_hooks': [dict(type='StemHook')], **options},
    )
    return runner, next(hook for hook in runner.hooks if isinstance(hook, StemHook))


def losses(work_dir: Path) -> list[float]:
    (path,) = work_dir.glob('*/vis_data/scalars.json')
    return [row['loss'] for row in map(json.loads, path.read_text().splitlines()) if 'loss' in row]


@pytest.mark.slow
def test_bfloat16_computes_in_half_the_bits_and_keeps_the_weights_whole(sample: Path, tmp_path: Path) -> None:
    _, full = run(sample, tmp_path / 'full')
    runner, mixed = run(sample, tmp_path / 'mixed', amp=True)
    assert full.types == {torch.float32} and mixed.types >= {torch.bfloat16}
    assert all(p.dtype == torch.float32 for p in runner.model.parameters())
    one, other = losses(tmp_path / 'full'), losses(tmp_path / 'mixed')
    assert len(one) == 4 and one != other and other == pytest.approx(one, rel=0.05)


@pytest.mark.slow
def test_gradients_of_several_batches_make_one_step(sample: Path, tmp_path: Path) -> None:
    runner, stem = run(sample, tmp_path, **{'optim_wrapper.accumulative_counts': 2})
    moved = [not torch.equal(a, b) for a, b in zip(stem.weights, stem.weights[1:])]
    assert moved == [False, True, False, True]
    assert runner.optim_wrapper.optimizer.state[runner.model.backbone.conv_stem.weight]['step'] == 2


@pytest.mark.slow
def test_averaged_weights_are_evaluated_saved_and_resumed(sample: Path, tmp_path: Path) -> None:
    average = dict(type='EMAHook', ema_type='ExpMomentumEMA', momentum=0.5, gamma=1)
    hooks = {'custom_hooks': [dict(type='StemHook'), average]}
    runner, stem = run(sample, tmp_path, **hooks)
    saved = load_checkpoint(str(tmp_path / 'epoch_1.pth'))
    key = 'backbone.conv_stem.weight'
    last, mean = saved['ema_state_dict'][f'module.{key}'], saved['state_dict'][key]
    assert torch.equal(last, stem.weights[-1]) and not torch.equal(last, mean)
    low, high = torch.stack(stem.weights).aminmax(dim=0)
    assert bool(((mean >= low - 1e-6) & (mean <= high + 1e-6)).all())  # an average of what it was
    assert evaluate(LITE, str(tmp_path / 'epoch_1.pth'), find_data(sample), work_dir=str(tmp_path / 'test'))
    runner, stem = run(sample, tmp_path, epochs=2, resume='auto', **hooks)
    assert torch.equal(stem.weights[0], last)  # training goes on from the weights, not from their average
    assert load_checkpoint(str(tmp_path / 'epoch_2.pth'))['ema_state_dict']['steps'] == 8
