"""Any number of images through an exported detector, by many processes and machines, with Ray Data.

The list of images is cut into shards. A worker makes of each one Parquet file, whose name follows from the
shard alone and which appears whole or not at all. So whatever is killed, what is there is right, and the same
command does what is not there.
"""

from __future__ import annotations

import hashlib
import io
import logging
import re
import socket
import tempfile
import time
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from tqdm import tqdm

from ghost_det.errors import UserError
from ghost_det.utils.files import require_writable
from ghost_det.utils.images import Image
from ghost_det.utils.system import RUNTIME
from ghost_det.utils.text import plural
from ghost_det.utils.threads import ordered

from .backends import cores
from .coco_json import write_coco
from .detect import find_each
from .detector import Detector
from .manifest import PARTS, agree, as_parquet, digest, listed, part_name
from .stores import Store, brief, list_images, read_anywhere

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
_READERS = 4  # threads a core that read images, as most of that time may be a bucket's
_RETRIES = 3  # of a shard whose worker died
_FOOTERS = 32  # threads that look into parts


class Counts(NamedTuple):
    """What is in parts: images, those of them that cannot be read, and objects found."""

    images: int
    failed: int
    objects: int


class Settings(NamedTuple):
    """How a worker detects."""

    batch: int
    threads: int
    score: float


class Worker:
    """A detector in a process of its own, which makes parts of shards.

    Args:
        model: name and content of each of the detector's files; the main one is the first.
        store: where results go.
        settings: of the detector.
    """

    def __init__(self, model: Any, store: Store, settings: Settings) -> None:
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
        paths = listed(self._store, shard)
        found = list(self._rows(paths))
        columns = [pa.array(column, kind) for column, kind in zip(zip(*found), SCHEMA.types)]
        self._store.write(part_name(shard), as_parquet(pa.Table.from_arrays(columns, schema=SCHEMA)))
        return len(found), [row[-1] for row in found if row[-1]][:3]

    def _rows(self, paths: list[str]) -> Iterator[tuple[Any, ...]]:
        """Yield a row of `SCHEMA` for each image, in order."""
        waiting: deque[tuple[str, tuple[int, int] | UserError]] = deque()

        def readable() -> Iterator[Image]:
            for path, content in ordered(_try_to_read, paths, _READERS * self._settings.threads):
                if isinstance(content, UserError):
                    waiting.append((path, content))
                else:
                    waiting.append((path, (content.shape[1], content.shape[0])))
                    yield content

        def bad() -> Iterator[tuple[Any, ...]]:
            while waiting and isinstance(waiting[0][1], UserError):
                path, error = waiting.popleft()
                yield path, None, None, [], [], [], str(error)

        for _, each in find_each(self._detector, readable(), self._settings.batch):
            yield from bad()
            path, size = waiting.popleft()
            assert isinstance(size, tuple)  # errors are gone
            if isinstance(each, UserError):
                yield path, None, None, [], [], [], f'{path}: {each}'
            else:
                yield path, *size, list(each.boxes), each.scores, each.labels, None
        yield from bad()


def _try_to_read(path: str) -> tuple[str, Image | UserError]:
    try:
        return path, read_anywhere(path)
    except UserError as error:
        return path, error


