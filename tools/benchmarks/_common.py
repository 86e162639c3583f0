"""What the benchmarks share: tables of alternating measurements, memory, networks without weights."""

from __future__ import annotations

import argparse
import copy
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from ghost_det.errors import UserError, run_tool
from ghost_det.models.ghost_module import BATCH_NORMS
from ghost_det.utils.files import atomic
from ghost_det.utils.system import cores, machine, versions
from ghost_det.utils.timing import Sample, Spread, ratio, spread

TORCH = ('eager', 'fast', 'compiled')
SEPARATOR = ': '
PACKAGES = (
    *('ghost-det', 'torch', 'torchvision', 'timm', 'onnxruntime', 'openvino', 'nncf', 'numpy'),
    *('onedl-mmengine', 'onedl-mmcv', 'onedl-mmdetection', 'mmengine', 'mmcv-lite', 'mmdet'),
)


class Row(NamedTuple):
    """One contender, ``NETWORK: ENGINE``, under one setting.

    ``cpu`` are the milliseconds of all threads for an image; ``ratio`` is to the baseline, round by round.
    """

    contender: str
    size: int
    batch: int
    threads: int
    rounds: int
    milliseconds: Spread
    ratio: Spread
    cpu: float
    note: str = ''


def rows_of(
    samples: Mapping[str, Sequence[Sample]], baseline: str, size: int, batch: int, threads: int
) -> list[Row]:
    """Return a row for each contender."""
    return [
        Row(
            *(name, size, batch, threads, len(found)),
            spread([1e3 * sample.seconds for sample in found]),
            ratio(found, samples[baseline]),
            spread([1e3 * sample.cpu / batch for sample in found]).middle,
        )
        for name, found in samples.items()
    ]


def table(rows: Sequence[Row], baseline: str) -> Iterator[str]:
    """Yield the lines of a Markdown table of one setting."""
    _, size, batch, threads, rounds, *_ = rows[0]
    yield f'\n{size} x {size} px, batch {batch}, {threads} threads, {rounds} rounds, ratio to {baseline}\n'
    yield '| network | engine | ms (quartiles) | ratio (quartiles) | CPU ms an image | note |'
    yield '|---|---|---|---|---|---|'
    for row in rows:
        network, engine = row.contender.split(SEPARATOR)
        times, ratios = quartiles(row.milliseconds), quartiles(row.ratio)
        yield f'| {network} | {engine} | {times} | {ratios} | {digits(row.cpu)} | {row.note} |'


def digits(number: float) -> str:
    """Write a number with three digits, or all that it has before the point."""
    return f'{number:,.0f}' if abs(number) >= 100 else f'{number:.3g}'


def quartiles(found: Spread) -> str:
    """Write a median with its quartiles."""
    return f'{digits(found.middle)} ({digits(found.low)}-{digits(found.high)})'


def setup() -> str:
    """Return the machine and the versions that a measurement is of, as a line."""
    about = machine()
    packages = ', '.join(f'{name} {version}' for name, version in versions(PACKAGES).items())
    return f'{about["processor"]}, {about["cores"]} cores, Python {about["python"]}, {packages}'


def print_tables(measured: Iterable[list[Row]], baseline: str, path: Path | None) -> None:
    """Print a table of each setting as it is measured; keep all rows, machine and versions as json."""
    rows: list[Row] = []
    print(setup(), flush=True)
    for part in measured:
        print('\n'.join(table(part, baseline)), flush=True)
        rows += part
        if path:
            found = {'machine': machine(), 'versions': versions(PACKAGES), 'baseline': baseline}
            with atomic(path) as partial:
                partial.write_text(json.dumps({**found, 'rows': [row._asdict() for row in rows]}, indent=1))


def run(main: Callable[[], None]) -> None:
    """Run a benchmark's ``main`` as our commands run: errors of a user are one message."""
    logging.disable(logging.WARNING)
    warnings.simplefilter('ignore')
    run_tool(main)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the benchmarks of backbones and detectors."""
    parser.add_argument('--threads', type=int, default=cores(), metavar='N', help='(default: all cores)')
    parser.add_argument('--only', nargs='+', default=[], metavar='PART', help="parts of 'NETWORK: ENGINE'")
    parser.add_argument('--seconds', type=float, default=60, help='for each table (default: %(default)s)')
    parser.add_argument('--json', type=Path, metavar='FILE', help='for the rows')


def choose(contenders: Sequence[str], only: Sequence[str], baseline: str) -> list[str]:
    """Return the contenders of which ``only`` names a part, and the baseline, which is always measured."""
    found = [name for name in contenders if not only or any(part.lower() in name.lower() for part in only)]
    if not found:
        raise UserError(f'--only {" ".join(only)}: no such contender; there are {", ".join(contenders)}')
    return found if baseline in found else [baseline, *found]


def in_torch(engine: str, model: Any) -> Any:
    """Return a model as an engine of `TORCH` runs it; ``model`` is left as it is."""
    if engine == 'eager':
        return model
    from ghost_det.models.fuse import optimize

    return optimize(copy.deepcopy(model), compile=engine == 'compiled')


@torch.no_grad()
def settle(model: nn.Module, images: torch.Tensor, **arguments: Any) -> None:
    """Set the statistics of an untrained network's batch norms to those of a batch of images."""
    norms = [module for module in model.eval().modules() if isinstance(module, BATCH_NORMS)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train().momentum = 1.0
    model(images, **arguments)
    for norm, momentum in zip(norms, momenta):
        norm.eval().momentum = momentum


def in_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a process whose memory nothing else has touched."""
    with ProcessPoolExecutor(1, mp_context=get_context('spawn')) as pool:
        return pool.submit(function, *arguments).result()


def memory() -> dict[str, float]:
    """Return this process's memory in MB: resident, proportional (shared pages divided), private, peak."""
    found = {}
    for name in ('smaps_rollup', 'status'):
        for line in Path(f'/proc/{os.getpid()}/{name}').read_text().splitlines():
            key, _, rest = line.partition(':')
            if rest.endswith(' kB'):
                found[key] = int(rest.split()[0]) * 1024 / 1e6
    private = found['Private_Clean'] + found['Private_Dirty']
    return {'rss': found['Rss'], 'pss': found['Pss'], 'private': private, 'peak': found['VmHWM']}
