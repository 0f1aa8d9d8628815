"""What was computed about the case at its sample point, and how a finding is made of it."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from fnnet.check.case.case import Case
from fnnet.check.case.finding import Detail, Finding, Verdict
from fnnet.check.case.modes import NATIVE, Program, as_it_is, widened
from fnnet.check.case.subject import Arrays
from fnnet.check.case.thresholds import MARGIN
from fnnet.check.case.traced import pull
from fnnet.check.oracle.arbiter import Arbiter
from fnnet.check.oracle.further import further
from fnnet.check.oracle.repeatable import difference
from fnnet.check.oracle.tolerance import (
    Compared,
    few_digits,
    in_few_numbers,
    jumping,
    natural_scale,
    scale_of,
    smooth,
    spreads,
    without_jumps,
)


class Evidence:
    """The gradients at the sample point, the errors allowed there, and the arbiter.

    Attributes:
        kinks: for every argument at kinks, how many of its elements are.
        accused: for every argument whose gradient was found wrong, the diagnosis.
        wrong_first_order: whether the gradient itself was found wrong.
        nonlinear: for every argument whose gradient is not linear in g, what is wrong with it.
        kept: what the diagnosis computed of the case, by name.
        doubtful: for every argument with elements that first-order questions left undecided (or
            where rule and oracle are both NaN), where they are. No later question convicts them.
        settled: for every argument where differences took the rule's side against autodiff, where.
    """

    def __init__(self, case: Case) -> None:
        self.case = case
        self.arbiter = Arbiter(case)
        self.kinks: dict[str, int] = {}
        self.wrong_first_order = False
        self.accused: dict[str, str] = {}
        self.nonlinear: dict[int, tuple[str, Detail]] = {}
        self.kept: dict[str, Any] = {}
        self.doubtful: dict[int, Any] = {}
        self.settled: dict[int, Any] = {}

    def doubt(self, i: int, where: Any) -> None:
        """Leave elements of argument `i` undecided in all questions that follow."""
        if np.any(where):
            self.doubtful[i] = self.doubtful.get(i, False) | np.asarray(where)

    def settle(self, i: int, where: Any) -> None:
        """Take the rule's own gradient for the truth, where that was found."""
        if np.any(where):
            self.settled[i] = np.asarray(where)

    def right(self, i: int, hand: Any, truth: Any) -> Any:
        """The right gradient: the oracle's, or the rule's where differences side with it."""
        return np.where(self.settled[i], hand, truth) if i in self.settled else truth

    def unwitnessed(self, i: int) -> Any:
        """Where autodiff's gradient is no truth, so that its derivative is none either."""
        return self.doubtful.get(i, False) | self.settled.get(i, np.False_)

    @property
    def undecided(self) -> bool:
        """Whether any element of any gradient was left undecided, or autodiff's is no truth."""
        return any(np.any(self.unwitnessed(i)) for i in range(len(self.case.values)))

    @functools.cached_property
    def iterating(self) -> float:
        """How exact the gradients are by what iterates in function and rule, at their scales."""
        case = self.case
        if not case.reverse:
            return case.inexact
        pairs = zip(self.unsettled, self.truth if case.has_oracle else self.hand, strict=True)
        moved = [scale_of(d) / (scale_of(x) or 1.0) for d, x in pairs]
        return case.inexact + max([*moved, *case.gradients_iterated], default=0.0)

    def known(self, i: int, got: Any, instead: Any) -> Any:
        """A gradient of argument `i`, its undecided elements those that it is held against."""
        return np.where(self.doubtful[i], instead, got) if i in self.doubtful else got

    @functools.cached_property
    def of_one_sign(self) -> Evidence:
        """The same with a cotangent of positive numbers, for what is summed in 16 bits."""
        other = Evidence(self.case.of_one_sign())
        other.doubtful, other.settled = self.doubtful, self.settled
        return other

    @functools.cached_property
    def nondeterministic(self) -> str:
        """Between what the rule's gradient differs, in words; "" where it does not."""
        return difference(self.case)

    @functools.cached_property
    def hand(self) -> Arrays:
        """The rule's gradients in the elementwise comparison's mode."""
        return [widened(x) for x in self.case.hand_at_args(self.case.work)[1]]

    @functools.cached_property
    def truth(self) -> Arrays:
        """The oracle's."""
        return [widened(x) for x in self.case.truth_at_args(self.case.work)[1]]

    @property
    def hand_native(self) -> Arrays:
        """The rule's gradients in the caller's dtypes."""
        return [self._taken(x) for x in self.case.hand_at_args(NATIVE)[1]]

    @property
    def truth_native(self) -> Arrays:
        """The oracle's."""
        return [self._taken(x) for x in self.case.truth_at_args(NATIVE)[1]]

    def _taken(self, x: Any) -> Any:
        return as_it_is(x) if self.case.large else widened(x)

    @functools.cached_property
    def bounds(self) -> list[Any]:
        """The error allowed to each element of each gradient."""
        case = self.case
        eps = case.work_eps
        base = self.truth if case.has_oracle else self.hand
        kinds = [("hand", self.hand)] + ([("truth", self.truth)] if case.has_oracle else [])
        found = [spreads(case, case.work, eps, base=b, which=w) for w, b in kinds]
        bounds: list[Any] = []
        for i, want in enumerate(base):
            spread = np.array(functools.reduce(np.maximum, [f[i] for f in found]))
            scale = scale_of(want)
            least = case.floor * scale if scale else 4 * eps * natural_scale(case, i)
            if inexact := case.inexact + case.gradients_iterated[i]:
                least = least + MARGIN * (inexact * scale + self.unsettled[i])
            bounds.append(least + MARGIN * smooth(self._without_jumps(i, spread, want)))
        return [few_digits(b) for b in bounds] if case.large else bounds

    @functools.cached_property
    def unsettled(self) -> list[Any]:
        """How far a further step of the function's iterations moves the oracle's gradients."""
        case = self.case
        if not case.has_oracle or not case.iterated:
            return [np.zeros(x.shape) for x in self.hand]
        once = case._run(
            Program(pull(further(case.truth, 1))), case.values, case.g, case.work, None
        )
        return [
            np.nan_to_num(np.abs(widened(a) - b), posinf=0.0)
            for a, b in zip(once[1], self.truth, strict=True)
        ]

    def _without_jumps(self, i: int, spread: Any, want: Any) -> Any:
        if not self.case.has_oracle:
            return without_jumps(spread, want, lambda: want[None])
        return without_jumps(spread, want, lambda: self.arbiter.beside[i])

    def at_kinks(self, i: int, spread: Any) -> Any:
        """Where what rounding does to a gradient is to take it across a kink: no bound is that."""
        if self.case.large or not jumping(spread, self.truth[i]).any():
            return np.False_
        return in_few_numbers(self.arbiter.beside[i])

    @functools.cached_property
    def cancelled(self) -> float:
        """What cancelling terms may leave of rounding: 1 - p of a softmax that is sure.

        Terms inside of a rule are of the cotangent's size, however small the gradient they leave.
        An output's own size counts to a thousand: beyond, it is an offset that no gradient has. In
        float64 this is nothing; in fewer digits the bounds have their own measure of it.
        """
        case = self.case
        if case.work is NATIVE:
            return 0.0
        outs = max((scale_of(widened(x)) for x in case.hand_at_args(case.work)[0]), default=0.0)
        most = max((scale_of(x) for x in case.g), default=0.0)
        return 8 * case.work_eps * most * min(max(outs, 1.0), 1e3)

    def rounding(self, i: int) -> float:
        """One bound for the whole of a gradient computed at another point of the same scale."""
        bound = self.bounds[i]
        return float(np.max(bound)) if bound.size else 0.0

    def own_noise(self, i: int, eps: float) -> Any:
        """How far the rule's own rounding moves a gradient in a dtype of spacing `eps`.

        It is seen in float64, where the rule is right, and scaled up: what is left of the rule's
        distance to the oracle, from one point beside the sample point to the next.
        """
        if not self.case.has_oracle:
            return 0.0
        return 4 * self._noise[i] * (eps / self.case.work_eps)

    @functools.cached_property
    def _noise(self) -> list[Any]:
        case = self.case
        points = [p for draw in range(2) for p in self.arbiter.points(draw)]
        found = []
        for p in points:
            pairs = zip(case.by_hand(p, case.g), case.by_truth(p, case.g), strict=True)
            found.append([_finite(a - b) for a, b in pairs])
        return [np.ptp(np.real(d), 0) + np.ptp(np.imag(d), 0) for d in zip(*found, strict=True)]

    def own_rounding(self, i: int) -> float:
        """How far two evaluations in the caller's dtypes may be apart."""
        case = self.case
        base = self.hand_native
        spread = spreads(case, NATIVE, case.native_eps, base=base, which="hand")[i]
        scale = scale_of(base[i])
        widest = float(np.max(spread, initial=0.0))
        return min(4 * widest, 0.01 * scale) if scale else 4 * widest


def _finite(x: Any) -> Any:
    return np.where(np.isfinite(x), x, 0)


def finding(
    check: str,
    path: str,
    c: Compared,
    index: tuple[int, ...] | None,
    verdict: Verdict,
    diagnosis: str | None,
    detail: Detail,
) -> Finding:
    """A finding about the element `index` of what was compared."""
    if index is None:
        return Finding(check, verdict, path, diagnosis=diagnosis, detail=detail)
    if verdict in ("wrong", "caution"):
        off = int((c.bad | c.unclear).sum())
        detail = Detail(detail, off=off, of=int(c.want.size), largest=c.scale)
    return Finding(
        check,
        verdict,
        path,
        index=tuple(int(i) for i in index),
        got=c.got[index].item(),
        want=c.want[index].item(),
        error=float(c.error[index]),
        bound=float(c.bound[index]),
        diagnosis=diagnosis,
        detail=detail,
    )
