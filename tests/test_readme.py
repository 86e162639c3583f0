"""What the README shows is what there is."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import DefaultScope

from ghost_det.commands import COMMANDS, make_parser
from tests.conftest import ROOT

README = (ROOT / 'README.md').read_text()


def test_the_backbone_in_ones_own_config(tmp_path: Path) -> None:
    (block,) = re.findall(r'```python\n(.*?)```', README, re.DOTALL)
    path = tmp_path / 'mine.py'
    path.write_text(block)
    DefaultScope.get_instance('ghost_det_readme', scope_name='mmdet')
    model = MODELS.build(Config.fromfile(path).model)
    assert type(model.backbone).__name__ == 'GhostNet'
    assert list(model.backbone.out_channels) == model.neck.in_channels


def options(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                yield from options(each)


def test_options_and_files_it_names_exist() -> None:
    shown = set(re.findall(r'--[a-z]+[0-9]?(?:-[a-z]+)*', README))
    known = {'--traceback', '--nproc-per-node'}  # of all tools; of torchrun
    for name in COMMANDS:
        known |= {*options(make_parser(name))}
    assert shown and not shown - known
    for path in re.findall(r'(?<![\w/])(?:configs|tools|docs)/[\w./-]+\.\w+', README):
        assert (ROOT / path).exists(), path


def test_make_targets_it_names_exist() -> None:
    targets = set(re.findall(r'make ([a-z]+)', README))
    makefile = (ROOT / 'Makefile').read_text()
    assert {'train', 'test'} <= targets
    assert all(re.search(rf'^{target}:', makefile, re.MULTILINE) for target in targets), targets
