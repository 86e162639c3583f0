"""Run a detector over images and videos; write pictures, videos and JSON."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO, TypeVar

import cv2
import numpy as np
from tqdm import tqdm

from ghost_det.errors import UserError, reason
from ghost_det.utils.files import require_folder, require_writable, write_file
from ghost_det.utils.images import Image, encode_image, find_images, picture_name, read_image
from ghost_det.utils.text import plural
from ghost_det.utils.threads import ordered

from .detector import AnyDetector, Detections
from .draw import draw
from .video import VIDEOS, VideoReader, is_camera, write_video

SCORE = 0.3
RESULTS = 'detections.json'
READABLE = 0.9  # of the frames and seconds that a video promises
P = TypeVar('P')


def say(text: str, stream: TextIO | None = None) -> None:
    """Print above a progress bar; names of files may hold bytes that are not text."""
    tqdm.write(text.encode(errors='backslashreplace').decode(), file=stream or sys.stdout)


class Results:
    """Detections by image in COCO's format; ``content`` is the content of the JSON file."""

    def __init__(self, model: str, classes: Sequence[str]) -> None:
        categories = [{'id': label + 1, 'name': name} for label, name in enumerate(classes)]
        self.content: dict[str, Any] = {'model': model, 'categories': categories}
        self.content |= {'images': [], 'results': [], 'errors': []}
        self._ids = range(1, len(classes) + 1)

    def add(self, name: str, size: Sequence[int], found: Detections, **more: Any) -> None:
        """Add the detections in an image; ``size`` is its height and width."""
        entry = {'id': len(self.content['images']) + 1, 'file_name': name, **more}
        self.content['images'].append({**entry, 'height': size[0], 'width': size[1]})
        self.content['results'] += found.to_coco(entry['id'], self._ids)

    def fail(self, name: str, error: object) -> None:
        """Add an image that cannot be used, and print why."""
        say(f'error: {error}', sys.stderr)
        self.content['errors'].append({'file_name': name, 'error': str(error)})


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

    ``model`` names the detector in the JSON file. ``sources`` are images, folders of them, videos, and
    numbers of cameras. Pictures keep the folders of their images.
    """
    if not json_file and not pictures:
        raise UserError('--no-pictures without --json: nothing would be written')
    videos = [source for source in dict.fromkeys(sources) if _is_video(source)]
    images = find_images((Path(source) for source in sources if source not in videos), out)
    root = os.path.commonpath([os.path.abspath(image.parent) for image in images]) if images else ''
    names = {image: os.path.relpath(image, root) for image in images}
    targets: dict[Path | str, Path] = {}
    if pictures:
        targets |= {path: out / Path(name).with_name(picture_name(path)) for path, name in names.items()}
        targets |= {source: out / _video_name(source) for source in videos}
        _check_targets(targets, out)
    cv2.setLogLevel(0)  # our own message about a damaged file says more
    require_folder(out, '-o')
    if json_file:
        require_writable(out / RESULTS, '--json')
    results = Results(model, detector.classes)
    start = time.perf_counter()
    _detect_images(detector, names, targets, results, batch, threads or 2)
    for source in videos:
        try:
            _detect_video(detector, source, targets.get(source), results, batch)
        except UserError as error:
            results.fail(source, error)
    seconds = time.perf_counter() - start
    if json_file:
        write_file(out / RESULTS, json.dumps(results.content, allow_nan=False))
    count, objects, failed = (len(results.content[key]) for key in ('images', 'results', 'errors'))
    say(
        f'{plural(count, "image")} in {seconds:.1f} s: {count / max(seconds, 1e-9):.1f} images/s with '
        f'reading and writing; {plural(objects, "object")}; {failed} failed; results in {out}'
    )
    return failed


def _is_video(source: str) -> bool:
    return is_camera(source) or (source.lower().endswith(VIDEOS) and not Path(source).is_dir())


def _video_name(source: str) -> str:
    name = f'camera-{source}' if is_camera(source) else Path(source).name
    return name if name.lower().endswith('.mp4') else f'{name}.mp4'


def _check_targets(targets: dict[Path | str, Path], out: Path) -> None:
    inputs = {Path(source).resolve() for source in targets}
    outputs = Counter(target.resolve() for target in targets.values())
    for target in targets.values():
        if target.resolve() in inputs or outputs[target.resolve()] > 1:
            raise UserError(
                f'-o {out}: {target} would replace an input, or the output of another source: choose '
                'another folder, or rename a source'
            )


def _detect_images(
    detector: AnyDetector,
    names: dict[Path, str],
    targets: dict[Path | str, Path],
    results: Results,
    batch: int,
    threads: int,
) -> None:
    """Detect in image files, which threads read and write meanwhile."""

    def detected() -> Iterator[tuple[Path, Image, Detections]]:
        for path, image, found in find_each(detector, read_each(read_image, names, threads), batch):
            if isinstance(found, UserError):
                results.fail(names[path], found)
            else:
                results.add(names[path], image.shape, found)
                yield path, image, found

    def write(item: tuple[Path, Image, Detections]) -> None:
        path, image, found = item
        target = targets.get(path)
        if target is None:
            return
        try:
            write_file(target, encode_image(draw(image, found, detector.classes), target.suffix))
        except UserError as error:
            results.fail(names[path], UserError(f'{path}: {error}'))

    pictures = ordered(write, detected(), threads)
    for _ in tqdm(pictures, total=len(names), unit='image', disable=None if names else True):
        pass


def _detect_video(
    detector: AnyDetector, source: str, target: Path | None, results: Results, batch: int
) -> None:
    """Detect in the frames of a video, or of a camera until Ctrl-C."""
    reader, index = VideoReader(source), -1
    frames = ((f'{source}: frame {number}', frame) for number, frame in enumerate(reader))
    with contextlib.ExitStack() as stack:
        write = stack.enter_context(write_video(target, reader.fps)) if target else None
        bar = stack.enter_context(tqdm(total=reader.count or None, unit='frame', disable=None))
        if reader.is_camera:
            stack.enter_context(contextlib.suppress(KeyboardInterrupt))
        for index, (_, frame, found) in enumerate(find_each(detector, frames, batch)):
            if isinstance(found, UserError):
                raise found
            results.add(source, frame.shape, found, frame=index)
            if write:
                write(draw(frame, found, detector.classes))
            bar.update()
    expected = READABLE * reader.count
    if index + 1 < expected and reader.seconds < expected / reader.fps:
        results.fail(source, f'{source}: only {index + 1} of about {reader.count} frames can be read')


def read_each(
    read: Callable[[P], Image], paths: Iterable[P], threads: int
) -> Iterator[tuple[P, Image | UserError]]:
    """Yield each path with its image, or why there is none, in order."""

    def attempt(path: P) -> tuple[P, Image | UserError]:
        try:
            return path, read(path)
        except UserError as error:
            return path, error

    return ordered(attempt, paths, threads)


def find_each(
    detector: AnyDetector, items: Iterable[tuple[P, Image | UserError]], batch: int
) -> Iterator[tuple[P, Any, Detections | UserError]]:
    """Yield the name and image of each item, in order, and the detections or why there are none.

    Where the detector fails, the images it was working on are tried one at a time. Errors of ``items``, and
    errors of the detector that no image or a plain image causes as well, are raised.
    """
    source = iter(items)
    sent: deque[tuple[P, Any]] = deque()

    def feed() -> Iterator[Image]:
        for name, image in source:
            sent.append((name, image))
            if not isinstance(image, UserError):
                yield image

    while True:
        try:
            for found in detector.stream(feed(), batch):
                while isinstance(sent[0][1], UserError):
                    name, error = sent.popleft()
                    yield name, error, error
                yield (*sent.popleft(), found)
            yield from ((name, error, error) for name, error in sent)
            return
        except Exception:
            retried = [(name, image, _find_one(detector, image, name)) for name, image in sent]
            yield from retried
            if not any(isinstance(found, UserError) and found is not image for _, image, found in retried):
                raise
            sent.clear()


def _find_one(detector: AnyDetector, image: Image | UserError, name: object) -> Detections | UserError:
    if isinstance(image, UserError):
        return image
    try:
        return next(iter(detector.stream([image])))
    except Exception as error:
        # Raises if the detector is to blame, not the image.
        list(detector.stream([np.full((480, 640, 3), 128, np.uint8)]))
        why = str(error) if isinstance(error, UserError) else reason(error)
        return UserError(f'{name}: the detector cannot run on {image.shape[1]} x {image.shape[0]} px: {why}')
