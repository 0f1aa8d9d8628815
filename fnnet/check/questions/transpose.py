"""Is a linear function's transpose right, and a linear solver's?

Where the whole function is linear, `jax.linear_transpose` is asked, which uses rules that a
gradient may not (`linear_call`, a primitive's transpose, hijax's ``transpose``):
``<f(v), g> = <v, f'(g)>``, element by element. Of a `custom_linear_solve` it is asked whether what
`transpose_solve` returns solves the transposed system, whose matrix JAX transposes itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from fnnet.check.case.case import Case
from fnnet.check.case.finding import Detail, Finding
from fnnet.check.case.interpret import INLINED
from fnnet.check.case.kinds import HIJAX, LINEAR_SOLVE, PRIMITIVE, rule_of
from fnnet.check.case.modes import Program, to_numpy, widened
from fnnet.check.case.subject import Arrays
from fnnet.check.diagnosis.explain import explain
from fnnet.check.diagnosis.fit import fit
from fnnet.check.oracle.evidence import Evidence, finding
from fnnet.check.oracle.numerical import pairing
from fnnet.check.oracle.tolerance import compared, scale_of
from fnnet.rules.jaxpr import Equation, bind, opened, run

NAME = "transpose"
SOLVER = "transpose of a linear solver"


def ask(e: Evidence) -> list[Finding]:
    """Nothing where the function is not linear and no linear solver is in it."""
    kinds = {r.kind for r in e.case.rules or ()}
    findings: list[Finding] = []
    if LINEAR_SOLVE in kinds:
        findings += _solvers(e.case)
    if kinds & {"linear_call", LINEAR_SOLVE, HIJAX, PRIMITIVE}:
        findings += _whole(e)
    return findings


def _whole(e: Evidence) -> list[Finding]:
    case, mode = e.case, e.case.work

    def transposed(values: Arrays, others: Arrays, g: Arrays) -> Any:
        return jax.linear_transpose(lambda v: case.hand(v, others)[0], values)(g)[0]

    args = (
        mode.cast(case.values, case.subject.values),
        case.subject.others,
        case.cast_g(case.g, mode),
    )
    with mode.context():
        try:
            jax.eval_shape(transposed, *args)
        except Exception:
            return []  # it is not linear, or what it is made of has no transpose
    try:
        found = [widened(x) for x in Program(transposed, lambda: case.calls_host)(mode, *args)]
    except Exception as error:
        code, detail = explain(error)
        return [Finding(NAME, "wrong", diagnosis=code, detail=detail)]
    findings = []
    if case.has_oracle and case.witness:
        for i, path in enumerate(case.paths):
            c = compared(found[i], e.truth[i], e.bounds[i])
            if c.bad.any():
                code, detail = fit(found[i], e.truth[i], float(np.max(c.bound)))
                detail["words"] = f"the transpose, in {path}: {detail}"
                findings.append(finding(NAME, path, c, c.worst, "wrong", code, detail))
        return findings or [Finding(NAME, "correct")]
    # f is linear, so that f(v) is its own forward derivative
    forward, back = pairing([widened(x) for x in case.outputs], case.g), pairing(found, case.values)
    size = sum(float(np.sum(np.abs(a * b))) for a, b in zip(found, case.values, strict=True))
    size += sum(float(np.sum(np.abs(a * b))) for a, b in zip(case.outputs, case.g, strict=True))
    bound = (1e-9 if case.work_eps < 1e-10 else 64 * case.work_eps) * size
    gap = abs(forward - back)
    if gap <= bound:
        return [Finding(NAME, "correct", got=back, want=forward, error=gap, bound=bound)]
    detail = Detail(words="<f(v), g> is not <v, f'(g)> by the rule's transpose f'")
    return [Finding(NAME, "wrong", "", None, back, forward, gap, bound, "not_adjoint", detail)]


def _solvers(case: Case) -> list[Finding]:
    """Each solver that somebody wrote, at the numbers it meets in the function."""
    mode = case.work
    met: list[tuple[Equation, list[Any]]] = []

    def seen(eqn: Equation, values: list[Any]) -> Sequence[Any]:
        name = eqn.primitive.name
        if name in INLINED:
            inner, consts = opened(eqn.params[INLINED[name]])
            return run(inner, consts, values, seen)
        rule = rule_of(eqn)
        if rule and rule.kind == LINEAR_SOLVE and rule.foreign:
            met.append((eqn, values))
        return bind(eqn, values)

    with mode.context():
        args = mode.cast(case.values, case.subject.values), case.subject.others
        inner, consts = opened(jax.make_jaxpr(case.truth)(*args))
        run(inner, consts, [jax.numpy.asarray(x) for x in jax.tree.leaves(args)], seen)
        found = [f for eqn, values in met for f in _solver(case, eqn, values)]
    return found


def _solver(case: Case, eqn: Equation, values: list[Any]) -> list[Finding]:
    lengths, jaxprs = eqn.params["const_lengths"], eqn.params["jaxprs"]
    ends = np.cumsum([0, *lengths])
    consts = {k: values[a:b] for k, a, b in zip(jaxprs._fields, ends, ends[1:], strict=False)}
    b = values[ends[-1] :]
    if jaxprs.transpose_solve is None:
        return []
    rng = case.rng(14)
    c = [jax.numpy.asarray(rng.uniform(0.5, 2.0, np.shape(x)), x.dtype) for x in b]

    def call(name: str, xs: Any) -> Any:
        inner, own = opened(getattr(jaxprs, name))
        return run(inner, own, [*consts[name], *xs])

    solved = to_numpy(call("matvec", call("solve", b)))
    matvec = jax.linear_transpose(lambda *x: call("matvec", x), *b)
    back = to_numpy(matvec(call("transpose_solve", c)))
    # an iterative solver is as exact forward as it is told to be, and so may its transpose be
    loss = max(_relative(x, np.asarray(y)) for x, y in zip(solved, b, strict=True))
    near = max(1e-7 if case.work_eps < 1e-10 else 1e3 * case.work_eps, 100 * loss)
    findings = []
    for x, y in zip(back, c, strict=True):
        want = widened(y)
        got = compared(widened(x), want, near * scale_of(want))
        if got.bad.any():
            code, detail = fit(got.got, want, near * scale_of(want))
            detail["words"] = (
                "what transpose_solve returns does not solve the transposed system: put into that, "
                f"the right-hand side comes out wrong: {detail}"
            )
            findings.append(finding(SOLVER, "", got, got.worst, "wrong", code, detail))
    return findings or [Finding(SOLVER, "correct")]


def _relative(x: Any, y: Any) -> float:
    return float(np.max(np.abs(x - y), initial=0.0)) / (scale_of(y) or 1.0)
