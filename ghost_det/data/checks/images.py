"""Checking images by opening them, in processes of their own: a decoder that dies takes one image with it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

from tqdm import tqdm

from ghost_det.data import image_facts
from ghost_det.data.findings import Finding, found
from ghost_det.data.table import Table

BATCH = 500
Facts = dict[str, Any]  # see `image_facts.open_image`


def open_images(paths: Sequence[Path], jobs: int, progress: bool = True) -> list[Facts]:
    """Return the facts of each image; ``jobs`` processes, which import only Pillow and OpenCV, open them."""
    size = max(1, min(BATCH, -(-len(paths) // jobs)))
    batches = [[str(path) for path in paths[n : n + size]] for n in range(0, len(paths), size)]
    stop = Event()
    with (
        tqdm(total=len(paths), unit=' images', disable=None if progress else True, leave=False) as bar,
        ThreadPoolExecutor(jobs) as pool,
    ):
        try:
            results = pool.map(lambda batch: _open_batch(batch, bar.update, stop), batches)
            return [facts for batch in results for facts in batch]
        finally:
            stop.set()  # after Ctrl-C, as the pool waits for its threads


def _open_batch(paths: list[str], tick: Callable[[], object], stop: Event) -> list[Facts]:
    facts: list[Facts] = []
    while len(facts) < len(paths) and not stop.is_set():
        with subprocess.Popen(
            [sys.executable, image_facts.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process:
            assert process.stdin is not None and process.stdout is not None
            json.dump(paths[len(facts) :], process.stdin)
            process.stdin.close()
            for line in process.stdout:
                facts.append(json.loads(line))
                tick()
                if stop.is_set():
                    process.kill()
                    return facts
        if len(facts) < len(paths):  # killed by the next one: a bug of the decoder, or memory
            facts.append({'error': f'the decoder crashed on it (exit code {process.returncode})'})
            tick()
    return facts


def image_kinds(facts: Facts, size: tuple[int, int]) -> Iterator[tuple[str, str]]:
    """Yield the kinds of problems of an image, annotated as (width, height), with what is there."""
    if 'error' in facts:
        yield 'unreadable image', facts['error']
        return
    width, height = facts['size']
    yield from image_facts.size_kind(facts, size)
    if width * height > image_facts.MAX_PIXELS:
        yield 'huge image', f'{width} x {height}'
    mode = f'mode {facts["mode"]}'
    if facts['bits'] > 16:
        yield '32-bit image', mode
    elif facts['bits'] > 8:
        yield '16-bit image', mode
    elif facts['mode'] in ('1', 'L'):
        yield 'grey image', mode
    elif facts['mode'] in ('RGBA', 'LA', 'PA'):
        yield 'image with alpha', mode
    elif facts['mode'] in ('CMYK', 'YCCK'):
        yield 'CMYK image', mode


def check_images(table: Table, split: str, facts: Sequence[Facts | None]) -> list[Finding]:
    """List what is wrong with the images of a split; ``facts`` are ``None`` where there is no file."""
    places: dict[str, list[str]] = defaultdict(list)
    first: dict[str, int] = {}
    for index, each in enumerate(facts):
        if each is None:
            continue
        width, height = table.sizes[index].tolist()
        for kind, what in image_kinds(each, (width, height)):
            places[kind].append(f'{table.image_place(index)}: {what}')
        if 'error' not in each:
            same = first.setdefault(each['hash'], index)
            if table.files[same] != table.files[index]:
                places['same image twice'].append(f'{table.image_place(index)} is {table.files[same]}')
    return [finding for kind, where in places.items() for finding in found(kind, split, where)]


def common_images(train: Sequence[Facts | None], val: Sequence[Facts | None]) -> list[int]:
    """Return the indices of the images of train whose bytes are also in val."""
    known = {each['hash'] for each in val if each and 'error' not in each}
    return [n for n, each in enumerate(train) if each and 'error' not in each and each['hash'] in known]
