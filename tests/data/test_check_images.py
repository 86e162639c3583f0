"""Opening images: what mmcv loads of them, and decoders that crash."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
import pytest
from PIL import Image

from ghost_det.data.checks.images import open_images
from ghost_det.data.checks.pixels import to_eight_bits
from ghost_det.data.convert import _size
from ghost_det.utils.images import read_image
from tests.conftest import ROOT

from .faults import save_tagged

TAGGED = ['a.jpg', 'a.mpo', 'a.png', 'a.tif', 'a.webp', 'a.avif', 'a.bmp', 'a.gif']
TAGGED += ['xmp.jpg', 'xmp.webp', 'xmp.tif']


@pytest.mark.parametrize('name', TAGGED)
def test_sizes_and_pixels_are_those_that_mmcv_loads(tmp_path: Path, name: str) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (6, 8, 3), np.uint8)).resize((64, 48))
    paths = []
    for orientation in range(1, 9):
        (tmp_path / str(orientation)).mkdir()
        paths.append(save_tagged(picture, tmp_path / str(orientation) / name, orientation))
    for path, facts in zip(paths, open_images(paths, 1), strict=True):
        loaded = mmcv.imfrombytes(path.read_bytes())  # as LoadImageFromFile does
        assert _size(path)[0] == tuple(facts['loaded']) == loaded.shape[1::-1], path
        np.testing.assert_array_equal(read_image(path), loaded)


def test_images_with_damaged_exif_are_read(tmp_path: Path) -> None:
    for number, exif in enumerate([b'garbage', b'II', b'II*\0\xff\xff\xff\x7f']):
        for suffix in ('.jpg', '.png', '.webp'):
            Image.new('RGB', (64, 48)).save(tmp_path / f'{number}{suffix}', exif=b'Exif\0\0' + exif)
    paths = sorted(tmp_path.iterdir())
    for path, facts in zip(paths, open_images(paths, 1), strict=True):
        assert 'error' not in facts and facts['loaded'] == [64, 48], path
        assert _size(path) == ((64, 48), 1)
        assert mmcv.imfrombytes(path.read_bytes()).shape == (48, 64, 3)


def test_images_that_only_pillow_decodes_are_errors(tmp_path: Path) -> None:
    picture = Image.new('RGB', (64, 48))
    picture.save(tmp_path / '0.tif', compression='zstd')
    picture.convert('CMYK').save(tmp_path / '1.jp2')
    picture.save(tmp_path / '2.tif', compression='tiff_lzw')
    paths = sorted(tmp_path.iterdir())
    found = [each.get('error', '') for each in open_images(paths, 1)]
    assert found[0].startswith('OpenCV cannot decode this TIFF') and 'JPEG2000' in found[1] and not found[2]
    assert [mmcv.imfrombytes(path.read_bytes()) is None for path in paths] == [True, True, False]


def test_formats_that_mmcv_does_not_read_are_not_opened(tmp_path: Path) -> None:
    for form in ('BMP', 'EPS', 'PCX', 'TIFF'):
        Image.new('RGB', (8, 8)).save(tmp_path / f'{form}.jpg', form)
    paths = sorted(tmp_path.iterdir())
    refused = 'no image of a format that mmcv reads'
    assert [each.get('error') for each in open_images(paths, 1)] == [None, refused, refused, None]
    assert [mmcv.imread(str(path)) is None for path in paths] == [False, True, True, False]


@pytest.mark.parametrize(
    ('pixels', 'expected'),
    [
        (np.float32([[0, 0.5, 1, math.nan]]), [[0, 128, 255, 0]]),
        (np.float64([[0, 100.4, 255]]), [[0, 100, 255]]),
        (np.float32([[0, 1000]]), [[0, 250]]),
        (np.float32([[-1, 0, 1]]), [[0, 128, 255]]),
        (np.int32([[0, 200]]), [[0, 200]]),
        (np.int32([[-5, -5]]), [[0, 0]]),
        (np.uint16([[16, 4095]]), [[1, 255]]),
    ],
)
def test_values_of_deep_images_in_eight_bits(pixels: Any, expected: list[list[int]]) -> None:
    assert to_eight_bits(pixels).tolist() == expected


def test_a_decoder_that_dies_takes_one_image_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / 'dies.py'
    script.write_text(
        'import json, os, sys\n'
        'for path in json.load(sys.stdin):\n'
        '    if path.endswith("1"): os._exit(9)\n'
        '    print(json.dumps({"hash": path}), flush=True)\n'
    )
    monkeypatch.setattr('ghost_det.data.checks.images.image_facts.__file__', str(script))
    facts = open_images([Path(str(n)) for n in range(5)], 2)
    assert ['error' in each for each in facts] == [False, True, False, False, False]
    assert 'exit code 9' in facts[1]['error']


def test_an_interruption_does_not_wait_for_the_other_images(tmp_path: Path) -> None:
    script = tmp_path / 'slow.py'
    script.write_text(
        'import json, sys, time\n'
        'for path in json.load(sys.stdin):\n'
        '    time.sleep(0.05)\n'
        '    print("{}", flush=True)\n'
    )
    code = (
        'import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n'
        'from pathlib import Path; from ghost_det.data.checks import images\n'
        f'images.image_facts.__file__ = {str(script)!r}; print("go", flush=True)\n'
        'images.open_images([Path("a")] * 1000, 2)'
    )
    with subprocess.Popen(
        [sys.executable, '-c', code],
        cwd=ROOT,
        env={**os.environ, 'GHOST_DET_RUNTIME': '1'},  # without mmdet, which takes seconds
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == b'go\n'
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=15)  # all of them take 25 s
    assert b'KeyboardInterrupt' in said


def test_workers_import_no_torch() -> None:
    code = 'import runpy, sys; runpy.run_path(sys.argv[1]); sys.exit("torch" in sys.modules)'
    script = ROOT / 'ghost_det/data/image_facts.py'
    subprocess.run([sys.executable, '-c', code, str(script)], check=True)
