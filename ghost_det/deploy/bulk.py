"""Any number of images through an exported detector, by many processes and machines, with Ray Data.

The list of images is cut into shards. A worker makes one Parquet file of each, whose name follows only from
the shard and which appears complete or not at all. So whatever is killed, what is there is right, and the
same command does what is not there.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import socket
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from tqdm import tqdm

from ghost_det.errors import UserError
from ghost_det.utils.files import require_writable
from ghost_det.utils.system import RUNTIME, cores
from ghost_det.utils.text import plural
from ghost_det.utils.threads import ordered

from .backends import model_files
from .coco import say, write_coco
from .detect import find_each, try_to_read
from .detector import Detector
from .stores import (
    PARTS,
    Store,
    agree,
    as_parquet,
    attempt,
    brief,
    digest,
    list_images,
    part_name,
    read_anywhere,
    read_shard,
)

SHARD = 1000
"""Images of a shard, at most, unless the user wants others."""
SCHEMA = pa.schema(
    [
        ('path', pa.string()),
        ('width', pa.int32()),
        ('height', pa.int32()),
        ('boxes', pa.list_(pa.list_(pa.float32(), 4))),
        ('scores', pa.list_(pa.float32())),
        ('labels', pa.list_(pa.int32())),
        ('error', pa.string()),
    ]
)
"""Of the parts: a row an image, with its size and boxes (x1 y1 x2 y2) in pixels, or why it cannot be read."""
_COUNTS = b'counts'  # of a part, in its footer
_READERS = 4  # threads a core that read images, as most of that time may be a bucket's
_RETRIES = 3  # of a shard whose worker died
_FOOTERS = 32  # threads that look into parts


class Counts(NamedTuple):
    """What is in parts: images, those of them that cannot be used, and objects found."""

    images: int
    failed: int
    objects: int


class Settings(NamedTuple):
    """How a worker detects."""

    batch: int
    threads: int
    score: float


class Worker:
    """A detector in a process of its own, which makes parts of shards; see `open_detector`."""

    def __init__(self, model: dict[str, bytes], store: Store, settings: Settings) -> None:
        import cv2

        cv2.setNumThreads(1)
        self._store, self._settings = store, settings
        self._detector = open_detector(model, settings)

    def __call__(self, shards: dict[str, Any]) -> dict[str, Any]:
        """Make the part of each shard; return how many images it has, some errors, or what stops the run."""
        rows = []
        for shard in shards['id']:
            try:
                count, errors = self._part(int(shard))
                rows.append((count, '\n'.join(errors), ''))
            except UserError as error:  # which Ray would wrap in others
                rows.append((0, '', str(error)))
        return dict(zip(('images', 'errors', 'stop'), map(list, zip(*rows))))

    def _part(self, shard: int) -> tuple[int, list[str]]:
        rows = list(self._rows(read_shard(self._store, shard)))
        errors = [row[-1] for row in rows if row[-1]]
        counts = Counts(len(rows), len(errors), sum(len(row[4]) for row in rows))
        columns = [pa.array(column, kind) for column, kind in zip(zip(*rows), SCHEMA.types)]
        schema = SCHEMA.with_metadata({_COUNTS: json.dumps(counts)})
        self._store.write(part_name(shard), as_parquet(pa.Table.from_arrays(columns, schema=schema)))
        return len(rows), errors[:3]

    def _rows(self, paths: list[str]) -> Iterator[tuple[Any, ...]]:
        """Yield a row of `SCHEMA` for each image, in order."""
        loaded = ordered(partial(try_to_read, read_anywhere), paths, _READERS * self._settings.threads)
        for path, image, found in find_each(self._detector, loaded, self._settings.batch):
            if isinstance(found, UserError):
                yield path, None, None, [], [], [], str(found)
            else:
                height, width = image.shape[:2]
                yield path, width, height, list(found.boxes), found.scores, found.labels, None


def open_detector(model: dict[str, bytes], settings: Settings) -> Detector:
    """Open a detector of files by name that are in memory, the main one first, and have it ready."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in model.items():
            Path(folder, name).write_bytes(content)
        detector = Detector(
            Path(folder, next(iter(model))), threads=settings.threads, score_threshold=settings.score
        )
        # Engines are made at their first use, and may read the files again.
        blank = np.zeros((detector.metadata.height, detector.metadata.width, 3), np.uint8)
        list(detector.stream([blank], settings.batch))
    return detector


