"""Lists of images, and folders of results, on disks and in buckets, by pyarrow and fsspec."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
from pyarrow import fs

from ghost_det.errors import UserError
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
    """Tell whether a file is not in this machine's own file system."""
    return '://' in name


@contextlib.contextmanager
def explain_errors(name: str) -> Iterator[None]:
    """Raise what goes wrong with a file or a bucket as a `UserError`."""
    try:
        yield
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f'{name}: cannot be used: {brief(error)}') from None


def brief(error: Exception) -> str:
    """Return an error's text in one short line."""
    return ' '.join(str(error).split())[:300] or type(error).__name__


@functools.cache
def _system(base: str) -> tuple[Any, str]:
    try:
        system, root = fs.FileSystem.from_uri(base)
    except pa.ArrowInvalid:  # a scheme that only fsspec knows
        import fsspec

        other, root = fsspec.core.url_to_fs(base)
        system = fs.PyFileSystem(fs.FSSpecHandler(other))
    return system, str(root).rstrip('/')


def locate(name: str) -> tuple[Any, str]:
    """Return pyarrow's file system for a path or URI, and the path within it."""
    if not is_uri(name):
        return fs.LocalFileSystem(), name
    scheme, _, rest = name.partition('://')
    bucket, _, key = rest.partition('/')
    # Only the bucket: pyarrow would decode a % or ? in the name of an object.
    system, root = _system(f'{scheme}://{bucket or "/"}')
    return system, f'{root}/{key}'


def read_anywhere(name: str) -> Image:
    """Return the image of a path or URI, see `read_image`."""
    if not is_uri(name):
        return read_image(Path(name))
    with explain_errors(name):
        system, path = locate(name)
        with system.open_input_stream(path) as stream:
            content = stream.read(MAX_BYTES + 1)
    return decode_image(content, name)


@dataclass(frozen=True)
class Store:
    """A folder or a bucket's prefix, by absolute path or URI, whose files are always complete."""

    root: str

    def names(self, folder: str) -> set[str]:
        """Return the names of the files in a folder of it, which need not exist."""
        with explain_errors(f'{self.root}/{folder}'):
            system, path = locate(f'{self.root}/{folder}')
            infos = system.get_file_info(fs.FileSelector(path, allow_not_found=True))
        return {info.base_name for info in infos if info.type == fs.FileType.File}

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[Any]:
        """Open a file for reading."""
        with explain_errors(f'{self.root}/{name}'):
            system, path = locate(f'{self.root}/{name}')
            with system.open_input_file(path) as file:
                yield file

    def write(self, name: str, content: Any) -> None:
        """Write a file, or replace it."""
        with explain_errors(f'{self.root}/{name}'):
            if not is_uri(self.root):
                with atomic(Path(self.root, name), durable=True) as partial:
                    partial.write_bytes(content)
                return
            system, path = locate(f'{self.root}/{name}')
            # Buckets show an object once its upload is complete; renaming there would be a copy.
            with system.open_output_stream(path) as stream:
                stream.write(content)


def list_images(source: str, column: str, out: str) -> tuple[str, list[str]]:
    """Return the folder of a source, and the images that the source names, each once.

    A source is a folder or a bucket's prefix, whose images are sorted; or a list, a ``.txt`` with a path a
    line or Parquet, a file or a folder of them, whose order is kept. Relative paths in a list are relative
    to its own folder. Images in ``out`` are skipped.
    """
    name = source.rstrip('/') if is_uri(source) else os.path.abspath(source)
    with explain_errors(source):
        system, path = locate(name)
        info = system.get_file_info(path)
        if info.type == fs.FileType.NotFound:
            raise UserError(f'{source}: no such file or folder')
        is_folder = info.type == fs.FileType.Directory
        files = system.get_file_info(fs.FileSelector(path)) if is_folder else [info]
        folder = name if is_folder else name.rpartition('/')[0]
        if any(each.base_name.endswith('.parquet') and not is_hidden(each.base_name) for each in files):
            paths = _read_column(system, path, source, column)
        elif is_folder:
            return folder, _find(system, path, name, out)
        elif name.endswith('.txt'):
            with system.open_input_stream(path) as stream:
                paths = [line.strip() for line in decode(stream.read()).splitlines()]
        else:
            raise UserError(f'{source}: expected a folder of images, or a list of them, .txt or .parquet')
    paths = [path for path in dict.fromkeys(paths) if path]
    if not paths:
        raise UserError(f'{source}: names no images')
    return folder, [path if path.startswith('/') or is_uri(path) else f'{folder}/{path}' for path in paths]


def _read_column(system: Any, path: str, source: str, column: str) -> list[Any]:
    data = ds.dataset(path, filesystem=system, format='parquet')
    if column not in data.schema.names:
        there = ', '.join(data.schema.names)[:200]
        raise UserError(f"{source}: expected paths in column '{column}', got columns {there}: see --column")
    paths: list[Any] = data.to_table(columns=[column])[column].cast(pa.string()).to_pylist()
    return paths


def _find(system: Any, path: str, name: str, out: str) -> list[str]:
    if not is_uri(name):
        inside, real = Path(out).resolve(), functools.cache(Path.resolve)
        skip_out = not is_uri(out)
        images = find_images([Path(name)], lambda file: skip_out and real(file.parent).is_relative_to(inside))
        return [str(each) for each in images]
    infos = system.get_file_info(fs.FileSelector(path, recursive=True))
    files = sorted(each.path[len(path) :] for each in infos if each.type == fs.FileType.File)
    found = [f'{name}{file}' for file in files if file.lower().endswith(SUFFIXES) and not is_hidden(file)]
    if not found:
        raise UserError(f'{name}: no images there; looked for {" ".join(SUFFIXES)}')
    return found
