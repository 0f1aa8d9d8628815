"""Is the gradient linear in the cotangent: zero for zero, twice for twice, additive?"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from fnnet.check.case.finding import Detail, Finding
from fnnet.check.case.subject import Arrays
from fnnet.check.diagnosis import mistakes, surrogate
from fnnet.check.oracle.evidence import Evidence, finding
from fnnet.check.oracle.tolerance import compared, scale_of

NAME = "linearity in g"
FACTORS = (-1.0, 1e-3, 1e3)


def ask(e: Evidence) -> list[Finding]:
    """One finding for each argument; of a declared surrogate, which may be clipped, a caution."""
    found = _asked(e)
    if not e.case.terms.surrogate:
        return found
    return [dataclasses.replace(f, verdict="caution") if f.verdict == "wrong" else f for f in found]


def _asked(e: Evidence) -> list[Finding]:
    case = e.case
    rng = case.rng(5)
    # half of the second cotangent is zero: a rule that divides by g, or branches on it, shows
    other = [x * rng.integers(0, 2, x.shape) for x in case.cotangent(1)]
    at_other = case.by_hand(case.values, other)
    base = e.hand
    tests: list[tuple[str, Arrays, Arrays]] = [
        ("for g = 0", [0 * x for x in case.g], [0 * x for x in base]),
        (
            "in a sum of two cotangents",
            [a + b for a, b in zip(case.g, other, strict=True)],
            [a + b for a, b in zip(base, at_other, strict=True)],
        ),
    ]
    tests += [
        (f"for {c:g} times g", [c * x for x in case.g], [c * x for x in base]) for c in FACTORS
    ]
    reach = [max(scale_of(a), scale_of(b)) for a, b in zip(base, at_other, strict=True)]
    worst: dict[int, Any] = {}
    for words, g, want in tests:
        got = case.by_hand(case.values, g)
        size = abs(float(words.split()[1])) if "times" in words else 1.0
        for i in range(len(base)):
            bound = (e.rounding(i) + 1e-9 * reach[i] + e.cancelled) * size
            c = compared(got[i], _known(want[i], got[i]), bound)
            if i not in worst or (c.bad.any() and not worst[i][1].bad.any()):
                worst[i] = (words, c)
    findings = []
    for i, path in enumerate(case.paths):
        words, c = worst[i]
        if not c.bad.any():
            findings.append(finding(NAME, path, c, c.worst, "correct", None, Detail()))
            continue
        if e.nondeterministic:
            detail = Detail(words=f"d{path} differs {e.nondeterministic}")
            findings.append(finding(NAME, path, c, c.worst, "wrong", "nondeterministic", detail))
            continue
        # one that does not depend on g at all is its own diagnosis
        constant = np.array_equal(at_other[i], base[i]) and bool(np.any(base[i]))
        if not constant and (rounded := mistakes.computed_narrow(e, c)):
            e.nonlinear[i] = rounded
            findings.append(finding(NAME, path, c, c.worst, "wrong", *rounded))
            continue
        if not constant and (cut := surrogate.clipped(e, i)):
            e.nonlinear[i] = cut
            findings.append(finding(NAME, path, c, c.worst, "wrong", *cut))
            continue
        code = "ignores_cotangent" if constant else "nonlinear_in_cotangent"
        said = "does not depend on g" if constant else f"is not linear {words}"
        detail = Detail(words=f"d{path} {said}", where=words)
        e.nonlinear[i] = code, Detail(words=said, where=words)
        findings.append(finding(NAME, path, c, c.worst, "wrong", code, detail))
    return findings


def _known(want: Any, got: Any) -> Any:
    """Where the rule has no number (NaN in, NaN out) linearity says nothing."""
    return np.where(np.isfinite(want), want, got)
