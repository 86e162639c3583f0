"""Downloading COCO, repairing a copy of it, and making a small one."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
    """Make a folder a complete copy of COCO: what is missing or wrong is downloaded; a next call resumes."""
    parts = [catalog.parts[split] for split in splits]
    copy = _Copy(root, url or catalog.url, jobs, keep_zips)
    with _locked(root):
        needed = copy.missing_annotation_bytes(catalog.annotations, parts)
        _require_space(root, needed + sum(copy.missing_image_bytes(part) for part in parts))
        copy.ensure_annotations(catalog.annotations, parts)
        for part in parts:
            state = copy.ensure_images(part)
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

    Of the images with boxes, those whose names have the lowest SHA-256: it is part of each larger subset.
    """
    parts = [catalog.parts[split] for split in splits]
    copy = _Copy(root, url or catalog.url, jobs, keep_zips)
    folder = root.with_name(f'{root.name}-subset-{count}')
    with _locked(root):
        _remove_partial(folder)
        needed = copy.missing_annotation_bytes(catalog.annotations, parts)
        _require_space(root, needed + count * IMAGE_BYTES * (VAL_SHARE + 1) // VAL_SHARE)
        copy.ensure_annotations(catalog.annotations, parts)
        for split, part in zip(splits, parts):
            number = count if split == 'train' else max(1, count // VAL_SHARE)
            content = _reduced_annotations(root / part.annotations, number)
            sizes = {image['file_name']: (image['width'], image['height']) for image in content['images']}
            lost = {n: size for n, size in sizes.items() if image_problem(folder / part.name / n, size)}
            _fetch_images(f'{copy.url}/{part.name}', folder / part.name, lost, jobs)
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


@dataclass(frozen=True)
class _Copy:
    """A copy of COCO in a folder, and how to complete it."""

    root: Path
    url: str
    jobs: int
    keep_zips: bool

    def ensure_annotations(self, archive: Archive, parts: Sequence[Part]) -> None:
        wrong = [part for part in parts if not self._has_annotations(part)]
        if not wrong:
            return
        path = self._ensure_archive(archive)
        for old in (self.root / part.annotations for part in wrong):
            if old.is_file():
                backup = old.replace(old.with_name(f'{old.name}.replaced'))
                print(f'{old}: not the published file; kept as {backup.name}')
        unpack(path, self.root, self.jobs, {part.annotations.as_posix() for part in wrong})
        for part in wrong:
            if not self._has_annotations(part):
                raise UserError(f'{path}: has no {part.annotations} as published')
        self._drop_archive(path)

    def ensure_images(self, part: Part) -> SplitState:
        state = examine(self.root, part, self.jobs)
        path = self.root / part.archive.name
        if not state.intact:
            if len(state.images) < len(state.sizes):  # else, as before the first download, there are none
                print('\n'.join(state.lines(self.root)))
            if len(state.images) <= FEW * part.images and not path.exists():
                lost = {name: state.sizes[name] for name in state.images}
                _fetch_images(f'{self.url}/{part.name}', self.root / part.name, lost, self.jobs)
            else:
                unpack(self._ensure_archive(part.archive), self.root, self.jobs)
            state = examine(self.root, part, self.jobs)
        self._drop_archive(path)
        return state

    def missing_annotation_bytes(self, archive: Archive, parts: Sequence[Part]) -> int:
        if all((self.root / part.annotations).is_file() for part in parts):
            return 0
        return self._missing_archive_bytes(archive) + archive.unpacked

    def missing_image_bytes(self, part: Part) -> int:
        folder = self.root / part.name
        present = sum(1 for _ in os.scandir(folder)) if folder.is_dir() else 0
        missing = max(0, part.images - present)
        archive = self._missing_archive_bytes(part.archive) if missing > FEW * part.images else 0
        return archive + part.archive.unpacked * missing // part.images

    def _has_annotations(self, part: Part) -> bool:
        file = self.root / part.annotations
        return file.is_file() and sha256(file) == part.sha256

    def _ensure_archive(self, archive: Archive) -> Path:
        path = self.root / archive.name
        if not path.exists():
            download(f'{self.url}/{archive.path}', path, archive.size, archive.sha256, self.jobs)
        elif path.stat().st_size != archive.size or sha256(path) != archive.sha256:
            raise UserError(
                f'{path}: not the published archive, or incomplete: expected {archive.size:,} bytes and '
                f'SHA-256 {archive.sha256}, got {path.stat().st_size:,} bytes; delete it, and run this again'
            )
        return path

    def _missing_archive_bytes(self, archive: Archive) -> int:
        path = self.root / archive.name
        return 0 if path.exists() else archive.size - kept_bytes(path, archive.sha256)

    def _drop_archive(self, path: Path) -> None:
        """Delete an archive, unless it is to stay, once the disk has what was in it."""
        if self.keep_zips or not path.exists():
            return
        if hasattr(os, 'sync'):
            os.sync()
        path.unlink()


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
