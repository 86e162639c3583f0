from __future__ import annotations

import time

from ghost_det.utils.timing import Sample, Spread, interleave, ratio, spread


def test_contenders_alternate_and_rotate() -> None:
    order: list[str] = []
    samples = interleave({name: lambda name=name: order.append(name) for name in 'abc'}, 3, calls=2, warm=1)
    assert ''.join(order) == ''.join(name * 3 for name in 'abcbcacab')
    assert all(len(each) == 3 for each in samples.values())


def test_seconds_are_of_one_call() -> None:
    (found,) = interleave({'work': lambda: time.sleep(0.01)}, rounds=2, calls=5).values()
    assert all(each.seconds > 0.01 > each.cpu for each in found)


def test_a_ratio_is_of_rounds_not_of_medians() -> None:
    ours, theirs = ([Sample(second, 0.0) for second in seconds] for seconds in ((1, 4, 9), (2, 2, 3)))
    assert ratio(ours, theirs) == Spread(1.25, 2.0, 2.5)
    assert spread([7.0]) == Spread(7.0, 7.0, 7.0)
