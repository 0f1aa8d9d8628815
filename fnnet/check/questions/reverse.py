"""Is each cotangent what autodiff gives, element by element?

In float64 first, where rounding hides nothing; then in the caller's own dtypes, where a rule may do
something else.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from fnnet.check.case.finding import Detail, Finding, Verdict
from fnnet.check.case.modes import NATIVE, epsilon, in_16_bits
from fnnet.check.case.thresholds import LEAST_POWER, MARGIN, NOISY, PLAINLY
from fnnet.check.diagnosis import mistakes
from fnnet.check.oracle.evidence import Evidence, finding
from fnnet.check.oracle.tolerance import (
    Compared,
    by_parts,
    compared,
    natural_scale,
    scale_of,
    spreads,
    thinned,
    typical,
)

NAME = "reverse against autodiff"
CANCELS = (
    "the rule's own rounding, by cancellation, is as large as what it computes here; where nothing "
    "cancels it is right. Write the difference of near numbers another way"
)


def ask(e: Evidence) -> list[Finding]:
    """One finding for each argument, and one more where only the caller's dtypes show an error."""
    case = e.case
    if case.blind:
        words = (
            "the rule is declared a surrogate's and held against nothing: give reference=, a "
            "function whose derivative it is"
        )
        return [Finding(NAME, "undecidable", detail=Detail(words=words))]
    if not case.has_oracle:
        words = (
            f"autodiff is no oracle here ({case.why_no_oracle}). "
            "Pass reference=, a function that JAX can differentiate; differences are the oracle now"
        )
        return [Finding(NAME, "skipped", detail=Detail(words=words))]
    wrong: set[int] = set()
    findings = [_argument(e, i, path, wrong) for i, path in enumerate(case.paths)]
    if case.work is not NATIVE and case.native_eps > epsilon(np.float64):
        own = in_own_dtypes(e, wrong)
        accused = wrong | {case.paths.index(f.arg) for f in own if f.verdict == "wrong"}
        if in_16_bits(case.native_eps):
            grown = mistakes.running_sums(in_own_dtypes(e.of_one_sign, accused))
            told = {f.arg for f in grown}
            own = [f for f in own if f.arg not in told] + grown
        findings += own
    return findings


