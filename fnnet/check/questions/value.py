"""Is the value under differentiation the function's value?"""

from __future__ import annotations

import numpy as np

from fnnet.check.case.finding import Detail, Finding
from fnnet.check.case.modes import NATIVE, Mode, epsilon, widened
from fnnet.check.oracle.evidence import Evidence, finding
from fnnet.check.oracle.tolerance import compared, scale_of

NAME = "value under differentiation"


def ask(e: Evidence) -> list[Finding]:
    """The forward rule's output against the function's, where the gradients are compared."""
    return in_mode(e, e.case.work, NAME)


def in_mode(e: Evidence, mode: Mode, name: str) -> list[Finding]:
    """One finding for each output that differs, or one for all."""
    case = e.case
    values = mode.cast(case.values, case.subject.values)
    want, want_rest = case.forward(mode, values, case.subject.others)
    got, _, got_rest = case.hand_at_args(mode)
    eps = case.native_eps if mode is NATIVE else case.work_eps
    # the two may be written differently; rounding of the arguments is the least they differ by
    moved = mode.cast([x * (1 + 4 * eps) for x in case.values], case.subject.values)
    near, _ = case.forward(mode, moved, case.subject.others)
    findings = []
    for k, (a, b, other) in enumerate(zip(got, want, near, strict=True)):
        least = 64 * max(eps, epsilon(case.out_types(mode)[k].dtype))
        a, b = widened(a), widened(b)
        with np.errstate(all="ignore"):
            spread = np.nan_to_num(np.abs(widened(other) - b), posinf=0.0)
        spread = np.minimum(spread, 0.01 * scale_of(b))
        floor = least if mode is NATIVE else max(least, case.floor)
        c = compared(a, b, floor * (scale_of(b) or eps) + 16 * spread)
        output = f"output {k}" if len(got) > 1 else "output"
        if c.bad.any():
            detail = Detail(
                words=f"{output}: the forward rule returns another value than the function"
            )
            findings.append(finding(name, output, c, c.worst, "wrong", "value_differs", detail))
    if not all(np.array_equal(a, b) for a, b in zip(got_rest, want_rest, strict=True)):
        detail = Detail(words="an output that is not a float differs under differentiation")
        findings.append(Finding(name, "wrong", diagnosis="value_differs", detail=detail))
    return findings or [Finding(name, "correct")]