def detect_many(
    model: str,
    source: str,
    out: str,
    workers: int | None = None,
    batch: int = 1,
    threads: int = 1,
    score: float = 0.3,
    shard: int | None = None,
    column: str = 'path',
    limit: int | None = None,
    address: str | None = None,
    retry: bool = False,
    coco: Path | None = None,
) -> Counts:
    """Detect in all images of a source that ``out`` has no results of, and return what it has then.

    The options are those of ``ghost-det detect-many``. Ray is started on this machine where it does not run
    and no ``address`` is given.
    """
    names = model_files(Path(model))
    files = attempt('read', model, lambda: {file.name: file.read_bytes() for file in names})
    settings = Settings(batch, threads, score)
    classes = list(open_detector(files, settings).classes)
    store = Store.made(out, '-o')
    if coco:
        require_writable(coco, '--coco')
    folder, paths = list_images(source, column, out)
    paths = paths if limit is None else paths[:limit]
    # Enough shards that no worker is long without one while others end theirs.
    few = -(-len(paths) // (4 * (workers or cores())))
    expected = {
        'format': 1,
        'model': hashlib.sha256(b''.join(files.values())).hexdigest(),
        'classes': classes,
        'score': score,
        'folder': folder,
        'images': len(paths),
        'list': digest(paths),
        'shard': shard or min(SHARD, few),
    }
    manifest = agree(store, expected, shard, paths)
    count = -(-len(paths) // manifest['shard'])
    todo = _missing(store, count, retry)
    done = len(paths) - sum(min(manifest['shard'], len(paths) - each * manifest['shard']) for each in todo)
    say(f'{plural(len(paths), "image")} in {plural(count, "shard")}; {done} are done already')
    if todo:
        _start_ray(address, (workers or max(1, cores() // threads)) * threads)
        resources: Any = ray.cluster_resources  # untyped
        workers = workers or max(1, int(resources()['CPU']) // threads)
        _run(todo, (files, store, settings), min(workers, len(todo)), (done, len(paths)))
    total = _total(store, count, len(paths))
    store.sweep(PARTS)
    if coco:
        write_coco(coco, Path(model).name, classes, folder, lambda: _tables(store, count))
    return total


def _missing(store: Store, count: int, retry: bool) -> list[int]:
    """Return the shards that have no part; and with ``retry`` those whose part has errors."""
    matches = (re.fullmatch(r'part-(\d+)\.parquet', name) for name in store.names(PARTS))
    there = {int(match[1]) for match in matches if match}
    if retry:
        parts = ordered(lambda each: (each, _count(store, each)), sorted(there), _FOOTERS)
        there = {each for each, counts in parts if not counts.failed}
    return [each for each in range(count) if each not in there]


def _start_ray(address: str | None, cpus: int) -> None:
    if ray.is_initialized():
        return
    quiet: dict[str, Any] = {'logging_level': logging.ERROR, 'log_to_driver': False}
    host, _, port = (address or '').rpartition(':')
    try:
        if host and port.isdecimal():  # for which Ray would wait a quarter of an hour
            socket.create_connection((host.rpartition('/')[2], int(port)), timeout=10).close()
        if address:
            ray.init(address=address, **quiet)
        else:
            # The store holds the model, and otherwise only numbers of shards.
            memory = 256 * 2**20
            ray.init('local', num_cpus=cpus, object_store_memory=memory, include_dashboard=False, **quiet)
    except (OSError, OverflowError, ValueError) as error:
        raise UserError(f'--address {address}: no Ray cluster can be joined: {brief(error)}') from None


def _run(todo: list[int], arguments: tuple[Any, ...], workers: int, progress: tuple[int, int]) -> None:
    """Have workers make the parts of shards."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger('ray.data').setLevel(logging.CRITICAL)  # what it tells is raised, too
    shards = ray.data.from_items([{'id': shard} for shard in todo], override_num_blocks=len(todo))
    threads = arguments[-1].threads
    with warnings.catch_warnings():
        # Ray 2.60 has no other way to bound retries, and takes this one away in 2.64.
        warnings.simplefilter('ignore', DeprecationWarning)
        made = shards.map_batches(
            Worker,
            fn_constructor_args=arguments,
            batch_size=1,
            # None waits behind a busy worker while another is idle.
            compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=1),
            num_cpus=threads,
            max_task_retries=_RETRIES,
            runtime_env={'env_vars': {RUNTIME: '1', 'OMP_NUM_THREADS': str(threads)}},
        )
    done, total = progress
    start = time.perf_counter()
    try:
        with tqdm(total=total, initial=done, unit='image', disable=None) as bar:
            for row in made.iter_rows():
                if row['stop']:
                    raise UserError(row['stop'])
                bar.update(int(row['images']))
                for line in filter(None, row['errors'].split('\n')):
                    say(f'error: {line}')
    except ray.exceptions.RayActorError as error:
        raise UserError(
            f'workers died {_RETRIES + 1} times over one shard: of too little memory, or of an image that '
            f'crashes the decoder. What is done is kept. Ray says: {brief(error)}'
        ) from None
    seconds = time.perf_counter() - start
    count = total - done
    by = plural(workers, 'worker')
    say(f'{plural(count, "image")} in {seconds:.1f} s by {by}: {count / seconds:.1f} images/s')


def _count(store: Store, shard: int) -> Counts:
    with store.open(part_name(shard)) as file:
        try:
            return Counts(*json.loads(pq.ParquetFile(file).metadata.metadata[_COUNTS]))
        except (pa.ArrowInvalid, KeyError, TypeError):
            raise UserError(f'{store.root}/{part_name(shard)}: damaged; remove it') from None


def _total(store: Store, count: int, images: int) -> Counts:
    absent = _missing(store, count, retry=False)
    if absent:
        raise UserError(
            f'-o {store.root}: {len(absent)} of {count} parts are not there, as {part_name(absent[0])}: the '
            'machines of a cluster must share this folder'
        )
    counts = ordered(lambda each: _count(store, each), range(count), _FOOTERS)
    total = Counts(*map(sum, zip(*counts)))
    if total.images != images:
        raise UserError(f'-o {store.root}: expected {images} images, got {total.images}; use another folder')
    return total


def _tables(store: Store, count: int) -> Iterable[Any]:
    for shard in range(count):
        with store.open(part_name(shard)) as file:
            yield pq.read_table(file)
