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
from collections.abc import Iterable
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
from ghost_det.errors import UserError, reason
from ghost_det.utils.files import PARTIAL, require_folder
from ghost_det.utils.system import RUNTIME, cores
from ghost_det.utils.text import plural

from .backends import model_files
from .detect import find_each, read_each, say
from .detector import AnyDetector, Detector
from .stores import Store, is_uri, list_images, locate, read_anywhere
from .tiles import OVERLAP, tiled

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
_ERROR = pc.field('error')
_READERS = 4  # threads a core that read images, as most of that time may be a bucket's
_RETRIES = 3  # of a shard whose worker died


class Counts(NamedTuple):
    """Numbers of images, of those that cannot be used, and of objects."""

    images: int
    failed: int
    objects: int


class Job(NamedTuple):
    """What each worker gets: the detector's name, names and contents of its files, and options."""

    name: str
    model: tuple[tuple[str, bytes], ...]
    store: Store
    batch: int
    threads: int
    score: float
    tile: int | None
    overlap: float | None


@functools.lru_cache(1)
def open_detector(job: Job) -> AnyDetector:
    """Open the detector of a job, once in each worker."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in job.model:
            Path(folder, name).write_bytes(content)
        path = Path(folder, job.name)
        detector = Detector(path, threads=job.threads, score_threshold=job.score)
        # Engines are made at their first use, and may read the files again.
        blank = np.zeros((detector.metadata.height, detector.metadata.width, 3), np.uint8)
        list(detector.stream([blank], job.batch))
    return tiled(detector, job.tile, job.overlap)


def detect_shard(shard: int, paths: list[str], job: Job) -> tuple[int, list[str]]:
    """Write the part of a shard, and return its number of images and some of their errors."""
    cv2.setNumThreads(1)
    images = read_each(read_anywhere, paths, _READERS * job.threads)
    rows: list[dict[str, Any]] = []
    for path, image, found in find_each(open_detector(job), images, job.batch):
        if isinstance(found, UserError):
            rows.append(dict(path=path, boxes=[], scores=[], labels=[], error=str(found)))
        else:
            columns = {key: getattr(found, key).tolist() for key in ('boxes', 'scores', 'labels')}
            rows.append(dict(path=path, height=image.shape[0], width=image.shape[1], **columns))
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), sink, compression='zstd')
    job.store.write(part_name(shard), sink.getvalue())
    return len(rows), [row['error'] for row in rows if 'error' in row][:3]


def detect_many(
    model: str,
    source: str,
    out: str,
    workers: int | None = None,
    batch: int = 1,
    threads: int = 1,
    score: float = 0.3,
    tile: int | None = None,
    overlap: float | None = None,
    shard: int | None = None,
    column: str = 'path',
    limit: int | None = None,
    address: str | None = None,
    retry: bool = False,
) -> Counts:
    """Detect in all images of a source that ``out`` has no results of, and return what it has then.

    The options are those of ``ghost-det detect-many``. Ray is started on this machine if it is not
    running and no ``address`` is given.
    """
    files = tuple((file.name, file.read_bytes()) for file in model_files(Path(model)))
    store = Store(out.rstrip('/') if is_uri(out) else os.path.abspath(out))
    job = Job(Path(model).name, files, store, batch, threads, score, tile, overlap)
    classes = list(open_detector(job).classes)
    if not is_uri(out):
        require_folder(out, '-o')
    paths = list_images(source, column, out)[:limit]
    with locate(source):  # a name may not be UTF-8
        listed = hashlib.sha256('\0'.join(paths).encode()).hexdigest()
    expected = {
        'format': 2,
        'model': hashlib.sha256(b''.join(content for _, content in files)).hexdigest(),
        'classes': classes,
        'score': score,
        'tile': tile,
        'overlap': OVERLAP if tile and overlap is None else overlap,
        'images': len(paths),
        'list': listed,
    }
    usual = min(SHARD, -(-len(paths) // (4 * (workers or cores()))))  # no worker is idle for long at the end
    size = _claim(store, expected, shard, usual)
    shards = [paths[start : start + size] for start in range(0, len(paths), size)]
    present = _numbers(store.names(PARTS))
    if retry and present:
        failed = store.table(map(part_name, present), columns=['__filename'], filter=pc.is_valid(_ERROR))
        present -= _numbers(failed['__filename'].unique().to_pylist())
    todo = {each: images for each, images in enumerate(shards) if each not in present}
    done = len(paths) - sum(map(len, todo.values()))
    say(f'{plural(len(paths), "image")} in {plural(len(shards), "shard")}; {done} already done')
    if todo:
        _start_ray(address, (workers or max(1, cores() // threads)) * threads)
        _run(todo, job, workers)
    absent = sorted(set(range(len(shards))) - _numbers(store.names(PARTS)))
    if absent:
        raise UserError(
            f'-o {out}: {len(absent)} of {len(shards)} parts are missing, such as {part_name(absent[0])}: '
            'the machines of a cluster must share this folder'
        )
    if not is_uri(out):
        for path in Path(out, PARTS).glob(f'{PARTIAL}*'):  # of killed workers
            path.unlink(missing_ok=True)
    counts = {'failed': pc.is_valid(_ERROR), 'objects': pc.list_value_length(pc.field('labels'))}
    table = store.table(map(part_name, range(len(shards))), columns=counts)
    return Counts(len(table), *(pc.sum(column).as_py() for column in table.columns))


def _claim(store: Store, expected: dict[str, Any], shard: int | None, usual: int) -> int:
    """Write the manifest, or check that the one there is of the same run; return its images in a shard."""
    if MANIFEST not in store.names(''):
        if store.names(PARTS):
            raise UserError(f'-o {store.root}: has parts but no {MANIFEST}; choose another folder')
        content = {**expected, 'shard': shard or usual, 'ghost_det_version': __version__}
        store.write(MANIFEST, json.dumps(content, indent=1).encode())
        return shard or usual
    with locate(f'{store.root}/{MANIFEST}') as (system, path), system.open_input_stream(path) as stream:
        found = dict(json.loads(stream.read()))  # or an error, as it may be another program's
    for key, value in {**expected, 'shard': shard or found.get('shard')}.items():
        if found.get(key) != value:
            raise UserError(
                f'-o {store.root}: has results of another run: its {key} is {str(found.get(key))[:40]}, '
                f'not {str(value)[:40]}. Choose another folder, or the same model, images and settings'
            )
    return int(found['shard'])


def part_name(shard: int) -> str:
    """Return the name of a shard's part."""
    return f'{PARTS}/part-{shard:08d}.parquet'


