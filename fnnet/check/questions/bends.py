"""Where the gradient itself has a kink or a jump: between which numbers may its derivative lie?

At a seam of Huber's loss the second derivative is 0 on one side and 1 on the other; at a tie of a
maximum the gradient jumps. No number there is *the* derivative, and rounding alone takes autodiff
from one to the other. So autodiff is asked beside the sample point, and a rule's number passes
between the numbers found there. One that lies outside of them is convicted only if differences of
the rule's own gradient, taken beside the point too and never across it, lie among them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fnnet.check.case.modes import NATIVE
from fnnet.check.case.subject import Arrays
from fnnet.check.case.thresholds import NATIVE_STEP, PAIRS, SURE, WIDE_STEP
from fnnet.check.oracle.beside import jump
from fnnet.check.oracle.evidence import Evidence
from fnnet.check.oracle.tolerance import Compared, jumping, without_jumps


class Bends:
    """The second derivative beside the sample point, asked where it is needed only.

    Args:
        e: the evidence.
        product: autodiff's product of second derivatives along `v`, at a point.
        v: the direction.
    """

    def __init__(self, e: Evidence, product: Callable[[Arrays], Arrays], v: Arrays) -> None:
        self._e = e
        self._product = product
        self._v = v
        self._beside: list[Any] | None = None
        self._sides: list[Any] | None = None

    @property
    def beside(self) -> list[Any]:
        """For every product, its numbers at points beside the sample point, stacked."""
        if self._beside is None:
            points = [p for draw in range(PAIRS) for p in self._e.arbiter.points(draw)]
            self._beside = [np.stack(x) for x in zip(*map(self._product, points), strict=True)]
        return self._beside

    @property
    def sides(self) -> list[Any]:
        """The derivative of the rule's gradient along `v` on either side of the point."""
        if self._sides is None:
            case = self._e.case
            h = NATIVE_STEP if case.work is NATIVE else WIDE_STEP

            def at(t: float) -> Arrays:
                moved = [x + t * h * d for x, d in zip(case.values, self._v, strict=True)]
                return case.by_hand(moved, case.g)

            found = []
            for s in (1, -1):
                near, far = at(s), at(2 * s)
                found.append([s * (b - a) / h for a, b in zip(near, far, strict=True)])
            self._sides = [np.stack(x) for x in zip(*found, strict=True)]
        return self._sides

    def noise(self, i: int, noise: Any, want: Any) -> Any:
        """What rounding does to product `i`, but for elements that it takes across a kink."""
        if not jumping(noise, want).any():
            return noise
        return without_jumps(np.array(noise), want, lambda: self.beside[i])

    def between(self, i: int, c: Compared) -> Any:
        """The elements that differ from autodiff at a kink, and lie between its sides."""
        if not c.bad.any():
            return np.zeros(c.want.shape, bool)
        low, high, at = self._range(i, c)
        return at & (low <= np.real(c.got)) & (np.real(c.got) <= high)

    def convicted(self, i: int, c: Compared) -> bool:
        """Whether the rule's number lies far outside, where its own gradient beside does not."""
        if not c.bad.any() or i >= len(self._v) or np.iscomplexobj(c.want):
            return False
        low, high, _ = self._range(i, c)
        gap = high - low
        with np.errstate(all="ignore"):
            outside = (c.got < low - gap) | (c.got > high + gap) | ~np.isfinite(c.got)
            far = np.maximum(low - c.got, c.got - high)
            near = SURE * np.maximum(gap, np.where(np.isfinite(far), far, 0))
            sides = self.sides[i]
            known = ((low - near <= sides) & (sides <= high + near)).all(0)
        return bool((c.bad & outside & known & np.isfinite(gap)).any())

    def _range(self, i: int, c: Compared) -> tuple[Any, Any, Any]:
        """The least and the largest that may be, and where there is a kink at all."""
        near = np.sort(np.real(self.beside[i]), 0)
        with np.errstate(all="ignore"):
            low, high = near[0], near[-1]
            at, margin = jump(near, low, high)
            at &= np.isfinite(near).all(0)
            margin = margin + c.bound
        if np.iscomplexobj(c.want):
            at = np.zeros_like(at)
        return low - margin, high + margin, at
