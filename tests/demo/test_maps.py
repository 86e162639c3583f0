from __future__ import annotations

import base64
import re
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip('mmdet')

from ghost_det.demo.maps import draw_all
from ghost_det.errors import UserError
from tests.export.settled import canvases

from .torch_files import PLAIN, save_torch


@pytest.fixture
def image(tmp_path: Path) -> Path:
    Image.fromarray(canvases(1)[0]).save(tmp_path / 'x.png')
    return tmp_path / 'x.png'


def pictures(page: str) -> list[Image.Image]:
    return [
        Image.open(BytesIO(base64.b64decode(data)))
        for data in re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    ]


def test_all_parts_of_a_ghost_detector(image: Path, tmp_path: Path) -> None:
    page = draw_all(image, *map(str, save_torch(tmp_path)))
    captions = re.findall('<figcaption>(.*?)</figcaption>', page)
    assert [caption.split(': ')[-1] for caption in captions] == [
        'maps, and the ghosts made of them',
        'pairs of maps, of which a 3 x 3 kernel makes one of the other',
        'How strongly each level of the neck answers',
    ]
    assert len({picture.tobytes() for picture in pictures(page)}) == 3
    assert {picture.width for picture in pictures(page)} == {1260}


def test_what_cannot_be_drawn_is_a_line_and_the_rest_is_drawn(image: Path, tmp_path: Path) -> None:
    config, checkpoint = map(str, save_torch(tmp_path, **PLAIN))
    page = draw_all(image, config, checkpoint)
    assert page.startswith('<p>light: has no ghost modules') and len(pictures(page)) == 2
    (tmp_path / 'text.png').write_text('no image')
    with pytest.raises(UserError, match=r'text\.png: no image that can be decoded'):
        draw_all(tmp_path / 'text.png', config, checkpoint)
