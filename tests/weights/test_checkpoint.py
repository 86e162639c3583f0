from __future__ import annotations

import argparse
import os
import pickle
import sys
import tarfile
import warnings
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer, MessageHub
from torch import nn

from ghost_det.errors import UserError
from ghost_det.weights import checkpoint
from ghost_det.weights.checkpoint import check_fits, checkpoint_classes, load_checkpoint
from ghost_det.weights.pickles import SAFE_TORCH


class Call:
    """Pickles as a call of ``function``, whose result gets ``state``."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.reduced = (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.reduced


def canary(path: Path) -> Call:
    """Makes a folder when it is unpickled."""
    return Call(os.mkdir, str(path))


@pytest.fixture(autouse=True, params=['torch', 'ours'])
def reader(request: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's own reader, and ours, which old versions of torch need."""
    if request.param == 'torch' and not SAFE_TORCH:
        pytest.skip(f'torch {torch.__version__}: weights_only=True is safe from 2.6 on')
    monkeypatch.setattr(checkpoint, 'SAFE_TORCH', request.param == 'torch')


def test_a_checkpoint_of_mmengine_is_read_completely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = MessageHub.get_instance(f'test_{tmp_path.name}')
    for value in (1.0, np.float32(2), np.float64(3), torch.tensor(4.0)):
        hub.update_scalar('train/loss', value)
    weight = nn.Parameter(torch.rand(3))
    weight.sum().backward()
    (optimizer := torch.optim.AdamW([weight])).step()
    content = {
        'state_dict': {'weight': weight},
        'message_hub': hub.state_dict(),
        'meta': {'epoch': 1, 'dataset_meta': {'classes': ('cat', 'dog'), 'palette': [(1, 2, 3)]}},
        'param_schedulers': [{'last_step': 3, 'milestones': Counter([8, 11])}],
        'optimizer': optimizer.state_dict(),
    }
    torch.save(content, tmp_path / 'a.pth')
    got = load_checkpoint(tmp_path / 'a.pth')
    assert torch.equal(got['state_dict']['weight'], content['state_dict']['weight'])
    assert got['message_hub']['log_scalars']['train/loss'].data[0].tolist() == [1, 2, 3, 4]
    assert torch.equal(got['optimizer']['state'][0]['exp_avg'], optimizer.state[weight]['exp_avg'])
    assert got['param_schedulers'] == content['param_schedulers']
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
        Call(torch.jit.load, 'x.pt'),
        Call(torch.hub.load_state_dict_from_url, 'x.pt'),
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


def text(value: str) -> bytes:
    return b'X' + len(value).to_bytes(4, 'little') + value.encode()


BUFFER = b'cmmengine.logging.history_buffer\nHistoryBuffer\n'
STATISTIC = b'c__builtin__\ngetattr\n(' + BUFFER + text('min') + b'tR'
SET_X = b'N}' + text('x') + b'K\x01s\x86b'  # BUILD with (None, {'x': 1}), by setattr
STORED = b'(' + text('storage') + b'ctorch\nFloatStorage\n' + text('0') + text('cpu') + b'K\x02tQ'
TENSOR = b'ctorch._utils\n_rebuild_tensor_v2\n(' + STORED


