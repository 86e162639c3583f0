from __future__ import annotations

import json
from pathlib import Path

from ghost_det.deploy import Metadata
from tests.conftest import Cli
from tests.demo.torch_files import save_torch
from tests.export.exported import METADATA, save


def test_a_file_and_configs_with_and_without_weights_are_timed(cli: Cli, tmp_path: Path) -> None:
    save(tmp_path / 'm.onnx', Metadata(**METADATA))
    save_torch(tmp_path)
    options = '--size 64 96 --threads 1 --rounds 3 --json found.json'
    done = cli(f'benchmark m.onnx light.py light.py light.pth {options}', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    printed = done.stdout
    assert '1 threads, 64 x 96 px, 3 rounds' in printed and 'torch 2.' in printed
    found = json.loads((tmp_path / 'found.json').read_text())
    assert list(found['models']) == ['m.onnx', 'light.py', 'light.py light.pth']
    assert found['models']['m.onnx']['ratio'] == {'low': 1, 'middle': 1, 'high': 1}
    for name, row in found['models'].items():
        low, middle, high = row['milliseconds'].values()
        assert 0 < low <= middle <= high and f'{middle:.1f} ({low:.1f}-{high:.1f})' in printed
        assert any(line.endswith(name) for line in printed.splitlines())
    assert found['machine']['cores'] > 0 and 'torch' in found['versions']
