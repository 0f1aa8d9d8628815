"""Does the rule give the same gradient each time, and the same compiled and not?

The rule's Python code is traced twice, so that hidden state shows, and its compiled form is run
twice.
"""

from __future__ import annotations

import jax
import numpy as np

from fnnet.check.case.finding import Detail, Finding
from fnnet.check.case.modes import NATIVE, to_numpy, widened
from fnnet.check.case.traced import pull
from fnnet.check.diagnosis.explain import explain
from fnnet.check.oracle.evidence import Evidence, finding
from fnnet.check.oracle.tolerance import compared, scale_of

NAME = "determinism"
NAME_JIT = "jit against no jit"


def ask(e: Evidence) -> list[Finding]:
    """Two calls, two traces; then the rule uncompiled, in the caller's dtypes."""
    if e.nondeterministic:
        words = f"the gradient differs {e.nondeterministic}"
        detail = Detail(words=words)
        return [Finding(NAME, "wrong", diagnosis="nondeterministic", detail=detail)]
    steady = Finding(NAME, "correct")
    if e.case.large:
        words = "uncompiled, every intermediate result would be held: ask it with smaller arguments"
        return [steady, Finding(NAME_JIT, "skipped", detail=Detail(words=words))]
    try:
        uncompiled = _eagerly(e)
    except Exception as error:
        code, detail = explain(error)
        return [steady, Finding(NAME_JIT, "wrong", diagnosis=code, detail=detail)]
    findings = []
    for i, path in enumerate(e.case.paths):
        want, got = e.hand_native[i], widened(uncompiled[i])
        scale = scale_of(want)
        # compiled as a whole, it may round otherwise
        bound = 64 * e.case.native_eps * scale
        bound += min(e.own_rounding(i), 1e-2 * scale) if scale else 1e-30
        c = compared(got, want, bound + e.own_noise(i, e.case.native_eps))
        if (c.bad | c.unclear).any():
            detail = Detail(words=f"d{path} differs under jit")
            findings.append(finding(NAME_JIT, path, c, c.worst, "wrong", "unknown", detail))
    return [steady, *(findings or [Finding(NAME_JIT, "correct")])]


def _eagerly(e: Evidence) -> list[np.ndarray]:
    case = e.case
    with NATIVE.context():
        values = [jax.device_put(v) for v in NATIVE.cast(case.values, case.subject.values)]
        g = [jax.device_put(x) for x in case.cast_g(case.g, NATIVE)]
        return [np.asarray(x) for x in to_numpy(pull(case.hand)(values, case.subject.others, g)[1])]
