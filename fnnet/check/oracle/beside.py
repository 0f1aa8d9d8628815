"""The oracle just beside the sample point: what it says on the sides of a kink."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from fnnet.check.case.case import Case
from fnnet.check.case.modes import NATIVE
from fnnet.check.case.subject import Arrays
from fnnet.check.case.thresholds import BESIDE, BESIDE_NATIVE, JUMP, PAIRS, SIDE
from fnnet.check.oracle.tolerance import Compared


class Beside:
    """The oracle's gradients at points beside the sample point, and what lies between them."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self._far = False

    @functools.cached_property
    def beside(self) -> list[Any]:
        """For every argument, its gradients at points just beside the sample point, stacked."""
        return self._gradients(range(PAIRS))

    def _gradients(self, draws: range) -> list[Any]:
        found = [gradient for draw in draws for gradient in self.pair(draw)]
        return [np.stack(x) for x in zip(*found, strict=True)]

    def look_further(self, number: int, where: Any) -> bool:
        """Draw more points beside, once, if any element there jumps among those drawn already.

        Where many kinks meet (a row of zeros before a relu), their sides combine in more ways than
        a few points show.
        """
        if self._far or self._case.large:
            return False
        beside = np.real(self.beside[number])
        with np.errstate(all="ignore"):
            jumps = np.ptp(beside, 0) > JUMP * np.max(np.abs(beside), 0)
        if not (jumps & where).any():
            return False
        self._far = True
        more = self._gradients(range(PAIRS, 4 * PAIRS))
        self.beside = [np.concatenate(x) for x in zip(self.beside, more, strict=True)]
        return True

    def pair(self, draw: int) -> tuple[Arrays, Arrays]:
        """The oracle's gradients at two points on either side of the sample point."""
        up, down = (self._case.by_truth(x, self._case.g) for x in self.points(draw))
        return up, down

    def points(self, draw: int) -> tuple[Arrays, Arrays]:
        """Two points just beside the sample point, opposite each other."""
        case = self._case
        rng = case.rng(4, draw)
        step = BESIDE_NATIVE if case.work is NATIVE and case.native_eps > 1e-10 else BESIDE
        moves = []
        for x in case.values:
            sizes = np.abs(x)
            typical = np.median(sizes[sizes > 0]) if (sizes > 0).any() else 1.0
            way = rng.choice([-1.0, 1.0], x.shape) * rng.uniform(0.5, 1.0, x.shape)
            moves.append(step * np.where(sizes > 0, sizes, typical) * way)
        up, down = ([x + s * m for x, m in zip(case.values, moves, strict=True)] for s in (1, -1))
        return up, down

    def between(self, number: int, c: Compared) -> Any:
        """Where the oracle jumps beside the point, and the rule's number lies within the jump."""
        beside = self.beside[number]
        result = np.ones(c.want.shape, bool)
        jumps = np.zeros(c.want.shape, bool)
        for part in (np.real, np.imag) if np.iscomplexobj(c.want) else (np.real,):
            near, got = np.sort(part(beside), 0), part(c.got)
            with np.errstate(all="ignore"):
                lo, hi = np.nanmin(near, 0), np.nanmax(near, 0)
                jumped, margin = jump(near, lo, hi)
                jumps |= jumped
                margin = margin + c.bound
                result &= (lo - margin <= got) & (got <= hi + margin)
        return result & jumps & np.isfinite(c.got)

    def met(self, number: int, index: tuple[int, ...], got: float) -> bool:
        """Whether the oracle jumps beside the point in one element, and `got` is in its range.

        Of three tied numbers that are sorted one is the second, whose cotangent neither side has.
        """
        beside = np.sort(np.real(self.beside[number][(slice(None), *index)]))
        gap = float(np.ptp(beside))
        near = JUMP * float(np.max(np.abs(beside)))
        if not np.isfinite(beside).all() or gap <= near:
            return False
        margin = gap if several(beside, gap) else near
        return bool(beside[0] - margin <= got <= beside[-1] + margin)

    def continued(self, number: int, c: Compared) -> Any:
        """Where the oracle has no number, but those just beside it agree with the rule's."""
        beside = self.beside[number]
        with np.errstate(all="ignore"):
            low, high = np.min(np.real(beside), 0), np.max(np.real(beside), 0)
            close = np.abs(high - low) <= JUMP * np.maximum(np.abs(low), c.scale)
            return close & (np.abs(c.got - low) <= JUMP * np.maximum(np.abs(low), c.scale))


def several(near: Any, gap: Any) -> Any:
    """Whether several kinks meet: their sides combine in more ways than were drawn.

    Args:
        near: numbers beside the sample point, sorted along the first axis.
        gap: from the least of them to the largest.
    """
    return (np.diff(near, axis=0) > JUMP * gap).sum(0) > 1


def jump(near: Any, low: Any, high: Any) -> tuple[Any, Any]:
    """Whether the sorted numbers `near` jump from `low` to `high`; and how far outside one may be.

    Example:
        >>> near = np.array([0.0, 0.0, 1.0, 1.0])
        >>> at, margin = jump(near, 0.0, 1.0)
        >>> bool(at), float(margin)
        (True, 1e-06)
    """
    gap = high - low
    at = gap > JUMP * np.maximum(np.abs(low), np.abs(high))
    return at, np.where(several(near, gap), 1.0, SIDE) * gap
