from __future__ import annotations

from ghost_det.utils.timing import Sample, Spread, interleave, ratio, spread


def test_contenders_alternate_and_rotate() -> None:
    order: list[str] = []
    samples = interleave({name: lambda name=name: order.append(name) for name in 'abc'}, 3, calls=2, warm=1)
    assert ''.join(order[::3]) == 'abcbcacab' and all(len(each) == 3 for each in samples.values())
    assert len(order) == 3 * 3 * (1 + 2)


def test_seconds_are_of_one_call_and_cpu_of_every_thread() -> None:
    def work() -> None:
        sum(range(200_000))

    (found,) = interleave({'work': work}, rounds=5, calls=10).values()
    (once,) = interleave({'work': work}, rounds=5, calls=1).values()
    assert 0 < min(each.seconds for each in found) < 5 * max(each.seconds for each in once)
    assert sum(each.cpu for each in found) > 0


def test_a_ratio_is_of_rounds_not_of_medians() -> None:
    ours, theirs = ([Sample(second, 0.0) for second in seconds] for seconds in ((1, 4, 9), (2, 2, 3)))
    assert ratio(ours, theirs) == Spread(1.25, 2.0, 2.5)
    assert spread([7.0]) == Spread(7.0, 7.0, 7.0)
