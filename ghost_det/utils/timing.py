"""The measurement that all comparisons of speed share: alternating, in one process, as ratios."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import quantiles
from typing import NamedTuple, TypeVar

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
    """Time contenders alternating, so that what else the machine does slows all of them down.

    Each round starts with another contender; the n-th samples of all are of one round.
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
