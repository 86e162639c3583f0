"""Downloading COCO, repairing a copy of it, and making a small subset."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import filelock
from tqdm import tqdm

from ghost_det.errors import UserError
from ghost_det.utils.files import PARTIAL, atomic, sha256
from ghost_det.utils.threads import ordered

from .catalog import COCO, Archive, Catalog, Part
from .download import download, fetch_small, part_of
from .unpack import unpack
from .verify import SplitState, disk_error, examine, image_problem, read_without_boxes

FEW = 0.05  # share of a split's images up to which they are downloaded one by one
TRAIN_PER_VAL = 5  # images of a subset
UNPACKED = 1.1  # the space that the files of an archive take, by its size


def prepare(
    root: Path, splits: Sequence[str], jobs: int = 8, url: str | None = None, catalog: Catalog = COCO
) -> None:
    """Download what a copy of COCO lacks, or has wrong; after a stop, the next call resumes."""
    parts = [catalog.parts[split] for split in splits]
    copy = _Copy(root, url or catalog.url, jobs)
    with _locked(root):
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
    url: str | None = None,
    catalog: Catalog = COCO,
) -> Path:
    """Make ``ROOT-subset-COUNT``, a small part of COCO next to ``root``, and return that folder.

    It has the images with boxes whose names have the lowest SHA-256, so larger subsets contain smaller ones.
    """
    parts = [catalog.parts[split] for split in splits]
    copy = _Copy(root, url or catalog.url, jobs)
    folder = root.with_name(f'{root.name}-subset-{count}')
    with _locked(root):
        _remove_partial(folder)
        copy.ensure_annotations(catalog.annotations, parts)
        for split, part in zip(splits, parts):
            number = count if split == 'train' else max(1, count // TRAIN_PER_VAL)
            content = _reduced_annotations(root / part.annotations, number)
            sizes = {image['file_name']: (image['width'], image['height']) for image in content['images']}
            lost = {n: size for n, size in sizes.items() if image_problem(folder / part.name / n, size)}
            _fetch_images(f'{copy.url}/{part.name}', folder / part.name, lost, jobs)
            with atomic(folder / part.annotations) as partial:
                partial.write_text(json.dumps(content))
            print(f'{part.name}: {number:,} images, {len(content["annotations"]):,} boxes in {folder}')
    return folder


def _reduced_annotations(path: Path, count: int) -> dict[str, Any]:
    """Return an annotation file's content for some of its images, without all boxes in memory at once."""
    light = read_without_boxes(path)
    used = set(light['annotations'])
    names = {image['file_name']: image['id'] for image in light['images'] if image['id'] in used}
    if not 1 <= count <= len(names):
        raise UserError(f'--subset: expected at most {len(names):,}, the images with boxes, got {count:,}')
    first = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())[:count]
    chosen = {names[name] for name in first}

    def drop_other_boxes(entry: dict[str, Any]) -> dict[str, Any] | None:
        return entry if entry.get('image_id') in chosen or 'image_id' not in entry else None

    with path.open('rb') as file:
        content: dict[str, Any] = json.load(file, object_hook=drop_other_boxes)
    content['annotations'] = [box for box in content['annotations'] if box]
    content['images'] = [image for image in content['images'] if image['id'] in chosen]
    return content


@dataclass(frozen=True)
class _Copy:
    """A copy of COCO in a folder, and how to complete it."""

    root: Path
    url: str
    jobs: int

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
                raise UserError(f'{path}: does not contain the published {part.annotations}')
        _drop_archive(path)

    def ensure_images(self, part: Part) -> SplitState:
        state = examine(self.root, part, self.jobs)
        path = self.root / part.archive.name
        if not state.intact:
            if len(state.images) <= FEW * part.images and not path.exists():
                lost = {name: state.sizes[name] for name in state.images}
                _fetch_images(f'{self.url}/{part.name}', self.root / part.name, lost, self.jobs)
            else:
                share = len(state.images) / part.images
                unpack(self._ensure_archive(part.archive, share), self.root, self.jobs)
            state = examine(self.root, part, self.jobs)
        _drop_archive(path)
        return state

    def _has_annotations(self, part: Part) -> bool:
        file = self.root / part.annotations
        return file.is_file() and sha256(file) == part.sha256

    def _ensure_archive(self, archive: Archive, share: float = 1) -> Path:
        """Return an archive, downloaded if it is missing; a share of its files will be unpacked."""
        path = self.root / archive.name
        if not path.exists():
            there = part_of(path).stat().st_size if part_of(path).exists() else 0
            needed = archive.size * (1 + UNPACKED * share) - there
            free = shutil.disk_usage(self.root).free
            if free < needed:
                raise UserError(
                    f'{self.root}: {free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB needed to download and '
                    f'unpack {path.name}; free some space, or name a folder on another disk with --root'
                )
            download(f'{self.url}/{archive.path}', path, archive.size, archive.sha256, self.jobs)
        elif path.stat().st_size != archive.size or sha256(path) != archive.sha256:
            raise UserError(
                f'{path}: not the published archive, or incomplete: expected {archive.size:,} bytes and '
                f'SHA-256 {archive.sha256}, got {path.stat().st_size:,} bytes; delete it, and run this again'
            )
        return path


def _drop_archive(path: Path) -> None:
    """Delete an archive once its content is on the disk."""
    if path.exists():
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

    fetched = ordered(fetch, sizes, jobs, stop)
    list(tqdm(fetched, f'{folder.name}/', len(sizes), unit='image', disable=None))


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Keep other processes out of a folder, and remove what killed ones left there."""
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
    for path in root.glob(f'*/{PARTIAL}*'):
        path.unlink(missing_ok=True)