@pytest.mark.parametrize(
    'pickled',
    [
        BUFFER + SET_X,
        b'cargparse\nNamespace\n' + SET_X,
        b'ccollections\nCounter\n' + SET_X,
        b'cnumpy\nndarray\n' + SET_X,
        b'ctorch\nTensor\n' + SET_X,
        b'ctorch._utils\n_rebuild_tensor_v2\n' + SET_X,
        b'c__builtin__\ngetattr\n' + SET_X,
        STATISTIC + SET_X,
        b'c__builtin__\ngetattr\n(' + STATISTIC + text('__globals__') + b'tR',
        text('argparse') + text('Namespace.__init__') + b'\x93',
        b'(' + text('module') + b'cargparse\nNamespace\n' + text('x.py') + text('y') + b'tQ',
        b'c__torch__\nNet\n)\x81}b',  # TorchScript
        TENSOR + b'K\x00(K\x09t(K\x01t\x89}tR',
        TENSOR + b'K\x02(K\x01t(K\x01t\x89}tR',
        TENSOR + b'J\xff\xff\xff\xff(K\x01t(K\x01t\x89}tR',
        TENSOR + b'K\x00(K\x02t(J\xff\xff\xff\x7ft\x89}tR',
        TENSOR + b'K\x00(K\x02t(J\xff\xff\xff\xfft\x89}tR',
        TENSOR + b'\x8a\x08\xf0\xff\xff\xff\xff\xff\xff\x7f(K\x01t(K\x01t\x89}tR',  # offset 2**63 - 16
        TENSOR + b'K\x00(K\x02t(K\x01t\x89}tRK\x00G?\xf0\x00\x00\x00\x00\x00\x00s',  # an item is set
        TENSOR.replace(text('0'), text('../0')) + b'K\x00(K\x01t(K\x01t\x89}tR',
    ],
)
def test_a_pickle_alters_nothing_and_sees_no_memory_but_its_own(pickled: bytes, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / 'evil.pth', 'w') as archive:
        archive.writestr('a/data.pkl', b'\x80\x02}' + text('x') + pickled + b's.')
        archive.writestr('a/data/0', b'12345678')
        archive.writestr('a/version', b'3\n')
    with pytest.raises(UserError):
        load_checkpoint(tmp_path / 'evil.pth')
    kinds = (argparse.Namespace, Counter, torch.Tensor, torch._utils._rebuild_tensor_v2, HistoryBuffer)
    assert not any(hasattr(kind, 'x') for kind in (*kinds, HistoryBuffer.min))


def test_the_same_archive_with_an_honest_tensor_is_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / 'a.pth', 'w') as archive:
        tensor = TENSOR + b'K\x00(K\x02t(K\x01t\x89}tR'
        archive.writestr('a/data.pkl', b'\x80\x02}' + text('x') + tensor + b's.')
        archive.writestr('a/data/0', np.float32([1, 2]).tobytes())
        archive.writestr('a/version', b'3\n')
    assert load_checkpoint(tmp_path / 'a.pth')['x'].tolist() == [1, 2]


def test_a_cut_file_of_the_format_before_zip_is_refused(tmp_path: Path) -> None:
    torch.save({'x': torch.rand(3)}, tmp_path / 'a.pth', _use_new_zipfile_serialization=False)
    content = (tmp_path / 'a.pth').read_bytes()
    (tmp_path / 'cut.pth').write_bytes(content[:-11])  # one byte of the storage remains
    with pytest.raises(UserError):
        load_checkpoint(tmp_path / 'cut.pth')


def test_old_tar_files_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / 'old.tar', 'w') as archive:
        archive.addfile(tarfile.TarInfo('storages'))
    with pytest.raises(UserError, match='could run code|not a checkpoint'):
        load_checkpoint(tmp_path / 'old.tar')


@pytest.mark.parametrize('is_zip', [True, False])
def test_tensors_of_all_kinds_share_storages_as_they_did(is_zip: bool, tmp_path: Path) -> None:
    path = tmp_path / 'a.pth'
    base = torch.arange(12.0).reshape(3, 4)
    kinds = ('float16', 'bfloat16', 'float64', 'int64', 'uint8', 'bool')
    content = {kind: torch.ones(2, 3, dtype=getattr(torch, kind)) for kind in kinds}
    content |= {'base': base, 'view': base[1:, ::2], 'turned': base.T, 'one': base[0, 1]}
    content['empty'] = torch.zeros(0, 3)
    torch.save(content, path, _use_new_zipfile_serialization=is_zip)
    got = load_checkpoint(path)
    for key, value in content.items():
        assert torch.equal(got[key], value) and got[key].dtype == value.dtype
    got['base'][1, 2] = -1
    assert got['view'][0, 1] == -1


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
