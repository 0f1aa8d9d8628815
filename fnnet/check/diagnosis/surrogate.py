"""A gradient that is, on purpose, another function's: straight-through, Monte-Carlo, clipped.

A step function has the derivative 0 almost everywhere, which trains nothing; what is written for it
is the derivative of something smooth beside it. Such a rule is no mistake, and it is not the
derivative of its function either: it is named, with the two ways to say that it is meant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fnnet.check.case.finding import Detail
from fnnet.check.case.host import equations
from fnnet.check.case.interpret import INLINED
from fnnet.check.case.modes import Program, widened
from fnnet.check.case.subject import Arrays
from fnnet.check.case.traced import pull
from fnnet.check.diagnosis.fit import Pair, size_of
from fnnet.check.oracle.tolerance import Compared
from fnnet.rules.jaxpr import Equation, bind, opened, run

Fitted = tuple[str, Detail]

REMEDY = (
    "If it is meant, say so: surrogate=True, and reference= a function whose derivative it is, "
    "which it is then held against"
)

# steps: their derivative is 0 wherever they have one
_STEPS = frozenset({"round", "floor", "ceil", "sign"})
_RANDOM = ("random_bits", "threefry2x32", "rng_bit_generator", "random_wrap")


def surrogate(e: Any, number: int, c: Compared) -> Fitted | None:
    """Whether the gradient of argument `number` is that of something smooth beside a step."""
    if not np.isfinite(c.got).all() or not np.any(c.got):
        return None
    if not np.any(c.want):
        return _of_a_step(e, number)
    return _through_steps(e, number, c)


def unexplained(e: Any) -> Fitted | None:
    """For what fits no known mistake: a function that draws numbers has estimates for gradients."""
    if not draws(e):
        return None
    words = (
        "the function draws random numbers, and the rule gives another gradient than that of the "
        f"numbers drawn: a Monte-Carlo estimate? {REMEDY}"
    )
    return "surrogate", Detail(words=words, kind="Monte-Carlo")


def clipped(e: Any, number: int) -> Fitted | None:
    """Whether a gradient that is not linear in g is the true one, cut off where it is large."""
    case = e.case
    if not case.has_oracle:
        return None
    sizes = []
    for factor in (1e-3, 1e3):
        g = [factor * x for x in case.g]
        got = case.by_hand(case.values, g)[number] / factor
        want = case.by_truth(case.values, g)[number] / factor
        near = 1e-6 * max(size_of(want), 1e-300)
        if not np.isfinite(got).all():
            return None
        sizes.append((got, want, near))
    (got, want, near), (got_large, want_large, _) = sizes
    right_when_small = bool(np.all(np.abs(got - want) <= near))
    cut_when_large = bool(np.all(np.abs(got_large) <= np.abs(want_large) + near))
    if not right_when_small or not cut_when_large or size_of(got_large) >= size_of(want_large):
        return None
    words = f"it is right where the cotangent is small, and cut off where it is large. {REMEDY}"
    return "surrogate", Detail(words=words, kind="clipped")


def returns_its_input(e: Any, number: int) -> bool:
    """Whether an output is the argument itself: such a function is written for its gradient."""
    case = e.case
    x = case.work.cast(case.values, case.subject.values)[number]
    return any(np.array_equal(out, x) for out in case.hand_at_args(case.work)[0])


def draws(e: Any) -> bool:
    """Whether the function draws random numbers."""
    jaxpr = _traced(e)
    return jaxpr is not None and any(
        any(word in eqn.primitive.name for word in _RANDOM) for eqn in equations(jaxpr)
    )


def _traced(e: Any) -> Any:
    if "truth" not in e.kept:
        e.kept["truth"] = e.case.trace(e.case.truth)
    return e.kept["truth"]


def _of_a_step(e: Any, number: int) -> Fitted | None:
    """Autodiff's gradient is 0: a step function's, or one of an argument that does nothing?"""
    case = e.case
    values = list(case.values)
    rng = case.rng(12, number)
    base = _outputs(e, values)
    reach = max(size_of(values[number]), 1.0)
    moves = False
    for _ in range(4):
        moved = list(values)
        moved[number] = values[number] + 4 * reach * rng.uniform(-1, 1, values[number].shape)
        moves |= any(
            not np.array_equal(a, b) for a, b in zip(_outputs(e, moved), base, strict=True)
        )
    if not moves:
        return None
    v, along = e.arbiter.differences.projection(number)
    if along.kink or abs(along.value) > 10 * along.error + 1e-6 * size_of(v[number]):
        return None  # the value moves smoothly: a gradient was stopped
    kind = "Monte-Carlo" if draws(e) else "straight-through"
    what = "draws random numbers and " if kind == "Monte-Carlo" else ""
    words = (
        f"the function {what}moves in steps, so that its derivative is 0, and the rule gives that "
        f"of something smooth: a {kind} gradient. {REMEDY}"
    )
    return "surrogate", Detail(words=words, kind=kind)


def _outputs(e: Any, values: Arrays) -> Arrays:
    case = e.case
    mode = case.work
    outs = case.forward(mode, mode.cast(values, case.subject.values), case.subject.others)
    return [np.asarray(x) for part in outs for x in part]


def _through_steps(e: Any, number: int, c: Compared) -> Fitted | None:
    """Whether it is autodiff's with every rounding taken for the identity."""
    jaxpr = _traced(e)
    if jaxpr is None or not e.case.has_oracle:
        return None
    if not any(eqn.primitive.name in _STEPS for eqn in equations(jaxpr)):
        return None
    case = e.case
    if "through" not in e.kept:
        program = Program(pull(_straight(case.truth)), lambda: case.calls_host)
        try:
            found = case._run(program, case.values, case.g, case.work, None)[1]
        except Exception:
            found = None
        e.kept["through"] = found
    if e.kept["through"] is None:
        return None
    near = float(np.quantile(c.bound, 0.9)) if c.bound.size else 0.0
    if not Pair(c.got, c.want, near).equals(widened(e.kept["through"][number])):
        return None
    words = f"it is the derivative with rounding taken for the identity: straight-through. {REMEDY}"
    return "surrogate", Detail(words=words, kind="straight-through")


def _straight(flat: Callable[..., Any]) -> Callable[..., Any]:
    """The flat function, with the identity's derivative for every step in it."""

    def rewritten(values: Arrays, others: Arrays) -> tuple[Arrays, Arrays]:
        jaxpr, shape = jax.make_jaxpr(flat, return_shape=True)(values, others)
        inner, consts = opened(jaxpr)
        out = run(inner, consts, [*values, *others], _equation)
        found: tuple[Arrays, Arrays] = jax.tree.unflatten(
            jax.tree.structure(shape), [jnp.asarray(x) for x in out]
        )
        return found

    return rewritten


def _equation(eqn: Equation, inputs: list[Any]) -> Sequence[Any]:
    name = eqn.primitive.name
    if name in INLINED:
        inner, consts = opened(eqn.params[INLINED[name]])
        return run(inner, consts, inputs, _equation)
    out = bind(eqn, inputs)
    if name in _STEPS:
        (x,) = inputs
        return [x + jax.lax.stop_gradient(out[0] - x)]
    return out
