from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip('mmdet')

from ghost_det.demo.maps import draw_all
from tests.export.settled import canvases

from .torch_files import save_torch


def test_ghosts_similar_maps_and_levels_are_drawn(tmp_path: Path) -> None:
    Image.fromarray(canvases(1)[0]).save(tmp_path / 'x.png')
    found = list(draw_all(tmp_path / 'x.png', *map(str, save_torch(tmp_path))))
    assert len({caption for _, caption in found}) == len(found) == 3
    assert all(picture.width > 800 for picture, _ in found)
