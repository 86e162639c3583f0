"""The measurement that all comparisons of speed share: in turns, in one process, told as ratios."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import quantiles
from typing import Any, NamedTuple, TypeVar

Name = TypeVar('Name')
LEAST_ROUNDS = 3


class Sample(NamedTuple):
    """One turn of a contender: seconds of a call, and those of all threads of this process in it."""

    seconds: float
    cpu: float


class Spread(NamedTuple):
    """The quartiles of several measurements."""

    low: float
    middle: float
    high: float


def interleave(
    contenders: Mapping[Name, Callable[[], object]],
    rounds: int = LEAST_ROUNDS,
    seconds: float = 0,
    calls: int = 1,
    warm: int = 0,
) -> dict[Name, list[Sample]]:
    """Time contenders in turns, so that what else the machine does slows all of them down.

    Each round starts with another contender. Turn by turn, the n-th samples of all are of one round.

    Args:
        contenders: name to what is called.
        rounds: at least so many.
        seconds: go on until these have passed.
        calls: how many calls a turn times; its sample is their mean.
        warm: calls before these, in each turn, which give the caches back to the contender and outlast the
            threads of the one before, that spin for a while in wait of work.
    """
    samples: dict[Name, list[Sample]] = {name: [] for name in contenders}
    names = list(contenders)
    end = time.perf_counter() + seconds
    done = 0
    while names and (done < rounds or time.perf_counter() < end):
        first = done % len(names)
        for name in names[first:] + names[:first]:
            call = contenders[name]
            for _ in range(warm):
                call()
            start, cpu = time.perf_counter(), time.process_time()
            for _ in range(calls):
                call()
            samples[name].append(
                Sample((time.perf_counter() - start) / calls, (time.process_time() - cpu) / calls)
            )
        done += 1
    return samples


def spread(values: Sequence[float]) -> Spread:
    """Return the quartiles of measurements; of one, itself three times."""
    return Spread(*(quantiles(values, n=4, method='inclusive') if len(values) > 1 else list(values) * 3))


def ratio(samples: Sequence[Sample], baseline: Sequence[Sample]) -> Spread:
    """Return the quartiles of the ratios of two contenders' seconds, round by round."""
    return spread([one.seconds / other.seconds for one, other in zip(samples, baseline)])


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a fresh process, whose memory nothing else has touched."""
    with ProcessPoolExecutor(1, mp_context=get_context('spawn')) as pool:
        return pool.submit(function, *arguments).result()


def available() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def machine() -> dict[str, Any]:
    """Describe the machine, without its name: processor, cores for this process, memory, vector units."""
    found = {'processor': platform.processor() or platform.machine(), 'flags': ''}
    path = Path('/proc/cpuinfo')
    for line in path.read_text().splitlines() if path.exists() else ():
        key, _, value = line.partition(':')
        found.update(
            {'model name': {'processor': value.strip()}, 'flags': {'flags': value}}.get(key.strip(), {})
        )
    wanted = ('avx2', 'avx512f', 'avx512_vnni', 'avx_vnni', 'avx512_bf16', 'amx_tile', 'asimd')
    return {
        'processor': found['processor'],
        'cores': available(),
        'memory_gb': round(os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 1e9, 1),
        'units': [unit for unit in wanted if unit in found['flags'].split()],
        'system': f'{platform.system()} {platform.machine()}',
        'python': platform.python_version(),
    }
