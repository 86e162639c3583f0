"""Downloading COCO, repairing a copy of it, and making a small one."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Event
from typing import Any

import filelock
from tqdm import tqdm

from ghost_det.errors import UserError
from ghost_det.utils.files import atomic, sha256

from .catalog import COCO, Archive, Catalog, Part
from .download import disk_error, download, fetch_small, kept_bytes, run_all
from .unpack import unpack
from .verify import SplitState, examine, image_problem, read_without_boxes

FEW = 0.05  # share of a split's images up to which they are downloaded one by one
VAL_SHARE = 5  # a subset has a validation image for so many training images
IMAGE_BYTES = 200_000  # a little over the mean of COCO's


def prepare(
    root: Path,
    splits: Sequence[str],
    jobs: int = 8,
    keep_zips: bool = False,
    url: str | None = None,
    catalog: Catalog = COCO,
) -> None:
    """Make a folder a complete copy of COCO; only what is missing or wrong there is downloaded.

    After an error, what is there stays, and the next call resumes.
    """
    parts = [catalog.parts[split] for split in splits]
    url = url or catalog.url
    with _locked(root):
        needed = _missing_annotation_bytes(root, catalog.annotations, parts)
        _require_space(root, needed + sum(_missing_image_bytes(root, part) for part in parts))
        _ensure_annotations(root, catalog.annotations, parts, url, jobs, keep_zips)
        for part in parts:
            state = _ensure_images(root, part, url, jobs, keep_zips)
            print('\n'.join(state.lines(root)))
            if not state.intact:
                print(f'{part.name}: the published archive has these problems')


def subset(
    root: Path,
    count: int,
    splits: Sequence[str],
    jobs: int = 8,
    keep_zips: bool = False,
    url: str | None = None,
    catalog: Catalog = COCO,
) -> Path:
    """Make ``ROOT-subset-COUNT``, a small part of COCO next to ``root``, and return that folder.

    Of the images with boxes, those whose file names have the lowest SHA-256 are taken: as good as random, the
    same on every machine, and a smaller subset is part of each larger one. For five training images there is
    one validation image. All 80 categories stay. The full annotations, which this needs, go to ``root``.
    """
    parts = [catalog.parts[split] for split in splits]
    url = url or catalog.url
    folder = root.with_name(f'{root.name}-subset-{count}')
    with _locked(root):
        _remove_partial(folder)
        needed = _missing_annotation_bytes(root, catalog.annotations, parts)
        _require_space(root, needed + count * IMAGE_BYTES * (VAL_SHARE + 1) // VAL_SHARE)
        _ensure_annotations(root, catalog.annotations, parts, url, jobs, keep_zips)
        for split, part in zip(splits, parts):
            number = count if split == 'train' else max(1, count // VAL_SHARE)
            content = _reduced_annotations(root / part.annotations, number)
            sizes = {image['file_name']: (image['width'], image['height']) for image in content['images']}
            lost = {n: size for n, size in sizes.items() if image_problem(folder / part.name / n, size)}
            _fetch_images(f'{url}/{part.name}', folder / part.name, lost, jobs)
            with atomic(folder / part.annotations) as partial:
                partial.write_text(json.dumps(content))
            print(f'{part.name}: {number:,} images, {len(content["annotations"]):,} boxes in {folder}')
    return folder


def _reduced_annotations(path: Path, count: int) -> dict[str, Any]:
    """Return an annotation file's content for some of its images; all of it is never in memory."""
    light = read_without_boxes(path)
    used = set(light['annotations'])
    images = [image for image in light['images'] if image['id'] in used]
    if not 1 <= count <= len(images):
        raise UserError(f'--subset: expected at most {len(images):,}, the images with boxes, got {count:,}')
    images.sort(key=lambda image: hashlib.sha256(image['file_name'].encode()).digest())
    chosen = {image['id'] for image in images[:count]}
    del light, used, images

    def drop_other_boxes(entry: dict[str, Any]) -> dict[str, Any] | None:
        return entry if entry.get('image_id') in chosen or 'image_id' not in entry else None

    with path.open('rb') as file:
        content: dict[str, Any] = json.load(file, object_hook=drop_other_boxes)
    content['annotations'] = [box for box in content['annotations'] if box is not None]
    content['images'] = [image for image in content['images'] if image['id'] in chosen]
    return content


def _is_published(root: Path, part: Part) -> bool:
    file = root / part.annotations
    return file.is_file() and sha256(file) == part.sha256


