"""Has each cotangent its argument's structure, shape and dtype?

JAX checks number, structure and shape, and lets a wrong dtype pass.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from fnnet.check.case.case import Case
from fnnet.check.case.finding import Detail, Finding
from fnnet.check.case.modes import NATIVE
from fnnet.check.case.traced import pull
from fnnet.check.diagnosis.explain import explain, is_of_a_loop, lacks_reverse
from fnnet.check.questions.rules_of import raw_cotangents

NAME = "contract"


def ask(case: Case) -> list[Finding]:
    """Trace the rule in the caller's dtypes; nothing is computed."""
    with NATIVE.context():
        try:
            _, grads, _ = jax.eval_shape(
                pull(case.hand),
                case.subject.values,
                case.subject.others,
                case.cast_g(case.g, NATIVE),
            )
        except jax.errors.ConcretizationTypeError:
            grads = case.hand_at_args(NATIVE)[1]
        except Exception as e:
            code, detail = explain(e)
            if is_of_a_loop(e) or (lacks_reverse(e) and case.differentiable()):
                case.reverse = False
                what = "a loop of unknown length" if is_of_a_loop(e) else "its rule"
                words = f"{what} has no reverse mode; forward mode alone is asked: {detail}"
                return [Finding(NAME, "skipped", detail=Detail(words=words))]
            return [Finding(NAME, "wrong", diagnosis=code, detail=detail)]
    findings = []
    for path, value, grad in zip(case.paths, case.subject.values, grads, strict=True):
        want, got = _type(value), _type(grad)
        if want == got:
            continue
        code = "shape" if value.shape != grad.shape else "dtype"
        words = f"d{path} must be {want} like the argument; the rule gives {got}"
        findings.append(Finding(NAME, "wrong", path, diagnosis=code, detail=Detail(words=words)))
    findings += raw_cotangents(case)
    return findings or [Finding(NAME, "correct")]


def runs(case: Case) -> list[Finding]:
    """Does the rule run, in the caller's dtypes? Nothing is said of what its function cannot do."""
    try:
        case.forward(NATIVE, case.subject.values, case.subject.others)
    except Exception:
        return []
    if not case.reverse:
        return []
    try:
        case.hand_at_args(NATIVE)
    except Exception as e:
        code, detail = explain(e)
        return [Finding(f"{NAME}, when run", "wrong", diagnosis=code, detail=detail)]
    return []


def _type(x: Any) -> str:
    return f"{np.dtype(x.dtype).name}[{','.join(map(str, x.shape))}]"
