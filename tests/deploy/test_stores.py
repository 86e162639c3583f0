from __future__ import annotations

from pathlib import Path

import pytest

from ghost_det.deploy.stores import Store, list_images, read_anywhere
from ghost_det.errors import UserError


def listed(source: str, out: Path) -> list[str]:
    return [path.rpartition('/set/')[2] for path in list_images(source, 'path', str(out))]


@pytest.mark.parametrize('prefix', ['', 'file://'])
def test_hidden_files_and_results_behind_a_link_are_no_images(tmp_path: Path, prefix: str) -> None:
    for name in ('set/1.jpg', 'set/._1.jpg', 'set/.trash/2.jpg', 'set/sub/3.jpg', 'out/1.jpg'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    if not prefix:
        (tmp_path / 'set/results').symlink_to(tmp_path / 'out')
    assert listed(f'{prefix}{tmp_path}/set', tmp_path / 'out') == ['1.jpg', 'sub/3.jpg']


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16'])
def test_lists_in_any_encoding_and_with_doubles(tmp_path: Path, encoding: str) -> None:
    (tmp_path / 'set').mkdir()
    text = 'ä.jpg\r\n\r\nb/c.jpg\r\nä.jpg\n/d.jpg\ns3://b/e.jpg'
    (tmp_path / 'set/list.txt').write_bytes(text.encode(encoding))
    paths = listed(str(tmp_path / 'set/list.txt'), tmp_path / 'out')
    assert paths == ['ä.jpg', 'b/c.jpg', '/d.jpg', 's3://b/e.jpg']


@pytest.mark.parametrize('scheme', ['', 'file://'])
def test_files_are_written_completely_and_read_by_any_name(tmp_path: Path, scheme: str) -> None:
    store = Store(f'{scheme}{tmp_path}')
    assert store.names('parts') == set()
    (tmp_path / 'parts').mkdir()
    for content in (b'one', b'two'):
        store.write('parts/a %20?#.txt', content)
    assert store.names('parts') == {'a %20?#.txt'}
    assert (tmp_path / 'parts/a %20?#.txt').read_bytes() == b'two'
    with pytest.raises(UserError, match='20.*no image'):
        read_anywhere(f'{scheme}{tmp_path}/parts/a %20?#.txt')
    with pytest.raises(UserError, match='none.jpg: '):
        read_anywhere(f'{scheme}{tmp_path}/none.jpg')


def test_a_scheme_that_only_fsspec_knows() -> None:
    store = Store('memory://bucket/a')
    store.write('b.jpg', b'content')
    assert store.names('') == {'b.jpg'}
    with pytest.raises(UserError, match='b.jpg: no image'):
        read_anywhere('memory://bucket/a/b.jpg')
