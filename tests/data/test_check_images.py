"""Opening images: what mmcv loads of them, and decoders that crash."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import mmcv
import numpy as np
import pytest
from PIL import Image

from ghost_det.data.checks.images import open_images
from ghost_det.utils.images import read_image
from tests.conftest import ROOT

from .faults import save_tagged

NAMES = 'a.jpg a.mpo a.png a.tif a.webp a.avif a.bmp a.gif xmp.jpg xmp.webp xmp.tif'.split()


@pytest.mark.filterwarnings('ignore:Corrupt EXIF data')
def test_sizes_and_pixels_are_those_that_mmcv_loads(tmp_path: Path) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (6, 8, 3), np.uint8)).resize((64, 48))
    for orientation in range(1, 9):
        (tmp_path / str(orientation)).mkdir()
        for name in NAMES:
            save_tagged(picture, tmp_path / str(orientation) / name, orientation)
    for number, exif in enumerate([b'garbage', b'II', b'II*\0\xff\xff\xff\x7f']):
        for suffix in ('.jpg', '.png', '.webp'):
            picture.save(tmp_path / f'{number}{suffix}', exif=b'Exif\0\0' + exif)
    picture.save(tmp_path / 'bmp.jpg', 'BMP')
    paths = sorted(tmp_path.rglob('*.*'))
    for path, facts in zip(paths, open_images(paths, 1), strict=True):
        loaded = mmcv.imfrombytes(path.read_bytes())  # as LoadImageFromFile does
        assert 'error' not in facts and tuple(facts['loaded']) == loaded.shape[1::-1], path
        np.testing.assert_array_equal(read_image(path), loaded)


def test_images_that_mmcv_does_not_read_are_errors(tmp_path: Path) -> None:
    picture = Image.new('RGB', (64, 48))
    picture.save(tmp_path / '0.tif', compression='zstd')  # which Pillow decodes
    picture.convert('CMYK').save(tmp_path / '1.jp2')
    picture.save(tmp_path / '2.jpg', 'PCX')
    paths = sorted(tmp_path.iterdir())
    assert all('error' in each for each in open_images(paths, 1))
    assert all(mmcv.imfrombytes(path.read_bytes()) is None for path in paths)


def test_a_decoder_that_crashes_costs_one_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = 'path not in "17" or os._exit(9); print(json.dumps({"hash": path}), flush=True)'
    (tmp_path / 'script.py').write_text(
        f'import json, os, sys\nfor path in json.load(sys.stdin):\n    {lines}'
    )
    monkeypatch.setattr('ghost_det.data.checks.images.image_facts.__file__', str(tmp_path / 'script.py'))
    facts = open_images([Path(str(n)) for n in range(8)], 2)
    assert [each.get('hash') for each in facts] == ['0', None, '2', '3', '4', '5', '6', None]
    assert 'exit code 9' in facts[1]['error'] and open_images([], 2) == []


def test_workers_import_no_torch() -> None:
    code = 'import runpy, sys; runpy.run_path(sys.argv[1]); sys.exit("torch" in sys.modules)'
    subprocess.run([sys.executable, '-c', code, str(ROOT / 'ghost_det/data/image_facts.py')], check=True)
