"""Fetching COCO, mending a copy of it, and making a small one."""

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

from .catalog import COCO, Archive, Catalogue, Part
from .download import check_url, disk_fault, download, fetch_small, kept, run_all
from .unpack import unpack
from .verify import State, examine, image_fault, read_light

FEW = 0.05  # share of a split's images up to which they are fetched one by one
VAL_SHARE = 5  # a subset has a validation image for so many training images
IMAGE_BYTES = 200_000  # a little over the mean of COCO's


def prepare(
    root: Path,
    splits: Sequence[str],
    jobs: int = 8,
    keep_zips: bool = False,
    url: str | None = None,
    catalogue: Catalogue = COCO,
) -> None:
    """Have COCO in a folder, whole; of what is there already, only what is missing or wrong is fetched.

    Args:
        root: the folder, as ``data/coco``.
        splits: ``'train'``, ``'val'``.
        jobs: connections, and threads.
        keep_zips: leave the archives there after they are unpacked.
        url: a mirror's address; default: the catalogue's.
        catalogue: what to have.

    Raises:
        UserError: something cannot be had or written; what is there stays, and the next call goes on.
    """
    parts = [catalogue.parts[split] for split in splits]
    url = check_url(url or catalogue.url)
    with _alone(root):
        _check_space(root, _needs(root, catalogue.annotations, parts, keep_zips))
        _have_annotations(root, catalogue.annotations, parts, url, jobs, keep_zips)
        for part in parts:
            state = _have_images(root, part, url, jobs, keep_zips)
            print('\n'.join(state.lines(root)))
            if not state.whole:
                print(f'{part.name}: so they are in the published archive')


