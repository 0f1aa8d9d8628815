"""Mistakes that show in two arrays: the gradient that is, and the one that should be."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fnnet.check.case.finding import Detail

Fitted = tuple[str, Detail] | None


class Pair:
    """A wrong gradient and the right one.

    Args:
        got: the rule's.
        want: the oracle's.
        bound: the largest error that rounding explains.
    """

    def __init__(self, got: Any, want: Any, bound: float) -> None:
        self.got, self.want = got, want
        self.near = max(4 * bound, 1e-7 * size_of(want), 1e-7 * size_of(got))
        self.finite = bool(np.isfinite(got).all() and np.isfinite(want).all())

    def equals(self, candidate: Any) -> bool:
        """Whether the rule's gradient is `candidate`, to rounding."""
        if candidate.shape != self.got.shape:
            return False
        return bool(np.all(np.abs(self.got - candidate) <= self.near))

    def whole(self) -> Fitted:
        """Zero, negated, scaled or conjugated."""
        if not self.finite:
            return None
        if not np.any(self.got):
            return "zero", Detail(words="it is zero")
        c = self._factor()
        if c is not None:
            if abs(c + 1) <= min(max(self.near / size_of(self.want), 1e-6), 1e-2):
                return "negated", Detail(words="it has the wrong sign", factor=-1.0)
            return "scaled", Detail(words=f"it is {times(c)} what it should be", factor=c)
        if np.iscomplexobj(self.want) and self.equals(self.want.conj()):
            return "conjugated", Detail(words="it is the complex conjugate of what it should be")
        return None

    def _factor(self) -> float | None:
        square = float((np.abs(self.want) ** 2).sum())
        if not square:
            return None
        c = float((self.got * self.want.conj()).real.sum()) / square
        if not c or not math.isfinite(c):
            return None
        # a factor that the rule applies is as exact as its rounding
        close = np.abs(self.got - c * self.want) <= max(1.0, abs(c)) * self.near
        return c if close.all() and abs(c - 1) * size_of(self.want) > self.near / 4 else None

    def turned(self) -> Fitted:
        """The axes in another order."""
        n = self.want.ndim
        if not self.finite or not 1 <= n <= 5 or self.want.size < 3:
            return None
        for axes in itertools.permutations(range(n)):
            if axes == tuple(range(n)):
                continue
            candidate = self.want.transpose(axes)
            if self.equals(candidate):
                words = (
                    f"its axes are in the order {axes}: a transposition too many, or one missing"
                )
                return "transposed", Detail(words=words, permutation=axes)
            if self.equals(candidate.reshape(self.got.shape)):
                words = f"its axes came in the order {axes} and were reshaped; transpose them"
                return "transposed", Detail(words=words, permutation=axes)
        for axis in range(n):
            if self.equals(np.flip(self.want, axis)):
                return "unknown", Detail(words=f"it is reversed along axis {axis}", reversed=axis)
        return None

    def some_elements(self, least_right: float = 0.15) -> Fitted:
        """Some elements wrong, at least `least_right` of them right."""
        with np.errstate(all="ignore"):
            wrong = ~(np.abs(self.got - self.want) <= self.near)
        wrong &= ~(np.isnan(self.got) & np.isnan(self.want))
        n, size = int(wrong.sum()), int(wrong.size)
        if not 0 < n < size or n > (1 - least_right) * size:
            return None
        words = f"{n} of {size} elements are wrong, the others right"
        detail = Detail(words=words, count=n, size=size)
        if not np.isfinite(self.got[wrong]).all():
            detail["words"] = f"{n} of {size} elements are not finite"
            return "elements", detail
        inner = Pair(self.got[wrong], self.want[wrong], self.near / 4).whole()
        if inner and np.any(self.want[wrong]):
            detail["words"] += f": there {inner[1]}"
            detail.update({k: v for k, v in inner[1].items() if k != "words"})
        return "elements", detail


def times(c: float) -> str:
    """A factor in words, that of one next to 1 by how far it is off.

    Example:
        >>> times(0.5), times(1.000003)
        ('0.5 times', '1 + 3e-06 times')
    """
    if abs(c - 1) < 1e-3:
        return f"1 {'+' if c > 1 else '-'} {abs(c - 1):.1g} times"
    return f"{c:.6g} times"


def fit(got: Any, want: Any, bound: float) -> tuple[str, Detail]:
    """What two arrays alone show."""
    pair = Pair(got, want, bound)
    return (
        pair.whole()
        or pair.turned()
        or pair.some_elements()
        or ("unknown", Detail(words="it fits no known mistake"))
    )


def size_of(x: Any) -> float:
    """The largest finite size in an array."""
    return float(np.abs(x[np.isfinite(x)]).max(initial=0.0))


def as_mean(factor: float, outs: Sequence[Any], leaf: Any, others: Sequence[Any]) -> int | None:
    """The n for which `factor` is 1/n and n a number of elements that may have been averaged."""
    if not 0 < factor < 1:
        return None
    n = round(1 / factor)
    if n < 2 or abs(factor * n - 1) > 1e-5 or n not in _counts([*outs, leaf, *others]):
        return None
    # 1/2 is more often a forgotten 2
    reduced = sum(x.size for x in outs) > leaf.size
    return n if n > 2 or (reduced and any(x.shape[:1] == (n,) for x in outs)) else None


def as_sum(factor: float, arrays: Sequence[Any]) -> int | None:
    """The n that `factor` is, if n > 2 elements may have been summed instead of averaged."""
    n = round(factor)
    return n if n > 2 and abs(factor / n - 1) < 1e-5 and n in _counts(arrays) else None


def _counts(arrays: Sequence[Any]) -> set[int]:
    found = set()
    for x in arrays:
        for k in range(1, min(x.ndim, 4) + 1):
            found |= {math.prod(axes) for axes in itertools.combinations(x.shape, k)}
    return found
