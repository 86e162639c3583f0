from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import ghost_det  # noqa: F401  # before any test imports mmdet, which it makes importable

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted((ROOT / 'configs').glob('*.py'))

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def loud() -> Iterator[None]:
    """Undo what a tool run in this process does to all the tests after it: loggers, and torch left out."""
    yield
    logging.disable(logging.NOTSET)
    os.environ.pop('GHOST_DET_RUNTIME', None)


@pytest.fixture(scope='session')
def coco_mini() -> Path:
    """A slice of real COCO 2017, which is not part of the project."""
    folder = Path(os.environ.get('GHOST_DET_COCO_MINI', ROOT.parent / 'shared/data/coco_mini'))
    if not folder.is_dir():
        pytest.skip(f'no COCO images in {folder}: GHOST_DET_COCO_MINI names the folder of some')
    return folder


@pytest.fixture(scope='session')
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small generated data set in COCO's layout."""
    from ghost_det.data.sample import make_sample

    return make_sample(tmp_path_factory.mktemp('cache'), train=8, val=4)
