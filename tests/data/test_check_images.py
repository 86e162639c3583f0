"""Opening images: what mmcv loads of them, and decoders that crash."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Timer

import mmcv
import numpy as np
import pytest
from PIL import Image

from ghost_det.data.checks.images import open_images
from ghost_det.utils.images import read_image
from tests.conftest import ROOT

from .faults import save_tagged

NAMES = 'a.jpg a.mpo a.png a.tif a.webp a.avif a.bmp a.gif xmp.jpg xmp.webp xmp.tif'.split()


def script(folder: Path, monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    """Run this in the processes that open images, for each path."""
    path = folder / 'script.py'
    path.write_text('import json, os, sys, time\nfor path in json.load(sys.stdin):\n    ' + '; '.join(lines))
    monkeypatch.setattr('ghost_det.data.checks.images.image_facts.__file__', str(path))


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
    for form in ('EPS', 'PCX'):
        picture.save(tmp_path / f'{form}.jpg', form)
    paths = sorted(tmp_path.iterdir())
    assert all('error' in each for each in open_images(paths, 1))
    assert all(mmcv.imfrombytes(path.read_bytes()) is None for path in paths)


def test_a_decoder_that_crashes_costs_one_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    die = 'path not in "17" or os._exit(9)'
    script(tmp_path, monkeypatch, die, 'print(json.dumps({"hash": path}), flush=True)')
    facts = open_images([Path(str(n)) for n in range(8)], 2)
    assert [each.get('hash') for each in facts] == ['0', None, '2', '3', '4', '5', '6', None]
    assert 'exit code 9' in facts[1]['error'] and open_images([], 2) == []


def test_ctrl_c_does_not_wait_for_the_other_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path, monkeypatch, 'time.sleep(0.05)', 'print("{}", flush=True)')
    monkeypatch.setattr('ghost_det.data.checks.images.BATCH', 10)
    started = time.monotonic()
    Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        open_images([Path('a')] * 1000, 2)
    assert time.monotonic() - started < 15  # all of them take 25 s


def test_workers_import_no_torch() -> None:
    code = 'import runpy, sys; runpy.run_path(sys.argv[1]); sys.exit("torch" in sys.modules)'
    subprocess.run([sys.executable, '-c', code, str(ROOT / 'ghost_det/data/image_facts.py')], check=True)
