"""Checking images by opening them in processes of their own: a crash of a decoder costs one image."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Event
from typing import Any

from tqdm import tqdm

from ghost_det.data import image_facts
from ghost_det.data.findings import Finding, found
from ghost_det.data.table import Table
from ghost_det.utils.threads import ordered

BATCH = 500
MODES = {'1': 'grey image', 'L': 'grey image', 'CMYK': 'CMYK image', 'YCCK': 'CMYK image'}
MODES |= dict.fromkeys(('RGBA', 'LA', 'PA'), 'image with alpha')
Facts = dict[str, Any]  # see `image_facts.open_image`


def open_images(paths: Sequence[Path], jobs: int, progress: bool = True) -> list[Facts]:
    """Return the facts of each image; ``jobs`` processes, which import only Pillow and OpenCV, open them."""
    size = max(1, min(BATCH, -(-len(paths) // jobs)))
    batches = [[str(path) for path in paths[n : n + size]] for n in range(0, len(paths), size)]
    stop = Event()

    def open_batch(batch: list[str]) -> list[Facts]:
        facts: list[Facts] = []
        while len(facts) < len(batch) and not stop.is_set():
            rest = json.dumps(batch[len(facts) :])
            done = subprocess.run(
                [sys.executable, image_facts.__file__], input=rest, capture_output=True, text=True
            )
            facts += map(json.loads, done.stdout.splitlines())
            if len(facts) < len(batch):  # a bug of the decoder, or out of memory
                facts.append({'error': f'the decoder crashed on it (exit code {done.returncode})'})
        bar.update(len(batch))
        return facts

    with tqdm(total=len(paths), unit=' images', disable=None if progress else True, leave=False) as bar:
        return [facts for batch in ordered(open_batch, batches, jobs, stop) for facts in batch]


def image_kinds(facts: Facts, size: tuple[int, int]) -> Iterator[tuple[str, str]]:
    """Yield the kinds of problems of an image that is annotated as (width, height), with details."""
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
    elif facts['mode'] in MODES:
        yield MODES[facts['mode']], mode


def check_images(table: Table, split: str, facts: Sequence[Facts | None]) -> list[Finding]:
    """List the problems of the images of a split; ``facts`` are ``None`` if there is no file."""
    places: dict[str, list[str]] = defaultdict(list)
    first: dict[str, int] = {}
    for index, each in enumerate(facts):
        if each is None:
            continue
        width, height = table.sizes[index].tolist()
        for kind, details in image_kinds(each, (width, height)):
            places[kind].append(f'{table.image_place(index)}: {details}')
        if 'error' not in each:
            same = first.setdefault(each['hash'], index)
            if table.files[same] != table.files[index]:
                places['same image twice'].append(f'{table.image_place(index)} is {table.files[same]}')
    return [finding for kind, where in places.items() for finding in found(kind, split, where)]


def common_images(train: Sequence[Facts | None], val: Sequence[Facts | None]) -> list[int]:
    """Return the indices of the images of train whose bytes are also in val."""
    known = {each['hash'] for each in val if each and 'error' not in each}
    return [n for n, each in enumerate(train) if each and 'error' not in each and each['hash'] in known]
