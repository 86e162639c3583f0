"""Images and videos through a detector, into pictures, videos and json."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TextIO

import cv2
import numpy as np
from tqdm import tqdm

from ghost_det.errors import UserError, reason
from ghost_det.utils.files import atomic, require_folder, require_writable
from ghost_det.utils.images import Image, encode_image, find_images, picture_name, read_image, write_file
from ghost_det.utils.text import plural
from ghost_det.utils.threads import ordered

from .detector import Detections
from .draw import draw
from .video import VIDEOS, VideoReader, VideoWriter, is_camera

SCORE = 0.3
RESULTS = 'detections.json'


class AnyDetector(Protocol):
    """What is wanted of a detector here."""

    classes: tuple[str, ...]

    def stream(self, images: Iterable[Image], batch: int = 1) -> Iterator[Detections]:
        """See `Detector.stream`."""


class Job(NamedTuple):
    """What is wanted of the images and videos."""

    detector: AnyDetector
    out: Path
    batch: int
    threads: int
    pictures: bool


class Found:
    """All that was found, as it goes into the json file."""

    def __init__(self, classes: Sequence[str]) -> None:
        self._classes = classes
        self.images: list[dict[str, Any]] = []
        self.results: list[dict[str, Any]] = []
        self.errors: list[dict[str, str]] = []

    def add(self, name: str, image: Image, found: Detections, **more: Any) -> None:
        """Add what was found in an image."""
        entry = {'id': len(self.images) + 1, 'file_name': name, **more}
        self.images.append({**entry, 'height': image.shape[0], 'width': image.shape[1]})
        self.results += found.to_coco(entry['id'], range(1, len(self._classes) + 1))

    def fail(self, name: str, error: UserError) -> None:
        """Add an image that cannot be used, and print why."""
        _say(f'error: {error}', sys.stderr)
        self.errors.append({'file_name': name, 'error': str(error)})

    def write(self, path: Path, model: str) -> None:
        """Write all of it.

        Raises:
            UserError: it cannot be written.
        """
        categories = [{'id': label + 1, 'name': name} for label, name in enumerate(self._classes)]
        content = {'model': model, 'categories': categories, 'images': self.images}
        content |= {'results': self.results, 'errors': self.errors}
        try:
            with atomic(path) as partial:
                partial.write_text(json.dumps(content, allow_nan=False), encoding='utf-8')
        except OSError as error:
            raise UserError(f'{path}: cannot be written ({error.strerror})') from None


def detect_files(
    detector: AnyDetector,
    model: str,
    sources: Sequence[str],
    out: Path,
    batch: int = 1,
    threads: int | None = None,
    json_file: bool = False,
    pictures: bool = True,
) -> int:
    """Run a detector over images and videos, and return how many of them cannot be used.

    ``model`` names the detector in the json file. ``sources`` are images, folders of them, videos, and
    numbers of cameras. Pictures in ``out`` are laid out as the images are.

    Raises:
        UserError: an argument is wrong, or a file cannot be written.
    """
    if not json_file and not pictures:
        raise UserError('--no-pictures without --json: nothing would be written')
    videos = [source for source in dict.fromkeys(sources) if is_camera(source) or _is_video(source)]
    files = [Path(source) for source in sources if source not in videos]
    inside = out.resolve()
    images = find_images(files, skip=lambda path: path.resolve().is_relative_to(inside))
    if pictures:
        targets = [_video_target(source, out).resolve() for source in videos]
        if len({*targets, *(Path(source).resolve() for source in videos)}) < 2 * len(videos):
            raise UserError(f'-o {out}: a video would be replaced, its own or one of the same name')
    cv2.setLogLevel(0)  # of a damaged file we say more ourselves
    require_folder(out, '-o')
    if json_file:
        require_writable(out / RESULTS, '--json')
    found = Found(detector.classes)
    job = Job(detector, out, batch, threads or 2, pictures)
    start = time.perf_counter()
    _detect_images(job, images, found)
    for source in videos:
        _detect_video(job, source, found)
    seconds = time.perf_counter() - start
    if json_file:
        found.write(out / RESULTS, model)
    count = len(found.images)
    _say(
        f'{plural(count, "image")} in {seconds:.1f} s: {count / max(seconds, 1e-9):.1f} images/s with '
        f'reading and writing; {plural(len(found.results), "object")}; {len(found.errors)} failed; '
        f'results in {out}',
        sys.stdout,
    )
    return len(found.errors)


def _say(text: str, stream: TextIO) -> None:
    """Print beside a progress bar; names may hold bytes that are no text."""
    tqdm.write(text.encode(errors='backslashreplace').decode(), file=stream)


def _is_video(source: str) -> bool:
    return source.lower().endswith(VIDEOS) and not Path(source).is_dir()


def _detect_images(job: Job, images: Sequence[Path], found: Found) -> None:
    """Detect in image files, which threads read and write while others detect."""
    if not images:
        return
    root = os.path.commonpath([os.path.abspath(image.parent) for image in images])
    names = {path: os.path.relpath(path, root) for path in images}
    targets = {path: job.out / Path(name).with_name(picture_name(path)) for path, name in names.items()}
    read = {path.resolve() for path in images}
    replaced = [target for target in targets.values() if target.resolve() in read]
    if job.pictures and replaced:
        raise UserError(f'-o {job.out}: {replaced[0]} would be replaced by its own picture')
    twice = [target for target, count in Counter(targets.values()).items() if count > 1]
    if job.pictures and twice:
        raise UserError(f'-o {job.out}: {twice[0]} would be the picture of two images: rename one of them')
    sent: deque[Path] = deque()
    bar = tqdm(total=len(images), unit='image', disable=None)

    def readable() -> Iterator[Image]:
        for path, content in ordered(_try_to_read, images, job.threads):
            if isinstance(content, UserError):
                found.fail(names[path], content)
                bar.update()
                continue
            sent.append(path)
            yield content

    def drawn() -> Iterator[tuple[Path, Image, Detections]]:
        for image, each in find_each(job.detector, readable(), job.batch):
            path = sent.popleft()
            bar.update()
            if isinstance(each, UserError):
                found.fail(names[path], UserError(f'{path}: {each}'))
                continue
            found.add(names[path], image, each)
            yield path, image, each

    def write(item: tuple[Path, Image, Detections]) -> None:
        path, image, each = item
        if not job.pictures:
            return
        try:
            content = encode_image(draw(image, each, job.detector.classes), targets[path].suffix)
        except UserError as error:
            found.fail(names[path], UserError(f'{path}: {error}'))
        else:
            write_file(targets[path], content)

    with bar:
        for _ in ordered(write, drawn(), job.threads):
            pass


def _try_to_read(path: Path) -> tuple[Path, Image | UserError]:
    try:
        return path, read_image(path)
    except UserError as error:
        return path, error


def find_each(
    detector: AnyDetector, images: Iterable[Image], batch: int
) -> Iterator[tuple[Image, Detections | UserError]]:
    """Yield each image with what a detector finds in it, or with the error where it cannot run on it.

    Where it fails, the images that it was given until then are tried one at a time.

    Raises:
        Exception: whatever the detector raises of a plain image as well, or ``images`` raises.
    """
    source = iter(images)
    sent: deque[Image] = deque()
    broken: list[Exception] = []

    def feed() -> Iterator[Image]:
        try:
            for image in source:
                sent.append(image)
                yield image
        except Exception as error:
            broken.append(error)
            raise

    while True:
        try:
            for found in detector.stream(feed(), batch):
                yield sent.popleft(), found
            return
        except Exception:
            if broken or not sent:
                raise
        while sent:
            image = sent.popleft()
            yield image, _find_one(detector, image)


def _find_one(detector: AnyDetector, image: Image) -> Detections | UserError:
    try:
        return next(iter(detector.stream([image])))
    except Exception as error:
        # Is the detector to blame, and not the image? Then this raises.
        list(detector.stream([np.full((480, 640, 3), 128, np.uint8)]))
        why = str(error) if isinstance(error, UserError) else reason(error)
        return UserError(f'the detector cannot run on {image.shape[1]} x {image.shape[0]} px: {why}')


def _video_target(source: str, out: Path) -> Path:
    if is_camera(source):
        return out / f'camera-{source}.mp4'
    return out / (Path(source).name if source.lower().endswith('.mp4') else f'{Path(source).name}.mp4')


def _detect_video(job: Job, source: str, found: Found) -> None:
    """Detect in the frames of a video; of a camera, until Ctrl-C."""
    try:
        reader = VideoReader(source)
    except UserError as error:
        found.fail(source, error)
        return
    index = -1
    with contextlib.ExitStack() as closing:
        target = _video_target(source, job.out)
        writer = closing.enter_context(VideoWriter(target, reader.fps)) if job.pictures else None
        bar = closing.enter_context(tqdm(total=reader.count or None, unit='frame', disable=None))
        try:
            for index, (frame, each) in enumerate(find_each(job.detector, reader, job.batch)):
                if isinstance(each, UserError):
                    found.fail(source, UserError(f'{source}: frame {index}, at which it stops: {each}'))
                    break
                found.add(source, frame, each, frame=index)
                if writer is not None:
                    writer.write(draw(frame, each, job.detector.classes))
                bar.update()
        except KeyboardInterrupt:
            if not reader.is_camera:
                raise
    if index < 0:
        found.fail(source, UserError(f'{source}: no frame of it can be read'))
