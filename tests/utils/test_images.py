from __future__ import annotations

from pathlib import Path

import pytest

from ghost_det.errors import UserError
from ghost_det.utils.images import find_images


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


def test_links_to_folders_are_followed_and_loops_are_cut(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / 'root', tmp_path / 'elsewhere/deep'
    elsewhere.mkdir(parents=True)
    (elsewhere / '1.jpg').touch()
    (root / 'a').mkdir(parents=True)
    (root / 'a/0.jpg').touch()
    (root / 'b').symlink_to(tmp_path / 'elsewhere')
    (root / 'c').symlink_to('a')  # a second path to the same image
    (root / 'a/up').symlink_to('..')
    (elsewhere / 'back').symlink_to(root)
    (root / 'itself').symlink_to('itself')
    (root / 'lost.jpg').symlink_to('nowhere.jpg')  # to be reported by whoever reads it
    found = [path.relative_to(root).as_posix() for path in find(root)]
    assert found == ['a/0.jpg', 'b/deep/1.jpg', 'c/0.jpg', 'lost.jpg']


def test_hidden_files_are_no_images(tmp_path: Path) -> None:
    root = tmp_path / '.cache/set'  # what is above the folder does not matter
    for name in ('1.jpg', '._1.jpg', '.trash/2.jpg', 'sub/.3.jpg', 'sub/4.jpg'):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    assert [path.name for path in find(root)] == ['1.jpg', '4.jpg']
    (tmp_path / '.cache/bare').mkdir()
    (tmp_path / '.cache/bare/._1.jpg').touch()
    with pytest.raises(UserError, match='no images in this folder'):
        find(tmp_path / '.cache/bare')


def test_paths_without_images(tmp_path: Path) -> None:
    (tmp_path / 'notes.txt').touch()
    with pytest.raises(UserError, match=f'{tmp_path}: no images in this folder'):
        find(tmp_path)
    with pytest.raises(UserError, match=r'nowhere\.jpg: no such file or folder'):
        find(tmp_path / 'nowhere.jpg')
