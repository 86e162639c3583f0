"""Schedules follow the length of a training, whether it starts or resumes."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from torch.utils.data import DataLoader

from ghost_det.config.load import load_config
from ghost_det.config.schedules import lengthen, shorten_warm_up
from ghost_det.engine.checkpoints import Saved, require_longer
from ghost_det.engine.loading import safe_loading
from ghost_det.engine.resume import RepeatableHook
from ghost_det.engine.runner import GhostRunner
from ghost_det.errors import UserError

STEPS = 3  # an epoch
WARM_UP = dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=4)


class Toy(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(2))

    def forward(self, inputs: Any, mode: str = 'tensor') -> Any:
        return {'loss': (self.weight * inputs).sum()}


class Rates(Hook):
    """Records the learning rate of each step."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        self.rates.append(runner.optim_wrapper.get_lr()['lr'][0])


def run(folder: Path, schedule: list[dict[str, Any]], epochs: int, resume: Path | None = None) -> Any:
    rates = Rates()
    runner = GhostRunner(
        Toy(),
        str(folder),
        train_dataloader=DataLoader([{'inputs': torch.ones(2)}] * STEPS),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01)),
        param_scheduler=copy.deepcopy(schedule),
        custom_hooks=[rates, RepeatableHook()],
        experiment_name=f'{folder.parent.name}-{folder.name}-{epochs}',
        default_scope='mmdet',  # which outlives the runner, and later tests of the process go by
    )
    if resume is not None:
        runner.resume_at_start(str(resume))
    with safe_loading():
        runner.train()
    return rates.rates


def lasting(schedule: dict[str, Any], epochs: int) -> list[dict[str, Any]]:
    keys = {'end', 'T_max'} & schedule.keys()
    longer = {**schedule, **dict.fromkeys(keys, epochs)}
    if 'milestones' in schedule:
        longer['milestones'] = [epochs // 2, epochs - 1]
    return [WARM_UP, longer]


@pytest.mark.parametrize(
    'schedule',
    [
        dict(type='CosineAnnealingLR', T_max=0, end=0, eta_min=1e-5, convert_to_iter_based=True),
        dict(type='MultiStepLR', milestones=[], gamma=0.1),
    ],
    ids=['steps', 'epochs'],
)
def test_a_training_resumed_with_more_epochs_has_the_rates_of_one_that_had_them_from_its_start(
    tmp_path: Path, schedule: dict[str, Any]
) -> None:
    whole = run(tmp_path / 'whole', lasting(schedule, 5), 5)
    short = run(tmp_path / 'short', lasting(schedule, 2), 2)
    source = tmp_path / 'short/epoch_2.pth'
    longer = run(tmp_path / 'longer', lasting(schedule, 5), 5, source)
    assert longer == whole[2 * STEPS :] and len(short + longer) == len(whole)
    log = next((tmp_path / 'longer').glob('*/*.log')).read_text()
    assert log.count('the schedule differs from the checkpoint: recomputed for 5 epochs at step 6') == 1
    # The checkpoint of the resumed training is that of the longer one.
    again = run(tmp_path / 'again', lasting(schedule, 5), 5, tmp_path / 'longer/epoch_3.pth')
    assert again == whole[3 * STEPS :]
    assert 'recomputed' not in next((tmp_path / 'again').glob('*/*.log')).read_text()


def test_a_schedule_that_was_not_in_the_checkpoint_is_recomputed(tmp_path: Path) -> None:
    schedule = lasting(dict(type='MultiStepLR', milestones=[]), 4)
    whole = run(tmp_path / 'whole', schedule, 4)
    run(tmp_path / 'short', schedule[1:], 4)
    longer = run(tmp_path / 'longer', schedule, 4, tmp_path / 'short/epoch_2.pth')
    assert longer == whole[2 * STEPS :]


@pytest.mark.parametrize(('epochs', 'place', 'needed'), [(1, 0, 2), (2, 0, None), (2, 1, 3)])
def test_a_checkpoint_of_more_epochs_than_the_training_is_refused(
    epochs: int, place: int, needed: int | None
) -> None:
    cfg = Config(dict(train_cfg=dict(max_epochs=epochs)))
    saved = Saved('epoch_2.pth', {}, dict(epoch=2, iter=6, place=place))
    with pytest.raises(UserError, match=f'to {needed} or more') if needed else nullcontext():
        require_longer(cfg, saved)


@pytest.mark.parametrize(
    ('scheduler', 'steps', 'end'),
    [
        (dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=50), 100, 10),
        (dict(type='mmengine.ConstantLR', by_epoch=False, begin=0, end=50), 3, 2),
        (dict(type='LinearLR', by_epoch=False, end=50), 500, 50),
        # These are no warm-ups in steps.
        (dict(type='LinearLR', start_factor=1.0, end_factor=0.1, by_epoch=False, end=90), 100, 90),
        (dict(type='CosineAnnealingLR', by_epoch=False, end=90), 100, 90),
        (dict(type='LinearLR', by_epoch=False, begin=50, end=90), 100, 90),
        (dict(type='LinearLR', end=5), 100, 5),
    ],
)
def test_a_warm_up_takes_a_tenth_of_a_training_at_most(
    scheduler: dict[str, Any], steps: int, end: int
) -> None:
    was = scheduler['end']
    line = shorten_warm_up([scheduler], steps)
    assert scheduler['end'] == end and (line is None) == (was == end)
    if line:
        assert f'shortened from {was} to {end} steps' in line


def test_a_short_warm_up_reaches_the_full_rate(tmp_path: Path) -> None:
    schedule = [dict(WARM_UP, end=500)]
    assert shorten_warm_up(schedule, STEPS)
    assert run(tmp_path, schedule, 1) == pytest.approx([0.001, 0.01, 0.01])


@pytest.mark.parametrize('images, epochs', [(5, 100), (131, 46), (250, 24), (100_000, 24)])
def test_few_images_are_seen_more_often(images: int, epochs: int) -> None:
    cfg = load_config('gfl_ghostnet_ghostpan_lite')
    line = lengthen(cfg, images)
    assert cfg.train_cfg.max_epochs == cfg.param_scheduler[1].T_max == epochs
    assert (line is not None) == (epochs > 24) and (line is None or f'{epochs} epochs instead of 24' in line)
    cfg = load_config('retinanet_ghostnet_fpn')
    assert lengthen(cfg, 5) is None and cfg.train_cfg.max_epochs == 12  # has no such rule
    cfg = load_config('gfl_ghostnet_ghostpan_lite')
    cfg.train_cfg.max_epochs = 3  # a user's own choice
    assert lengthen(cfg, 5) is None and cfg.train_cfg.max_epochs == 3
