"""Does the gradient agree with differences of the value? No derivative rule enters those.

On a small argument every element is asked where there is no other oracle; else one random direction
an argument, and its elements of largest and random place.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fnnet.check.case.finding import Detail, Finding, Verdict
from fnnet.check.case.modes import NATIVE
from fnnet.check.oracle.evidence import Evidence
from fnnet.check.oracle.numerical import Derivative, pairing

NAME = "reverse against differences"
ALL_ELEMENTS = 64


def ask(e: Evidence) -> list[Finding]:
    """One finding for each argument."""
    case = e.case
    if not case.traceable_value():
        words = "the function's value cannot be traced; make it traceable by jax.jit"
        return [Finding(NAME, "skipped", detail=Detail(words=words))]
    return [_argument(e, i, path) for i, path in enumerate(case.paths)]


def _argument(e: Evidence, number: int, path: str) -> Finding:
    differences = e.arbiter.differences
    got = e.hand[number]
    if got.size == 0:
        return Finding(NAME, "skipped", path, detail=Detail(words="the argument is empty"))
    answers: list[tuple[tuple[int, ...] | None, float, Derivative]] = []
    v, d = differences.projection(number)
    answers.append((None, pairing([got], [v[number]]), d))
    for index in _probes(e, number):
        answers.append((index, float(np.real(got[index])), differences.element(number, index)))
        if np.iscomplexobj(got):
            d = differences.element(number, index, imaginary=True)
            answers.append((index, float(-np.imag(got[index])), d))
    return _verdict(e, path, number, answers)


def _probes(e: Evidence, number: int) -> list[tuple[int, ...]]:
    case, got = e.case, e.hand[number]
    if not case.has_oracle and got.size <= ALL_ELEMENTS:
        return [tuple(map(int, i)) for i in np.ndindex(got.shape)]
    n = (1 if case.size > 20_000 else 2) if case.has_oracle else 12
    flat = case.rng(6, number).integers(0, got.size, n)
    largest = int(np.argmax(np.nan_to_num(np.abs(got))))
    places = dict.fromkeys([*flat.tolist(), *([] if case.has_oracle else [largest])])
    return [tuple(int(i) for i in np.unravel_index(p, got.shape)) for p in places]


def _verdict(e: Evidence, path: str, number: int, answers: list[Any]) -> Finding:
    case = e.case
    worst: tuple[float, Any] | None = None
    judged = 0
    unsure = 0
    kinks = 0
    power = 0.0
    scale = float(np.max(np.abs(np.nan_to_num(e.hand[number])), initial=0.0))
    for index, got, d in answers:
        if not np.isfinite(d.value) or not np.isfinite(got):
            unsure += 1
            continue
        bound = 10 * d.error + (1e-6 if case.work is not NATIVE else 1e-2) * abs(d.value)
        bound += e.cancelled + 1e-9 * scale + (1e-2 * scale if case.work is NATIVE else 0)
        if d.kink:
            low, high = sorted((d.left, d.right))
            margin = 10 * d.side_error + 1e-6 * max(abs(low), abs(high))
            kinks += 1
            # along a random direction a kink of another element enters: nothing can be said
            if index is None or low - margin <= got <= high + margin:
                continue
            bound = margin + (high - low) / 2
        elif d.error > 0.05 * max(abs(d.value), scale if index is not None else 0.0):
            unsure += 1
            continue
        judged += 1
        error = abs(got - d.value)
        power = max(power, bound)
        ratio = error / bound if bound else (np.inf if error else 0.0)
        if worst is None or ratio > worst[0]:
            worst = (ratio, (index, got, d.value, error, bound))
    if worst is None:
        if kinks:
            e.kinks[path] = max(e.kinks.get(path, 0), kinks)
        words = "the differences do not settle: the function is too rough, too noisy, or at a kink"
        verdict: Verdict = "skipped" if case.has_oracle else "undecidable"
        return Finding(NAME, verdict, path, detail=Detail(words=words))
    ratio, (index, got, want, error, bound) = worst
    fields = {"index": index, "got": got, "want": want, "error": error, "bound": bound}
    detail = Detail(directions=judged, unsettled=unsure, kinks=kinks)
    if ratio <= 1:
        return Finding(NAME, "correct", path, detail=detail, **fields)
    if case.has_oracle:
        return _against_the_oracle(e, path, number, fields)
    code, told = _fitted(answers, got, want)
    detail.update(told)
    return Finding(NAME, "wrong", path, diagnosis=code, detail=detail, **fields)


def _against_the_oracle(e: Evidence, path: str, number: int, fields: Any) -> Finding:
    """Differences disagree: with a rule found wrong already, or with one autodiff agrees with."""
    if path in e.accused:
        words = "differences of the value say so too"
        code = e.accused[path]
        return Finding(NAME, "wrong", path, diagnosis=code, detail=Detail(words=words), **fields)
    if e.case.declared or e.arbiter.stops_gradients:
        words = "the derivative is declared to be another than the value's: a reference was given"
        if not e.case.declared:
            words = "the function stops a gradient on purpose; differences see through it"
        return Finding(NAME, "skipped", path, detail=Detail(words=words), **fields)
    words = (
        "differences disagree where rule and autodiff agree in every element: the function is a "
        "step function, or jumps"
    )
    return Finding(NAME, "skipped", path, detail=Detail(words=words), **fields)


def _fitted(answers: list[Any], got: float, want: float) -> tuple[str, Detail]:
    """What the mistake is, where elements are known by differences alone."""
    known = [
        (g, d.value) for i, g, d in answers if i is not None and np.isfinite(d.value) and not d.kink
    ]
    gots = np.array([g for g, _ in known])
    wants = np.array([w for _, w in known])
    if len(known) > 1 and np.any(wants):
        if not np.any(gots):
            return "zero", Detail(words="it is zero")
        c = float(gots @ wants / (wants @ wants))
        off = np.abs(gots - c * wants) > 1e-4 * np.abs(gots).max()
        if not off.any():
            if abs(c + 1) < 1e-3:
                return "negated", Detail(words="it has the wrong sign", factor=c)
            return "scaled", Detail(words=f"it is {c:.4g} times what it should be", factor=c)
        wrong = np.abs(gots - wants) > 1e-4 * np.abs(wants).max()
        if wrong.sum() <= len(known) / 2:
            return "elements", Detail(
                words=f"{wrong.sum()} of {len(known)} elements asked are wrong"
            )
    return "unknown", Detail(words="it disagrees with differences of the value")
