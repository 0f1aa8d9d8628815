"""Timing in rounds. What is asserted is counted, never timed."""

import math
from itertools import pairwise

import pytest

from fnnet.measure import timing
from fnnet.measure.timing import Spread, race


class Clock:
    """A clock that stands still but for the functions made by it, which take what they are told."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        self.log = []
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)

    def takes(self, name, seconds):
        def f():
            self.log.append(name)
            self.now += seconds(self.log.count(name)) if callable(seconds) else seconds
            return 0

        return f


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def test_the_spread():
    s = Spread.of([5.0, 1.0, 3.0, 2.0, 4.0])
    assert (s.median, s.low, s.high, s.count) == (3, 2, 4, 5)
    one = Spread.of([2.0])
    assert (one.median, one.low, one.high, one.sure_low, one.sure_high) == (2,) * 5


@pytest.mark.parametrize("n", [1, 2, 5, 6, 9, 20, 101])
def test_the_interval_of_the_median(n):
    """The widest cut whose two tails of binomial(n, 1/2) hold 5 % at most."""
    s = Spread.of([float(i) for i in range(n)])
    cut = int(s.sure_low)
    assert s.sure_high == n - 1 - cut
    tails = [2 * sum(math.comb(n, k) for k in range(c)) / 2**n for c in (cut, cut + 1)]
    # cut numbers off at either end: the median is outside with the chance of fewer than cut + 1
    assert cut == 0 or tails[1] <= 0.05
    beyond = 2 * sum(math.comb(n, k) for k in range(cut + 2)) / 2**n
    assert beyond > 0.05 or cut + 1 >= n // 2


def test_ratios_are_of_the_same_round(clock):
    """A machine that slows down as it goes: the medians drift, the ratio does not."""
    a = clock.takes("a", lambda k: 1.0 + k)
    b = clock.takes("b", lambda k: 2.0 * (1.0 + k))
    r = race({"a": a, "b": b}, budget_s=1e9, batch_s=0, least=50, most=50)
    s = r.ratio("b", "a")
    assert (s.median, s.low, s.high, s.sure_low, s.sure_high) == (2,) * 5
    assert r.time("a").high > 2 * r.time("a").low
    assert r.ratio("a", "b").median == 0.5


def test_the_order_alternates(clock):
    names = ["a", "b", "c"]
    race(
        {n: clock.takes(n, 1.0) for n in names},
        batch_s=0,
        budget_s=1e9,
        least=12,
        most=12,
        tolerance=-1,
    )
    rounds = [clock.log[i : i + 3] for i in range(0, 36, 3)]
    assert all(sorted(r) == names for r in rounds)
    after = [pair for r in rounds for pair in pairwise(r)]
    assert all(after.count((x, y)) == after.count((y, x)) for x, y in pairwise("abca"))
    for place in range(3):
        assert {n: [r[place] for r in rounds].count(n) for n in names} == dict.fromkeys(names, 4)


def test_short_functions_are_repeated_to_a_millisecond(clock):
    r = race(
        {"fast": clock.takes("fast", 2.0**-16), "slow": clock.takes("slow", 2.0**-15)}, most=20
    )
    assert r.calls == 66
    assert r.tries == 5
    assert r.time("fast").median == 2.0**-16
    long = race({"x": clock.takes("x", 0.5)}, budget_s=100, least=3, most=3)
    assert (long.calls, long.tries) == (1, 1)


def test_an_interruption_does_not_count(clock):
    """One call in three takes a hundred times as long; the shortest of the tries does not."""
    f = clock.takes("f", lambda k: 0.1 if k % 3 == 0 else 0.001)
    g = clock.takes("g", 0.001)
    r = race({"f": f, "g": g}, budget_s=1e9, least=30, most=30, tolerance=-1)
    assert r.tries == 5
    assert r.ratio("f", "g").high == pytest.approx(1)


def test_when_rounds_end(clock):
    def rounds(**kwargs):
        r = race({"f": clock.takes("f", 1.0), "g": clock.takes("g", 1.0)}, batch_s=0, **kwargs)
        return r.time("f").count

    assert rounds(budget_s=40, tolerance=-1) == 21, "the time is used up"
    assert rounds(budget_s=1e9) == 11, "the ratio is known"
    assert rounds(budget_s=6, least=8, tolerance=-1) == 8, "at least so many"
    assert rounds(budget_s=1, least=8, tolerance=-1) == 3, "unless they take far too long"
    assert rounds(budget_s=1e9, tolerance=-1, most=30) == 30
