from __future__ import annotations

from pathlib import Path

import pytest

from ghost_det.errors import UserError
from ghost_det.images import find_images


def find(*paths: Path) -> list[Path]:
    return find_images(paths, skip=lambda path: path.name.endswith('.chart.png'))


def test_folders_are_searched_to_their_depths(tmp_path: Path) -> None:
    for name in ('b/é.jpg', 'a/2.PNG', 'a/1.jpeg', 'c.webp', 'notes.txt', 'c.webp.chart.png', 'x.png/d.bmp'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [path.relative_to(tmp_path).as_posix() for path in find(tmp_path)]
    assert found == ['a/1.jpeg', 'a/2.PNG', 'b/é.jpg', 'c.webp', 'x.png/d.bmp']


def test_each_file_once_in_the_order_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = [Path('b.jpg'), Path('a.txt'), Path('c.jpg')]
    for file in files:
        file.touch()
    assert find(*files, tmp_path / 'b.jpg', Path('.')) == files


def test_paths_without_images(tmp_path: Path) -> None:
    (tmp_path / 'notes.txt').touch()
    with pytest.raises(UserError, match=f'{tmp_path}: no images in this folder'):
        find(tmp_path)
    with pytest.raises(UserError, match=r'nowhere\.jpg: no such file or folder'):
        find(tmp_path / 'nowhere.jpg')
