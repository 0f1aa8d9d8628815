"""Where rule and oracle differ: is it the rule, a kink, or the oracle itself?

The oracle is asked again just beside the sample point, and differences of the value are taken,
which no derivative rule enters. The rule is convicted unless one of them takes its side.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np

from fnnet.check.case.case import Case
from fnnet.check.case.host import equations
from fnnet.check.case.modes import NATIVE
from fnnet.check.case.thresholds import ESTIMATE, SAME, SAME_NATIVE
from fnnet.check.oracle.beside import Beside
from fnnet.check.oracle.numerical import Differences
from fnnet.check.oracle.tolerance import Compared, compared, scale_of

# elements that are all differenced, where autodiff is wrong as well as the rule
MOST = 64

# why an element is left to nobody
_OPEN = {
    "open": ("the function iterates, to no more digits than leave autodiff and differences apart"),
    "stopped": (
        "the rule is the derivative of the value, and autodiff's is not, as the function stops a "
        "gradient: pass the function whose derivative is meant as reference="
    ),
}


@dataclasses.dataclass
class Judgement:
    """What became of the elements that differ.

    Attributes:
        convicted: where the rule is wrong, as far as was looked.
        index: the worst of those.
        kinks: how many lie at a kink, between the derivatives on its sides.
        unreliable: how many nothing settled.
        words: why.
        settled: how many differences settled in the rule's favour.
        open: where nothing settled it, of all elements.
        sided: where differences settled it in the rule's favour.
    """

    convicted: bool
    index: tuple[int, ...] | None
    kinks: int
    unreliable: int
    words: str
    settled: int = 0
    open: Any = False
    sided: Any = False


class Arbiter(Beside):
    """Judges the differences between one rule and its oracle."""

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.differences = Differences(case)

    def judge(self, number: int, c: Compared) -> Judgement:
        """Judge one argument's differences.

        Args:
            number: of the argument.
            c: rule and oracle compared at the sample point.
        """
        case = self._case
        if not c.bad.any() and not c.unclear.any():
            return Judgement(False, None, 0, 0, "")
        bad, unclear = c.bad.copy(), c.unclear.copy()
        kinks = 0
        if case.has_oracle:
            between = self.between(number, c)
            if self.look_further(number, (bad | unclear) & ~between):
                between = self.between(number, c)
            at_kinks = between & (bad | unclear)
            kinks = int(at_kinks.sum())
            if kinks > 1 and self._too_much_in_all(number, c, at_kinks):
                words = "at ties the elements' shares do not add up"
                return Judgement(True, _worst(c, at_kinks), 0, 0, words)
            bad &= ~between
            unclear &= ~between
            near = unclear & self.continued(number, c)
            unclear &= ~near
        unreliable = settled = 0
        left, sided = np.zeros_like(bad), np.zeros_like(bad)
        words = ""
        tries = self._tries
        while bad.any():
            index = _worst(c, bad)
            side = "rule" if case.declared else self._side(number, index, c)
            if side == "rule":
                return Judgement(True, index, kinks, unreliable, "")
            if side == "kink":
                kinks += 1
            elif side in _OPEN:
                unreliable += 1
                left[index] = True
                words = _OPEN[side]
            else:
                settled += 1
                sided[index] = True
                words = "differences of the function's values side with the rule against autodiff"
            bad[index] = False
            tries -= 1
            if not tries:
                unreliable += int(bad.sum())
                left = bad
                words += "; not all of them were asked"
                break
        for index in [tuple(i) for i in np.argwhere(unclear)[: self._tries]]:
            d = self._derivative(number, index)
            if not d.kink and d.reliable and np.isfinite(c.got[index]) and not case.declared:
                if abs(d.value - np.real(c.got[index])) > ESTIMATE * d.error + 1e-3 * abs(d.value):
                    return Judgement(
                        True, index, kinks, unreliable, "autodiff gives no number here"
                    )
                unclear[index] = False
                sided[index] = True
                settled += 1
        if unclear.any():
            unreliable += int(unclear.sum())
            words = "autodiff gives NaN or infinity here, and differences do not settle it"
        return Judgement(False, None, kinks, unreliable, words, settled, left | unclear, sided)

    @property
    def _tries(self) -> int:
        return 24 if self._case.size < 20_000 else 6

    def _too_much_in_all(self, number: int, c: Compared, at: Any) -> bool:
        """Whether elements at kinks are each in their range, and together are not.

        Moving tied elements alike, the maximum among them moves smoothly: the shares of its
        gradient, however they are chosen, must add up.
        """
        case = self._case
        if np.iscomplexobj(c.want) or case.declared or not np.isfinite(c.want[at]).all():
            return False
        v = [np.zeros_like(x) for x in case.values]
        v[number][at] = scale_of(case.values[number]) or 1.0
        d = self.differences.along(v)
        got, want = (float(np.sum(x * v[number])) for x in (np.where(at, c.got, 0), c.want))
        near = ESTIMATE * d.error + 1e-4 * abs(d.value)
        return not d.kink and d.reliable and abs(want - d.value) <= near < 0.1 * abs(got - d.value)

    def instead(self, number: int, index: Any, c: Compared) -> Compared | None:
        """The rule against differences in every element, where those convict autodiff as well.

        None where they do not, or there are too many to ask.
        """
        if index is None or c.want.size > MOST or np.iscomplexobj(c.want) or self._case.declared:
            return None
        if self.stops_gradients:
            return None
        d = self._derivative(number, index)
        gap = abs(d.value - c.want[index])
        if (
            d.kink
            or d.error > 0.1 * abs(d.value)
            or gap <= ESTIMATE * d.error + SAME * abs(d.value)
        ):
            return None
        all_ = [self._derivative(number, tuple(map(int, i))) for i in np.ndindex(c.want.shape)]
        want = np.array([d.value for d in all_]).reshape(c.want.shape)
        bound = np.array([ESTIMATE * d.error for d in all_]).reshape(c.want.shape)
        if not np.isfinite(bound).all():
            return None
        found = compared(c.got, want, bound + c.bound + 1e-6 * scale_of(want))
        return found if found.bad.any() else None

    def _derivative(self, number: int, index: tuple[int, ...]) -> Any:
        return self.differences.element(number, index)

    def _side(self, number: int, index: tuple[int, ...], c: Compared) -> str:
        """Who is wrong about one element: the "rule", nobody ("kink"), or the "oracle".

        Where the function iterates and differences do not settle, it stays "open": autodiff goes
        through the iterations, and not through the solution. Where it stops a gradient on purpose,
        and the rule is its value's derivative, nobody but its author knows what is meant.
        """
        got, want = c.got[index], c.want[index]
        if not np.isfinite(got):
            return "rule"
        if np.iscomplexobj(want):
            imaginary = abs((got - want).imag) > abs((got - want).real)
            d = self.differences.element(number, index, imaginary)
            got, want = (-got.imag, -want.imag) if imaginary else (got.real, want.real)
        else:
            d = self._derivative(number, index)
        if d.kink:
            low, high = sorted((d.left, d.right))
            margin = 3 * d.side_error + 1e-6 * max(abs(low), abs(high))
            return "kink" if low - margin <= got <= high + margin else "rule"
        if not np.isfinite(d.value) or d.error > 0.1 * abs(got - want):
            near = abs(d.value - got) <= 3 * d.error
            return "open" if self._iterates and near else "rule"
        # nearer to the rule than to autodiff is not enough: both may be wrong
        least = SAME_NATIVE if self._case.work is NATIVE else SAME
        gap = abs(got - want)
        near = ESTIMATE * d.error + least * abs(d.value) + float(c.bound[index]) + 1e-6 * gap
        near = min(near, 0.25 * gap)
        if abs(d.value - got) <= near:
            return "stopped" if self._stopped(number, index) else "oracle"
        return "rule"

    @property
    def _iterates(self) -> bool:
        """Whether the value comes out of iterations, so that autodiff goes through those.

        That it is said to be exact to a tolerance only is no reason to doubt autodiff.
        """
        case = self._case
        return bool(case.inexact) and (case.may_iterate or case.iterated > 0)

    def _stopped(self, number: int, index: tuple[int, ...]) -> bool:
        """Whether autodiff differs from differences because the function stops a gradient.

        Then it does so beside the sample point too. Where the two agree there, a `stop_gradient`
        somewhere in the function (that of a log-sum-exp's maximum, say) is not the reason.
        """
        if not self.stops_gradients:
            return False
        (beside, _), want = self.points(0), self.beside[number][0][index]
        base = scale_of(self._case.values[number]) or 1.0
        d = self.differences.element(number, index, at=beside, base=base)
        agree = abs(d.value - np.real(want)) <= ESTIMATE * d.error + 1e-3 * abs(d.value)
        return d.kink or not d.reliable or not agree

    @functools.cached_property
    def stops_gradients(self) -> bool:
        """Whether the function stops gradients on purpose, so that its differences see more."""
        jaxpr = self._case.trace(self._case.truth)
        return jaxpr is not None and any(
            e.primitive.name == "stop_gradient" for e in equations(jaxpr)
        )


def _worst(c: Compared, where: Any) -> tuple[int, ...]:
    ratio = np.where(where, c.error / np.maximum(c.bound, 1e-300), -1.0)
    return tuple(int(i) for i in np.unravel_index(np.argmax(ratio), ratio.shape))
