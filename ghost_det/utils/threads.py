"""Map a function over items with threads, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event
from typing import TypeVar

T = TypeVar('T')
R = TypeVar('R')


def ordered(
    function: Callable[[T], R], items: Iterable[T], threads: int, stop: Event | None = None
) -> Iterator[R]:
    """Yield ``function(item)`` of each item in order, computed by threads.

    The caller's thread takes items, at most twice as many ahead as there are threads. At the end, after an
    error and after Ctrl-C, ``stop`` is set before the running calls are waited for.
    """
    running: deque[Future[R]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for item in items:
            running.append(pool.submit(function, item))
            if len(running) > 2 * threads:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        if stop is not None:
            stop.set()
        pool.shutdown(cancel_futures=True)
