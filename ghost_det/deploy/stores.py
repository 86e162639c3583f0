"""Lists of images, and folders of results, on disks and in buckets, by pyarrow and fsspec."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow import fs

from ghost_det import __version__
from ghost_det.errors import UserError
from ghost_det.utils.files import PARTIAL, atomic, decode, require_folder
from ghost_det.utils.images import (
    MAX_BYTES,
    SUFFIXES,
    Image,
    decode_image,
    find_images,
    is_hidden,
    read_image,
)

MANIFEST = 'manifest.json'
PARTS = 'parts'
_LISTED = 256  # shards in one file of the list
T = TypeVar('T')


def is_uri(name: str) -> bool:
    """Tell whether a file is elsewhere than in this machine's own file system."""
    return '://' in name


@functools.cache
def _system(base: str) -> tuple[Any, str]:
    try:
        system, root = fs.FileSystem.from_uri(base)
    except pa.ArrowInvalid:  # no scheme of pyarrow's own
        import fsspec

        other, root = fsspec.core.url_to_fs(base)
        system = fs.PyFileSystem(fs.FSSpecHandler(other))
    return system, str(root).rstrip('/')


def locate(name: str) -> tuple[Any, str]:
    """Return pyarrow's file system for a path or URI, and the path within it."""
    if not is_uri(name):
        return _system('file:///')[0], name
    scheme, _, rest = name.partition('://')
    bucket, _, key = rest.partition('/')
    try:
        # Of a complete URI, pyarrow would take a % or ? in the name of an object for its own.
        system, root = _system(f'{scheme}://{bucket or "/"}')
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f'{scheme}://{bucket}: cannot be used: {brief(error)}') from None
    return system, f'{root}/{key}'


def brief(error: Exception) -> str:
    """Return an error's text in one short line."""
    return ' '.join(str(error).split())[:300] or type(error).__name__


def attempt(what: str, name: str, action: Callable[[], T]) -> T:
    """Return what an action on a file returns, or raise a `UserError` where it fails."""
    try:
        return action()
    except (OSError, ValueError) as error:
        raise UserError(f'{name}: cannot be {what}: {brief(error)}') from None


def read_anywhere(name: str) -> Image:
    """Return the image of a path or URI, see `read_image`."""
    if not is_uri(name):
        return read_image(Path(name))
    system, path = locate(name)
    with attempt('read', name, lambda: system.open_input_stream(path)) as stream:
        return decode_image(attempt('read', name, lambda: stream.read(MAX_BYTES + 1)), name)


@dataclass(frozen=True)
class Store:
    """A folder or a bucket's prefix (``root``: an absolute path, or a URI), whose files are complete."""

    root: str

    @classmethod
    def made(cls, name: str, option: str) -> Store:
        """Make the folder, or raise a `UserError`."""
        if is_uri(name):
            return cls(name.rstrip('/'))
        require_folder(name, option)
        return cls(os.path.abspath(name))

    def names(self, folder: str) -> list[str]:
        """Return the names of the files in a folder of it, which need not be there."""
        system, path = locate(f'{self.root}/{folder}')
        selector = fs.FileSelector(path, allow_not_found=True)
        infos = attempt('listed', f'{self.root}/{folder}', lambda: system.get_file_info(selector))
        return [info.base_name for info in infos if info.type == fs.FileType.File]

    def open(self, name: str) -> Any:
        """Open a file of it for reading at any place."""
        system, path = locate(f'{self.root}/{name}')
        return attempt('read', f'{self.root}/{name}', lambda: system.open_input_file(path))

    def write(self, name: str, content: bytes | pa.Buffer) -> None:
        """Write a file, in place of the one of that name."""
        attempt('written', f'{self.root}/{name}', lambda: self._put(name, content))

    def _put(self, name: str, content: bytes | pa.Buffer) -> None:
        if not is_uri(self.root):
            with atomic(Path(self.root, name), durable=True) as partial:
                partial.write_bytes(content)
            return
        system, path = locate(f'{self.root}/{name}')
        # Buckets show an object once its upload is complete; and renaming there would be a copy.
        with system.open_output_stream(path) as stream:
            stream.write(content)

    def sweep(self, folder: str) -> None:
        """Remove what killed processes left half-written in a folder of it."""
        if not is_uri(self.root):
            for path in Path(self.root, folder).glob(f'{PARTIAL}*'):
                path.unlink(missing_ok=True)


def list_images(source: str, column: str, out: str) -> tuple[str, Any]:
    """Return what most paths start with, and the images that a source names, each once, as large_string.

    A source is a folder or a bucket's prefix, whose images are sorted; or a list, a ``.txt`` with a path a
    line or Parquet, a file or a folder of them, whose order is kept. Relative paths in a list are taken from
    its own folder. Images in ``out`` are no input.
    """
    name = source.rstrip('/') if is_uri(source) else os.path.abspath(source)
    system, path = locate(name)
    return attempt('read', source, lambda: _list(system, path, name, source, column, out))


