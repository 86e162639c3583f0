"""Lists of images, and folders of results, on disks and in buckets, by pyarrow and fsspec."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
from pyarrow import fs

from ghost_det.errors import UserError, reason
from ghost_det.utils.files import atomic, decode
from ghost_det.utils.images import (
    MAX_BYTES,
    SUFFIXES,
    Image,
    decode_image,
    find_images,
    is_hidden,
    read_image,
)


def is_uri(name: str) -> bool:
    """Return whether a file is not in this machine's own file system."""
    return '://' in name


@functools.cache
def _system(base: str) -> tuple[Any, str]:
    try:
        system, root = fs.FileSystem.from_uri(base)
    except pa.ArrowInvalid:  # a scheme that only fsspec knows
        import fsspec

        other, root = fsspec.core.url_to_fs(base)
        system = fs.PyFileSystem(fs.FSSpecHandler(other))
    return system, str(root).rstrip('/')


@contextlib.contextmanager
def locate(name: str) -> Iterator[tuple[Any, str]]:
    """Yield pyarrow's file system for a path or URI, and the path within it; errors become a `UserError`."""
    try:
        if is_uri(name):
            scheme, _, rest = name.partition('://')
            bucket, _, key = rest.partition('/')
            # Only the bucket: pyarrow would decode a % or ? in the name of an object.
            system, root = _system(f'{scheme}://{bucket or "/"}')
            yield system, f'{root}/{key}'
        else:
            yield fs.LocalFileSystem(), name
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f'{name}: cannot be used: {reason(error)}') from None


def read_anywhere(name: str) -> Image:
    """Return the image of a path or URI, see `read_image`."""
    if not is_uri(name):
        return read_image(Path(name))
    with locate(name) as (system, path), system.open_input_stream(path) as stream:
        content = stream.read(MAX_BYTES + 1)
    return decode_image(content, name)


@dataclass(frozen=True)
class Store:
    """A folder or a bucket's prefix, by absolute path or URI, whose files are always complete."""

    root: str

    def names(self, folder: str) -> set[str]:
        """Return the names of the files in a folder of it, which need not exist."""
        with locate(f'{self.root}/{folder}') as (system, path):
            infos = system.get_file_info(fs.FileSelector(path, allow_not_found=True))
        return {info.base_name for info in infos if info.type == fs.FileType.File}

    def table(self, names: Iterable[str], **options: Any) -> Any:
        """Return the rows of Parquet files, in order; the options are those of Arrow's ``to_table``."""
        with locate(self.root) as (system, root):
            paths = [f'{root}/{name}' for name in names]
            return ds.dataset(paths, filesystem=system, format='parquet').to_table(**options)

    def write(self, name: str, content: Any) -> None:
        """Write a file, or replace it."""
        with locate(f'{self.root}/{name}') as (system, path):
            if is_uri(self.root):  # a bucket shows an object once its upload is complete
                with system.open_output_stream(path) as stream:
                    stream.write(content)
            else:
                with atomic(Path(path), durable=True) as partial:
                    partial.write_bytes(content)


def list_images(source: str, column: str, out: str) -> list[str]:
    """Return the images that a source names, each once.

    A source is a folder or a bucket's prefix, whose images are sorted; or a list, a ``.txt`` with a path a
    line or a ``.parquet``, whose order is kept. Relative paths in a list are relative to its own folder.
    Images in ``out`` are skipped.
    """
    name = source.rstrip('/') if is_uri(source) else os.path.abspath(source)
    with locate(name) as (system, path):
        kind = system.get_file_info(path).type
        if kind == fs.FileType.NotFound:
            raise UserError(f'{source}: no such file or folder')
        if name.endswith('.parquet'):
            data = ds.dataset(path, filesystem=system, format='parquet')
            if column not in data.schema.names:
                there = ', '.join(data.schema.names)[:200]
                raise UserError(f"{source}: expected paths in column '{column}', got {there}: see --column")
            paths = data.to_table(columns=[column])[column].cast(pa.string()).to_pylist()
        elif name.endswith('.txt'):
            with system.open_input_stream(path) as stream:
                paths = [line.strip() for line in decode(stream.read()).splitlines()]
        elif kind == fs.FileType.Directory:
            return _find(system, path, name, out)
        else:
            raise UserError(f'{source}: expected a folder of images, or a list of them, .txt or .parquet')
    if not any(paths):
        raise UserError(f'{source}: lists no images')
    folder, paths = name.rpartition('/')[0], dict.fromkeys(filter(None, paths))
    return [path if path.startswith('/') or is_uri(path) else f'{folder}/{path}' for path in paths]


def _find(system: Any, path: str, name: str, out: str) -> list[str]:
    if not is_uri(name):
        return list(map(str, find_images([Path(name)], Path(out))))
    infos = system.get_file_info(fs.FileSelector(path, recursive=True))
    files = sorted(each.path[len(path) :] for each in infos if each.type == fs.FileType.File)
    found = [f'{name}{file}' for file in files if file.lower().endswith(SUFFIXES) and not is_hidden(file)]
    if not found:
        raise UserError(f'{name}: no images found; looked for {" ".join(SUFFIXES)}')
    return found
