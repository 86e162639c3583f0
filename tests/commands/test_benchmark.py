import re
from pathlib import Path

from ghost_det.deploy import Metadata
from tests.conftest import Cli
from tests.demo.torch_files import save_torch
from tests.export.exported import METADATA, save


def test_a_file_and_configs_with_and_without_weights_are_timed(cli: Cli, tmp_path: Path) -> None:
    save(tmp_path / 'm.onnx', Metadata(**METADATA))
    save_torch(tmp_path)
    options = '--size 64 96 --threads 1 --rounds 3'
    done = cli(f'benchmark m.onnx light.py light.py light.pth {options}', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert '1 threads, 64 x 96 px, 3 rounds' in done.stdout and 'torch 2.' in done.stdout
    rows = done.stdout.partition('model:\n')[2].splitlines()
    number = r'([\d.]+) \(([\d.]+)-([\d.]+)\)'
    for row, name in zip(rows, ('m.onnx', 'light.py', 'light.py light.pth'), strict=True):
        found = re.fullmatch(rf'  {number} +{number} +{name}', row)
        assert found, row
        middle, low, high, ratio, *_ = map(float, found.groups())
        assert 0 < low <= middle <= high and (name != 'm.onnx' or ratio == 1)
