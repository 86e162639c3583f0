"""What the README shows is what there is."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import DefaultScope

from .conftest import ROOT

README = (ROOT / 'README.md').read_text()


def test_the_backbone_in_ones_own_config(tmp_path: Path) -> None:
    (block,) = re.findall(r'```python\n(.*?)```', README, re.DOTALL)
    path = tmp_path / 'mine.py'
    path.write_text(block)
    DefaultScope.get_instance('ghost_det_readme', scope_name='mmdet')
    model = MODELS.build(Config.fromfile(path).model)
    assert type(model.backbone).__name__ == 'GhostNet'
    assert list(model.backbone.out_channels) == model.neck.in_channels


def test_options_and_files_it_names_exist(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = set(re.findall(r'--[a-z]+(?:-[a-z]+)*', README))
    monkeypatch.setenv('LOCAL_RANK', '0')
    for tool in (ROOT / 'tools').glob('*.py'):
        monkeypatch.setattr('sys.argv', [str(tool), '--help'])
        with pytest.raises(SystemExit):
            runpy.run_path(str(tool), run_name='__main__')
    help_text = capsys.readouterr().out
    assert shown and {option for option in shown if option not in help_text} <= {'--help'}
    for path in re.findall(r'(?:configs|tools|docs)/[\w./-]+\.\w+', README):
        assert (ROOT / path).exists(), path


def test_make_targets_it_names_exist() -> None:
    targets = set(re.findall(r'make ([a-z]+)', README))
    makefile = (ROOT / 'Makefile').read_text()
    assert {'train', 'test'} <= targets
    assert all(re.search(rf'^{target}:', makefile, re.MULTILINE) for target in targets), targets
