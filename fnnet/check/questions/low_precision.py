"""In bfloat16 and float16: is the error no more than rounding explains?

Asked where these are not the caller's own dtypes, so what is wrong in them is a caution.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from fnnet.check.case.case import first_line
from fnnet.check.case.finding import Detail, Finding
from fnnet.check.case.modes import (
    BFLOAT16,
    FLOAT16,
    WIDE,
    Mode,
    epsilon,
    largest,
    smallest,
    widened,
)
from fnnet.check.case.subject import Arrays
from fnnet.check.case.thresholds import DRAWS, MARGIN
from fnnet.check.diagnosis import mistakes
from fnnet.check.oracle import further
from fnnet.check.oracle.evidence import Evidence, finding
from fnnet.check.oracle.tolerance import scale_of, smooth, typical
from fnnet.check.questions.reverse import CANCELS, excused, nearest

NAME = "low precision"


def ask(e: Evidence) -> list[Finding]:
    """The rule in 16 bits against autodiff in float64 at the same, rounded arguments."""
    case = e.case
    why = ""
    if not case.has_oracle:
        why = "there is no oracle to compare with"
    elif e.wrong_first_order:
        why = "the gradient is wrong in every precision: mend it first"
    elif any(np.iscomplexobj(v) for v in case.values):
        why = "there are no complex numbers of less than 64 bits"
    elif case.work is not WIDE:
        why = f"the function does not run in float64 ({case.why_native})"
    elif further.stops_by_a_test(case):
        why = "the function iterates until a test is passed, and in fewer digits may not end"
    if why:
        return [Finding(NAME, "skipped", detail=Detail(words=why))]
    found = [f for mode in (BFLOAT16, FLOAT16) for f in _in(e, mode)]
    # none of these dtypes is the caller's: at the arguments given the rule is no less right
    return [dataclasses.replace(f, verdict="caution") if f.verdict == "wrong" else f for f in found]


def _in(e: Evidence, mode: Mode) -> list[Finding]:
    case = e.case
    name = f"{NAME} ({mode.name})"
    own = {np.dtype(v.dtype) for v in case.subject.values}
    if own == {np.dtype(mode.dtype)}:
        return []  # asked already: these are the caller's own dtypes
    values = [widened(v) for v in mode.cast(case.values, case.subject.values)]
    try:
        keeps = all(t.dtype == mode.dtype for t in case.out_types(mode))
        auto = case.by_truth(values, case.g, mode)
    except Exception as error:
        words = (
            f"the function does not take {mode.name}: {type(error).__name__}: {first_line(error)}"
        )
        return [Finding(name, "skipped", detail=Detail(words=words))]
    if not keeps:
        words = f"the function does not give {mode.name} for {mode.name}"
        return [Finding(name, "skipped", detail=Detail(words=words))]
    try:
        raw = case._run(case.pull_hand, values, case.g, mode, None)[1]
    except Exception as error:
        words = f"the rule does not take {mode.name}: {type(error).__name__}: {first_line(error)}"
        return [Finding(name, "skipped", detail=Detail(words=words))]
    narrow = [i for i, x in enumerate(raw) if x.dtype != mode.dtype]
    if narrow:
        path = case.paths[narrow[0]]
        words = (
            f"d{path} must be {mode.name} like the argument; the rule gives {raw[narrow[0]].dtype}"
        )
        return [Finding(name, "wrong", path, diagnosis="dtype", detail=Detail(words=words))]
    found = _compare(e, name, mode, values, [widened(x) for x in raw], auto)
    if all(f.verdict == "correct" for f in found):
        # a running sum in 16 bits is seen where it grows
        other = e.of_one_sign
        hand, auto = (
            run(values, other.case.g, mode) for run in (other.case.by_hand, other.case.by_truth)
        )
        grown = _compare(other, name, mode, values, hand, auto)
        found = mistakes.running_sums(grown) or found
    return found


def _compare(
    e: Evidence, name: str, mode: Mode, values: Arrays, hand: Arrays, auto: Arrays
) -> list[Finding]:
    case = e.case
    eps = epsilon(mode.dtype)
    wide_hand = case.by_hand(values, case.g)
    want = [
        e.right(i, hand, truth)
        for i, (hand, truth) in enumerate(
            zip(wide_hand, case.by_truth(values, case.g), strict=True)
        )
    ]
    spread = [np.zeros(w.shape) for w in want]
    for draw in range(DRAWS):
        rng = case.rng(9, draw)
        moved = [x * (1 + eps * rng.uniform(-1, 1, x.shape)) for x in values]
        near = case.by_truth(moved, case.g)
        with np.errstate(all="ignore"):
            spread = [
                np.fmax(s, np.nan_to_num(np.abs(a - w), posinf=0.0))
                for s, a, w in zip(spread, near, want, strict=True)
            ]
    most, least = largest(mode.dtype), smallest(mode.dtype)
    findings = []
    for i, path in enumerate(case.paths):
        bound = _bound(hand[i], wide_hand[i], want[i], auto[i], spread[i], (eps, case.work_eps))
        bound = bound + 64 * least + MARGIN * case.inexact * scale_of(want[i])
        # what autodiff overflows on is no measure
        lost = ~np.isfinite(auto[i]) | (np.abs(want[i]) > 0.1 * most)
        lost |= e.doubtful.get(i, False)
        oracles = [np.where(lost, 0.0, x) for x in (want[i], auto[i], wide_hand[i])]
        c = nearest(np.where(lost, 0.0, hand[i]), oracles, bound)
        hopeless = bool(np.any(~np.isfinite(auto[i]))) or scale_of(want[i]) < 1e3 * least
        if c.bad.any() and hopeless:
            words = f"autodiff overflows or underflows in {mode.name} here"
            findings.append(Finding(name, "skipped", path, detail=Detail(words=words)))
        elif c.bad.any() and not (c.bad & ~excused(c, e.own_noise(i, eps))).any():
            findings.append(Finding(name, "skipped", path, detail=Detail(words=CANCELS)))
        elif c.bad.any():
            code, detail = mistakes.narrow(e, i, c, mode)
            findings.append(finding(name, path, c, c.worst, "wrong", code, detail))
    return findings or [Finding(name, "correct", bound=MARGIN / 2 * eps)]


def _bound(
    hand: Any, wide_hand: Any, want: Any, auto: Any, spread: Any, spacings: tuple[float, float]
) -> Any:
    """A few roundings, the problem's condition, autodiff's loss here, and the rule's own loss."""
    eps, work_eps = spacings  # of the dtype in question, and of the rule in float64
    want = np.where(np.isfinite(want), want, 0)
    scale = scale_of(want)
    with np.errstate(all="ignore"):
        lost = np.nan_to_num(np.abs(auto - want), posinf=0.0)
        lost = np.minimum(lost, 8 * typical(lost) + 16 * eps * np.abs(want))
        own = np.minimum(np.nan_to_num(np.abs(wide_hand - want)), 5e3 * work_eps * scale)
    own = np.minimum(own * (eps / work_eps), 0.05 * scale)
    return (
        MARGIN / 2 * eps * scale
        + 4 * smooth(np.minimum(spread, scale))
        + 4 * np.maximum(lost, typical(lost))
        + 4 * np.maximum(own, typical(own))
    )
