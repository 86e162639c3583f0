from __future__ import annotations

import json
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghost_det.deploy import Metadata
from ghost_det.errors import UserError
from tests.export.exported import METADATA

SOUND = json.loads(Metadata(**METADATA).to_json())


def test_what_is_written_is_read() -> None:
    metadata = Metadata(**METADATA | {'classes': ('Fußgänger', 'a "b" <c>'), 'score_threshold': 0})
    assert Metadata.from_json(metadata.to_json(), 'm.onnx') == metadata


def test_fields_of_later_versions_are_left_out() -> None:
    text = json.dumps({**SOUND, 'licence': 'Apache-2.0'})
    assert Metadata.from_json(text, 'm.onnx') == Metadata(**METADATA)


@pytest.mark.parametrize('name', [field.name for field in fields(Metadata) if field.name != 'format'])
def test_each_field_is_needed(name: str) -> None:
    text = json.dumps({key: value for key, value in SOUND.items() if key != name})
    with pytest.raises(UserError, match=f"m.onnx: .* have nothing as '{name}', .* export it again"):
        Metadata.from_json(text, 'm.onnx')


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('classes', []),
        ('classes', 'car'),
        ('classes', ['car', 1]),
        ('height', 0),
        ('height', 10**6),
        ('width', 320.5),
        ('width', True),
        ('dynamic', 0),
        ('size_divisor', '32'),
        ('pad_value', [1, 2]),
        ('pad_value', [1, 2, 256]),
        ('score_threshold', 1.5),
        ('score_threshold', float('nan')),
        ('iou_threshold', None),
        ('max_detections', -1),
        ('precision', 'int4'),
        ('precision', ['int8']),
        ('opset', {}),
    ],
)
def test_values_of_a_wrong_kind(name: str, value: object) -> None:
    with pytest.raises(UserError, match=f"as '{name}', and .* is wanted"):
        Metadata.from_json(json.dumps({**SOUND, name: value}), 'm.onnx')


@pytest.mark.parametrize('text', ['', '[]', '{', '[' * 100_000, 'null'])
def test_what_is_no_json_object(text: str) -> None:
    with pytest.raises(UserError, match='m.xml: its ghost_det metadata are no JSON object'):
        Metadata.from_json(text, 'm.xml')


def test_a_later_format() -> None:
    with pytest.raises(UserError, match='are of format 3, and this version reads format 2'):
        Metadata.from_json(json.dumps({**SOUND, 'format': 3}), 'm.xml')


def test_files_that_know_no_sizes_of_images_are_refused() -> None:
    with pytest.raises(UserError, match='older version, whose files lose boxes .* export it again'):
        Metadata.from_json(json.dumps({**SOUND, 'format': 1}), 'm.xml')


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(st.sampled_from(sorted(SOUND)), ANY_JSON)
def test_any_value_is_taken_or_refused(name: str, value: object) -> None:
    try:
        metadata = Metadata.from_json(json.dumps({**SOUND, name: value}), 'm.onnx')
    except UserError:
        return
    assert Metadata.from_json(metadata.to_json(), 'm.onnx') == metadata