def _numbers(names: Iterable[str]) -> set[int]:
    """Return the shards whose parts are among files."""
    matches = (re.search(r'(?:^|/)part-(\d+)\.parquet$', name) for name in names)
    return {int(match[1]) for match in matches if match}


def _start_ray(address: str | None, cpus: int) -> None:
    if ray.is_initialized():
        return
    quiet: dict[str, Any] = {'logging_level': logging.ERROR, 'log_to_driver': False}
    host, _, port = (address or '').rpartition(':')
    try:
        if host:  # Ray would wait a quarter of an hour for it
            socket.create_connection((host.rpartition('/')[2], int(port)), timeout=10).close()
        if address:
            ray.init(address=address, **quiet)
        else:
            memory = 2**28  # for little but the model
            ray.init('local', num_cpus=cpus, object_store_memory=memory, include_dashboard=False, **quiet)
    except (OSError, OverflowError, ValueError) as error:
        raise UserError(f'--address {address}: no Ray cluster to join: {reason(error)}') from None


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
            f'{_RETRIES + 1} workers crashed on the same shard: out of memory, or an image crashes the '
            f'decoder. Finished shards are kept. Ray reports: {reason(error)}'
        ) from None
    seconds = time.perf_counter() - start
    say(f'{plural(total, "image")} in {seconds:.1f} s: {total / seconds:.1f} images/s')
