"""Mutated annotations and checkpoints: each is read or refused by a `UserError`, and nothing is run.

The same examples in each run of the tests; ``HYPOTHESIS_PROFILE=long`` tries thousands of others, for hours.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import pickletools
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from mmdet.datasets import CocoDataset
from safetensors.torch import save

from ghost_det.data.annotations import read_annotations
from ghost_det.data.dataset import aligned_annotations, class_names, find_data
from ghost_det.errors import UserError
from ghost_det.weights.checkpoint import load_checkpoint
from ghost_det.weights.zoo import verify

COMMON: dict[str, Any] = dict(deadline=None, suppress_health_check=list(HealthCheck))
settings.register_profile('ci', derandomize=True, database=None, max_examples=60, **COMMON)
settings.register_profile('long', max_examples=10_000, **COMMON)
settings.load_profile(os.environ.get('HYPOTHESIS_PROFILE', 'ci'))

BOX = dict(category_id=3, bbox=[1.5, 2, 30, 20], area=600, iscrowd=0, segmentation=[[1, 2, 30, 2, 30, 20]])
GOOD: dict[str, Any] = {
    'images': [{'id': n, 'file_name': f'{n}.jpg', 'width': 64, 'height': 48} for n in (1, 2)],
    'annotations': [{**BOX, 'id': n, 'image_id': 1 + n % 2} for n in (1, 2, 3)],
    'categories': [{'id': n, 'name': f'class {n}', 'supercategory': 'thing'} for n in (3, 4)],
}
SPECIAL = [None, True, 0, -1, 2**31, 2**63, 10**30, 10**400, 1e39, 1e308, '1', '', '\0', '\ud800', '../x']
VALUES = st.recursive(
    st.sampled_from(SPECIAL) | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
)


def places(content: Any) -> list[tuple[Any, Any]]:
    """Return each list or dictionary inside, with each of its keys."""
    keys = content if isinstance(content, dict) else range(len(content) if isinstance(content, list) else 0)
    found = [(content, key) for key in keys]
    return [*found, *(place for key in keys for place in places(content[key]))]


@st.composite
def annotations(draw: Any) -> bytes:
    """A valid file in which up to three values are others or missing."""
    content = copy.deepcopy(GOOD)
    for _ in range(draw(st.integers(1, 3))):
        node, key = draw(st.sampled_from(places(content)))
        if draw(st.integers(0, 4)):
            node[key] = draw(VALUES)
        else:
            del node[key]
    text = json.dumps(content, ensure_ascii=draw(st.booleans()))
    return text.encode(draw(st.sampled_from(['utf-8', 'utf-8-sig', 'utf-16'])), 'surrogatepass')


@st.composite
def mutated(draw: Any, data: bytes) -> bytes:
    """Bytes with some replaced, removed or inserted."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, max(0, len(changed) - 1)))
        removed = draw(st.sampled_from([0, 1, 1, 1, 2, 8, 100]))
        changed[at : at + removed] = draw(st.binary(max_size=max(removed, 4)))
    return bytes(changed)


@given(annotations() | VALUES.map(json.dumps).map(str.encode) | mutated(json.dumps(GOOD).encode()))
@example(json.dumps({**GOOD, 'annotations': [{**GOOD['annotations'][0], 'area': 'x', 'id': {}}]}).encode())
@example(b'{"info": "\xed\xa0\x80", ' + json.dumps(GOOD).encode()[1:])
@example(b'[' * 100_000)
@example(b'{"images": [' + b'9' * 5000 + b']}')
def test_annotations_are_read_as_mmdet_can_or_refused(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        path, images = Path(name) / 'train.json', Path(name) / 'images'
        path.write_bytes(data)
        images.mkdir()
        (images / '1.jpg').touch()
        with contextlib.suppress(UserError):
            find_data(None, path, images, path, images)
        try:
            read_annotations(path)
            classes = class_names(path)
            aligned = aligned_annotations(path, classes, Path(name) / 'aligned')
        except UserError as error:
            assert str(path) in str(error) and len(str(error)) < 2000
            return
        dataset = CocoDataset(ann_file=str(aligned), data_prefix={'img': name}, metainfo={'classes': classes})
        for instance in (instance for entry in dataset for instance in entry['instances']):
            assert np.isfinite(np.array(instance['bbox'], np.float32)).all()
            assert 0 <= instance['bbox_label'] < len(classes)


CHECKPOINT = io.BytesIO()
STATE = {'backbone.conv_stem.weight': torch.zeros(4, 3, 3, 3), 'n': torch.tensor(1)}
HISTORY = {'x': np.float64(1), 'y': np.arange(3)}
torch.save({'state_dict': STATE, 'meta': {'epoch': 1}, 'message_hub': HISTORY}, CHECKPOINT)
with zipfile.ZipFile(CHECKPOINT) as archive:
    PARTS = {part.filename: archive.read(part) for part in archive.infolist()}
PICKLE = next(name for name in PARTS if name.endswith('data.pkl'))
OPCODES = [position for _, _, position in pickletools.genops(PARTS[PICKLE]) if position]
CALLS = [
    *(f'c{name}\n(X\x08\0\0\0executedtR'.encode() for name in ('os\nmkdir', 'posix\nmkdir', 'pathlib\nPath')),
    b'cbuiltins\ngetattr\ncos\nX\x05\0\0\0mkdir\x86R',
    b'cbuiltins\neval\n(X\x0d\0\0\0open("x", "w")tR',
    b'cnumpy\nndarray\n(K\x05tR',
    b'cnumpy\ndtype\n(X\x01\0\0\0OtR',
    *(bytes([code]) for code in b'0123NKJ.()]}ehqrtRbcQcsu\x81\x85\x86\x87\x88\x92\x93\x94'),
]


@st.composite
def repacked(draw: Any) -> bytes:
    """An intact archive with another pickle in it."""
    body = bytearray(PARTS[PICKLE])
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.sampled_from(OPCODES))
        body[at : at + draw(st.sampled_from([0, 0, 1, 2]))] = draw(st.sampled_from(CALLS))
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as archive:
        for name, content in {**PARTS, PICKLE: bytes(body)}.items():
            archive.writestr(name, content)
    return file.getvalue()


SAFETENSORS = save({'blocks.0.0.ghost1.primary': torch.zeros(2, 3), 'b': torch.ones(2)})


@given(repacked() | repacked() | mutated(CHECKPOINT.getvalue()) | mutated(SAFETENSORS))
def test_checkpoints_are_read_or_refused_and_never_run(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path('a.pth').write_bytes(data)
        for read in (load_checkpoint, verify):
            with contextlib.suppress(UserError):
                read(Path('a.pth'))
        assert os.listdir() == ['a.pth']
