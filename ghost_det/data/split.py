"""Making a val split where a data set has none."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ghost_det.utils.files import read_json

from .annotations import CONVERTED, survey
from .convert import cached
from .label_files import SPLITS

VAL_SHARE = 0.2


def val_part(source: Path, files: Iterable[str], share: float) -> tuple[set[str], str]:
    """Choose the images of val where nobody has, by a hash of each name: more images change none of it.

    Copies that Roboflow made of one photo, ``NAME.rf.HASH.jpg``, are on the same side, and so are files whose
    names differ in their suffix only. The lowest hash is always val's. Returns the names of val's, none if
    nothing would be left to train on, and a note.
    """
    stems = {file: os.path.splitext(Path(file).as_posix())[0] for file in files}
    hashes = {
        file: hashlib.blake2b(stem.partition('.rf.')[0].encode('utf-8', 'surrogatepass'), digest_size=8)
        for file, stem in stems.items()
    }
    place = {file: int.from_bytes(each.digest(), 'big') for file, each in hashes.items()}
    limit = max(share * 2**64, min(place.values(), default=0) + 1)
    part = {file for file, number in place.items() if number < limit}
    if len(part) == len(place):
        return set(), ''
    return part, (
        f'{source}: there is no val: {len(part)} of {len(place)} images are taken as it, '
        f'by a hash of their names (--val-share {share:g})'
    )


def split_coco(source: Path, annotations: Path, share: float) -> tuple[dict[str, Path], str]:
    """Return annotations of train and val, made of one COCO file, kept in the cache; and a note.

    There are none if the images are too few. The names of images start from where those of the file do.
    ``source`` is the data set that the file is, or was converted from.
    """
    table = survey(annotations).table
    part, note = val_part(source, table.files, share)
    if not part:
        return {}, ''
    positions = [at for at, file in zip(table.images_at, table.files) if file in part]
    state = annotations.stat()
    lines = [str(annotations), f'{state.st_size} {state.st_mtime_ns}']
    done = cached((source, share), lines, lambda: _divided(annotations, positions))
    return {name: done / f'{name}.json' for name in SPLITS}, note


def _divided(annotations: Path, positions: list[int]) -> dict[str, Any]:
    content = read_json(annotations)
    ids = {content['images'][position]['id'] for position in positions}
    info = content.get('info') if isinstance(content.get('info'), dict) else {}
    val_info = {key: value for key, value in info.items() if key not in CONVERTED}  # all are listed in train

    def side(key: str, field: str, is_val: bool) -> list[Any]:
        return [entry for entry in content[key] if (entry[field] in ids) is is_val]

    return {
        name: {
            **content,
            'info': val_info if name == 'val' else info,
            'images': side('images', 'id', name == 'val'),
            'annotations': side('annotations', 'image_id', name == 'val'),
        }
        for name in SPLITS
    }
