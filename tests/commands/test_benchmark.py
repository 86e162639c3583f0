from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from ghost_det import commands
from ghost_det.commands.benchmark import pair
from ghost_det.deploy import Metadata
from ghost_det.errors import UserError
from tests.demo.torch_files import save_torch
from tests.export.exported import METADATA, save


def test_a_file_and_configs_with_and_without_weights_are_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / 'm.onnx', Metadata(**METADATA))
    config, checkpoint = save_torch(tmp_path)
    models = [str(tmp_path / 'm.onnx'), str(config), str(config), str(checkpoint)]
    options = f'--size 64 96 --threads 1 --rounds 3 --json {tmp_path}/found.json'.split()
    monkeypatch.setattr(sys, 'argv', ['ghost-det', 'benchmark', *models, *options])
    commands.main()
    printed = capsys.readouterr().out
    assert '1 threads, 64 x 96 px, 3 rounds' in printed and 'torch 2.' in printed
    found = json.loads((tmp_path / 'found.json').read_text())
    assert list(found['models']) == [models[0], models[1], f'{config} {checkpoint}']
    assert found['models'][models[0]]['ratio'] == {'low': 1, 'middle': 1, 'high': 1}
    for name, row in found['models'].items():
        low, middle, high = row['milliseconds'].values()
        assert 0 < low <= middle <= high and f'{middle:.1f} ({low:.1f}-{high:.1f})' in printed
        assert any(line.endswith(name) for line in printed.splitlines())
    assert found['machine']['cores'] > 0 and 'torch' in found['versions']


def test_a_checkpoint_belongs_to_the_config_before_it() -> None:
    assert pair(['a.xml', 'c.py', 'c.pth', 'd.py']) == {
        'a.xml': ('a.xml', None),
        'c.py c.pth': ('c.py', 'c.pth'),
        'd.py': ('d.py', None),
    }
    for words in (['c.pth'], ['a.xml', 'c.pth'], ['c.py', 'a.pth', 'b.pth'], ['a.xml', 'a.xml']):
        with pytest.raises(UserError, match='checkpoint|twice'):
            pair(words)
