from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ghost_det.errors import UserError
from ghost_det.utils import files
from ghost_det.utils.files import read_json, require_writable, write_or_fail


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_that_cannot_be_written_is_one_message_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / 'file').touch()
    with pytest.raises(UserError, match='^-o .*/file/a: cannot be written'):
        with write_or_fail(tmp_path / 'file/a', '-o'):
            pass
    (tmp_path / 'b').write_text('old')
    with pytest.raises(UserError, match='^/.*/b: cannot be written .No space left on device'):
        with write_or_fail(tmp_path / 'b') as partial:
            partial.write_text('half')
            raise OSError(28, 'No space left on device')
    assert names(tmp_path) == ['b', 'file'] and (tmp_path / 'b').read_text() == 'old'


def test_links_and_permissions_are_kept(tmp_path: Path) -> None:
    (tmp_path / 'link').symlink_to('target')
    with write_or_fail(tmp_path / 'link') as partial:
        partial.write_text('new')
        partial.chmod(0o600)
    (tmp_path / 'plain').touch()
    assert (tmp_path / 'link').is_symlink() and (tmp_path / 'target').read_text() == 'new'
    assert (tmp_path / 'target').stat().st_mode == (tmp_path / 'plain').stat().st_mode


def test_a_folder_is_complete_or_not_there(tmp_path: Path) -> None:
    (tmp_path / 'empty').mkdir()
    for name in ('new', 'empty'):
        with files.atomic_folder(tmp_path / name) as built:
            (built / 'a').touch()
    with files.atomic_folder(tmp_path / 'new') as built:  # another process was faster
        (built / 'b').touch()
    with pytest.raises(KeyboardInterrupt), files.atomic_folder(tmp_path / 'stopped') as built:
        raise KeyboardInterrupt
    (tmp_path / 'file').touch()
    with pytest.raises(OSError), files.atomic_folder(tmp_path / 'file'):
        pass
    assert names(tmp_path) == ['empty', 'file', 'new']
    assert names(tmp_path / 'new') == names(tmp_path / 'empty') == ['a']


def test_places_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / 'file').touch()
    os.mkfifo(tmp_path / 'pipe')
    for path in (tmp_path, tmp_path / 'pipe', tmp_path / 'file/a', tmp_path / 'x/../file'):
        with pytest.raises(UserError, match=f'^--json {path}: (expected|would|cannot)'):
            require_writable(path, '--json', [tmp_path / 'file'])
    with pytest.raises(UserError, match='^--out .*file: expected a folder, got a file'):
        files.require_folder(tmp_path / 'file', '--out')
    require_writable(tmp_path / 'new/a.json', '--json')
    files.require_folder(tmp_path / 'new/inner', '--out')
    assert names(tmp_path) == ['file', 'new', 'pipe', 'x'] and names(tmp_path / 'new') == ['inner']


def test_json_in_every_encoding_and_none(tmp_path: Path) -> None:
    path = tmp_path / 'a.json'
    for encoding in ('utf-8', 'utf-8-sig', 'utf-16', 'utf-16-le', 'utf-32'):
        path.write_bytes(json.dumps({'é': 1}, ensure_ascii=False).encode(encoding))
        assert read_json(path) == {'é': 1}
    for content in (b'', b'{\n]', b'\x80\x02', b'"\xed\xa0\x80"', b'[' * 100_000, b'9' * 5000):
        path.write_bytes(content)
        with pytest.raises(UserError, match='a.json: not json'):
            read_json(path)
    for name in ('.', 'nothing'):
        with pytest.raises(UserError, match='cannot be read'):
            read_json(tmp_path / name)
