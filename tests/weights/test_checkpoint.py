from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.runner import CheckpointLoader
from torch import nn

from ghost_det.engine.loading import safe_loading
from ghost_det.errors import UserError
from ghost_det.models import GhostNet
from ghost_det.weights.checkpoint import check_fits, checkpoint_classes, load_checkpoint
from tests.conftest import ROOT


class Canary:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


class Borrower:
    """Asks ``getattr``, which histories need, for something else."""

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (HistoryBuffer, '__init__')


def test_a_checkpoint_of_mmengine_is_read_completely(tmp_path: Path) -> None:
    hub = MessageHub.get_instance(f'test_{tmp_path.name}')
    for value in (1.0, np.float32(2), np.float64(3), torch.tensor(4.0)):
        hub.update_scalar('train/loss', value)
    content = {
        'state_dict': {'weight': torch.rand(3)},
        'message_hub': hub.state_dict(),
        'meta': {'epoch': 1, 'dataset_meta': {'classes': ('cat', 'dog'), 'palette': [(1, 2, 3)]}},
        'param_schedulers': [{'last_step': 3}],
    }
    torch.save(content, tmp_path / 'a.pth')
    got = load_checkpoint(tmp_path / 'a.pth')
    assert torch.equal(got['state_dict']['weight'], content['state_dict']['weight'])
    assert got['message_hub']['log_scalars']['train/loss'].data[0].tolist() == [1, 2, 3, 4]
    assert checkpoint_classes(got) == ('cat', 'dog')
    assert checkpoint_classes({'state_dict': {}}) is None


WITHOUT_MMENGINE = """
import sys
sys.modules.update(dict.fromkeys(('mmengine', 'mmcv', 'mmdet')))
from ghost_det import load_pretrained, ghostnet_050
from ghost_det.models import GhostNet
from ghost_det.weights.checkpoint import load_checkpoint
path = sys.argv[1]
history = load_checkpoint(path)['message_hub']['log_scalars']['train/loss']
assert history._log_history.tolist() == [1.0, 2.0]
print(load_pretrained(GhostNet(width=0.5), path))
assert ghostnet_050(num_classes=2).classifier.out_features == 2
"""


