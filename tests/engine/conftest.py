from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ghost_det.data.dataset import DetectionData, find_data
from ghost_det.engine.train import train
from tools import soak

LITE = 'configs/retinanet_ghostnet_fpn_lite.py'
TrainSmall = Callable[..., Any]


@pytest.fixture(scope='session')
def small_data(sample: Path) -> DetectionData:
    return find_data(sample)


@pytest.fixture
def train_small(
    small_data: DetectionData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sooner: None
) -> TrainSmall:
    """A function that trains the network of `tools.soak` for epochs of 2 steps, in a folder of `tmp_path`."""
    monkeypatch.setattr('ghost_det.engine.train.report_training', lambda *_: None)

    def run(name: str = 'run', loop: str = 'epochs', **settings: Any) -> Any:
        options = {'train_dataloader.num_workers': 0, 'optim_wrapper.accumulative_counts': 1}
        options |= {'val_dataloader.num_workers': 0, 'test_dataloader.num_workers': 0}
        options |= settings.pop('options', {})
        config = str(soak.make_config(tmp_path, loop))
        return train(config, data=small_data, work_dir=str(tmp_path / name), options=options, **settings)

    return run
