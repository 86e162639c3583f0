"""Making a val split where a data set has none."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ghost_det.utils.files import read_json

from .convert import cached
from .label_files import SPLITS, Layout
from .table import Table

VAL_SHARE = 0.2


def val_part(source: Path, files: Iterable[str], share: float) -> tuple[set[str], str]:
    """Choose the images of val where nobody has, by a hash of each name: more images change none of it.

    Copies that Roboflow made of one photo, ``NAME.rf.HASH.jpg``, are on the same side, and so are files whose
    names differ in their suffix only. The lowest hash is always val's. Returns the names of val's, none if
    nothing would be left to train on, and a note.
    """
    stems = {file: os.path.splitext(Path(file).as_posix())[0] for file in files}
    place = {file: _hash(stem.partition('.rf.')[0]) for file, stem in stems.items()}
    limit = max(share * 2**64, min(place.values(), default=0) + 1)
    part = {file for file, number in place.items() if number < limit}
    if len(part) == len(place):
        return set(), ''
    return part, (
        f'{source}: there is no val: {len(part)} of {len(place)} images are taken as it, '
        f'by a hash of their names (--val-share {share:g})'
    )


def _hash(name: str) -> int:
    return int.from_bytes(
        hashlib.blake2b(name.encode('utf-8', 'surrogatepass'), digest_size=8).digest(), 'big'
    )


def with_val(root: Path, layout: Layout, share: float) -> Layout:
    """Return a layout that has a val, made of train where nobody has chosen one; see `val_part`."""
    pairs = layout.splits.get('train')
    if not pairs or layout.splits.get('val'):
        return layout
    base = root.parent if root.is_file() else root
    files = {os.path.relpath(image, base): (image, label) for image, label in pairs}
    part, note = val_part(root, files, share)
    if not part:
        return layout
    splits = {name: [files[f] for f in files if (f in part) is (name == 'val')] for name in SPLITS}
    return replace(layout, splits=splits, note=f'{layout.note}\n{note}'.strip(), share=share)


def split_coco(annotations: Path, table: Table, share: float) -> tuple[dict[str, Path], str]:
    """Return annotations of train and val, made of one COCO file, kept in the cache; and a note.

    There are none if the images are too few. The names of images start from where those of the file do.
    """
    part, note = val_part(annotations, table.files, share)
    if not part:
        return {}, ''
    positions = [at for at, file in zip(table.images_at, table.files) if file in part]
    state = annotations.stat()
    lines = [f'{state.st_size} {state.st_mtime_ns}']
    done = cached((annotations, share), lines, lambda: _divided(annotations, positions))
    return {name: done / f'{name}.json' for name in SPLITS}, note


def _divided(annotations: Path, positions: list[int]) -> dict[str, Any]:
    content = read_json(annotations)
    ids = {content['images'][position]['id'] for position in positions}

    def side(key: str, field: str, is_val: bool) -> list[Any]:
        return [entry for entry in content[key] if (entry[field] in ids) is is_val]

    return {
        name: {
            **content,
            'images': side('images', 'id', name == 'val'),
            'annotations': side('annotations', 'image_id', name == 'val'),
        }
        for name in SPLITS
    }
