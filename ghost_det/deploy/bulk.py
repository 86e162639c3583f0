"""Any number of images through an exported detector, by many processes and machines, with Ray.

The list of images is cut into shards. Workers write one Parquet file of each shard, named by the shard's
number, which appears complete or not at all. After any stop, the same command does the missing shards.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import re
import socket
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
from tqdm import tqdm

from ghost_det import __version__
from ghost_det.errors import UserError
from ghost_det.utils.files import PARTIAL, require_folder, require_writable
from ghost_det.utils.system import RUNTIME, cores
from ghost_det.utils.text import plural
from ghost_det.utils.threads import ordered

from .backends import model_files
from .coco import Results, say
from .detect import AnyDetector, find_each, read_each
from .detector import Detections, Detector
from .stores import Store, brief, explain_errors, is_uri, list_images, read_anywhere

MANIFEST = 'manifest.json'
PARTS = 'parts'
SHARD = 1000
"""Images of a shard, at most, unless the user chooses another number."""
SCHEMA = pa.schema(
    {
        'path': pa.string(),
        'width': pa.int32(),
        'height': pa.int32(),
        'boxes': pa.list_(pa.list_(pa.float32(), 4)),
        'scores': pa.list_(pa.float32()),
        'labels': pa.list_(pa.int32()),
        'error': pa.string(),
    }
)
"""A row an image, with its size and boxes (x1 y1 x2 y2) in pixels, or why it cannot be used."""
_READERS = 4  # threads a core that read images, as most of that time may be a bucket's
_RETRIES = 3  # of a shard whose worker died
_COUNTERS = 32  # threads that count what is in parts


class Counts(NamedTuple):
    """Numbers of images, of those that cannot be used, and of objects."""

    images: int
    failed: int
    objects: int


class Job(NamedTuple):
    """What each worker gets: names and contents of the detector's files, the main one first, and options."""

    model: tuple[tuple[str, bytes], ...]
    store: Store
    batch: int
    threads: int
    score: float


