"""What mmengine offers with only a config: mixed precision, gradient accumulation, averaged weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from ghost_det.weights.checkpoint import load_checkpoint
from tests.engine.conftest import TrainSmall, small_data, train_small

__all__ = ['small_data', 'train_small']
AVERAGE = dict(type='EMAHook', ema_type='ExpMomentumEMA', momentum=0.5, gamma=1)


@HOOKS.register_module(force=True)
class StemHook(Hook):
    """Keep the stem's weights after each step, the type of its output, and the losses."""

    def before_train(self, runner: Any) -> None:
        self.stem = runner.model.backbone.conv_stem
        self.types: set[torch.dtype] = set()
        self.losses: list[float] = []
        self.stem.register_forward_hook(lambda _, __, out: self.types.add(out.dtype))
        self.weights = [self.stem.weight.detach().clone()]

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any, outputs: Any = None) -> None:
        self.losses.append(float(outputs['loss']))
        self.weights.append(self.stem.weight.detach().clone())


@pytest.fixture
def run(train_small: TrainSmall) -> Any:
    def run(name: str, *hooks: Any, **settings: Any) -> tuple[Any, StemHook]:
        options = {
            'custom_hooks': [dict(type='StemHook'), *hooks],
            'train_dataloader.batch_size': 2,
            'param_scheduler.0.start_factor': 0.99,
            **settings.pop('options', {}),
        }
        runner = train_small(name, options=options, epochs=settings.pop('epochs', 1), **settings)
        return runner, next(hook for hook in runner.hooks if isinstance(hook, StemHook))

    return run


def test_bfloat16_computes_in_half_the_bits_and_keeps_the_weights_in_float32(run: Any) -> None:
    # Not at 64 pixels: over maps of one pixel, torch's bfloat16 convolutions leave gradients unset.
    options = {'model.data_preprocessor.batch_augments': None}
    _, full = run('full', options=options)
    runner, mixed = run('mixed', amp=True, options=options)
    assert full.types == {torch.float32} and mixed.types >= {torch.bfloat16}
    assert all(p.dtype == torch.float32 for p in runner.model.parameters())
    assert len(full.losses) == 4 and full.losses != mixed.losses == pytest.approx(full.losses, rel=0.05)


def test_gradients_of_several_batches_make_one_step(run: Any) -> None:
    runner, stem = run('run', options={'optim_wrapper.accumulative_counts': 2})
    moved = [not torch.equal(a, b) for a, b in zip(stem.weights, stem.weights[1:])]
    assert moved == [False, True, False, True]
    assert runner.optim_wrapper.optimizer.state[stem.stem.weight]['step'] == 2


def test_averaged_weights_are_evaluated_saved_and_resumed(run: Any, tmp_path: Path) -> None:
    runner, stem = run('run', AVERAGE)
    saved = load_checkpoint(tmp_path / 'run/epoch_1.pth')
    key = 'backbone.conv_stem.weight'
    last, mean = saved['ema_state_dict'][f'module.{key}'], saved['state_dict'][key]
    assert torch.equal(last, stem.weights[-1]) and not torch.equal(last, mean)
    low, high = torch.stack(stem.weights).aminmax(dim=0)
    assert bool(((mean >= low - 1e-6) & (mean <= high + 1e-6)).all())  # an average of what it was
    _, stem = run('run', AVERAGE, epochs=2, resume='auto')
    assert torch.equal(stem.weights[0], last)  # resumed from the weights, not from their average
    assert load_checkpoint(tmp_path / 'run/epoch_2.pth')['ema_state_dict']['steps'] == 8
