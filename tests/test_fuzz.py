"""Mutated annotations, checkpoints and options: each is read or refused by a `UserError`, and nothing is run.

The same examples in each run of the tests; ``HYPOTHESIS_PROFILE=long`` tries thousands of others, for hours.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import math
import os
import pickletools
import struct
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from mmdet.datasets import CocoDataset
from safetensors.torch import save

from ghost_det.commands._options import positive_float, positive_int
from ghost_det.data.annotations import read_annotations
from ghost_det.data.dataset import aligned_annotations, class_names, find_data
from ghost_det.errors import UserError
from ghost_det.swap.swap import parse_backbone
from ghost_det.weights.checkpoint import load_checkpoint
from ghost_det.weights.load import describe, own_tensors, read_tensors
from ghost_det.weights.zoo import verify

COMMON: dict[str, Any] = dict(deadline=None, suppress_health_check=list(HealthCheck))
settings.register_profile('ci', derandomize=True, database=None, max_examples=80, **COMMON)
settings.register_profile('long', max_examples=10_000, **COMMON)
settings.load_profile(os.environ.get('HYPOTHESIS_PROFILE', 'ci'))

GOOD: dict[str, Any] = {
    'info': {'year': 2026},
    'images': [{'id': n, 'file_name': f'{n}.jpg', 'width': 64, 'height': 48} for n in (1, 2)],
    'annotations': [
        {
            'id': n,
            'image_id': 1 + n % 2,
            'category_id': 3 + n % 2,
            'bbox': [1.5, 2, 30, 20],
            'area': 600,
            'iscrowd': 0,
            'segmentation': [[1, 2, 30, 2, 30, 20]],
        }
        for n in (1, 2, 3)
    ],
    'categories': [{'id': n, 'name': f'class {n}', 'supercategory': 'thing'} for n in (3, 4)],
}
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, -1, 1, 2**31, 2**63, -(2**63), 10**30, 10**400, 1e39, 1e308, -0.0])
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(['1', '', '\0', '\ud800', '../x', '/x', 'nan'])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
)


@st.composite
def annotations(draw: Any) -> bytes:
    """A valid file in which up to three values are others, missing or doubled; or other json; or none."""
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return json.dumps(draw(VALUES)).encode()
    content = copy.deepcopy(GOOD)
    for _ in range(draw(st.integers(1, 3))):
        node: Any = content
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(node[key], dict | list) and draw(st.integers(0, 4)):
                node = node[key]
                continue
            change = draw(st.sampled_from(['replace', 'replace', 'replace', 'remove', 'double']))
            if change == 'replace':
                node[key] = draw(VALUES)
            elif change == 'remove':
                del node[key]
            elif isinstance(node, list):
                node.append(copy.deepcopy(node[key]))
            break
    text = json.dumps(content, ensure_ascii=draw(st.booleans()))
    data = text.encode(
        draw(st.sampled_from(['utf-8', 'utf-8', 'utf-8-sig', 'utf-16', 'utf-32'])), 'surrogatepass'
    )
    return draw(mutated(data)) if kind == 1 else data


@st.composite
def mutated(draw: Any, data: bytes) -> bytes:
    """Bytes with some replaced, removed or inserted."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(0, len(changed) - 1)))
        removed = draw(st.sampled_from([0, 1, 1, 1, 2, 8, 100]))
        changed[at : at + removed] = draw(st.binary(max_size=max(removed, 4)))
    return bytes(changed)


