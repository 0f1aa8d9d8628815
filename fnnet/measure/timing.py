"""Timing in rounds: how much slower is one function than another, on a machine that does more.

The speed of a machine changes from second to second, with its clock, its other users and its
caches. So functions that are compared are timed in turns, and what counts is the ratio of two times
of the same round: of those the median, with its quartiles and the interval in which the median lies
with 95 % confidence. Within a round each function is called several times, in an order that
alternates, so that coming first favours no one; its time of the round is the shortest, since being
interrupted only ever adds.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

Thunk = Callable[[], Any]

_ROUND_S = 0.05  # how long a round may take in favour of more tries


@dataclasses.dataclass(frozen=True)
class Spread:
    """A median, and how far from it the measured numbers are.

    Attributes:
        median: of all rounds.
        low: the first quartile.
        high: the third quartile.
        sure_low: the median is above this with 95 % confidence.
        sure_high: the median is below this with 95 % confidence.
        count: how many numbers were measured.
    """

    median: float
    low: float
    high: float
    sure_low: float
    sure_high: float
    count: int

    @staticmethod
    def of(numbers: Sequence[float]) -> Spread:
        """The spread of these numbers, at least one.

        The interval of the median is that of order statistics: how many of n numbers lie below the
        true median is binomial(n, 1/2), whatever their distribution. With fewer than six numbers no
        interval has that confidence, and the range stands for it.

        Example:
            >>> s = Spread.of([1.0, 2.0, 3.0, 4.0, 100.0])
            >>> s.median, s.low, s.high, s.sure_low, s.sure_high
            (3.0, 2.0, 4.0, 1.0, 100.0)
        """
        x = sorted(numbers)
        n = len(x)
        low, high = (
            (statistics.quantiles(x, n=4, method="inclusive")[i] for i in (0, 2))
            if n > 1
            else (x[0], x[0])
        )
        cut = _binomial_cut(n)
        return Spread(statistics.median(x), low, high, x[cut], x[n - 1 - cut], n)


def _binomial_cut(n: int) -> int:
    """How many of n numbers to cut off at either end so that the median stays within with 95 %.

    Example:
        >>> _binomial_cut(5), _binomial_cut(6), _binomial_cut(100)
        (0, 0, 39)
    """
    below, cut = 0.0, 0
    for k in range(n // 2):
        below += math.exp(_log_choose(n, k) - n * math.log(2))
        if below > 0.025:
            break
        cut = k
    return cut


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


@dataclasses.dataclass(frozen=True)
class Race:
    """Times of functions that were called in turns.

    Attributes:
        seconds: of one call, for each function and each round.
        calls: how many calls in a row make one measurement.
        tries: of how many measurements the shortest counts in each round.
    """

    seconds: Mapping[str, Sequence[float]]
    calls: int
    tries: int

    def time(self, name: str) -> Spread:
        """Seconds of one call of a function."""
        return Spread.of(self.seconds[name])

    def ratio(self, name: str, to: str) -> Spread:
        """The time of `name` as a multiple of that of `to`, round by round."""
        pairs = zip(self.seconds[name], self.seconds[to], strict=True)
        return Spread.of([a / b for a, b in pairs])


def race(
    functions: Mapping[str, Thunk],
    *,
    budget_s: float = 1.0,
    tolerance: float = 0.01,
    batch_s: float = 1e-3,
    least: int = 11,
    most: int = 2000,
) -> Race:
    """Time functions in turns, until the ratios are known well or the time is used up.

    Args:
        functions: by name, without arguments. Each returns what it computes, and is waited for. The
            first is the one whose ratio to each of the others must become known.
        budget_s: how long the rounds may take in all, in seconds.
        tolerance: rounds end when the 95 % interval of each ratio's median is no wider than this
            much of it to either side.
        batch_s: calls are repeated within a measurement until it takes this long, and measurements
            within a round; 0 for functions that take long and have been called before.
        least: rounds at least, even if that takes longer; but three are enough when they have taken
            three times the budget.
        most: rounds at most.

    Returns:
        A Race.

    Example:
        >>> r = race({"sum": lambda: sum(range(100)), "more": lambda: sum(range(1000))}, least=21)
        >>> r.ratio("sum", "more").median < 1
        True
    """
    order = list(functions)
    calls, tries = 1, 1
    if batch_s > 0:
        calls, slowest = _calls(list(functions.values()), batch_s)
        tries = max(1, min(5, int(_ROUND_S / (len(order) * calls * slowest))))
    seconds: dict[str, list[float]] = {name: [] for name in order}
    start = time.perf_counter()
    for turn in range(most):
        # each function follows each other one equally often, and comes first equally often
        shift = (turn // 2) % len(order)
        turned = order[shift:] + order[:shift]
        shortest = dict.fromkeys(order, math.inf)
        for i in range(tries):
            for name in turned if (turn + i) % 2 else reversed(turned):
                shortest[name] = min(shortest[name], _measure(functions[name], calls))
        for name, taken in shortest.items():
            seconds[name].append(taken)
        done = turn + 1
        spent = time.perf_counter() - start
        if done >= 3 and spent > 3 * budget_s:
            break
        if done < least:
            continue
        if spent > budget_s:
            break
        if done % 10 == 1 and _known(Race(seconds, calls, tries), order, tolerance):
            break
    return Race(seconds, calls, tries)


def _known(so_far: Race, order: Sequence[str], tolerance: float) -> bool:
    ratios = [so_far.ratio(order[0], other) for other in order[1:]]
    return all(
        r.sure_high - r.median <= tolerance * r.median
        and r.median - r.sure_low <= tolerance * r.median
        for r in ratios
    )


def _calls(functions: Sequence[Thunk], batch_s: float) -> tuple[int, float]:
    """How many calls of the fastest take `batch_s`, and the seconds of a call of the slowest."""
    for f in functions:
        jax.block_until_ready(f())
    seconds = [min(_measure(f, 1) for _ in range(3)) for f in functions]
    return max(1, math.ceil(batch_s / max(min(seconds), 1e-9))), max(seconds)


def _measure(f: Thunk, calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        jax.block_until_ready(f())
    return (time.perf_counter() - start) / calls
