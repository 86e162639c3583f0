"""Lists of images, and folders of results, on disks and in buckets, by pyarrow and fsspec."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from pyarrow import fs

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
    """Return pyarrow's file system for a path or URI, and the path within it.

    Raises:
        UserError: the URI is of a kind that nothing installed knows, or its bucket is not to be had.
    """
    if not is_uri(name):
        return _system('file:///')[0], name
    scheme, _, rest = name.partition('://')
    bucket, _, key = rest.partition('/')
    try:
        # Of a whole URI, pyarrow would take a % or ? in the name of an object for its own.
        system, root = _system(f'{scheme}://{bucket or "/"}')
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f'{scheme}://{bucket}: cannot be used: {brief(error)}') from None
    return system, f'{root}/{key}'


def brief(error: Exception) -> str:
    """Return an error's text in one short line."""
    return ' '.join(str(error).split())[:300] or type(error).__name__


def read_anywhere(name: str) -> Image:
    """Return the image of a path or URI, see `read_image`.

    Raises:
        UserError: it cannot be read; the message says why.
    """
    if not is_uri(name):
        return read_image(Path(name))
    system, path = locate(name)
    try:
        with system.open_input_stream(path) as stream:
            content = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise UserError(f'{name}: cannot be read: {brief(error)}') from None
    return decode_image(content, name)


@dataclass(frozen=True)
class Store:
    """A folder or a bucket's prefix, whose files appear whole or not at all.

    Attributes:
        root: an absolute path, or a URI.
    """

    root: str

    @classmethod
    def made(cls, name: str, option: str) -> Store:
        """Have such a folder.

        Raises:
            UserError: it cannot be made or written to.
        """
        if is_uri(name):
            return cls(name.rstrip('/'))
        require_folder(name, option)
        return cls(os.path.abspath(name))

    def names(self, folder: str) -> list[str]:
        """Return the names of the files in a folder of it, which need not be there."""
        system, path = locate(f'{self.root}/{folder}')
        selector = fs.FileSelector(path, allow_not_found=True)
        infos = self._tell('listed', folder, lambda: system.get_file_info(selector))
        return [info.base_name for info in infos if info.type == fs.FileType.File]

    def open(self, name: str) -> Any:
        """Open a file of it for reading at any place.

        Raises:
            UserError: it is not there, or cannot be read.
        """
        system, path = locate(f'{self.root}/{name}')
        return self._tell('read', name, lambda: system.open_input_file(path))

    def write(self, name: str, content: bytes | pa.Buffer) -> None:
        """Write a file, in place of the one of that name.

        Raises:
            UserError: it cannot be written.
        """
        self._tell('written', name, lambda: self._put(name, content))

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

    def _tell(self, what: str, name: str, action: Any) -> Any:
        try:
            return action()
        except (OSError, ValueError) as error:
            raise UserError(f'{self.root}/{name}: cannot be {what}: {brief(error)}') from None


def list_images(source: str, column: str, out: str) -> tuple[str, Any]:
    """Return a folder, and the images that a source names, as paths or URIs; each once.

    Args:
        source: a folder or a bucket's prefix, whose images are sorted; or a list, a ``.txt`` with a path a
            line or Parquet, a file or a folder of them, whose order is kept. Relative paths in a list are
            taken from its own folder.
        column: of the paths in Parquet.
        out: where results go: images in it are no input.

    Returns:
        what most paths start with, and a large_string array.

    Raises:
        UserError: there is no such source, or it holds no images.
    """
    name = source.rstrip('/') if is_uri(source) else os.path.abspath(source)
    system, path = locate(name)
    try:
        info = system.get_file_info(path)
        if info.type == fs.FileType.NotFound:
            raise UserError(f'{source}: no such file or folder')
        if info.type == fs.FileType.Directory:
            inside = system.get_file_info(fs.FileSelector(path))
            folder, listed = name, any(map(_is_parquet, inside))
        else:
            folder, listed = name.rpartition('/')[0], name.endswith('.parquet')
        if listed:
            paths = _from_parquet(system, path, source, column)
        elif info.type == fs.FileType.Directory:
            return folder, _array(_in_folder(system, path, name, out), source)
        elif name.endswith('.txt'):
            with system.open_input_stream(path) as stream:
                lines = decode(stream.read()).splitlines()
            paths = _array([line.strip() for line in lines if line.strip()], source)
        else:
            raise UserError(f'{source}: a folder of images, or a list of them, .txt or .parquet, is wanted')
    except (OSError, ValueError) as error:
        raise UserError(f'{source}: cannot be read: {brief(error)}') from None
    paths = pc.unique(paths.drop_null())
    if not len(paths):
        raise UserError(f'{source}: names no images')
    whole = pc.or_(pc.starts_with(paths, '/'), pc.match_substring(paths, '://'))
    prefix, nothing = (pa.scalar(text, pa.large_string()) for text in (f'{folder}/', ''))
    return folder, pc.if_else(whole, paths, pc.binary_join_element_wise(prefix, paths, nothing))


def _is_parquet(info: Any) -> bool:
    return info.base_name.endswith('.parquet') and not is_hidden(info.base_name)


def _from_parquet(system: Any, path: str, source: str, column: str) -> Any:
    data = ds.dataset(path, filesystem=system, format='parquet', exclude_invalid_files=False)
    if column not in data.schema.names:
        raise UserError(
            f"{source}: has no column '{column}' but {', '.join(data.schema.names)[:200]}: name the one of "
            'the paths by --column'
        )
    paths = data.to_table(columns=[column]).column(0)
    if not (pa.types.is_string(paths.type) or pa.types.is_large_string(paths.type)):
        raise UserError(f"{source}: column '{column}' holds {paths.type}, and paths are wanted")
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
    found = sorted(
        f'{name}{file}' for file in files if file.lower().endswith(SUFFIXES) and not is_hidden(file)
    )
    if not found:
        raise UserError(f'{name}: no images there; looked for {" ".join(SUFFIXES)}')
    return found


def _array(names: list[str], source: str) -> Any:
    try:
        return pa.array(names, pa.large_string())
    except UnicodeEncodeError as error:
        bad = str(error.object).encode(errors='backslashreplace').decode()
        raise UserError(f'{source}: {bad}: a name that is no UTF-8; rename the file') from None