def test_a_checkpoint_of_mmengine_is_read_without_mmengine(tmp_path: Path) -> None:
    hub = MessageHub.get_instance(f'test_{tmp_path.name}')
    for value in (1.0, 2.0):
        hub.update_scalar('train/loss', value)
    weights = {f'backbone.{key}': value for key, value in GhostNet(width=0.5).state_dict().items()}
    torch.save({'state_dict': weights, 'message_hub': hub.state_dict()}, tmp_path / 'a.pth')
    done = subprocess.run(
        [sys.executable, '-c', WITHOUT_MMENGINE, tmp_path / 'a.pth'],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0 and '502 of 502 tensors' in done.stdout, done.stderr


@pytest.mark.parametrize('place', ['meta', 'state_dict', 'message_hub', 'top'])
def test_code_in_a_checkpoint_is_never_run(tmp_path: Path, place: str) -> None:
    trap = Canary(tmp_path / 'executed')
    torch.save(trap if place == 'top' else {'state_dict': {}, place: {'x': trap}}, tmp_path / 'a.pth')
    with pytest.raises(UserError, match='refused: it holds .*mkdir'):
        load_checkpoint(tmp_path / 'a.pth')
    with pytest.raises(UserError, match='refused'), safe_loading():
        CheckpointLoader.load_checkpoint(str(tmp_path / 'a.pth'))
    assert not (tmp_path / 'executed').exists()


def test_only_statistics_are_attributes_that_it_reads(tmp_path: Path) -> None:
    torch.save({'x': Borrower()}, tmp_path / 'a.pth')
    with pytest.raises(UserError, match='refused: it holds getattr'):
        load_checkpoint(tmp_path / 'a.pth')


def test_files_that_are_no_checkpoints_are_named(tmp_path: Path) -> None:
    whole = tmp_path / 'whole.pth'
    torch.save({'state_dict': {'w': torch.rand(1000)}}, whole)
    cut = tmp_path / 'cut.pth'
    cut.write_bytes(whole.read_bytes()[:2000])
    page = tmp_path / 'page.pth'
    page.write_text('<!DOCTYPE html><html>404</html>')
    empty = tmp_path / 'empty.pth'
    empty.touch()
    listed = tmp_path / 'list.pth'
    torch.save([1, 2], listed)
    for path, message in (
        (tmp_path / 'none.pth', 'found nothing'),
        (tmp_path, 'found a folder'),
        (cut, 'not a checkpoint that torch can read'),
        (page, 'not a checkpoint that torch can read'),
        (empty, 'not a checkpoint that torch can read'),
        (listed, 'found list'),
    ):
        with pytest.raises(UserError, match=message) as error:
            load_checkpoint(path)
        assert str(path) in str(error.value)


def test_weights_that_do_not_fit_are_refused_with_the_first_tensors(tmp_path: Path) -> None:
    model = nn.Linear(4, 2)
    check_fits(model, {'state_dict': model.state_dict()}, 'a.pth', 'c.py')
    check_fits(model, {'module.' + k: v for k, v in model.state_dict().items()}, 'a.pth', 'c.py')
    other = {'state_dict': nn.Linear(4, 3).state_dict(), 'meta': {'dataset_meta': {'classes': ('cat',)}}}
    with pytest.raises(UserError) as error:
        check_fits(model, other, 'a.pth', 'c.py')
    for piece in (
        'a.pth',
        'c.py',
        '2 of 2 tensors',
        'weight: expected (2, 4), got (3, 4)',
        '1 class (cat',
    ):
        assert piece in str(error.value)
    with pytest.raises(UserError, match='bias is missing'):
        check_fits(model, {'state_dict': {'weight': torch.rand(2, 4)}}, 'a.pth', 'c.py')


class Call:
    """Pickles as a call of ``function``, whose result gets ``state``."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.reduced = (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.reduced


RECONSTRUCT = np.empty(0).__reduce__()[0]
SCALAR = np.float64(1).__reduce__()[0]


@pytest.mark.parametrize(
    'evil',
    [
        Call(np.ndarray, (1,), 'O', b'A' * 8),
        Call(np.ndarray, (1,), 'f8', b'A' * 8),
        Call(np.dtype, 'O'),
        Call(np.dtype, 'V8'),
        Call(np.dtype, 'f8,O'),
        Call(SCALAR, np.dtype('O'), b'A' * 8),
        Call(RECONSTRUCT, np.ndarray, (1,), b'O', state=(1, (1,), np.dtype('O'), False, [b'A'])),
        Call(RECONSTRUCT, np.ndarray, (9,), b'b', state=(1, (9,), np.dtype('f8'), False, b'A' * 8)),
        Call(RECONSTRUCT, np.ndarray, (1,), b'b', state=(1, (1,), np.dtype('f8'), False, [1.0])),
    ],
)
def test_memory_is_not_taken_for_numbers_or_objects(evil: Call, tmp_path: Path) -> None:
    path = tmp_path / 'evil.pth'
    torch.save({'state_dict': {'weight': torch.zeros(1)}, 'x': evil}, path)
    with pytest.raises(UserError):
        load_checkpoint(path)


def test_arrays_and_scalars_of_numbers_are_read(tmp_path: Path) -> None:
    path = tmp_path / 'plain.pth'
    arrays = [
        np.arange(6).astype(kind).reshape(2, 3)
        for kind in ('bool', 'int32', 'uint64', 'float32', '>f8', 'f2')
    ]
    scalars = [np.float64(1.5), np.int64(-3), np.float32(0.25)]
    torch.save({'state_dict': {'weight': torch.zeros(1)}, 'arrays': arrays, 'scalars': scalars}, path)
    content = load_checkpoint(path)
    for got, want in zip(content['arrays'], arrays, strict=True):
        assert got.dtype == want.dtype.newbyteorder('=') and np.array_equal(got, want)
    assert content['scalars'] == scalars
    torch.save({**content, 'sum': content['arrays'][3] + 1}, path)
    again = torch.load(path, weights_only=False)
    assert type(again['arrays'][0]) is type(again['sum']) is np.ndarray