def _argument(e: Evidence, i: int, path: str, wrong: set[int]) -> Finding:
    """What is said of argument `i`, which joins those that are `wrong` if it is."""
    case = e.case
    c = compared(e.hand[i], e.truth[i], e.bounds[i])
    # a gradient that is 0 but for rounding is judged at the scale of what cancels in it
    scale = max(c.scale, 1e-6 * natural_scale(case, i)) or 1.0
    case.power[path] = float(typical(c.bound) / scale)
    if c.bad.any() and not (c.bad & ~excused(c, e.cancelled)).any():
        e.doubt(i, c.bad)
        # what is left of the gradient's digits is the power, where some are left
        case.power[path] = max(case.power[path], e.cancelled / _cancelling(e, i, c, scale))
        verdict: Verdict = "correct" if case.power[path] <= LEAST_POWER else "undecidable"
        c.error = np.where(c.bad, 0.0, c.error) if verdict == "correct" else c.error
        detail = Detail(words=CANCELS, say=True)
        return finding(NAME, path, c, c.worst, verdict, None, detail)
    judged = e.arbiter.judge(i, c)
    if judged.convicted and _right_as_called(e, i, c):
        code, detail = mistakes.first_order(e, i, c)
        detail["words"] = f"right in {case.own_dtypes}, and wrong in {case.work.name}: {detail}"
        detail["elsewhere"] = True
        return finding(NAME, path, c, judged.index, "caution", code, detail)
    if judged.convicted:
        wrong.add(i)
        if by_differences := e.arbiter.instead(i, judged.index, c):
            code, detail = mistakes.fit(c.got, by_differences.want, by_differences.scale * 1e-3)
            detail["words"] = f"d{path}, by differences, as autodiff is wrong too: {detail}"
            c, index = by_differences, by_differences.worst
        else:
            code, detail = mistakes.first_order(e, i, c)
            index = judged.index
        e.accused[path] = code
        return finding(NAME, path, c, index, "wrong", code, detail)
    noisy = case.power[path] > NOISY
    nan = np.isnan(c.got) & np.isnan(c.want)
    e.doubt(i, judged.open | nan)
    e.settle(i, judged.sided)
    # at an argument that is NaN there is no derivative to be asked for
    nowhere = nan & np.isnan(case.values[i])
    nan &= ~nowhere
    if judged.unreliable or noisy or nan.any():
        words = judged.words or "the oracle's own rounding is as large as the gradient here"
        if judged.unreliable:
            words = f"{judged.unreliable} of {c.want.size} elements: {words}"
        elif nan.any():
            words = (
                f"{int(nan.sum())} of {nan.size} elements are NaN by the rule and by autodiff "
                "alike: neither says what the gradient is there"
            )
        detail = Detail(words=words, nan=int(nan.sum()))
        return finding(NAME, path, c, c.worst, "undecidable", None, detail)
    detail = Detail()
    if judged.kinks:
        e.kinks[path] = max(e.kinks.get(path, 0), judged.kinks)
        detail = Detail(words=f"{judged.kinks} elements at kinks", kinks=judged.kinks)
    if judged.settled:
        detail["words"] = f"{judged.settled} elements: {judged.words}"
        detail["settled"] = judged.settled
    if nowhere.any():
        said = f"{int(nowhere.sum())} of {nan.size} elements of {path} are NaN, and so is d{path}"
        detail["words"] = "; ".join(filter(None, (str(detail), said)))
        detail.update(nan=int(nowhere.sum()), say=True)
    settled = np.where(c.bad | c.unclear, 0.0, c.error)
    c.error = settled
    return finding(NAME, path, c, c.worst, "correct", None, detail)


def _cancelling(e: Evidence, i: int, c: Compared, scale: float) -> float:
    """The size at which a gradient is judged whose terms cancel: its own, if it is known at all.

    One that is 0 but for rounding, as autodiff's is another beside the point, is judged at the
    size that it would have if nothing cancelled.
    """
    noise = float(typical(np.ptp(np.real(e.arbiter.beside[i]), 0)))
    if c.scale <= e.cancelled and noise > 0.1 * c.scale:
        return natural_scale(e.case, i) or 1.0
    return c.scale or scale


def _right_as_called(e: Evidence, i: int, c: Compared) -> bool:
    """Whether a rule that is wrong in 64 bits is right in the caller's own, and plainly so.

    In few digits a small error is not seen; so the rule must be much nearer to the truth there,
    wherever it is wrong here.
    """
    case = e.case
    if case.work is NATIVE or case.native_eps <= epsilon(np.float64):
        return False
    with np.errstate(all="ignore"):
        error = np.abs(e.hand_native[i] - e.truth[i])
        near = error <= narrow_bound(e, i, e.truth_native[i], case.native_eps)
        return bool(np.all(near | ~c.bad) and np.all((error < PLAINLY * c.error)[c.bad]))


def in_own_dtypes(e: Evidence, wrong: set[int]) -> list[Finding]:
    """The rule as the caller runs it, against autodiff in float64 and in the caller's dtypes."""
    case = e.case
    name = f"{NAME}, in own dtypes"
    hand = e.hand_native
    try:
        auto = [np.asarray(x) for x in e.truth_native]
    except Exception:
        auto = e.truth
    findings = []
    for i, path in enumerate(case.paths):
        if i in wrong:
            continue
        bound = narrow_bound(e, i, auto[i], case.native_eps)
        # what the rule gives in float64 was found right, at a kink with a choice of its own
        right = e.right(i, e.hand[i], e.truth[i])
        c = nearest(e.known(i, hand[i], e.hand[i]), (right, auto[i], e.hand[i]), bound)
        if c.bad.any():
            # a tie in 64 bits is none after rounding, and goes to either side
            c.bad &= ~e.arbiter.between(i, c)
        if c.bad.any() and not (c.bad & ~excused(c, e.own_noise(i, case.native_eps))).any():
            detail = Detail(words=CANCELS)
            findings.append(finding(name, path, c, c.worst, "undecidable", None, detail))
        elif c.bad.any():
            code, detail = mistakes.narrow(e, i, c, NATIVE)
            findings.append(finding(name, path, c, c.worst, "wrong", code, detail))
        else:
            findings.append(finding(name, path, c, c.worst, "correct", None, Detail()))
    return findings


