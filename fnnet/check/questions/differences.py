"""Does the gradient agree with differences of the value? No derivative rule enters those.

Where there is no other witness, on a small argument every element is asked, and on a large one
random directions that move every element: so that "correct" is said of all of them, with the
smallest error that would have been seen, or not at all. Where there is one, one random direction an
argument is asked and a few elements.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from fnnet.check.case.finding import Detail, Finding, Verdict
from fnnet.check.case.modes import NATIVE
from fnnet.check.case.thresholds import ESTIMATE, LEAST_POWER, MARGIN, ROUGH, ROUGH_NATIVE
from fnnet.check.diagnosis.fit import Pair, times
from fnnet.check.diagnosis.surrogate import REMEDY
from fnnet.check.oracle.evidence import Evidence
from fnnet.check.oracle.numerical import Derivative, pairing
from fnnet.check.oracle.tolerance import natural_scale, scale_of

NAME = "reverse against differences"
ALL_ELEMENTS = 64
# random directions over a large argument without another witness: one for so many elements, as the
# derivative along it grows with their number and what it shows of each of them shrinks
BLOCK, MOST_BLOCKS = 512, 8


@dataclasses.dataclass(frozen=True)
class Answer:
    """One direction: what the rule says of it, and what differences say.

    Attributes:
        index: of the element; None for a random direction.
        got: the rule's derivative.
        d: that of the differences.
        reach: how much of an error in any one element the direction shows.
    """

    index: tuple[int, ...] | None
    got: float
    d: Derivative
    reach: float = 1.0


def ask(e: Evidence) -> list[Finding]:
    """One finding for each argument."""
    case = e.case
    if case.blind:
        words = "the rule is declared another function's"
        return [Finding(NAME, "skipped", detail=Detail(words=words))]
    if not case.traceable_value():
        words = "the function's value cannot be traced; make it traceable by jax.jit"
        return [Finding(NAME, "skipped", detail=Detail(words=words))]
    return [_argument(e, i, path) for i, path in enumerate(case.paths)]


def _argument(e: Evidence, number: int, path: str) -> Finding:
    differences = e.arbiter.differences
    got = e.hand[number]
    if got.size == 0:
        return Finding(NAME, "skipped", path, detail=Detail(words="the argument is empty"))
    answers: list[Answer] = []
    probes = _probes(e, number)
    everywhere = len(probes) == got.size
    if e.case.witness or everywhere:
        v, d = differences.projection(number)
        answers.append(Answer(None, pairing([got], [v[number]]), d, 0.0))
    else:
        for v in _blocks(e, number):
            moved = np.abs(v[number][v[number] != 0])
            d = differences.along(v)
            answers.append(Answer(None, pairing([got], [v[number]]), d, float(moved.min())))
    for index in probes:
        answers.append(
            Answer(index, float(np.real(got[index])), differences.element(number, index))
        )
        if np.iscomplexobj(got):
            d = differences.element(number, index, imaginary=True)
            answers.append(Answer(index, float(-np.imag(got[index])), d))
    return _verdict(e, path, number, answers, everywhere=everywhere)


def _blocks(e: Evidence, number: int) -> list[Any]:
    """Random directions that move every element, each of them a share."""
    case = e.case
    x = case.values[number]
    rng = case.rng(3, number, 1)
    n = min(MOST_BLOCKS, -(-x.size // BLOCK))
    sizes = np.abs(x)
    typical = float(np.median(sizes[sizes > 0])) if (sizes > 0).any() else 1.0
    block = rng.integers(0, n, x.shape)
    r = rng.choice([-1.0, 1.0], x.shape) * rng.uniform(0.5, 1.0, x.shape)
    found = []
    # a complex number moves two ways, and either shows one part of an error in its gradient
    for way in (1.0, 1j) if np.iscomplexobj(x) else (1.0,):
        for k in range(n):
            v = [np.zeros_like(u) for u in case.values]
            share = np.where(block == k, way * r * np.maximum(sizes, typical), 0)
            v[number] = np.asarray(share, x.dtype)
            found.append(v)
    return found


def _probes(e: Evidence, number: int) -> list[tuple[int, ...]]:
    case, got = e.case, e.hand[number]
    if not case.witness and got.size <= ALL_ELEMENTS:
        return [tuple(map(int, i)) for i in np.ndindex(got.shape)]
    n = (1 if case.size > 20_000 else 2) if case.witness else 12
    flat = case.rng(6, number).integers(0, got.size, n)
    largest = int(np.argmax(np.nan_to_num(np.abs(got))))
    places = dict.fromkeys([*flat.tolist(), *([] if case.witness else [largest])])
    return [tuple(int(i) for i in np.unravel_index(p, got.shape)) for p in places]


def _verdict(
    e: Evidence, path: str, number: int, answers: list[Answer], *, everywhere: bool
) -> Finding:
    case = e.case
    worst: tuple[float, Any] | None = None
    judged = 0
    unsure = 0
    kinks = 0
    scale = scale_of(e.hand[number])
    # the size of what is differenced, and not the rule's, which may be wrong by any factor
    natural = max(
        (abs(a.d.value) for a in answers if a.index is not None and a.d.reliable),
        default=natural_scale(case, number),
    )
    power = 0.0
    seen = False  # whether something that was asked of says something of each element
    for a in answers:
        index, got, d = a.index, a.got, _nearer(a.got, a.d)
        counts = not case.witness and (a.reach > 0 if index is None else everywhere)
        seen |= counts
        # no number is wrong where differences have one; where autodiff has none either, its to say
        no_number = not np.isfinite(got) and (case.witness or not d.reliable)
        if not np.isfinite(d.value) or no_number:
            unsure += 1
            power = np.inf if counts else power
            continue
        bound = ESTIMATE * d.error + (1e-6 if case.work is not NATIVE else 1e-2) * abs(d.value)
        bound += e.cancelled + 1e-9 * scale + (1e-2 * scale if case.work is NATIVE else 0)
        if case.witness:
            bound += MARGIN * e.iterating * scale
        else:
            bound += MARGIN * case.gradients_iterated[number] * scale
        if d.kink:
            low, high = sorted((d.left, d.right))
            margin = ESTIMATE * d.side_error + 1e-6 * max(abs(low), abs(high))
            kinks += 1
            # along a random direction a kink of another element enters: nothing can be said
            if (
                index is None
                or low - margin <= got <= high + margin
                or (case.witness and e.arbiter.met(number, index, got))
            ):
                power = np.inf if counts and index is None else power
                continue
            bound = margin + (high - low) / 2
        elif d.error > 0.05 * max(abs(d.value), scale if index is not None else 0.0):
            unsure += 1
            power = np.inf if counts else power
            continue
        error = abs(got - d.value) if np.isfinite(got) else np.inf
        ratio = error / bound if bound else (np.inf if error else 0.0)
        size = max(abs(d.value), natural if index is not None else 0.0)
        rough = d.error > (ROUGH_NATIVE if case.work is NATIVE else ROUGH) * size
        # of a value that iterates the error is what its tolerance makes of the step, not chance
        if ratio > 1 and rough and not case.inexact:
            unsure += 1
            power = np.inf if counts else power
            continue
        judged += 1
        if counts and ratio <= 1:
            power = max(power, bound / a.reach / (scale or 1.0))
        if worst is None or ratio > worst[0]:
            worst = (ratio, (index, got, d.value, error, bound))
    if worst is None:
        if kinks:
            e.kinks[path] = max(e.kinks.get(path, 0), kinks)
        words = "the differences do not settle: the function is too rough, too noisy, or at a kink"
        verdict: Verdict = "skipped" if case.witness else "undecidable"
        return Finding(NAME, verdict, path, detail=Detail(words=words))
    ratio, (index, got, want, error, bound) = worst
    fields = {"index": index, "got": got, "want": want, "error": error, "bound": bound}
    detail = Detail(directions=judged, unsettled=unsure, kinks=kinks)
    if ratio <= 1:
        if case.witness:
            return Finding(NAME, "correct", path, detail=detail, **fields)
        case.power[path] = max(power if seen else np.inf, case.power.get(path, 0.0))
        if case.power[path] <= LEAST_POWER:
            return Finding(NAME, "correct", path, detail=detail, **fields)
        detail["words"] = _too_little(case.power[path], unsure + kinks)
        return Finding(NAME, "undecidable", path, detail=detail, **fields)
    if case.witness:
        return _against_the_oracle(e, path, fields)
    code, told = _fitted(e, number, answers, everywhere=everywhere)
    detail.update(told)
    return Finding(NAME, "wrong", path, diagnosis=code, detail=detail, **fields)


def _nearer(got: float, d: Derivative) -> Derivative:
    """Of a value that jumps between smooth pieces, the slope over or inside of them: either is."""
    if d.inside is None or not abs(got - d.inside) < abs(got - d.value):
        return d
    return dataclasses.replace(d, value=d.inside)


def _too_little(power: float, unsettled: int) -> str:
    what = (
        f"an error of {power:.1g} of the gradient's largest number"
        if np.isfinite(power)
        else f"one where they do not settle ({unsettled} places or directions)"
    )
    return (
        f"differences alone can say something of this rule, and they would not have seen {what}. "
        "Pass reference=, a function that JAX can differentiate"
    )


def _against_the_oracle(e: Evidence, path: str, fields: Any) -> Finding:
    """Differences disagree: with a rule found wrong already, or with one autodiff agrees with."""
    if path in e.accused:
        words = "differences of the value say so too"
        code = e.accused[path]
        return Finding(NAME, "wrong", path, diagnosis=code, detail=Detail(words=words), **fields)
    if e.case.declared:
        words = "the derivative is declared to be another than the value's: a reference was given"
        return Finding(NAME, "skipped", path, detail=Detail(words=words), **fields)
    words = (
        "differences of the value settle on another number than rule and autodiff, which agree. "
        "Where that is meant (the function stops a gradient, or is a step function), pass the "
        "function whose derivative the rule is as reference="
    )
    return Finding(NAME, "undecidable", path, detail=Detail(words=words), **fields)


def _fitted(
    e: Evidence, number: int, answers: list[Answer], *, everywhere: bool
) -> tuple[str, Detail]:
    """What the mistake is, where elements are known by differences alone."""
    got = e.hand[number]
    scale = scale_of(got)
    known = [
        a
        for a in answers
        if a.index is not None
        and np.isfinite(a.d.value)
        and not a.d.kink
        and a.d.error <= 0.05 * max(abs(a.d.value), scale)
    ]
    near = max((ESTIMATE * a.d.error for a in known), default=0.0) + 1e-6 * scale
    if everywhere and known and not np.iscomplexobj(got):
        want = got.copy()  # where they do not settle nothing is held against the rule
        for a in known:
            want[a.index] = a.d.value
        pair = Pair(got, want, near)
        found = pair.whole() or pair.turned() or pair.some_elements(0.01)
        if found:
            return found
    gots, wants = (np.array(x) for x in ([a.got for a in known], [a.d.value for a in known]))
    if len(known) and np.any(gots) and not np.any(wants):
        words = f"the function moves in steps, and the rule as something smooth does. {REMEDY}"
        return "surrogate", Detail(words=words)
    wrong = np.abs(gots - wants) > 4 * near
    if known and not wrong.any():
        words = "some elements are wrong; those that were asked alone are right"
        return "elements", Detail(words=words)
    if len(known) > 1 and np.any(wants):
        if not np.any(gots):
            return "zero", Detail(words="it is zero")
        c = float(gots @ wants / (wants @ wants))
        if (np.abs(gots - c * wants) <= 4 * max(1.0, abs(c)) * near).all():
            if abs(c + 1) < 1e-3:
                return "negated", Detail(words="it has the wrong sign", factor=c)
            return "scaled", Detail(words=f"it is {times(c)} what it should be", factor=c)
        if wrong.sum() <= len(known) / 2:
            words = f"{wrong.sum()} of {len(known)} elements asked are wrong"
            return "elements", Detail(words=words)
    return "unknown", Detail(words="it disagrees with differences of the value")
