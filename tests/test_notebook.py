"""The quickstart notebook runs from top to bottom, and is committed as it ran."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

NOTEBOOK = ROOT / 'docs/quickstart.ipynb'


def printed(cells: list[Any]) -> str:
    return ''.join(''.join(output.get('text', '')) for cell in cells for output in cell.get('outputs', []))


def test_it_is_committed_as_it_ran() -> None:
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())['cells'] if cell['cell_type'] == 'code']
    assert [cell['execution_count'] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell['outputs']]
    assert not [output for output in outputs if output['output_type'] == 'error']
    assert sum('image/jpeg' in output.get('data', {}) for output in outputs) == 4
    assert 'boxes matched' in printed(cells) and NOTEBOOK.stat().st_size < 400_000


@pytest.mark.slow
def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat, nbclient = map(pytest.importorskip, ('nbformat', 'nbclient'))
    pytest.importorskip('ipykernel')
    monkeypatch.setenv('TMPDIR', str(tmp_path))
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    monkeypatch.chdir(tmp_path)
    nbclient.NotebookClient(notebook, timeout=900, kernel_name='python3').execute()
    (scalars,) = tmp_path.glob('ghost-det-*/trained/*/vis_data/scalars.json')
    losses = [row['loss'] for row in map(json.loads, scalars.read_text().splitlines()) if 'loss' in row]
    assert losses[-1] < 0.8 * losses[0]
    lines = printed([cell for cell in notebook.cells if cell.cell_type == 'code'][-1:]).strip().splitlines()
    assert len(lines) == 4 and any(not line.endswith('none') for line in lines), lines