def narrow_bound(e: Evidence, i: int, auto: Any, eps: float) -> Any:
    """The error allowed in a narrow dtype of spacing `eps`.

    A few roundings at the leaf's scale; what moving the arguments by their rounding does; what
    autodiff itself loses in this dtype; and what the rule itself loses in float64, scaled up, as
    rounding errors grow with the spacing and not with the dtype's name.
    """
    case = e.case
    want = e.right(i, e.hand[i], e.truth[i])
    spread = spreads(case, case.work, eps, base=e.truth, which="truth")[i]
    kinks = e.at_kinks(i, spread)
    if np.any(kinks):
        # rule and autodiff may choose otherwise there, and neither loses anything
        spread = np.where(kinks, 0.0, spread)
        want, auto = (np.where(kinks, e.hand[i], x) for x in (want, auto))
    scale = scale_of(want)
    least = MARGIN * (eps + case.inexact + case.gradients_iterated[i])
    least = least * (scale or eps * natural_scale(case, i))

    def lost(hand: Any, want: Any, auto: Any, spread: Any) -> tuple[Any, Any, Any]:
        """What autodiff loses; what the rule does in 64 bits; what moving the arguments does."""
        with np.errstate(all="ignore"):
            far = np.abs(auto - want)
            own = np.minimum(np.abs(hand - want), 5e3 * case.work_eps * scale)
        own = np.minimum(np.nan_to_num(own) * (eps / case.work_eps), 0.05 * scale)
        return np.where(np.isfinite(far), far, 0.0), own, spread

    def bounded(most: Any, hand: Any, want: Any, auto: Any, spread: Any) -> tuple[Any, Any, Any]:
        """The same, each no more than what is typical of it explains."""
        want = np.where(np.isfinite(want), want, 0)
        far, own, spread = lost(hand, want, auto, spread)
        far = np.minimum(far, 4 * most[0] + 64 * eps * np.abs(want))
        return far, own, np.minimum(spread, 0.5 * np.abs(want) + most[2])

    def bound(most: Any, usual: Any, *arrays: Any) -> tuple[Any]:
        far, own, spread = map(np.fmax, bounded(most, *arrays), usual)
        return (least + 8 * far + 8 * own + MARGIN / 2 * spread,)

    arrays = (e.hand[i], want, auto, spread)
    some = [thinned(x) for x in arrays]
    known = np.where(np.isfinite(some[1]), some[1], 0)
    most = [typical(x) for x in lost(some[0], known, *some[2:])]
    usual = [typical(x) for x in bounded(most, *some)]
    return by_parts(functools.partial(bound, most, usual), *arrays)[0]


def excused(c: Compared, noise: Any) -> Any:
    """Where an error is no larger than `noise`."""
    return np.isfinite(c.got) & (c.error <= noise)


def nearest(got: Any, oracles: Sequence[Any], bound: Any) -> Any:
    """`got` against whichever oracle it is closest to, element by element.

    At a tie or a kink that rounding decides, autodiff in the same dtype decides it the same way.
    """
    return compared(got, by_parts(_nearest, got, *oracles)[0], bound)


def _nearest(got: Any, *oracles: Any) -> tuple[Any]:
    best = oracles[0]
    for other in oracles[1:]:
        with np.errstate(all="ignore"):
            closer = (np.abs(got - other) < np.abs(got - best)) | ~np.isfinite(best)
            # the same infinity is near enough: autodiff overflows here too
            closer = (closer | (got == other)) & (got != best)
        best = np.where(closer, other, best)
    return (best,)
