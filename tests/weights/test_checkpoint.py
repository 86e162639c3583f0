from __future__ import annotations

import os
import pickle
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer, MessageHub
from torch import nn

from ghost_det.errors import UserError
from ghost_det.weights.checkpoint import check_fits, checkpoint_classes, load_checkpoint


class Call:
    """Pickles as a call of ``function``, whose result gets ``state``."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.reduced = (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.reduced


def canary(path: Path) -> Call:
    """Makes a folder when it is unpickled."""
    return Call(os.mkdir, str(path))


def test_a_checkpoint_of_mmengine_is_read_completely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    monkeypatch.delitem(sys.modules, 'mmengine.logging')  # as if it were not installed
    got = load_checkpoint(tmp_path / 'a.pth')
    assert got['message_hub']['log_scalars']['train/loss']._log_history.tolist() == [1, 2, 3, 4]


RECONSTRUCT = np.empty(0).__reduce__()[0]
SCALAR = np.float64(1).__reduce__()[0]


@pytest.mark.parametrize(
    'evil',
    [
        canary(Path('executed')),
        Call(getattr, HistoryBuffer, '__init__'),
        Call(np.ndarray, (1,), 'O', b'A' * 8),
        Call(np.dtype, 'O'),
        Call(np.dtype, 'f8,O'),
        Call(SCALAR, np.dtype('O'), b'A' * 8),
        Call(RECONSTRUCT, np.ndarray, (1,), b'O', state=(1, (1,), np.dtype('O'), False, [b'A'])),
        Call(RECONSTRUCT, np.ndarray, (9,), b'b', state=(1, (9,), np.dtype('f8'), False, b'A' * 8)),
        Call(RECONSTRUCT, np.ndarray, (1,), b'b', state=(1, (1,), np.dtype('f8'), False, [1.0])),
    ],
)
def test_code_is_never_run_and_only_numbers_and_statistics_are_built(
    evil: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content = {'state_dict': {'weight': torch.zeros(1)}, 'x': evil}
    with open('evil.pth', 'wb') as file:
        pickle.dump(content['x'], file, protocol=4)
    with warnings.catch_warnings(), pytest.raises(UserError, match='could run code'):
        warnings.simplefilter('error')
        load_checkpoint('evil.pth')
    for is_zip in (True, False):  # as written since torch 1.6, and before
        torch.save(content, 'evil.pth', _use_new_zipfile_serialization=is_zip)
        with pytest.raises(UserError):
            load_checkpoint('evil.pth')
    assert not Path('executed').exists()


def test_arrays_and_scalars_of_numbers_are_read(tmp_path: Path) -> None:
    path = tmp_path / 'plain.pth'
    kinds = ('bool', 'int32', 'uint64', 'float32', '>f8', 'f2')
    arrays = [np.arange(6).astype(kind).reshape(2, 3) for kind in kinds]
    scalars = [np.float64(1.5), np.int64(-3), np.float32(0.25)]
    torch.save({'state_dict': {'weight': torch.zeros(1)}, 'arrays': arrays, 'scalars': scalars}, path)
    content = load_checkpoint(path)
    for got, want in zip(content['arrays'], arrays, strict=True):
        assert got.dtype == want.dtype.newbyteorder('=') and np.array_equal(got, want)
    assert content['scalars'] == scalars
    torch.save({**content, 'sum': content['arrays'][3] + 1}, path)
    again = torch.load(path, weights_only=False)
    assert type(again['arrays'][0]) is type(again['sum']) is np.ndarray


def test_a_flipped_bit_is_found_by_the_checksum(tmp_path: Path) -> None:
    path = tmp_path / 'a.pth'
    torch.save({'state_dict': {'w': torch.full((1000,), 3.0)}}, path)
    data = bytearray(path.read_bytes())
    data[data.index(b'\x00\x00\x40\x40' * 9) + 5] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match='damaged: its content does not match its checksums'):
        load_checkpoint(path)


def test_weights_that_do_not_fit_are_refused_with_the_first_tensors() -> None:
    model = nn.Linear(4, 2)
    check_fits(model, {'state_dict': model.state_dict()}, 'a.pth', 'c.py')
    check_fits(model, {'module.' + k: v for k, v in model.state_dict().items()}, 'a.pth', 'c.py')
    other = {'state_dict': nn.Linear(4, 3).state_dict(), 'meta': {'dataset_meta': {'classes': ('cat',)}}}
    with pytest.raises(UserError) as error:
        check_fits(model, other, 'a.pth', 'c.py')
    for part in ('a.pth', 'c.py', 'weight: expected (2, 4), got (3, 4)', '1 class (cat'):
        assert part in str(error.value)
    with pytest.raises(UserError, match='bias is missing'):
        check_fits(model, {'state_dict': {'weight': torch.rand(2, 4)}}, 'a.pth', 'c.py')
