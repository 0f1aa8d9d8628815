"""Does the rule add its cotangents to what is there? Asked of one that may write into references.

``jax.vjp(f, x)[1].with_refs(ref)(g)`` gives the backward pass a reference to add to, and a rule
with accumulators (hijax's ``vjp_bwd``, `defvjp_with_accums`) may have the reference itself: one
that writes where it should add loses what other terms have put there.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from fnnet.check.case.finding import Detail, Finding
from fnnet.check.case.modes import Program, widened
from fnnet.check.case.subject import Arrays
from fnnet.check.diagnosis import mistakes
from fnnet.check.diagnosis.explain import explain
from fnnet.check.oracle.evidence import Evidence, finding
from fnnet.check.oracle.tolerance import compared, scale_of

NAME = "accumulates into references"


def ask(e: Evidence) -> list[Finding]:
    """Nothing where no rule has accumulators, or JAX no references for them."""
    case, mode = e.case, e.case.work
    if not any(r.accumulates for r in case.rules or ()) or not hasattr(jax, "new_ref"):
        return []
    # what is there before: of the gradient's size, and never it
    before = [0.75 * (scale_of(x) or 1.0) + 0.5 * np.abs(x) for x in e.hand]

    def run(values: Arrays, others: Arrays, g: Arrays, before: Arrays) -> Any:
        back: Any = jax.vjp(lambda v: case.hand(v, others)[0], values)[1]
        refs = [jax.new_ref(x) for x in before]
        back.with_refs(refs)(g)
        return [r[...] for r in refs]

    like = case.subject.values
    try:
        found = Program(run, lambda: case.calls_host)(
            mode,
            mode.cast(case.values, like),
            case.subject.others,
            case.cast_g(case.g, mode),
            mode.cast(before, like),
        )
    except Exception as error:
        code, detail = explain(error)
        return [Finding(NAME, "wrong", diagnosis=code, detail=detail)]
    findings = []
    for i, path in enumerate(case.paths):
        want, got = before[i] + e.hand[i], widened(found[i])
        near = 1e-9 if case.work_eps < 1e-10 else 64 * case.work_eps
        c = compared(got, np.where(np.isfinite(want), want, got), near * scale_of(want))
        if not c.bad.any():
            continue
        if np.all(np.abs(got - e.hand[i]) <= c.bound):
            code, words = "overwrites", "is written over what was there, and not added to it"
        else:
            code, fitted = mistakes.fit(got - before[i], e.hand[i], float(np.max(c.bound)))
            words = f"is added otherwise than it is returned: {fitted}"
        detail = Detail(words=f"d{path} {words}")
        findings.append(finding(NAME, path, c, c.worst, "wrong", code, detail))
    return findings or [Finding(NAME, "correct")]
