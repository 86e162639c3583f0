"""The page in a browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ..deploy.test_runtime import bright
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
