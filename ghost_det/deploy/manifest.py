"""What a folder of results is of: the list of images in shards, and the model and settings they belong to."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ghost_det import __version__
from ghost_det.errors import UserError

from .stores import Store

MANIFEST = 'manifest.json'
PARTS = 'parts'
_LISTED = 256  # shards in one file of the list


def part_name(shard: int) -> str:
    """Return the name of a shard's part."""
    return f'{PARTS}/part-{shard:08d}.parquet'


def _list_name(number: int) -> str:
    return f'list/list-{number:06d}.parquet'


def listed(store: Store, shard: int) -> list[str]:
    """Return the paths of a shard's images."""
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


def agree(store: Store, wanted: dict[str, Any], shard: int | None, paths: Any) -> dict[str, Any]:
    """Return the manifest of a folder of results, which is made if there is none.

    Raises:
        UserError: there is one, of another run.
    """
    if MANIFEST in store.names(''):
        with store.open(MANIFEST) as file:
            try:
                found = dict(json.loads(file.read()))
            except (ValueError, TypeError):
                raise UserError(f'{store.root}/{MANIFEST}: no json; choose another folder for -o') from None
        if shard is None:
            wanted['shard'] = found.get('shard')
        differing = [key for key, value in wanted.items() if found.get(key) != value]
        if differing:
            values = [f'{key} {str(wanted[key])[:40]}, there {str(found.get(key))[:40]}' for key in differing]
            raise UserError(
                f'-o {store.root}: holds results of another run: {"; ".join(values)}. Choose another folder, '
                'or the same model, images and settings'
            )
        size = found.get('shard')
        if not isinstance(size, int) or size < 1:
            raise UserError(f'{store.root}/{MANIFEST}: damaged (shard); choose another folder for -o')
        return found
    if store.names(PARTS):
        raise UserError(f'-o {store.root}: has parts of no known run; choose another folder')
    size = wanted['shard']
    for number, start in enumerate(range(0, len(paths), size * _LISTED)):
        table = pa.table({'path': paths[start : start + size * _LISTED]})
        store.write(_list_name(number), as_parquet(table, size))
    # Last, as it says that the list is there.
    made = {**wanted, 'ghost_det_version': __version__}
    store.write(MANIFEST, json.dumps(made, indent=1).encode())
    return made
