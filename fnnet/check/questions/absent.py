"""Is the gradient the same where only some arguments are differentiated, or some outputs used?

A rule with symbolic zeros is told what is asked of it, and so is a hijax primitive: it may do
something else for one argument alone than for all of them. Each argument is asked alone, then
pairs; each output's cotangent alone, where the others are not there at all instead of zero.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
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

NAME = "some arguments alone"
OUTPUTS = "some outputs alone"
MOST, MOST_PAIRS = 6, 6


def ask(e: Evidence) -> list[Finding]:
    """Nothing where the rule is not told what is asked of it."""
    case = e.case
    if not any(r.symbolic_zeros for r in case.rules or ()):
        return []
    n = len(case.values)
    findings: list[Finding] = []
    if n > 1:
        alone = [(i,) for i in range(min(n, MOST))]
        pairs = list(itertools.combinations(range(min(n, MOST)), 2)) if n > 2 else []
        findings += _arguments(e, [*alone, *pairs[:MOST_PAIRS]])
    if len(case.g) > 1:
        findings += _outputs(e)
    return findings


def _run(e: Evidence, f: Callable[..., Any]) -> Any:
    case, mode = e.case, e.case.work
    return Program(f, lambda: case.calls_host)(
        mode,
        mode.cast(case.values, case.subject.values),
        case.subject.others,
        case.cast_g(case.g, mode),
    )


def _arguments(e: Evidence, subsets: list[tuple[int, ...]]) -> list[Finding]:
    case = e.case

    def of(subset: tuple[int, ...], values: Arrays, others: Arrays, g: Arrays) -> Any:
        def f(some: Arrays) -> Arrays:
            full = list(values)
            for i, v in zip(subset, some, strict=True):
                full[i] = v
            return list(case.hand(full, others)[0])

        return jax.vjp(f, [values[i] for i in subset])[1](g)[0]

    def run(values: Arrays, others: Arrays, g: Arrays) -> Any:
        return [of(s, values, others, g) for s in subsets]

    try:
        found = _run(e, run)
    except Exception as error:
        code, detail = explain(error)
        words = f"with some arguments alone differentiated the rule raises: {detail}"
        return [Finding(NAME, "wrong", diagnosis=code, detail=Detail(words=words))]
    findings: dict[int, Finding] = {}
    for subset, grads in zip(subsets, found, strict=True):
        for i, got in zip(subset, grads, strict=True):
            if i not in findings:
                names = " and ".join(case.paths[k] for k in subset)
                where = f"where {names} alone {'is' if len(subset) == 1 else 'are'} differentiated"
                if wrong := _differs(e, NAME, i, got, e.hand[i], where):
                    findings[i] = wrong
    return list(findings.values()) or [Finding(NAME, "correct")]


def _outputs(e: Evidence) -> list[Finding]:
    case = e.case
    m = min(len(case.g), MOST)

    def run(values: Arrays, others: Arrays, g: Arrays) -> Any:
        return [
            jax.vjp(lambda v, k=k: case.hand(v, others)[0][k], values)[1](g[k])[0] for k in range(m)
        ]

    try:
        found = _run(e, run)
    except Exception as error:
        code, detail = explain(error)
        words = f"with one output alone used the rule raises: {detail}"
        return [Finding(OUTPUTS, "wrong", diagnosis=code, detail=Detail(words=words))]
    for k, grads in enumerate(found):
        # the same with zeros that are there
        g = [x if j == k else 0 * x for j, x in enumerate(case.g)]
        want = case.by_truth(case.values, g) if case.has_oracle else case.by_hand(case.values, g)
        for i, got in enumerate(grads):
            where = f"where output {k} alone is used"
            if wrong := _differs(e, OUTPUTS, i, got, want[i], where):
                return [wrong]
    return [Finding(OUTPUTS, "correct")]


def _differs(e: Evidence, name: str, i: int, got: Any, want: Any, where: str) -> Finding | None:
    case = e.case
    scale = max(scale_of(want), scale_of(e.hand[i]))
    bound = 4 * e.rounding(i) + (1e-9 if case.work_eps < 1e-10 else 64 * case.work_eps) * scale
    got = widened(got)
    c = compared(got, np.where(np.isfinite(want), want, got), bound)
    if not c.bad.any():
        return None
    code, detail = mistakes.fit(got, want, float(np.max(c.bound)))
    detail["words"] = f"d{case.paths[i]} is another {where}: {detail}"
    return finding(name, case.paths[i], c, c.worst, "wrong", code, detail)
