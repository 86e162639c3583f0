from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ghost_det import LossGuardHook
from ghost_det.engine.checkpoints import find_checkpoint
from ghost_det.engine.hooks import ChannelsLastHook
from ghost_det.errors import UserError
from tests.engine.conftest import TrainSmall


def guard(*losses: float, scaled: bool = False, **settings: Any) -> LossGuardHook:
    hook = LossGuardHook(**settings)
    wrapper = SimpleNamespace(loss_scaler=1) if scaled else None
    runner = SimpleNamespace(iter=41, epoch=3, optim_wrapper=wrapper)
    for loss in losses:
        outputs = {'loss': torch.tensor(loss), 'loss_cls': torch.tensor(loss)}
        sample = SimpleNamespace(img_path='folder/image7.jpg')
        hook.after_train_iter(runner, 0, {'data_samples': [sample]}, outputs)
    return hook


NAN = float('nan')


@pytest.mark.parametrize(
    'losses',
    [[1.0, NAN], [float('inf')], [1.0] * 30 + [1001.0], [0.01] * 20 + [11.0]],
)
def test_a_diverging_loss_stops_the_training(losses: list[float]) -> None:
    with pytest.raises(UserError, match=r'step 42 \(epoch 4; loss_cls .*folder/image7.jpg'):
        guard(*losses)
    with pytest.raises(UserError):
        guard(*losses, *[NAN] * 10, scaled=True)
    guard(*losses, *[NAN] * 9, scaled=True)  # fp16 finds its scale


@pytest.mark.parametrize(
    'losses',
    [[1e9, 1.0, 1e9], [1.0] * 30 + [900.0, 1.0], [0.0] * 30 + [5.0], list(np.linspace(500, 0.1, 90))],
)
def test_a_high_loss_does_not(losses: list[float]) -> None:
    assert list(guard(*losses)._last) == losses
    guard(*[1.0] * 30, 1e6, factor=None)
    guard(1.0, NAN, 1.0, NAN, patience=1)


def test_a_diverging_training_names_its_images_and_keeps_its_checkpoints(
    train_small: TrainSmall, tmp_path: Path
) -> None:
    schedule = dict(type='MultiStepLR', milestones=[1], gamma=1e12, by_epoch=True)
    options = {'param_scheduler': [schedule], 'train_cfg.max_epochs': 9, 'train_cfg.val_interval': 9}
    with pytest.raises(UserError) as caught:
        train_small(options=options)
    message = str(caught.value)
    assert re.search(r'loss is \S+ at step \d+ \(epoch \d; loss_cls .*: the training has diverged', message)
    assert message.count('/train2017/') == 4 and 'load_from=' in message
    saved = find_checkpoint(str(tmp_path / 'run'), 'auto')[0]
    assert saved and all(torch.isfinite(value).all() for value in saved.content['state_dict'].values())


def test_channels_last_is_a_switch() -> None:
    for enabled in (True, False):
        model = torch.nn.Sequential(torch.nn.Conv2d(4, 8, 3), torch.nn.Conv2d(8, 2, 3))
        ChannelsLastHook(enabled).before_train(SimpleNamespace(model=model))
        out = model(torch.rand(2, 4, 9, 9))
        assert out.is_contiguous(memory_format=torch.channels_last) is enabled
