"""Which classes and functions a pickle of weights may name, and our own reader, which knows no others.

Until torch 2.6, a crafted file could run code in spite of ``weights_only=True`` (CVE-2025-32434), so there
files are not given to ``torch.load`` at all.
"""

from __future__ import annotations

import argparse
import io
import pickle
import sys
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

SAFE_TORCH = torch.__version__ >= '2.6'  # compared as versions
"""Whether ``torch.load(weights_only=True)`` runs no code."""
MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
"""What files begin with that torch wrote before 1.6: a number, and the version of the format."""
KINDS = dict(Bool='bool', Byte='uint8', Char='int8', Short='int16', Int='int32', Long='int64')
KINDS |= dict(Half='float16', BFloat16='bfloat16', Float='float32', Double='float64')
DTYPES = {f'torch.{kind}Storage': getattr(torch, dtype) for kind, dtype in KINDS.items()}

# Besides tensors, timm saves its options and mmengine its histories of scalars, with NumPy arrays in them.
# What a pickle names is called with the pickle's arguments. NumPy's own constructors and the flags of its
# dtypes can turn bytes into pointers to objects: hence these stand-ins, which only build arrays of numbers.


def _history_buffer() -> Any:
    """Return mmengine's class, or one that only holds its data if mmengine was not imported."""
    return getattr(sys.modules.get('mmengine.logging'), 'HistoryBuffer', argparse.Namespace)


def _refuse(name: str) -> pickle.UnpicklingError:
    return pickle.UnpicklingError(f'Unsupported global: GLOBAL {name}')


def _getattr(owner: Any, name: str) -> Any:
    """Stand in for ``getattr``, by which a pickled `HistoryBuffer` refers to its statistics."""
    if owner is not _history_buffer() or name not in ('min', 'max', 'current', 'mean'):
        raise _refuse(f'getattr({owner!r}, {name!r})')
    return getattr(owner, name, None)


class _Dtype:
    """Stand in for ``numpy.dtype``; only numbers."""

    def __init__(self, name: str, *flags: Any) -> None:
        self.numpy = np.dtype(str(name))
        if self.numpy.kind not in 'biuf':
            raise _refuse(f'numpy.dtype({name!r})')

    def __setstate__(self, state: Any) -> None:
        if state[1] in ('<', '>'):
            self.numpy = self.numpy.newbyteorder(state[1])


class _Array(np.ndarray[Any, Any]):
    """Stand in for ``numpy.ndarray``: made empty by `_reconstruct`, then filled by ``__setstate__``."""

    def __new__(cls, *arguments: Any) -> _Array:
        raise _refuse('numpy.ndarray(...)')

    def __setstate__(self, state: Any) -> None:
        version, shape, dtype, is_fortran, data = state
        if self.size or not isinstance(dtype, _Dtype) or not isinstance(data, bytes):  # filled once only
            raise _refuse('numpy.ndarray.__setstate__')
        super().__setstate__((version, shape, dtype.numpy, is_fortran, data))

    def __reduce__(self) -> Any:
        return np.asarray(self).__reduce__()  # saved again, it is an ordinary array


def _reconstruct(*arguments: Any) -> _Array:
    return np.ndarray.__new__(_Array, (0,))


def _scalar(dtype: _Dtype, data: bytes) -> Any:
    return np.frombuffer(data, dtype.numpy, count=1)[0]


def plain_data() -> dict[str, Any]:
    """Return stand-ins for what pickled options, histories and arrays name, by that name."""
    return {
        'argparse.Namespace': argparse.Namespace,
        'mmengine.logging.history_buffer.HistoryBuffer': _history_buffer(),
        'builtins.getattr': _getattr,
        'numpy.ndarray': _Array,
        'numpy.dtype': _Dtype,
        **{f'numpy.{core}.multiarray._reconstruct': _reconstruct for core in ('core', '_core')},
        **{f'numpy.{core}.multiarray.scalar': _scalar for core in ('core', '_core')},
    }


def _encode(text: str, encoding: str) -> bytes:
    """Stand in for ``_codecs.encode``, by which Python 2 and its protocol write bytes."""
    if encoding != 'latin1':
        raise _refuse(f'_codecs.encode(..., {encoding!r})')
    return text.encode('latin1')


def _tensor(
    storage: Tensor, offset: int, size: Any, stride: Any, requires_grad: bool = False, hooks: Any = None
) -> Tensor:
    """Stand in for torch's function; a shape that the storage does not have is an error."""
    # Checked here, as torch's own check overflows with huge offsets.
    numbers = [offset, *size, *stride]
    if len(size) != len(stride) or not all(type(each) is int and each >= 0 for each in numbers):
        raise ValueError('not the shape of a tensor')
    last = offset + sum((count - 1) * step for count, step in zip(size, stride))
    if type(storage) is not Tensor or storage.dim() != 1 or (0 not in size and last >= len(storage)):
        raise ValueError('a tensor that is larger than its storage')
    return storage.as_strided(size, stride, offset if 0 not in size else 0)