def _ensure_annotations(
    root: Path, archive: Archive, parts: Sequence[Part], url: str, jobs: int, keep_zips: bool
) -> None:
    wrong = [part for part in parts if not _is_published(root, part)]
    if not wrong:
        return
    path = _ensure_archive(root, archive, url, jobs)
    for old in (root / part.annotations for part in wrong):
        if old.is_file():
            copy = old.replace(old.with_name(f'{old.name}.replaced'))
            print(f'{old}: not the published file; kept as {copy.name}')
    unpack(path, root, archive.folder, archive.unpacked, jobs, {p.annotations.as_posix() for p in wrong})
    for part in wrong:
        if not _is_published(root, part):
            raise UserError(f'{path}: has no {part.annotations} as published')
    if not keep_zips:
        _delete_archive(path)


def _ensure_images(root: Path, part: Part, url: str, jobs: int, keep_zips: bool) -> SplitState:
    state = examine(root, part, jobs)
    path = root / part.archive.name
    if not state.intact:
        if len(state.images) < len(state.sizes):  # else, as before the first download, there are none
            print('\n'.join(state.lines(root)))
        if len(state.images) <= FEW * part.images and not path.exists():
            lost = {name: state.sizes[name] for name in state.images}
            _fetch_images(f'{url}/{part.name}', root / part.name, lost, jobs)
        else:
            path = _ensure_archive(root, part.archive, url, jobs)
            unpack(path, root, part.archive.folder, part.archive.unpacked, jobs)
        state = examine(root, part, jobs)
    if path.exists() and not keep_zips:
        _delete_archive(path)
    return state


def _ensure_archive(root: Path, archive: Archive, url: str, jobs: int) -> Path:
    path = root / archive.name
    if not path.exists():
        download(f'{url}/{archive.path}', path, archive.size, archive.sha256, jobs)
    elif path.stat().st_size != archive.size or sha256(path) != archive.sha256:
        raise UserError(
            f'{path}: not the published archive, or incomplete: expected {archive.size:,} bytes and SHA-256 '
            f'{archive.sha256}, got {path.stat().st_size:,} bytes; delete it, and run this again'
        )
    return path


def _fetch_images(url: str, folder: Path, sizes: dict[str, tuple[int, int]], jobs: int) -> None:
    stop = Event()

    def fetch(name: str) -> None:
        content = fetch_small(f'{url}/{name}', stop)
        with atomic(folder / name) as partial:
            partial.write_bytes(content)
            problem = image_problem(partial, sizes[name])
            if problem:
                raise UserError(f'{url}/{name}: {problem}; got {len(content):,} bytes')
        bar.update()

    with tqdm(total=len(sizes), desc=f'{folder.name}/', unit='image', disable=None) as bar:
        run_all(fetch, list(sizes), jobs, stop)


def _delete_archive(path: Path) -> None:
    """Delete an archive once the disk has what was in it."""
    if hasattr(os, 'sync'):
        os.sync()
    path.unlink()


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Keep other processes out of a folder, clear what killed ones left there, explain its disk's errors."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(root / '.prepare_coco.lock', timeout=0):
            _remove_partial(root)
            yield
    except filelock.Timeout:
        raise UserError(f'{root}: another prepare-coco is running there; wait for it, or stop it') from None
    except OSError as error:
        raise disk_error(error, root) from None


def _remove_partial(root: Path) -> None:
    for path in root.glob('*/.partial-*'):
        path.unlink(missing_ok=True)


def _missing_annotation_bytes(root: Path, archive: Archive, parts: Sequence[Part]) -> int:
    if all((root / part.annotations).is_file() for part in parts):
        return 0
    return _missing_archive_bytes(root, archive) + archive.unpacked


def _missing_image_bytes(root: Path, part: Part) -> int:
    folder = root / part.name
    present = sum(1 for _ in os.scandir(folder)) if folder.is_dir() else 0
    missing = max(0, part.images - present)
    archive = _missing_archive_bytes(root, part.archive) if missing > FEW * part.images else 0
    return archive + part.archive.unpacked * missing // part.images


def _missing_archive_bytes(root: Path, archive: Archive) -> int:
    path = root / archive.name
    return 0 if path.exists() else archive.size - kept_bytes(path, archive.sha256)


def _require_space(root: Path, needed: int) -> None:
    """Compare the free space with what will be written; that archives are deleted in between is a reserve."""
    free = shutil.disk_usage(root).free
    if free < needed:
        raise UserError(
            f'{root}: {free / 1e9:.1f} GB free, up to {needed / 1e9:.1f} GB needed to download and unpack; '
            'free some space, or name a folder on another disk with --root'
        )
    if needed:
        print(f'{root}: up to {needed / 1e9:.1f} GB to write, {free / 1e9:.1f} GB free', file=sys.stderr)
