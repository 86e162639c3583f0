from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ghost_det.data.dataset import find_data
from ghost_det.engine.train import train
from ghost_det.reports.training import ReportHook
from tests.conftest import ROOT

LITE = ROOT / 'configs/retinanet_ghostnet_fpn_lite.py'


class Runs(NamedTuple):
    """A training of two epochs, interrupted after the first and resumed; and a shorter one."""

    resumed: Path
    half: Path
    runner: Any  # of the resumed one
    progress: dict[str, Any]  # its report.json when it was interrupted


def tiny(sample: Path, folder: Path, epochs: int, backbone: str | None = None, resume: Any = None) -> Any:
    options = {'model.test_cfg.score_thr': 0.0, 'default_hooks.logger.interval': 1}
    settings = {'epochs': epochs, 'batch_size': 4, 'pretrained': 'none', 'resume': resume}
    return train(
        str(LITE), find_data(sample), work_dir=str(folder), options=options, backbone=backbone, **settings
    )


@pytest.fixture(scope='session')
def runs(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp('runs')

    def stop(hook: ReportHook, runner: Any) -> None:
        if runner.epoch == 1:
            raise RuntimeError('killed')

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Exception, match='killed'):
        patch.setattr(ReportHook, 'before_train_epoch', stop)
        tiny(sample, folder / 'resumed', 2)
    assert not (folder / 'resumed/report.html').exists()
    progress = json.loads((folder / 'resumed/report.json').read_text())
    runner = tiny(sample, folder / 'resumed', 2, resume='auto')
    tiny(sample, folder / 'half', 1, 'GhostNet:0.5')
    return Runs(folder / 'resumed', folder / 'half', runner, progress)


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
