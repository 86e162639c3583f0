from __future__ import annotations

import json
from dataclasses import fields

import pytest

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
    with pytest.raises(UserError, match=f"m.onnx: .* has None as '{name}', .* export it again"):
        Metadata.from_json(text, 'm.onnx')


@pytest.mark.parametrize(
    ('name', 'value'),
    [('classes', 'car'), ('width', 320.5), ('dynamic', 0), ('iou_threshold', None), ('precision', ['int8'])],
)
def test_values_of_a_wrong_kind(name: str, value: object) -> None:
    with pytest.raises(UserError, match=f"as '{name}', expected "):
        Metadata.from_json(json.dumps({**SOUND, name: value}), 'm.onnx')


@pytest.mark.parametrize('text', ['', '[1]', '{', '[' * 100_000, 'null'])
def test_what_is_no_json_object(text: str) -> None:
    with pytest.raises(UserError, match='m.xml: its ghost_det metadata is no JSON object'):
        Metadata.from_json(text, 'm.xml')


@pytest.mark.parametrize('other', [1, 3, None])  # files of format 1 know no sizes of images
def test_files_of_another_format_are_refused(other: int | None) -> None:
    with pytest.raises(UserError, match=f'of format 2, got {other}: export it again'):
        Metadata.from_json(json.dumps({**SOUND, 'format': other}), 'm.xml')
