from __future__ import annotations

from pathlib import Path

import pytest

from ghost_det.deploy.stores import list_images


def listed(source: str, out: Path) -> list[str]:
    return [path.rpartition('/set/')[2] for path in list_images(source, 'path', str(out))[1].to_pylist()]


@pytest.mark.parametrize('prefix', ['', 'file://'])
def test_hidden_files_are_no_images(tmp_path: Path, prefix: str) -> None:
    for name in ('1.jpg', '._1.jpg', '.trash/2.jpg', 'sub/3.jpg', '._list.parquet'):
        (tmp_path / 'set' / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / 'set' / name).touch()
    assert listed(f'{prefix}{tmp_path}/set', tmp_path / 'out') == ['1.jpg', 'sub/3.jpg']


def test_results_are_no_images_where_a_link_leads_to_them(tmp_path: Path) -> None:
    for name in ('set/1.jpg', 'out/1.jpg'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / 'set/results').symlink_to(tmp_path / 'out')
    assert listed(str(tmp_path / 'set'), tmp_path / 'out') == ['1.jpg']


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16'])
def test_lists_with_byte_order_marks(tmp_path: Path, encoding: str) -> None:
    (tmp_path / 'set').mkdir()
    (tmp_path / 'set/list.txt').write_bytes('ä.jpg\r\n\r\nb/c.jpg\r\n'.encode(encoding))
    assert listed(str(tmp_path / 'set/list.txt'), tmp_path / 'out') == ['ä.jpg', 'b/c.jpg']
