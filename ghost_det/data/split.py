"""Making a val from a part of train, if a data set has none."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ghost_det.utils.files import read_json

from .annotations import CONVERTED, FIXED, survey
from .convert import SPLITS, cached, state_of

VAL_SHARE = 0.2


def val_part(files: Iterable[str], share: float) -> set[str]:
    """Return the images of val, by a hash of each name, so new images move none of the others.

    Copies that Roboflow made of one photo, ``NAME.rf.HASH.jpg``, are on the same side, and so are files whose
    names differ only in their suffix. The lowest hash is always in val; nothing is if train would be empty.
    """
    place = {}
    for file in files:
        stem = os.path.splitext(Path(file).as_posix())[0].partition('.rf.')[0]
        digest = hashlib.blake2b(stem.encode('utf-8', 'surrogatepass'), digest_size=8).digest()
        place[file] = int.from_bytes(digest, 'big')
    limit = max(share * 2**64, min(place.values(), default=0) + 1)
    part = {file for file, number in place.items() if number < limit}
    return part if len(part) < len(place) else set()


def split_annotations(root: Path, file: Path, share: float) -> tuple[dict[str, Path], str] | None:
    """Return the annotations of train and of val, made from one file and kept in the cache, and a note.

    ``None`` if there are too few images, or errors, which are reported for the file itself.
    """
    table, findings = survey(file)
    part = val_part(table.files, share)
    if not part or any(each.severity == 'error' and each.kind not in FIXED for each in findings):
        return None
    positions = {at for at, name in zip(table.images_at, table.files) if name in part}
    folder = cached((root, share), [str(file), state_of(file)], lambda: _divide(read_json(file), positions))
    return {name: folder / f'{name}.json' for name in SPLITS}, (
        f'{root}: no val split: {len(part)} of {len(table.files)} images are used as val, chosen by a '
        f'hash of the file name (--val-share {share:g})'
    )


def _divide(content: dict[str, Any], positions: set[int]) -> dict[str, Any]:
    """Return the content of an annotation file as train, and as val, which has the images at positions."""
    ids = {content['images'][position]['id'] for position in positions}
    info = content.get('info')
    parts = {}
    for name, is_val in (('train', False), ('val', True)):
        images = [image for image in content['images'] if (image['id'] in ids) is is_val]
        boxes = [box for box in content['annotations'] if (box['image_id'] in ids) is is_val]
        # What the conversion has found is listed once, in train.
        if is_val and isinstance(info, dict):
            info = {key: value for key, value in info.items() if key not in CONVERTED}
        parts[name] = {**content, 'info': info, 'images': images, 'annotations': boxes}
    return parts
