"""How speeds are compared: contenders alternate in one process, and ratios are taken per round."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import quantiles
from typing import NamedTuple, TypeVar

Name = TypeVar('Name')
LEAST_ROUNDS = 3


class Sample(NamedTuple):
    """One measurement of a contender: seconds of a call, and CPU seconds of all threads."""

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
    """Time contenders in alternation, since other load on the machine then slows all of them down.

    Each round starts with another contender; the n-th samples of all contenders are from one round.
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
    """Return the quartiles of measurements; all three are equal if there is only one."""
    return Spread(*(quantiles(values, n=4, method='inclusive') if len(values) > 1 else list(values) * 3))


def ratio(samples: Sequence[Sample], baseline: Sequence[Sample]) -> Spread:
    """Return the quartiles of the ratios of two contenders' seconds, round by round."""
    return spread([one.seconds / other.seconds for one, other in zip(samples, baseline)])
