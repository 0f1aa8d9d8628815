"""Is the gradient linear in the cotangent: zero for zero, twice for twice, additive?"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from fnnet.check.case.finding import Detail, Finding
from fnnet.check.case.modes import widened
from fnnet.check.case.subject import Arrays
from fnnet.check.diagnosis import mistakes, surrogate
from fnnet.check.oracle.evidence import Evidence, finding
from fnnet.check.oracle.tolerance import Compared, compared, scale_of

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
    base, allowed = e.hand, [e.rounding(i) for i in range(len(case.paths))]
    rng = case.rng(5)
    # half of the second cotangent is zero: a rule that divides by g, or branches on it, shows
    drawn = np.int8 if case.large else np.int64
    other = [x * rng.integers(0, 2, x.shape, drawn) for x in case.cotangent(1)]
    at_other = case.by_hand(case.values, other)
    reach = [max(scale_of(a), scale_of(b)) for a, b in zip(base, at_other, strict=True)]
    # what is right at the first of them, and what is wrong with the first that is wrong
    right: dict[int, Finding] = {}
    wrong: dict[int, tuple[str, Compared]] = {}
    for words, g, want in _tests(case.g, other, base, at_other):
        got = case.by_hand(case.values, g)
        size = abs(float(words.split()[1])) if "times" in words else 1.0
        for i, path in enumerate(case.paths):
            if i in wrong:
                continue
            bound = (allowed[i] + 1e-9 * reach[i] + e.cancelled) * size
            c = compared(got[i], _known(want[i], got[i]), bound)
            if c.bad.any():
                wrong[i] = (words, c)
            elif i not in right:
                right[i] = finding(NAME, path, c, c.worst, "correct", None, Detail())
            del c
        del g, want, got
    findings = []
    for i, path in enumerate(case.paths):
        if i not in wrong:
            findings.append(right[i])
            continue
        words, c = wrong[i]
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


def _tests(
    g: Arrays, other: Arrays, base: Arrays, at_other: Arrays
) -> Iterator[tuple[str, Arrays, Arrays]]:
    """In words, a cotangent, and the gradient it must have; one after the other."""
    yield "for g = 0", [0 * x for x in g], [0 * x for x in base]
    pairs = (zip(g, other, strict=True), zip(base, at_other, strict=True))
    both, sums = ([a + b for a, b in pair] for pair in pairs)
    yield "in a sum of two cotangents", both, sums
    del both, sums
    for c in FACTORS:
        yield f"for {c:g} times g", [c * widened(x) for x in g], [c * x for x in base]


def _known(want: Any, got: Any) -> Any:
    """Where the rule has no number (NaN in, NaN out) linearity says nothing."""
    known = np.isfinite(want)
    return want if known.all() else np.where(known, want, got)
