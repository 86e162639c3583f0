"""Checking images by opening them, on all cores."""

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

from ghost_det.data import image_facts
from ghost_det.data.findings import Finding, found
from ghost_det.data.table import Table

BATCH = 500
Facts = dict[str, Any]


def open_images(paths: Sequence[Path], jobs: int, progress: bool = True) -> list[Facts]:
    """Return what `image_facts.open_image` says of each image; ``jobs`` processes open them.

    These import Pillow and OpenCV only.
    """
    from tqdm import tqdm

    size = max(1, min(BATCH, -(-len(paths) // jobs)))
    batches = [[str(path) for path in paths[n : n + size]] for n in range(0, len(paths), size)]
    stop = Event()
    with (
        tqdm(total=len(paths), unit=' images', disable=None if progress else True, leave=False) as bar,
        ThreadPoolExecutor(jobs) as pool,
    ):
        try:
            return [
                facts
                for batch in pool.map(lambda paths: _open_batch(paths, bar.update, stop), batches)
                for facts in batch
            ]
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
        if len(facts) < len(paths):  # killed by the next one: a decoder's fault, or memory
            facts.append({'error': f'the decoder died of it (exit code {process.returncode})'})
            tick()
    return facts


def image_kind(facts: Facts, size: tuple[int, int]) -> Iterator[tuple[str, str]]:
    """Yield the kinds of faults of an image, annotated as (width, height), with what is there."""
    if 'error' in facts:
        yield 'unreadable image', facts['error']
        return
    width, height = facts['size']
    yield from image_facts.size_kind(facts, size)
    if width * height > image_facts.MAX_PIXELS:
        yield 'huge image', f'{width} x {height}'
    if facts['bits'] > 16:
        yield '32-bit image', f'mode {facts["mode"]}'
    elif facts['bits'] > 8:
        yield '16-bit image', f'mode {facts["mode"]}'
    elif facts['mode'] in ('1', 'L'):
        yield 'grey image', f'mode {facts["mode"]}'
    elif facts['mode'] in ('RGBA', 'LA', 'PA'):
        yield 'image with alpha', f'mode {facts["mode"]}'
    elif facts['mode'] in ('CMYK', 'YCCK'):
        yield 'CMYK image', f'mode {facts["mode"]}'


def check_images(table: Table, split: str, facts: Sequence[Facts | None]) -> list[Finding]:
    """List what is wrong with the images of a split; ``facts`` are ``None`` where there is no file."""
    faults: dict[str, list[str]] = defaultdict(list)
    first: dict[str, int] = {}
    for index, each in enumerate(facts):
        if each is None:
            continue
        width, height = table.sizes[index].tolist()
        for kind, what in image_kind(each, (width, height)):
            faults[kind].append(f'{table.image_place(index)}: {what}')
        if 'error' not in each:
            twin = first.setdefault(each['hash'], index)
            if table.files[twin] != table.files[index]:
                faults['same image twice'].append(f'{table.image_place(index)} is {table.files[twin]}')
    return [finding for kind, places in faults.items() for finding in found(kind, split, places)]


def common_images(tables: Sequence[Table], facts: Sequence[Sequence[Facts | None]]) -> list[int]:
    """Return the indices of the images of the first split whose bytes are also in the second."""
    known = {each['hash'] for each in facts[1] if each and 'error' not in each}
    return [n for n, each in enumerate(facts[0]) if each and 'error' not in each and each['hash'] in known]
