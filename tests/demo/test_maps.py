from __future__ import annotations

import base64
import re
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip('mmdet')

from ghost_det.demo.maps import draw_all
from tests.export.settled import canvases

from .torch_files import PLAIN, save_torch


def test_ghosts_similar_maps_and_levels_are_drawn_where_the_network_has_them(tmp_path: Path) -> None:
    Image.fromarray(canvases(1)[0]).save(tmp_path / 'x.png')
    for options, count in (({}, 3), (PLAIN, 2)):
        folder = tmp_path / str(count)
        folder.mkdir()
        page = draw_all(tmp_path / 'x.png', *map(str, save_torch(folder, **options)))
        found = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
        assert len(set(found)) == page.count('<figcaption>') == count
        assert {Image.open(BytesIO(base64.b64decode(data))).width for data in found} == {1260}
        assert page.startswith('<p>light: has no ghost modules') == (count == 2)
