from __future__ import annotations

import time
from threading import Event

import pytest

from ghost_det.utils.threads import ordered


def test_results_come_in_order_and_items_are_taken_little_ahead() -> None:
    taken: list[int] = []
    items = (taken.append(number) or number for number in range(30))  # type: ignore[func-returns-value]

    def work(number: int) -> int:
        time.sleep(0.002 * (number % 3))
        return number

    for number, found in enumerate(ordered(work, items, 3)):
        assert found == number and len(taken) <= number + 2 * 3 + 1
    assert len(taken) == 30


def test_an_error_stops_the_running_calls() -> None:
    stop = Event()

    def work(number: int) -> None:
        if number == 0:
            raise ValueError
        assert stop.wait(30)

    started = time.monotonic()
    with pytest.raises(ValueError):
        list(ordered(work, range(9), 2, stop))
    assert time.monotonic() - started < 10
