"""Images and videos through a detector, into pictures, videos and json."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import cv2
import numpy as np
from tqdm import tqdm

from ghost_det.errors import UserError, reason
from ghost_det.utils.files import require_folder, require_writable
from ghost_det.utils.images import Image, encode_image, find_images, picture_name, read_image, write_file
from ghost_det.utils.text import plural
from ghost_det.utils.threads import ordered

from .coco import Results, say
from .detector import Detections
from .draw import draw
from .video import VIDEOS, VideoReader, is_camera, write_video

SCORE = 0.3
RESULTS = 'detections.json'
P = TypeVar('P')


class AnyDetector(Protocol):
    """An exported detector, or one in torch."""

    classes: tuple[str, ...]

    def stream(self, images: Iterable[Image], batch: int = 1) -> Iterator[Detections]:
        """See `Detector.stream`."""


class Job(NamedTuple):
    """How images and videos are worked at; ``targets`` are the pictures and videos to write, by source."""

    detector: AnyDetector
    batch: int
    threads: int
    targets: dict[str, Path]


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
    """
    if not json_file and not pictures:
        raise UserError('--no-pictures without --json: nothing would be written')
    videos = [source for source in dict.fromkeys(sources) if is_camera(source) or _is_video(source)]
    files = [Path(source) for source in sources if source not in videos]
    inside = out.resolve()
    images = find_images(files, skip=lambda path: path.resolve().is_relative_to(inside))
    root = os.path.commonpath([os.path.abspath(image.parent) for image in images]) if images else ''
    names = {image: os.path.relpath(image, root) for image in images}
    targets = {}
    if pictures:
        targets = {str(path): out / Path(name).with_name(picture_name(path)) for path, name in names.items()}
        targets |= {source: _video_target(source, out) for source in videos}
        _check_targets(targets, out)
    cv2.setLogLevel(0)  # of a damaged file we say more ourselves
    require_folder(out, '-o')
    if json_file:
        require_writable(out / RESULTS, '--json')
    results = Results(model, detector.classes)
    job = Job(detector, batch, threads or 2, targets)
    start = time.perf_counter()
    _detect_images(job, names, results)
    for source in videos:
        _detect_video(job, source, results)
    seconds = time.perf_counter() - start
    if json_file:
        write_file(out / RESULTS, json.dumps(results.content, allow_nan=False).encode())
    count, objects, failed = (len(results.content[key]) for key in ('images', 'results', 'errors'))
    say(
        f'{plural(count, "image")} in {seconds:.1f} s: {count / max(seconds, 1e-9):.1f} images/s with '
        f'reading and writing; {plural(objects, "object")}; {failed} failed; results in {out}'
    )
    return failed


def _is_video(source: str) -> bool:
    return source.lower().endswith(VIDEOS) and not Path(source).is_dir()


def _video_target(source: str, out: Path) -> Path:
    if is_camera(source):
        return out / f'camera-{source}.mp4'
    return out / (Path(source).name if source.lower().endswith('.mp4') else f'{Path(source).name}.mp4')


def _check_targets(targets: dict[str, Path], out: Path) -> None:
    read = {Path(source).resolve() for source in targets}
    made = Counter(target.resolve() for target in targets.values())
    for target in targets.values():
        if target.resolve() in read or made[target.resolve()] > 1:
            raise UserError(
                f'-o {out}: {target} would be replaced: it is read, or made of two sources: choose another '
                'folder, or rename a source'
            )


def _detect_images(job: Job, names: dict[Path, str], results: Results) -> None:
    """Detect in image files, which threads read and write while others detect."""

    def detected() -> Iterator[tuple[Path, Image, Detections]]:
        loaded = ordered(partial(try_to_read, read_image), names, job.threads)
        for path, image, found in find_each(job.detector, loaded, job.batch):
            bar.update()
            if isinstance(found, UserError):
                results.fail(names[path], found)
            else:
                results.add(names[path], image, found)
                yield path, image, found

    def write(item: tuple[Path, Image, Detections]) -> None:
        path, image, found = item
        target = job.targets.get(str(path))
        if target is None:
            return
        try:
            content = encode_image(draw(image, found, job.detector.classes), target.suffix)
        except UserError as error:
            results.fail(names[path], UserError(f'{path}: {error}'))
        else:
            write_file(target, content)

    with tqdm(total=len(names), unit='image', disable=None if names else True) as bar:
        for _ in ordered(write, detected(), job.threads):
            pass


def _detect_video(job: Job, source: str, results: Results) -> None:
    """Detect in the frames of a video; of a camera, until Ctrl-C."""
    try:
        reader = VideoReader(source)
    except UserError as error:
        results.fail(source, error)
        return
    index = -1
    with contextlib.ExitStack() as closing:
        target = job.targets.get(source)
        write = closing.enter_context(write_video(target, reader.fps)) if target else None
        bar = closing.enter_context(tqdm(total=reader.count or None, unit='frame', disable=None))
        frames = ((f'{source}: frame {index}', frame) for index, frame in enumerate(reader))
        try:
            for index, (_, frame, found) in enumerate(find_each(job.detector, frames, job.batch)):
                if isinstance(found, UserError):
                    results.fail(source, UserError(f'{found}; what follows is left out'))
                    break
                results.add(source, frame, found, frame=index)
                if write:
                    write(draw(frame, found, job.detector.classes))
                bar.update()
        except KeyboardInterrupt:
            if not reader.is_camera:
                raise
    if index < 0:
        results.fail(source, UserError(f'{source}: no frame of it can be read'))


def try_to_read(read: Callable[[P], Image], path: P) -> tuple[P, Image | UserError]:
    """Return a path, and its image or why it cannot be read."""
    try:
        return path, read(path)
    except UserError as error:
        return path, error


def find_each(
    detector: AnyDetector, items: Iterable[tuple[P, Image | UserError]], batch: int
) -> Iterator[tuple[P, Any, Detections | UserError]]:
    """Yield the name and image of each item, in order, and what is found in it, or why nothing could be.

    An item may be an error already, and has no image then. Where the detector fails, the images that it was
    given until then are tried one at a time. What it raises of a plain image as well, or ``items`` raises, is
    raised.
    """
    source = iter(items)
    sent: deque[tuple[P, Image | UserError]] = deque()
    broken = False

    def feed() -> Iterator[Image]:
        nonlocal broken
        try:
            for item in source:
                sent.append(item)
                if not isinstance(item[1], UserError):
                    yield item[1]
        except Exception:
            broken = True
            raise

    def unreadable() -> Iterator[tuple[P, Any, Any]]:
        while sent and isinstance(sent[0][1], UserError):
            name, error = sent.popleft()
            yield name, None, error

    while True:
        try:
            for found in detector.stream(feed(), batch):
                yield from unreadable()
                yield (*sent.popleft(), found)
            yield from unreadable()
            return
        except Exception:
            if broken or not sent:
                raise
        while sent:
            name, image = sent.popleft()
            yield name, image, image if isinstance(image, UserError) else _find_one(detector, image, name)


def _find_one(detector: AnyDetector, image: Image, name: object) -> Detections | UserError:
    try:
        return next(iter(detector.stream([image])))
    except Exception as error:
        # Is the detector to blame, and not the image? Then this raises.
        list(detector.stream([np.full((480, 640, 3), 128, np.uint8)]))
        why = str(error) if isinstance(error, UserError) else reason(error)
        return UserError(f'{name}: the detector cannot run on {image.shape[1]} x {image.shape[0]} px: {why}')
