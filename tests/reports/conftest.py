from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from ghost_det.data.dataset import find_data
from ghost_det.engine.train import train
from tests.conftest import ROOT

LITE = ROOT / 'configs/retinanet_ghostnet_fpn_lite.py'


def tiny(sample: Path, folder: Path, backbone: str | None = None, **settings: Any) -> Any:
    options = {'model.test_cfg.score_thr': 0.0, 'default_hooks.logger.interval': 1}
    settings = {'epochs': 1, 'batch_size': 4, 'pretrained': 'none', **settings}
    return train(
        str(LITE), find_data(sample), work_dir=str(folder), options=options, backbone=backbone, **settings
    )


@pytest.fixture(scope='session')
def runs(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Work folders of two trainings, with different backbones."""
    folder = tmp_path_factory.mktemp('runs')
    tiny(sample, folder / 'whole')
    tiny(sample, folder / 'half', 'GhostNet:0.5')
    return folder / 'whole', folder / 'half'


def bare_record(**parts: Any) -> dict[str, Any]:
    return {
        'name': '<b>x</b>', 'config': 'c.py', 'ghost_det': '0', 'created': 'now', 'lacking': {},
        'versions': {},
        'trained': {'epochs': 1, 'iterations': 2, 'processes': 1}, 'settings': {}, 'commands': {},
        'curves': {'unit': 'epoch', 'loss': [], 'mAP': []}, 'seconds_by_log': 0.0,
        'seconds': {'train': 1.0, 'evaluate': 1.0},
        **parts,
    }  # fmt: skip


def require_self_contained(text: str) -> None:
    tags: list[tuple[str, dict[str, str | None]]] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: tags.append((tag, dict(attributes)))  # type: ignore[method-assign]
    parser.feed(text)
    assert not {tag for tag, _ in tags} & {'script', 'link', 'iframe', 'object', 'base', 'form'}
    for tag, attributes in tags:
        assert not any(name in ('href', 'srcset') or name.startswith('on') for name in attributes), tag
        assert (attributes.get('src') or 'data:image/').startswith('data:image/')
    assert 'url(' not in text and '@import' not in text and "default-src 'none'" in text
    assert len(text) < 5e6
