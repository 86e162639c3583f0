"""The page in a browser."""

import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.deploy.test_detector import bright

from .served import require_stop, serving

pytest.importorskip('mmdet')
sync_api = pytest.importorskip('playwright.sync_api')
CHROMIUM = shutil.which('chromium')
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason='no chromium here')


def upload(page: Any, path: Path) -> None:
    page.locator('input[type=file]').first.set_input_files(path)


def test_a_visit_offline(tmp_path: Path) -> None:
    from .torch_files import PLAIN, save_torch

    Image.fromarray(bright()).save(tmp_path / 'x.png')
    (tmp_path / 'text.jpg').write_text('no image')
    models = save_torch(tmp_path, **PLAIN)
    with serving(tmp_path, *models) as served, sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        page = browser.new_page()
        page.set_default_timeout(60_000)
        asked: list[str] = []
        page.on('request', lambda request: asked.append(request.url))
        page.goto(served.url)
        numbers, maps = page.locator('.numbers.prose'), page.locator('.maps')

        page.get_by_text('It stays on the machine that serves this page').wait_for()
        upload(page, tmp_path / 'x.png')
        numbers.get_by_text('1 of 2 boxes score 0.30 or more: 1 bright').wait_for()
        first = page.locator('.boxes img').get_attribute('src')
        slider = page.locator('input[type=range]').first
        slider.fill('0.95')
        numbers.get_by_text('0 of 2 boxes score 0.95 or more').wait_for()
        page.wait_for_function('src => document.querySelector(".boxes img").src != src', arg=first)
        slider.fill('0.1')
        numbers.get_by_text('2 of 2 boxes score 0.10 or more: 1 bright, 1 dim').wait_for()
        assert numbers.locator('li').count() == 1
        page.get_by_label('b.xml').click()
        numbers.get_by_text('b.xml').wait_for()
        assert numbers.locator('li').count() == 2
        page.get_by_role('tab', name='JSON').click()
        page.get_by_text('"category_id"').first.wait_for()

        page.get_by_role('tab', name='Feature maps').click()
        button = page.get_by_role('button', name='Draw feature maps')
        button.click()
        page.get_by_text('b.xml: feature maps need a torch model').wait_for()
        page.get_by_label('light.pth').click()
        numbers.get_by_text('light.pth').wait_for()
        button.click()
        page.get_by_text('light: has no ghost modules').wait_for()
        maps.locator('img').nth(1).wait_for()
        assert maps.locator('img').count() == 2

        upload(page, tmp_path / 'text.jpg')
        page.get_by_text('text.jpg: no image that can be decoded').wait_for()
        assert numbers.inner_text().strip() == ''
        page.set_viewport_size({'width': 390, 'height': 844})
        assert page.evaluate('document.documentElement.scrollWidth') == 390
        browser.close()
        require_stop(served, signal.SIGINT, 0)
    assert [url for url in asked if not url.startswith((served.url, 'data:', 'blob:'))] == []
    assert len(asked) > 50