def subset(
    root: Path,
    count: int,
    splits: Sequence[str],
    jobs: int = 8,
    keep_zips: bool = False,
    url: str | None = None,
    catalogue: Catalogue = COCO,
) -> Path:
    """Have a small part of COCO in ``ROOT-subset-COUNT``, beside the whole, and return that folder.

    Of the images with boxes, those come first whose file name has the lowest SHA-256: as good as drawn by
    lot, the same on every machine, and a smaller subset is part of each larger one. All 80 categories stay.

    Args:
        root: where the whole is, or may come to be: its annotations, which this needs, go there.
        count: training images; for five of them, one validation image.
        splits: see `prepare`.
        jobs: see `prepare`.
        keep_zips: see `prepare`.
        url: see `prepare`.
        catalogue: see `prepare`.

    Raises:
        UserError: see `prepare`; or there are fewer images.
    """
    parts = [catalogue.parts[split] for split in splits]
    url = check_url(url or catalogue.url)
    folder = root.with_name(f'{root.name}-subset-{count}')
    with _alone(root):
        _sweep(folder)
        space = _annotation_needs(root, catalogue.annotations, parts)
        _check_space(root, space + [count * IMAGE_BYTES * (VAL_SHARE + 1) // VAL_SHARE])
        _have_annotations(root, catalogue.annotations, parts, url, jobs, keep_zips)
        for split, part in zip(splits, parts):
            number = count if split == 'train' else max(1, count // VAL_SHARE)
            content = _reduced(root / part.annotations, number)
            sizes = {image['file_name']: (image['width'], image['height']) for image in content['images']}
            lost = {n: size for n, size in sizes.items() if image_fault(folder / part.name / n, size)}
            _fetch_images(f'{url}/{part.name}', folder / part.name, lost, jobs)
            with atomic(folder / part.annotations) as partial:
                partial.write_text(json.dumps(content))
            print(f'{part.name}: {number:,} images, {len(content["annotations"]):,} boxes in {folder}')
    return folder


def _reduced(path: Path, count: int) -> dict[str, Any]:
    """Return an annotation file's content for some of its images; its whole is never in memory."""
    light = read_light(path)
    used = set(light['annotations'])
    images = [image for image in light['images'] if image['id'] in used]
    if not 1 <= count <= len(images):
        raise UserError(f'--subset: {count:,} images of {path} wanted; it has {len(images):,} with boxes')
    images.sort(key=lambda image: hashlib.sha256(image['file_name'].encode()).digest())
    chosen = {image['id'] for image in images[:count]}
    del light, used, images

    def chosen_only(entry: dict[str, Any]) -> dict[str, Any] | None:
        return entry if entry.get('image_id') in chosen or 'image_id' not in entry else None

    with path.open('rb') as file:
        content: dict[str, Any] = json.load(file, object_hook=chosen_only)
    content['annotations'] = [box for box in content['annotations'] if box is not None]
    content['images'] = [image for image in content['images'] if image['id'] in chosen]
    return content


def _have_annotations(
    root: Path, archive: Archive, parts: Sequence[Part], url: str, jobs: int, keep_zips: bool
) -> None:
    def right(part: Part) -> bool:
        file = root / part.annotations
        return file.is_file() and sha256(file) == part.sha256

    wrong = [part for part in parts if not right(part)]
    if not wrong:
        return
    path = _have_archive(root, archive, url, jobs)
    for part in wrong:
        old = root / part.annotations
        if old.is_file():
            kept_as = old.with_name(f'{old.name}.replaced')
            old.replace(kept_as)
            print(f'{old}: was not the published file; kept as {kept_as.name}')
    wanted = {part.annotations.as_posix() for part in wrong}
    unpack(path, root, archive.folder, archive.unpacked, jobs, wanted.__contains__)
    for part in wrong:
        if not right(part):
            raise UserError(f'{path}: has no {part.annotations} as published')
    if not keep_zips:
        _drop(path)


def _have_images(root: Path, part: Part, url: str, jobs: int, keep_zips: bool) -> State:
    state = examine(root, part, jobs)
    path = root / part.archive.name
    if not state.whole:
        if len(state.images) < len(state.sizes):  # else, as before the first download, there is none
            print('\n'.join(state.lines(root)))
        if len(state.images) <= FEW * part.images and not path.exists():
            lost = {name: state.sizes[name] for name in state.images}
            _fetch_images(f'{url}/{part.name}', root / part.name, lost, jobs)
        else:
            path = _have_archive(root, part.archive, url, jobs)
            unpack(path, root, part.archive.folder, part.archive.unpacked, jobs)
        state = examine(root, part, jobs)
    if path.exists() and not keep_zips:
        _drop(path)
    return state


def _have_archive(root: Path, archive: Archive, url: str, jobs: int) -> Path:
    path = root / archive.name
    if path.exists():
        size = path.stat().st_size
        if size != archive.size or sha256(path) != archive.sha256:
            raise UserError(
                f'{path}: not the published archive, or not whole: {size:,} bytes, {archive.size:,} are '
                f'wanted{"; its hash differs" * (size == archive.size)}; delete it, and run this again'
            )
    else:
        download(f'{url}/{archive.path}', path, archive.size, archive.sha256, jobs)
    return path


def _fetch_images(url: str, folder: Path, sizes: dict[str, tuple[int, int]], jobs: int) -> None:
    stop = Event()

    def one(name: str) -> None:
        content = fetch_small(f'{url}/{name}', stop)
        with atomic(folder / name) as partial:
            partial.write_bytes(content)
            fault = image_fault(partial, sizes[name])
            if fault:
                raise UserError(f'{url}/{name}: {fault}; {len(content):,} bytes came')
        bar.update()

    with tqdm(total=len(sizes), desc=f'{folder.name}/', unit='image', disable=None) as bar:
        run_all(one, list(sizes), jobs, stop)


def _drop(path: Path) -> None:
    """Delete an archive once the disk has what was in it."""
    if hasattr(os, 'sync'):
        os.sync()
    path.unlink()


@contextlib.contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Keep other processes out of a folder, clear what killed ones left there, tell of its disk's errors."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(root / '.prepare_coco.lock', timeout=0):
            _sweep(root)
            yield
    except filelock.Timeout:
        raise UserError(f'{root}: another prepare_coco is at work there; wait for it, or stop it') from None
    except OSError as error:
        raise disk_fault(error, root) from None


def _sweep(root: Path) -> None:
    for path in root.glob('*/.partial-*'):
        path.unlink(missing_ok=True)


def _annotation_needs(root: Path, archive: Archive, parts: Sequence[Part]) -> list[int]:
    if all((root / part.annotations).is_file() for part in parts):
        return []
    return [_to_load(root, archive) + archive.unpacked]


def _to_load(root: Path, archive: Archive) -> int:
    path = root / archive.name
    return 0 if path.exists() else archive.size - kept(path)


def _needs(root: Path, annotations: Archive, parts: Sequence[Part], keep_zips: bool) -> list[int]:
    """Return what is written, step by step, in bytes; negative where an archive is deleted."""
    steps = _annotation_needs(root, annotations, parts)
    if steps and not keep_zips:
        steps.append(-annotations.size)
    for part in parts:
        folder = root / part.name
        present = sum(1 for _ in os.scandir(folder)) if folder.is_dir() else 0
        missing = max(0, part.images - present)
        if missing > FEW * part.images:
            steps.append(_to_load(root, part.archive))
        steps.append(part.archive.unpacked * missing // part.images)
        if missing > FEW * part.images and not keep_zips:
            steps.append(-part.archive.size)
    return steps


def _check_space(root: Path, steps: Sequence[int]) -> None:
    needed = level = 0
    for step in steps:
        level += step
        needed = max(needed, level)
    free = shutil.disk_usage(root).free
    if free < needed:
        raise UserError(
            f'{root}: {free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB are needed to download and unpack; '
            'make room, or name a folder on another disk with --root'
        )
    if needed:
        print(f'{root}: {needed / 1e9:.1f} GB to write, {free / 1e9:.1f} GB free', file=sys.stderr)
