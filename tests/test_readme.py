"""The README is short, its links and commands work, and its config builds."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import DefaultScope

from ghost_det.commands import make_parser
from tests.conftest import ROOT

README = (ROOT / 'README.md').read_text()


def test_it_is_short_and_has_its_sections() -> None:
    assert len(README.encode()) <= 7168
    assert ' | '.join(re.findall(r'^## (.*)', README, re.MULTILINE)) == (
        'Install | The backbone in your config | Train, evaluate, export, detect | What you get | Models | '
        'Results | Documentation, security, citing'
    )
    assert README.splitlines().index('```python') < 30, 'the config is not on the first screen'


def test_links_resolve() -> None:
    links = [link.partition('#') for link in re.findall(r'(?:\]\(|src=")(?!https?:)([^)"]+)', README)]
    assert len(links) > 15 and not [path for path, _, _ in links if not (ROOT / path).is_file()]
    for path, _, anchor in links:  # titles without punctuation
        assert not anchor or f'# {anchor.replace("-", " ")}\n' in (ROOT / path).read_text().lower()


def test_config_builds(tmp_path: Path) -> None:
    (block,) = re.findall(r'```python\n(.*?)```', README, re.DOTALL)
    (tmp_path / 'mine.py').write_text(block)
    DefaultScope.get_instance('ghost_det_readme', scope_name='mmdet')
    model = MODELS.build(Config.fromfile(tmp_path / 'mine.py').model)
    assert type(model.backbone).__name__ == 'GhostNet'
    assert list(model.backbone.out_channels) == model.neck.in_channels


def test_commands_parse_and_are_tested() -> None:
    tests = ''.join(path.read_text() for path in (ROOT / 'tests').rglob('test_*.py'))
    lines = ''.join(re.findall(r'```bash\n(.*?)```', README, re.DOTALL)).splitlines()
    for line in lines:
        if not line.startswith(('pip install', 'make ')):  # run by hand, and by .ci/run
            program, name, *words = shlex.split(line, comments=True)
            assert program == 'ghost-det' and re.search(rf"ghost-det {name}\b|'{name}'", tests), name
            make_parser(name).parse_args(words)