def _list(system: Any, path: str, name: str, source: str, column: str, out: str) -> tuple[str, Any]:
    info = system.get_file_info(path)
    is_folder = info.type == fs.FileType.Directory
    inside = system.get_file_info(fs.FileSelector(path)) if is_folder else [info]
    folder = name if is_folder else name.rpartition('/')[0]
    if info.type == fs.FileType.NotFound:
        raise UserError(f'{source}: no such file or folder')
    if any(each.base_name.endswith('.parquet') and not is_hidden(each.base_name) for each in inside):
        paths = _from_parquet(system, path, source, column)
    elif is_folder:
        return folder, _array(_in_folder(system, path, name, out), source)
    elif name.endswith('.txt'):
        with system.open_input_stream(path) as stream:
            lines = decode(stream.read()).splitlines()
        paths = _array([line.strip() for line in lines if line.strip()], source)
    else:
        raise UserError(f'{source}: expected a folder of images, or a list of them, .txt or .parquet')
    paths = pc.unique(paths.drop_null())
    if not len(paths):
        raise UserError(f'{source}: names no images')
    absolute = pc.or_(pc.starts_with(paths, '/'), pc.match_substring(paths, '://'))
    prefix, nothing = (pa.scalar(text, pa.large_string()) for text in (f'{folder}/', ''))
    return folder, pc.if_else(absolute, paths, pc.binary_join_element_wise(prefix, paths, nothing))


def _from_parquet(system: Any, path: str, source: str, column: str) -> Any:
    data = ds.dataset(path, filesystem=system, format='parquet', exclude_invalid_files=False)
    if column not in data.schema.names:
        there = ', '.join(data.schema.names)[:200]
        raise UserError(f"{source}: has no column '{column}' but {there}: name that of the paths by --column")
    paths = data.to_table(columns=[column]).column(0)
    if not (pa.types.is_string(paths.type) or pa.types.is_large_string(paths.type)):
        raise UserError(f"{source}: expected paths in column '{column}', got {paths.type}")
    return paths.cast(pa.large_string())


def _in_folder(system: Any, path: str, name: str, out: str) -> list[str]:
    if not is_uri(name):
        inside, real = Path(out).resolve(), functools.cache(Path.resolve)
        images = find_images(
            [Path(name)], lambda file: not is_uri(out) and real(file.parent).is_relative_to(inside)
        )
        return [str(each) for each in images]
    infos = system.get_file_info(fs.FileSelector(path, recursive=True))
    files = [each.path[len(path) :] for each in infos if each.type == fs.FileType.File]
    found = [f'{name}{file}' for file in files if file.lower().endswith(SUFFIXES) and not is_hidden(file)]
    if not found:
        raise UserError(f'{name}: no images there; looked for {" ".join(SUFFIXES)}')
    return sorted(found)


def _array(names: list[str], source: str) -> Any:
    try:
        return pa.array(names, pa.large_string())
    except UnicodeEncodeError as error:
        bad = str(error.object).encode(errors='backslashreplace').decode()
        raise UserError(f'{source}: {bad}: a name that is no UTF-8; rename the file') from None


def part_name(shard: int) -> str:
    """Return the name of a shard's part."""
    return f'{PARTS}/part-{shard:08d}.parquet'


def _list_name(number: int) -> str:
    return f'list/list-{number:06d}.parquet'


def read_shard(store: Store, shard: int) -> list[str]:
    """Return the paths of a shard's images, a row group of the list."""
    with store.open(_list_name(shard // _LISTED)) as file:
        paths: list[str] = pq.ParquetFile(file).read_row_group(shard % _LISTED).column(0).to_pylist()
    return paths


def as_parquet(table: Any, rows: int | None = None) -> Any:
    """Return a table as the content of a Parquet file, with so many rows in a group."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression='zstd', row_group_size=rows)
    return sink.getvalue()


def digest(paths: Any) -> str:
    """Return the SHA-256 of a list of paths."""
    total = hashlib.sha256()
    for start in range(0, len(paths), 1 << 20):
        total.update('\0'.join([*paths[start : start + (1 << 20)].to_pylist(), '']).encode())
    return total.hexdigest()


def agree(store: Store, expected: dict[str, Any], shard: int | None, paths: Any) -> dict[str, Any]:
    """Return the manifest of a folder of results, which is made if there is none."""
    if MANIFEST in store.names(''):
        with store.open(MANIFEST) as file:
            found = attempt('read', f'{store.root}/{MANIFEST}', lambda: dict(json.loads(file.read())))
        if shard is None:
            expected['shard'] = found.get('shard')
        differing = [
            f'{key} {str(value)[:40]}, there {str(found.get(key))[:40]}'
            for key, value in expected.items()
            if found.get(key) != value
        ]
        if differing:
            raise UserError(
                f'-o {store.root}: holds results of another run: {"; ".join(differing)}. Choose another '
                'folder, or the same model, images and settings'
            )
        return found
    if store.names(PARTS):
        raise UserError(f'-o {store.root}: has parts of no known run; choose another folder')
    size = expected['shard']
    for number, start in enumerate(range(0, len(paths), size * _LISTED)):
        table = pa.table({'path': paths[start : start + size * _LISTED]})
        store.write(_list_name(number), as_parquet(table, size))
    # Last, as it says that the list is there.
    made = {**expected, 'ghost_det_version': __version__}
    store.write(MANIFEST, json.dumps(made, indent=1).encode())
    return made