def open_detector(model: dict[str, bytes], settings: Settings) -> Detector:
    """Open a detector of files that are in memory, and have it ready.

    Raises:
        UserError: it cannot be used.
    """
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

    Args:
        model: an exported detector.
        source: see `list_images`.
        out: a folder, which all machines share, or a bucket's prefix.
        workers: processes; by default as many as there are cores for.
        batch: images that a worker gives its detector at a time.
        threads: cores of a worker.
        score: the least of what is found.
        shard: images in one Parquet file; by default 1000, or fewer where there are few images.
        column: of the paths, where the source is Parquet.
        limit: take the first images of the source only.
        address: of a Ray cluster, as ``'auto'``; by default, Ray is started on this machine.
        retry: do those shards again in which images could not be read.
        coco: a json file for all results.

    Raises:
        UserError: an argument is wrong, or a file cannot be read or written; or ``out`` holds results of
            another model, list or setting.
    """
    files = read_model(model)
    detector = open_detector(files, Settings(batch, threads, score))
    store = Store.made(out, '-o')
    if coco:
        require_writable(coco, '--coco')
    folder, paths = list_images(source, column, out)
    paths = paths if limit is None else paths[:limit]
    # Enough shards that no worker is long without one while others end theirs.
    few = -(-len(paths) // (4 * (workers or cores())))
    wanted = {
        'format': 1,
        'model': hashlib.sha256(b''.join(files.values())).hexdigest(),
        'classes': list(detector.classes),
        'score': score,
        'folder': folder,
        'images': len(paths),
        'list': digest(paths),
        'shard': shard or min(SHARD, few),
    }
    del detector
    manifest = agree(store, wanted, shard, paths)
    count = -(-len(paths) // manifest['shard'])
    todo = _missing(store, count, retry)
    done = len(paths) - sum(min(manifest['shard'], len(paths) - each * manifest['shard']) for each in todo)
    _say(f'{plural(len(paths), "image")} in {plural(count, "shard")}; {done} are done already')
    if todo:
        _start_ray(address, (workers or max(1, cores() // threads)) * threads)
        resources: Any = ray.cluster_resources  # untyped
        workers = workers or max(1, int(resources()['CPU']) // threads)
        settings = Settings(batch, threads, score)
        _run(todo, (files, store, settings), min(workers, len(todo)), (done, len(paths)))
    total = _total(store, count, len(paths))
    store.sweep(PARTS)
    if coco:
        write_coco(coco, Path(model).name, manifest['classes'], folder, lambda: _tables(store, count))
    return total


def read_model(model: str) -> dict[str, bytes]:
    """Return name and content of each file of an exported detector.

    Raises:
        UserError: one is missing.
    """
    path = Path(model)
    files = [path, path.with_suffix('.bin')] if path.suffix == '.xml' else [path]
    if path.suffix not in ('.onnx', '.xml'):
        raise UserError(
            f'{model}: an exported detector is wanted, NAME.onnx or NAME.xml, of ghost-det export'
        )
    try:
        return {file.name: file.read_bytes() for file in files}
    except OSError as error:
        raise UserError(f'{error.filename}: cannot be read ({error.strerror})') from None


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
                    _say(f'error: {line}')
    except ray.exceptions.RayActorError as error:
        raise UserError(
            f'workers died {_RETRIES + 1} times over one shard: of too little memory, or of an image that '
            f'crashes the decoder. What is done is kept. Ray says: {brief(error)}'
        ) from None
    seconds = time.perf_counter() - start
    count = total - done
    by = plural(workers, 'worker')
    _say(f'{plural(count, "image")} in {seconds:.1f} s by {by}: {count / seconds:.1f} images/s')


def _say(text: str) -> None:
    tqdm.write(text.encode(errors='backslashreplace').decode())


def _count(store: Store, shard: int) -> Counts:
    with store.open(part_name(shard)) as file:
        try:
            footer = pq.ParquetFile(file).metadata
        except pa.ArrowInvalid as error:
            raise UserError(f'{store.root}/{part_name(shard)}: damaged; remove it: {brief(error)}') from None
    groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
    columns = [group.column(index) for group in groups for index in range(group.num_columns)]
    fine, boxes = (
        sum(getattr(each.statistics, count) for each in columns if each.path_in_schema == name)
        for name, count in (('error', 'null_count'), ('scores.list.element', 'num_values'))
    )
    return Counts(footer.num_rows, footer.num_rows - fine, boxes)


def _total(store: Store, count: int, images: int) -> Counts:
    """Return what is in all parts.

    Raises:
        UserError: not all are there, as where machines write to folders that they do not share.
    """
    absent = _missing(store, count, retry=False)
    if absent:
        raise UserError(
            f'-o {store.root}: {len(absent)} of {count} parts are not there, as {part_name(absent[0])}: the '
            'machines of a cluster must share this folder'
        )
    counts = ordered(lambda each: _count(store, each), range(count), _FOOTERS)
    total = Counts(*map(sum, zip(*counts)))
    if total.images != images:
        raise UserError(f'-o {store.root}: parts hold {total.images} images, {images} are wanted; start anew')
    return total


def _tables(store: Store, count: int) -> Iterable[Any]:
    for shard in range(count):
        with store.open(part_name(shard)) as file:
            yield pq.read_table(io.BytesIO(file.read()))
