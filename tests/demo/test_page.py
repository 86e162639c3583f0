"""The page in a browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ghost_det.deploy import Metadata
from tests.deploy.test_detector import bright
from tests.export.exported import METADATA, save

from .served import Served, serving

sync_api = pytest.importorskip('playwright.sync_api')
CHROMIUM = shutil.which('chromium')
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason='no chromium here')
OPTIONS = ['--no-sandbox', '--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream']


@pytest.fixture(scope='module')
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp('page')) as page:
        yield page


@pytest.fixture(scope='module')
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield browser
        browser.close()


def open_page(browser: Any, served: Served, asked: list[str]) -> Any:
    page = browser.new_context().new_page()
    page.set_default_timeout(60_000)
    page.on('request', lambda request: asked.append(request.url))
    page.goto(served.url)
    return page


def upload(page: Any, path: Path) -> None:
    page.locator('input[type=file]').first.set_input_files(path)


def boxes(page: Any) -> str:
    picture = page.locator('.boxes img')
    picture.wait_for()
    return str(picture.get_attribute('src'))


def test_a_visit(browser: Any, served: Served, tmp_path: Path) -> None:
    asked: list[str] = []
    page, other = (open_page(browser, served, asked) for _ in range(2))
    Image.fromarray(bright()).save(tmp_path / 'x.png')
    Image.fromarray(bright(20)).save(tmp_path / 'y.png')
    (tmp_path / 'text.jpg').write_text('no image')
    numbers = page.locator('.numbers.prose')

    page.get_by_text('It stays on the machine that serves this page').wait_for()
    upload(page, tmp_path / 'x.png')
    numbers.get_by_text('1 of 2 boxes score 0.30 or more: 1 bright').wait_for()
    first = boxes(page)

    upload(other, tmp_path / 'y.png')
    other.locator('.numbers.prose').get_by_text('1 of 2 boxes').wait_for()
    assert boxes(other) != first

    slider = page.locator('input[type=range]').first
    slider.fill('0.95')
    numbers.get_by_text('0 of 2 boxes score 0.95 or more').wait_for()
    page.wait_for_function('src => document.querySelector(".boxes img").src != src', arg=first)
    slider.fill('0.1')
    numbers.get_by_text('2 of 2 boxes score 0.10 or more: 1 bright, 1 dim').wait_for()
    assert numbers.locator('tbody tr').count() == 1

    page.get_by_label('b.xml').click()
    numbers.get_by_text('b.xml').wait_for()
    assert numbers.locator('tbody tr').count() == 2
    page.get_by_role('tab', name='JSON').click()
    page.get_by_text('"category_id"').first.wait_for()
    assert not page.get_by_role('tab', name='Feature maps').is_visible()

    upload(page, tmp_path / 'text.jpg')
    page.get_by_role('alert').filter(has_text='text.jpg: no image that can be read').wait_for()
    assert numbers.inner_text().strip() == ''

    page.get_by_label('Capture from camera').click()
    page.get_by_text('Click to Access Webcam').click()
    page.wait_for_function(
        '() => document.querySelector("video")?.readyState > 1'
    )  # or there is no photo yet
    page.get_by_label('capture photo').click()
    numbers.get_by_text('boxes score 0.10 or more').wait_for()
    assert not page.get_by_role('alert').is_visible()

    local = (served.url, 'data:', 'blob:')
    assert [url for url in asked if not url.startswith(local)] == []
    assert len(asked) > 50


def test_a_refused_upload_is_told(browser: Any, served: Served, tmp_path: Path) -> None:
    page = open_page(browser, served, [])
    Image.fromarray(bright()).save(tmp_path / 'x.png')
    (folder,) = (served.folder / 'temporary').iterdir()
    with (folder / 'full').open('wb') as file:
        file.truncate(501 * 2**20)
    upload(page, tmp_path / 'x.png')
    page.get_by_text('the page holds too many images').wait_for()
    (folder / 'full').unlink()
    upload(page, tmp_path / 'x.png')
    page.locator('.numbers.prose').get_by_text('1 of 2 boxes').wait_for()


def test_names_are_whole_on_a_telephone(browser: Any, tmp_path: Path) -> None:
    Image.fromarray(bright()).save(tmp_path / 'x.png')
    save(tmp_path / 'detector.xml', Metadata(**METADATA))
    with serving(tmp_path, 'detector.xml') as served:
        page = open_page(browser, served, [])
        page.set_viewport_size({'width': 390, 'height': 844})
        upload(page, tmp_path / 'x.png')
        rows = page.locator('.numbers.prose tbody tr')
        rows.get_by_text('a.onnx').wait_for()
        page.get_by_label('detector.xml').click()
        rows.get_by_text('detector.xml').wait_for()
        short, long = (row.bounding_box()['height'] for row in rows.all())
        assert long == short
        assert page.evaluate('document.documentElement.scrollWidth') == 390


def test_feature_maps(browser: Any, tmp_path: Path) -> None:
    pytest.importorskip('mmdet')
    from .torch_files import PLAIN, save_torch

    Image.fromarray(bright()).save(tmp_path / 'x.png')
    with serving(tmp_path, *save_torch(tmp_path, **PLAIN), absent=()) as served:
        asked: list[str] = []
        page = open_page(browser, served, asked)
        page.get_by_role('tab', name='Feature maps').click()
        button, maps = page.get_by_role('button', name='Draw the feature maps'), page.locator('.maps.prose')
        button.click()
        maps.get_by_text('a.onnx: feature maps are shown of torch models alone').wait_for()
        page.get_by_label('light.pth').click()
        button.click()
        maps.get_by_text('choose an image first').wait_for()
        upload(page, tmp_path / 'x.png')
        page.locator('.numbers.prose').get_by_text('light.pth').wait_for()
        button.click()
        maps.get_by_text('light: has no ghost modules').wait_for()
        assert maps.locator('figure').count() == 2

        picture = maps.locator('img').last
        small = picture.bounding_box()['width']
        picture.click()
        page.wait_for_function(
            '() => document.querySelector(".maps :checked + img").width > 0.95 * innerWidth'
        )
        assert picture.bounding_box()['width'] > small
        picture.click()
        page.wait_for_function('() => !document.querySelector(".maps :checked")')
        assert picture.bounding_box()['width'] == small
    assert [url for url in asked if not url.startswith((served.url, 'data:', 'blob:'))] == []
