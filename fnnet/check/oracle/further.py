"""A function whose loops run a few steps further: how exact are the values of one that iterates?

A solver stops when a test is passed, or after a number of steps: its value is no more exact than
the step that it did not take, and neither is the derivative of its value, nor a rule that is right
at the exact solution. One more step shows by how much:

    x, x', x''      the value, and after one and two further steps
    r = |x'' - x'| / |x' - x|          it converges where r < 1 (0.5 for a bisection)
    |x* - x|  about  |x' - x| / (1 - r)

A loop that adds up, or marches through time, does not converge (r is about 1) and is as exact as
its dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from fnnet.check.case.case import Case
from fnnet.check.case.host import equations
from fnnet.check.case.modes import Program, widened
from fnnet.check.case.subject import Arrays, is_float
from fnnet.check.case.thresholds import LOOSEST, SLOWEST
from fnnet.check.case.traced import pull
from fnnet.check.oracle.tolerance import scale_of
from fnnet.rules.jaxpr import Closed, Equation, bind, opened, run
from fnnet.rules.rewrite import jaxprs

_COMPARISONS = frozenset({"gt", "lt", "ge", "le", "ne", "eq"})


def measure(case: Case) -> None:
    """Find how far the value, and the rule's gradients, are from what their loops converge to.

    It is kept in the case, each relative to its largest number; 0 where nothing converges.
    """
    values, others, g = case.at_args(case.work)
    if found := _steps(case, case.truth, (values, others)):
        case.iterated = max(
            (_left(*x) for x in zip(*(o[0] for o in found), strict=True)), default=0.0
        )
    if found := _steps(case, pull(case.hand), (values, others, g)):
        case.gradients_iterated = [_left(*x) for x in zip(*(o[1] for o in found), strict=True)]


def _steps(case: Case, flat: Callable[..., Any], args: Any) -> list[Any]:
    """What `flat` gives as it is, and one and two steps further; nothing where it has no loop."""
    with case.work.context():
        try:
            jaxpr = jax.make_jaxpr(flat)(*args)
            if not any(_iterates(eqn) for eqn in equations(jaxpr)):
                return []
        except Exception:
            return []
    try:
        return [Program(further(flat, n))(case.work, *args) for n in range(3)]
    except Exception:  # a loop that cannot be rewritten tells nothing
        return []


def stops_by_a_test(case: Case) -> bool:
    """Whether the function has a loop that stops by a test of floats, or never."""
    jaxpr = case.trace(case.truth)
    return jaxpr is not None and any(
        eqn.primitive.name == "while" and _iterates(eqn) for eqn in equations(jaxpr)
    )


def _left(now: Any, once: Any, twice: Any) -> float:
    now, once, twice = widened(now), widened(once), widened(twice)
    scale = scale_of(now)
    with np.errstate(all="ignore"):
        first, second = scale_of(once - now), scale_of(twice - once)
    if not scale or not first:
        return 0.0
    ratio = second / first
    left = first / scale / (1 - ratio) if ratio < SLOWEST else np.inf
    return float(left) if left <= LOOSEST else 0.0


def further(flat: Callable[..., Any], steps: int) -> Callable[..., Any]:
    """The flat function, every loop in it that may be a solver's run `steps` steps further."""

    def rewritten(*args: Arrays) -> Any:
        jaxpr, shape = jax.make_jaxpr(flat, return_shape=True)(*args)
        inner, consts = opened(jaxpr)
        out = run(inner, consts, jax.tree.leaves(args), equation)
        return jax.tree.unflatten(jax.tree.structure(shape), [jnp.asarray(x) for x in out])

    def equation(eqn: Equation, inputs: list[Any]) -> Sequence[Any]:
        changed = {k: of(p) for k, p in eqn.params.items() if jaxprs(p)}
        if not steps or not _iterates(eqn):
            return bind(eqn, inputs, **changed)
        if eqn.primitive.name == "scan":
            return bind(eqn, inputs, **changed, length=eqn.params["length"] + steps)
        out = list(bind(eqn, inputs, **changed))
        n = eqn.params["cond_nconsts"]
        fixed = inputs[n : n + eqn.params["body_nconsts"]]
        body, consts = opened(changed["body_jaxpr"])
        for _ in range(steps):
            out = run(body, consts, [*fixed, *out])
        return out

    def of(param: Any) -> Any:
        if isinstance(param, (Closed, core.Jaxpr)):
            inner, consts = opened(param)
            if not any(_iterates(eqn) for eqn in equations(param)):
                return param
            avals = [v.aval for v in inner.invars]
            closed = jax.make_jaxpr(lambda *a: run(inner, consts, a, equation))(*avals)
            return closed if isinstance(param, Closed) else closed.jaxpr
        again = [of(p) if jaxprs(p) else p for p in param]
        return type(param)(*again) if hasattr(param, "_fields") else type(param)(again)

    return rewritten


def _iterates(eqn: Equation) -> bool:
    """Whether an equation is a loop that may be a solver's.

    One that stops by a test of floats; or one of so many steps that takes nothing in and gives
    nothing out on the way.
    """
    if eqn.primitive.name == "while":
        return any(
            e.primitive.name in _COMPARISONS and any(is_float(v.aval) for v in e.invars)
            for e in equations(eqn.params["cond_jaxpr"])
        )
    if eqn.primitive.name != "scan":
        return False
    inner, _ = opened(eqn.params["jaxpr"])
    # rows have an axis less inside; JAX's versions name their numbers otherwise
    outside, inside = [*eqn.invars, *eqn.outvars], [*inner.invars, *inner.outvars]
    return all(map(_same_rank, outside, inside)) and bool(eqn.params["length"] > 2)


def _same_rank(outside: Any, inside: Any) -> bool:
    return len(outside.aval.shape) == len(inside.aval.shape)
