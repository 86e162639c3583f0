from __future__ import annotations

import json

import pytest

from ghost_det.deploy import Metadata
from ghost_det.errors import UserError
from tests.export.exported import METADATA

SOUND = json.loads(Metadata(**METADATA).to_json())


def test_the_text_is_read_back_and_further_fields_are_ignored() -> None:
    metadata = Metadata(**METADATA | {'classes': ('Fußgänger', 'a "b" <c>'), 'score_threshold': 0})
    text = json.dumps({**json.loads(metadata.to_json()), 'licence': 'Apache-2.0'})
    assert Metadata.from_json(text, 'm.onnx') == metadata


@pytest.mark.parametrize(
    'text',
    [
        *(None, '', '[1]', '{', 'null'),
        *(json.dumps({key: SOUND[key] for key in SOUND if key != name}) for name in ('width', 'classes')),
        *(json.dumps({**SOUND, 'format': other}) for other in (1, 3, None)),  # 1 has no sizes of images
        *(
            json.dumps({**SOUND, name: value})
            for name, value in (
                ('pad_value', [300, 0, 0]),
                ('width', 99999),
                ('keep_ratio', 'no'),
                ('iou_threshold', 5),
                ('precision', 'int4'),
                ('scale', []),
                ('scale', [64]),
            )
        ),
        json.dumps({**SOUND, 'keep_ratio': False, 'scale': [1000, 1000]}),
        json.dumps({**SOUND, 'strides': [16, 8], 'fill': [0, 0, 0]}),
    ],
)
def test_damaged_metadata_and_other_formats_are_refused(text: str | None) -> None:
    with pytest.raises(UserError, match='^m.xml: .*export it'):
        Metadata.from_json(text, 'm.xml')