@given(annotations())
@example(json.dumps({**GOOD, 'annotations': [{**GOOD['annotations'][0], 'area': 'x', 'id': {}}]}).encode())
@example(json.dumps({**GOOD, 'annotations': [{**GOOD['annotations'][0], 'iscrowd': [1]}]}).encode())
@example(b'{"info": "\xed\xa0\x80", ' + json.dumps(GOOD).encode()[1:])
@example(b'[' * 100_000)
@example(b'{"images": [' + b'9' * 5000 + b']}')
@example(b'\xff\xfe')
def test_annotations_are_read_as_mmdet_can_or_refused(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / 'train.json'
        path.write_bytes(data)
        (Path(name) / 'images').mkdir()
        for image in ('1.jpg', '2.jpg'):
            (Path(name) / 'images' / image).touch()
        with contextlib.suppress(UserError):
            find_data(None, path, Path(name) / 'images', path, Path(name) / 'images')
        try:
            read_annotations(path)
            classes = class_names(path)
            aligned = aligned_annotations(path, classes, Path(name) / 'aligned')
        except UserError as error:
            message = str(error)
            assert str(path) in message and len(message) < 2000
            return
        with contextlib.redirect_stdout(io.StringIO()):
            dataset = CocoDataset(
                ann_file=str(aligned), data_prefix={'img': name}, metainfo={'classes': classes}
            )
        for entry in dataset:
            for instance in entry['instances']:
                assert np.isfinite(np.array(instance['bbox'], np.float32)).all()
                assert 0 <= instance['bbox_label'] < len(classes)


def checkpoint_bytes() -> bytes:
    file = io.BytesIO()
    content = {
        'state_dict': {'backbone.conv_stem.weight': torch.zeros(4, 3, 3, 3), 'n': torch.tensor(1)},
        'meta': {'epoch': 1, 'dataset_meta': {'classes': ('a', 'b')}},
        'message_hub': {'x': np.float64(1), 'y': np.arange(3)},
    }
    torch.save(content, file)
    return file.getvalue()


CHECKPOINT = checkpoint_bytes()
with zipfile.ZipFile(io.BytesIO(CHECKPOINT)) as archive:
    PARTS = {part.filename: archive.read(part) for part in archive.infolist()}
PICKLE = next(name for name in PARTS if name.endswith('data.pkl'))
PLACES = [position for _, _, position in pickletools.genops(PARTS[PICKLE]) if position]
CALLS = [
    *(
        f'c{name}\n(X\x08\x00\x00\x00executedtR'.encode()
        for name in ('os\nmkdir', 'posix\nmkdir', 'pathlib\nPath')
    ),
    b'cbuiltins\ngetattr\ncos\nX\x05\x00\x00\x00mkdir\x86R',
    b'cbuiltins\neval\n(X\x0d\x00\x00\x00open("x", "w")tR',
    b'cbuiltins\nbytearray\n(\x8a\x05\x00\x00\x00\x00\x10tR',
    b'cnumpy\nndarray\n(\x8a\x05\x00\x00\x00\x00\x10tR',
    b'cnumpy\ndtype\n(X\x01\x00\x00\x00OtR',
    b'ctorch._utils\n_rebuild_tensor_v2\n(NK\x00(J\xff\xff\xff\x7ft(K\x00tNNtR',
    b'ctorch\nzeros\n(J\xff\xff\xff\x7ftR',
    *(bytes([code]) for code in b'0123NKJ.()]}ehqrtRbcQcsu\x81\x85\x86\x87\x88\x92\x93\x94'),
]


@st.composite
def checkpoints(draw: Any) -> bytes:
    """A checkpoint with other bytes; or whole, with another pickle in it."""
    if draw(st.integers(0, 2)) == 0:
        return draw(mutated(CHECKPOINT))
    body = bytearray(PARTS[PICKLE])
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.sampled_from(PLACES))
        body[at : at + draw(st.sampled_from([0, 0, 1, 2]))] = draw(
            st.sampled_from(CALLS) | st.binary(max_size=3)
        )
    file = io.BytesIO()
    with zipfile.ZipFile(
        file, 'w', draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
    ) as archive:
        for name, content in PARTS.items():
            archive.writestr(name, bytes(body) if name == PICKLE else content)
    return file.getvalue()


@st.composite
def safetensors_files(draw: Any) -> bytes:
    data = save({'blocks.0.0.ghost1.primary': torch.zeros(2, 3), 'b': torch.ones(2)})
    if draw(st.booleans()):
        return draw(mutated(data))
    length = struct.unpack('<Q', data[:8])[0]
    head = json.loads(data[8 : 8 + length])
    entry = head[draw(st.sampled_from(list(head)))]
    entry[draw(st.sampled_from([*entry, 'x']))] = draw(VALUES)
    text = json.dumps(head).encode()
    return (
        struct.pack('<Q', draw(st.sampled_from([len(text), len(text) + 8, 2**40, 2**63])))
        + text
        + data[8 + length :]
    )


def read_all(path: Path) -> None:
    """Read a file in each way that the tools do; no other error than a `UserError` comes out."""
    with contextlib.suppress(UserError):
        load_checkpoint(path)
    with contextlib.suppress(UserError):
        own, _ = own_tensors(read_tensors(path), None, str(path))
        describe(own)
        sum(float(value.double().sum()) for value in own.values() if value.is_floating_point())
    with contextlib.suppress(UserError):
        verify(path)


@given(
    data=checkpoints() | safetensors_files() | st.binary(max_size=64),
    name=st.sampled_from(['a.pth', 'a.safetensors']),
)
def test_checkpoints_are_read_or_refused_and_never_run(data: bytes, name: str) -> None:
    here = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            Path(name).write_bytes(data)
            read_all(Path(name))
            assert os.listdir() == [name]
        finally:
            os.chdir(here)


@given(st.text() | st.integers().map(str) | st.floats().map(str))
@example('nan')
@example('1' * 5000)
def test_numbers_of_the_command_line(text: str) -> None:
    with contextlib.suppress(argparse.ArgumentTypeError):
        assert positive_int(text) >= 1
    with contextlib.suppress(argparse.ArgumentTypeError):
        assert 0 < positive_float(text) < math.inf
    with contextlib.suppress(UserError):
        name, options = parse_backbone(f'GhostNet:{text}')
        assert name == 'GhostNet' and all(0 < width < math.inf for width in options.values())
