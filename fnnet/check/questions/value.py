"""Is the value under differentiation the function's value, and that of a declared reference?

A value that is infinite, or NaN, must be so under differentiation too: a rule that returns a number
there belongs to another function.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from fnnet.check.case.case import Case
from fnnet.check.case.finding import Detail, Finding
from fnnet.check.case.modes import NATIVE, Mode, Program, epsilon, widened
from fnnet.check.case.thresholds import MARGIN, ROUNDINGS
from fnnet.check.oracle.evidence import Evidence, finding
from fnnet.check.oracle.tolerance import Compared, by_parts, compared, scale_of

NAME = "value under differentiation"
NAME_REFERENCE = "value of the reference"


def ask(e: Evidence) -> list[Finding]:
    """The forward rule's output against the function's, where the gradients are compared."""
    return [*in_mode(e, e.case.work, NAME), *_reference(e)]


def _reference(e: Evidence) -> list[Finding]:
    """A reference whose derivative is the truth has the function's value, or is a surrogate."""
    case = e.case
    if not case.declared or case.terms.surrogate:
        return []
    mode = case.work
    values = mode.cast(case.values, case.subject.values)
    got, _ = case.forward(mode, values, case.subject.others)
    want, _ = Program(case.primal, lambda: case.calls_host)(mode, values, case.subject.others)
    findings = []
    for k, (a, b) in enumerate(zip(got, want, strict=True)):
        a, b = widened(a), widened(b)
        # the reference may be the same function by other formulas, with constants of the
        # caller's precision
        near = ROUNDINGS * case.native_eps + MARGIN * case.inexact
        c = compared(a, b, near * (scale_of(b) or 1.0))
        if (c.bad | c.unclear).any():
            output = f"output {k}" if len(got) > 1 else "output"
            words = (
                f"{output}: the reference has another value than the function. If the rule is the "
                "derivative of another function on purpose, say surrogate=True"
            )
            detail = Detail(words=words)
            code = "value_differs"
            findings.append(finding(NAME_REFERENCE, output, c, c.worst, "wrong", code, detail))
    return findings or [Finding(NAME_REFERENCE, "correct")]


def in_mode(e: Evidence, mode: Mode, name: str) -> list[Finding]:
    """One finding for each output that differs, or one for all."""
    case = e.case
    values = mode.cast(case.values, case.subject.values)
    want, want_rest = case.forward(mode, values, case.subject.others)
    eps = case.native_eps if mode is NATIVE else case.work_eps
    # the two may be written differently; rounding of the arguments is the least they differ by
    moved = mode.cast([widened(x) * (1 + 4 * eps) for x in case.values], case.subject.values)
    near, _ = case.forward(mode, moved, case.subject.others)
    del values, moved
    bounds = [_bounds(case, mode, k, *x) for k, x in enumerate(zip(near, want, strict=True))]
    del near
    got, got_rest = case.outputs_by_hand(mode)
    findings = []
    for k, (a, b, bound) in enumerate(zip(got, want, bounds, strict=True)):
        a, b = widened(a), widened(b)
        c = compared(a, b, bound)
        output = f"output {k}" if len(got) > 1 else "output"
        if mode is NATIVE and case.work is not NATIVE:
            # an infinity by overflow, of a number that is finite in 64 bits
            c.unclear &= ~np.isfinite(_in_64_bits(case, k))
        both = int((np.isnan(a) & np.isnan(b)).sum())
        if c.bad.any() or c.unclear.any():
            findings.append(_differs(name, output, c))
        elif both:
            words = f"{both} of {a.size} elements of the {output} are NaN, by the rule too"
            detail = Detail(words=words, nan=both, say=True)
            findings.append(Finding(name, "correct", output, detail=detail))
    if not all(np.array_equal(a, b) for a, b in zip(got_rest, want_rest, strict=True)):
        detail = Detail(words="an output that is not a float differs under differentiation")
        findings.append(Finding(name, "wrong", diagnosis="value_differs", detail=detail))
    return findings or [Finding(name, "correct")]


def _in_64_bits(case: Case, output: int) -> Any:
    values = case.work.cast(case.values, case.subject.values)
    return widened(case.forward(case.work, values, case.subject.others)[0][output])


def _differs(name: str, output: str, c: Compared) -> Finding:
    """What is wrong about a value: another number, a number for an infinity, or NaN."""
    words = f"{output}: the forward rule returns another value than the function"
    code, where = "value_differs", c.worst
    if not c.bad.any():
        where = tuple(int(i) for i in np.argwhere(c.unclear)[0])
        what = "NaN" if np.isnan(c.want[where]) else "infinite"
        words = f"{output}: the function's value is {what} and, under differentiation, is not"
    if np.isnan(c.got[where]) or np.isnan(c.want[where]):
        code = "value_nan"
        if np.isnan(c.got[where]):
            words = f"{output}: the value is NaN under differentiation, and is not otherwise"
    return finding(name, output, c, where, "wrong", code, Detail(words=words))


def _bounds(case: Case, mode: Mode, k: int, near: Any, value: Any) -> Any:
    """What the value of output `k` may differ by; `near` is it at arguments moved by rounding."""
    eps = case.native_eps if mode is NATIVE else case.work_eps
    least = ROUNDINGS * max(eps, epsilon(case.out_types(mode)[k].dtype))
    near, value = widened(near), widened(value)
    scale = scale_of(value)
    floor = (least if mode is NATIVE else max(least, case.floor)) * (scale or eps)
    return by_parts(functools.partial(_bound, floor, 0.01 * scale), near, value)[0]


def _bound(floor: float, most: float, near: Any, value: Any) -> tuple[Any]:
    """What the value may differ by: `floor`, and what rounding of the arguments does to it."""
    with np.errstate(all="ignore"):
        spread = np.nan_to_num(np.abs(near - value), posinf=0.0)
    return (floor + MARGIN * np.minimum(spread, most),)