@functools.lru_cache(1)
def open_detector(job: Job) -> Detector:
    """Open the detector of a job, once in each worker."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in job.model:
            Path(folder, name).write_bytes(content)
        path = Path(folder, job.model[0][0])
        detector = Detector(path, threads=job.threads, score_threshold=job.score)
        # Engines are made at their first use, and may read the files again.
        blank = np.zeros((detector.metadata.height, detector.metadata.width, 3), np.uint8)
        list(detector.stream([blank], job.batch))
    return detector


def detect_shard(shard: int, paths: list[str], job: Job) -> tuple[int, list[str]]:
    """Write the part of a shard, and return its number of images and some of their errors."""
    cv2.setNumThreads(1)
    rows = detect_rows(open_detector(job), paths, job.batch, _READERS * job.threads)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), sink, compression='zstd')
    job.store.write(part_name(shard), sink.getvalue())
    return len(rows), [row['error'] for row in rows if 'error' in row][:3]


def detect_rows(detector: AnyDetector, paths: list[str], batch: int, threads: int) -> list[dict[str, Any]]:
    """Return a row of `SCHEMA` for each image, in order."""
    rows: dict[str, dict[str, Any]] = {}

    def fail(path: str, error: UserError) -> None:
        rows[path] = dict(path=path, boxes=[], scores=[], labels=[], error=str(error))

    for path, image, found in find_each(detector, read_each(read_anywhere, paths, threads, fail), batch):
        if isinstance(found, UserError):
            fail(path, found)
            continue
        columns = {key: getattr(found, key).tolist() for key in ('boxes', 'scores', 'labels')}
        rows[path] = dict(path=path, height=image.shape[0], width=image.shape[1], **columns)
    return [rows[path] for path in paths]


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

    The options are those of ``ghost-det detect-many``. Ray is started on this machine where it is not
    running and no ``address`` is given.
    """
    with explain_errors(model):
        files = tuple((file.name, file.read_bytes()) for file in model_files(Path(model)))
    job = Job(files, Store(out.rstrip('/') if is_uri(out) else os.path.abspath(out)), batch, threads, score)
    classes = list(open_detector(job).classes)
    if not is_uri(out):
        require_folder(out, '-o')
    if coco:
        require_writable(coco, '--coco')
    folder, paths = list_images(source, column, out)
    paths = paths[:limit]
    with explain_errors(source):  # a name that is not UTF-8
        listed = hashlib.sha256('\0'.join(paths).encode()).hexdigest()
    expected = {
        'format': 2,
        'model': hashlib.sha256(b''.join(content for _, content in files)).hexdigest(),
        'classes': classes,
        'score': score,
        'images': len(paths),
        'list': listed,
        # Enough shards that no worker is long without one at the end.
        'shard': shard or min(SHARD, -(-len(paths) // (4 * (workers or cores())))),
    }
    size = _claim(job.store, expected, shard)
    shards = [paths[start : start + size] for start in range(0, len(paths), size)]
    present = _present(job.store)
    if retry:
        counted = ordered(lambda each: (each, _count(job.store, each)), present, _COUNTERS)
        present -= {each for each, counts in counted if counts.failed}
    todo = {each: images for each, images in enumerate(shards) if each not in present}
    done = len(paths) - sum(map(len, todo.values()))
    say(f'{plural(len(paths), "image")} in {plural(len(shards), "shard")}; {done} are done already')
    if todo:
        _start_ray(address, (workers or max(1, cores() // threads)) * threads)
        _run(todo, job, workers)
    absent = sorted(set(range(len(shards))) - _present(job.store))
    if absent:
        raise UserError(
            f'-o {out}: {len(absent)} of {len(shards)} parts are missing, as {part_name(absent[0])}: '
            'the machines of a cluster must share this folder'
        )
    counts = ordered(lambda each: _count(job.store, each), range(len(shards)), _COUNTERS)
    total = Counts(*map(sum, zip(*counts)))
    if coco:
        _write_coco(coco, Results(Path(model).name, classes), job.store, len(shards), folder)
    if not is_uri(out):
        for path in Path(out, PARTS).glob(f'{PARTIAL}*'):  # of killed workers
            path.unlink(missing_ok=True)
    return total


def _claim(store: Store, expected: dict[str, Any], shard: int | None) -> int:
    """Write the manifest, or check that the one there is of the same run; return its images in a shard."""
    if MANIFEST not in store.names(''):
        if store.names(PARTS):
            raise UserError(f'-o {store.root}: has parts but no {MANIFEST}; choose another folder')
        store.write(MANIFEST, json.dumps({**expected, 'ghost_det_version': __version__}, indent=1).encode())
        return int(expected['shard'])
    with store.open(MANIFEST) as file:
        found = dict(json.loads(file.read()))
    if shard is None:
        expected['shard'] = found.get('shard')
    for key, value in expected.items():
        if found.get(key) != value:
            raise UserError(
                f'-o {store.root}: holds results of another run: {key} {str(value)[:40]}, there '
                f'{str(found.get(key))[:40]}. Choose another folder, or the same model, images and settings'
            )
    return int(found['shard'])


def part_name(shard: int) -> str:
    """Return the name of a shard's part."""
    return f'{PARTS}/part-{shard:08d}.parquet'


def _present(store: Store) -> set[int]:
    """Return the shards that have a part."""
    matches = (re.fullmatch(r'part-(\d+)\.parquet', name) for name in store.names(PARTS))
    return {int(match[1]) for match in matches if match}


def _start_ray(address: str | None, cpus: int) -> None:
    if ray.is_initialized():
        return
    quiet: dict[str, Any] = {'logging_level': logging.ERROR, 'log_to_driver': False}
    host, _, port = (address or '').rpartition(':')
    try:
        if host and port.isdecimal():  # Ray would wait a quarter of an hour for it
            socket.create_connection((host.rpartition('/')[2], int(port)), timeout=10).close()
        if address:
            ray.init(address=address, **quiet)
        else:
            # The store holds little but the model.
            memory = 256 * 2**20
            ray.init('local', num_cpus=cpus, object_store_memory=memory, include_dashboard=False, **quiet)
    except (OSError, OverflowError, ValueError) as error:
        raise UserError(f'--address {address}: no Ray cluster can be joined: {brief(error)}') from None


def _run(todo: dict[int, list[str]], job: Job, workers: int | None) -> None:
    """Write the parts of shards, as tasks of Ray: as many at a time as there are workers."""
    resources: Any = ray.cluster_resources  # untyped
    workers = min(len(todo), workers or max(1, int(resources()['CPU']) // job.threads))
    task: Any = ray.remote(detect_shard).options(
        num_cpus=job.threads,
        max_retries=_RETRIES,
        runtime_env={'env_vars': {RUNTIME: '1', 'OMP_NUM_THREADS': str(job.threads)}},
    )
    shared = ray.put(job)
    waiting = iter(todo.items())
    running = [task.remote(*each, shared) for each in islice(waiting, workers)]
    total = sum(map(len, todo.values()))
    start = time.perf_counter()
    try:
        with tqdm(total=total, unit='image', disable=None) as bar:
            while running:
                (finished, *_), running = ray.wait(running)
                count, errors = ray.get(finished)
                running += [task.remote(*each, shared) for each in islice(waiting, 1)]
                bar.update(count)
                for line in errors:
                    say(f'error: {line}')
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        raise UserError(
            f'workers died {_RETRIES + 1} times over one shard: of too little memory, or of an image that '
            f'crashes the decoder. What is done is kept. Ray says: {brief(error)}'
        ) from None
    seconds = time.perf_counter() - start
    say(f'{plural(total, "image")} in {seconds:.1f} s: {total / seconds:.1f} images/s')


def _read(store: Store, shard: int, columns: list[str] | None = None) -> Any:
    with store.open(part_name(shard)) as file:
        return pq.read_table(file, columns=columns)


def _count(store: Store, shard: int) -> Counts:
    table = _read(store, shard, ['labels', 'error'])
    objects = pc.sum(pc.list_value_length(table['labels'])).as_py()
    return Counts(len(table), len(table) - table['error'].null_count, objects or 0)


def _write_coco(path: Path, results: Results, store: Store, count: int, folder: str) -> None:
    """Write all results as ``ghost-det detect --json`` does."""
    for row in (row for shard in range(count) for row in _read(store, shard).to_pylist()):
        name = row['path'].removeprefix(f'{folder}/')
        if row['error']:
            results.content['errors'].append({'file_name': name, 'error': row['error']})
            continue
        boxes = np.array(row['boxes'], np.float32).reshape(-1, 4)
        found = Detections(boxes, np.array(row['scores'], np.float32), np.array(row['labels'], np.int64))
        results.add(name, (row['height'], row['width']), found)
    results.save(path)