def _parameter(tensor: Tensor, *settings: Any) -> Tensor:
    return tensor


PythonUnpickler: Any = pickle._Unpickler  # the one in Python, whose steps can be overridden


class _Reader(PythonUnpickler):
    """Knows the names of tensors and `plain_data`; gives a state only to plain data, so nothing is altered.

    ``storage`` returns the numbers that a persistent id of torch refers to, in one dimension.
    """

    dispatch = dict(PythonUnpickler.dispatch)

    def __init__(self, file: Any, storage: Callable[..., Tensor] | None = None) -> None:
        super().__init__(file, encoding='utf-8')
        self.storage = storage
        plain = plain_data()
        self.built = {OrderedDict, *(kind for kind in plain.values() if isinstance(kind, type))}
        self.known = plain | DTYPES | {str(dtype): dtype for dtype in DTYPES.values()}
        self.known |= {
            'collections.OrderedDict': OrderedDict,
            'torch._utils._rebuild_tensor_v2': _tensor,
            'torch._utils._rebuild_parameter': _parameter,
            'torch.Size': torch.Size,
            'torch.device': torch.device,
            '_codecs.encode': _encode,
            '__builtin__.getattr': _getattr,  # Python 2's name, as in every file of torch.save
            'collections.Counter': Counter,  # milestones of a schedule
            **{f'{module}.set': set for module in ('builtins', '__builtin__')},
        }

    def find_class(self, module: str, name: str) -> Any:
        if f'{module}.{name}' not in self.known:
            raise _refuse(f'{module}.{name}')
        return self.known[f'{module}.{name}']

    def persistent_load(self, pid: Any) -> Tensor:
        kind, *about = pid
        if kind != 'storage' or self.storage is None:
            raise _refuse(f'persistent_id({kind!r})')
        return self.storage(*about)

    def load_build(self) -> None:
        kind = type(self.stack[-2])
        has_slots = isinstance(self.stack[-1], tuple) and not hasattr(kind, '__setstate__')
        if kind not in self.built or has_slots:
            raise _refuse(f'{kind.__name__}.__setstate__')
        super().load_build()

    def load_reduce(self) -> None:
        if not any(self.stack[-2] is each for each in self.known.values()):
            raise _refuse(f'{self.stack[-2]!r}, called')
        super().load_reduce()

    def load_setitem(self) -> None:
        self._check_is_dict(self.stack[-3])
        super().load_setitem()

    def load_setitems(self) -> None:
        self._check_is_dict(self.metastack[-1][-1])
        super().load_setitems()

    def _check_is_dict(self, owner: Any) -> None:
        """Refuse items of tensors and arrays, whose memory others may share."""
        if not isinstance(owner, dict):
            raise _refuse(f'{type(owner).__name__}.__setitem__')

    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems


def read_torch_file(file: Any) -> Any:
    """Read what ``torch.save`` wrote to a binary file, onto the CPU, without ``torch.load``."""
    is_archive = zipfile.is_zipfile(file)
    file.seek(0)
    return _read_archive(file) if is_archive else _read_stream(file)


def _read_archive(file: Any) -> Any:
    storages: dict[str, Tensor] = {}

    def storage(dtype: torch.dtype, key: str, location: str, count: int) -> Tensor:
        if key not in storages:
            storages[key] = _bytes(archive.read(f'{root}/data/{key}'))
        return storages[key].view(dtype)

    with zipfile.ZipFile(file) as archive:
        root = archive.namelist()[0].partition('/')[0]
        if f'{root}/byteorder' in archive.namelist():  # since torch 2.1; written on another kind of machine
            _check_order(archive.read(f'{root}/byteorder').decode())
        return _Reader(io.BytesIO(archive.read(f'{root}/data.pkl')), storage).load()


def _read_stream(file: Any) -> Any:
    """Read the format before torch 1.6: pickles in a row, then the bytes of each storage after its length."""
    storages: dict[str, Tensor] = {}

    def storage(dtype: torch.dtype, key: str, location: str, count: int, view: None) -> Tensor:
        if view is not None:
            raise _refuse('view_metadata')  # none since torch 0.4
        return storages.setdefault(key, torch.empty(count, dtype=dtype))

    if file.read(len(MAGIC)) != MAGIC:
        raise pickle.UnpicklingError('Unsupported operand')
    _check_order('little' if _Reader(file).load()['little_endian'] else 'big')
    content = _Reader(file, storage).load()
    keys = _Reader(file).load()
    if set(keys) != set(storages):
        raise ValueError('storages are missing')
    for key in keys:
        file.read(8)
        numbers = storages[key].view(torch.uint8)
        data = file.read(len(numbers))
        if len(data) != len(numbers):
            raise ValueError('it ends too early')
        numbers.copy_(_bytes(data))
    return content


def _bytes(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)


def _check_order(found: str) -> None:
    if found != sys.byteorder:
        raise ValueError(f'written on a {found}-endian machine')
