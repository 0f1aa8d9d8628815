"""Which rule ran? A function may have none, and a transform may pass a rule by in silence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from fnnet.check.case.case import Case, pull
from fnnet.check.case.finding import Detail, Finding
from fnnet.check.case.host import equations
from fnnet.check.oracle.evidence import Evidence

NAME = "which rule ran"

# in the names of primitives that hold what a user wrote in place of, or beside, a derivative
HAND_WRITTEN = (
    "custom_vjp",
    "custom_jvp",
    "custom_lin",
    "custom_root",
    "custom_vmap",
    "linear_call",
    "pure_callback",  # and not one that only looks: jax.debug.print
    "pallas_call",
    "ffi_call",
)

TRANSFORMS: dict[str, Callable[[Callable[..., Any]], Callable[..., Any]]] = {
    "jit": jax.jit,
    "checkpoint": jax.checkpoint,
    "vmap": lambda f: (
        lambda *a: jax.tree.map(lambda x: x[0], jax.vmap(f, axis_size=1, in_axes=None)(*a))
    ),
}


def ask(e: Evidence) -> list[Finding]:
    """Compare the traced programs: the rule's with autodiff's, under each transform."""
    case = e.case
    names = rule_names(case)
    if names is None:
        words = "the function cannot be traced"
        return [Finding(NAME, "skipped", detail=Detail(words=words))]
    if not names:
        return [no_rule(allowed=case.allow_no_rule)]
    if (
        not case.has_oracle
        or case.declared
        or _program(case, case.hand, None) == _program(case, case.truth, None)
    ):
        words = f"rules: {', '.join(names)}"
        return [Finding(NAME, "correct", detail=Detail(words=words, rules=names))]
    passed_by = []
    for transform in TRANSFORMS:
        by_rule = _program(case, case.hand, transform)
        if by_rule is not None and by_rule == _program(case, case.truth, transform):
            passed_by.append(transform)
    if passed_by:
        words = (
            f"under {', '.join(passed_by)} the program is autodiff's own: the rule "
            f"{', '.join(names)} is passed by, or says the same"
        )
        return [Finding(NAME, "skipped", detail=Detail(words=words, rules=names))]
    words = f"rules: {', '.join(names)}; they run under {', '.join(TRANSFORMS)} too"
    return [Finding(NAME, "correct", detail=Detail(words=words, rules=names))]


def no_rule(*, allowed: bool) -> Finding:
    """What is said where nothing is hand-written: a comparison of autodiff with itself is none."""
    words = (
        "no custom rule is in this function: autodiff was compared with itself. Was defvjp called "
        "on another object, or the function passed that the rule was made for?"
    )
    if allowed:
        return Finding(NAME, "skipped", detail=Detail(words=words, rules=[]))
    words += " If there is none on purpose, say allow_no_rule=True"
    return Finding(NAME, "undecidable", detail=Detail(words=words, rules=[], no_rule=True))


def rule_names(case: Case) -> list[str] | None:
    """The names of the custom rules in the function; None if it cannot be traced."""
    with case.work.context():
        try:
            jaxpr = jax.make_jaxpr(case.hand)(
                case.work.cast(case.values, case.subject.values), case.subject.others
            )
        except Exception:
            return None
    found = []
    for eqn in equations(jaxpr):
        if any(word in eqn.primitive.name for word in HAND_WRITTEN) or "_prim" in eqn.params:
            found.append(str(eqn.params.get("name") or _called(eqn) or eqn.primitive.name))
    return list(dict.fromkeys(found))


def _called(eqn: Any) -> str | None:
    inner = eqn.params.get("call_jaxpr") or eqn.params.get("fun_jaxpr")
    info = getattr(inner, "debug_info", None) or getattr(
        getattr(inner, "jaxpr", None), "debug_info", None
    )
    return getattr(info, "func_name", None)


def _program(case: Case, flat: Callable[..., Any], transform: str | None) -> str | None:
    """The primitives of a gradient, in order, with the shapes they give."""

    def transformed(values: Any, others: Any) -> Any:
        def outputs(values: Any) -> Any:
            return flat(values, others)[0]

        return TRANSFORMS[transform](outputs)(values) if transform else outputs(values), []

    mode = case.work
    with mode.context():
        try:
            jaxpr = jax.make_jaxpr(pull(transformed))(
                mode.cast(case.values, case.subject.values),
                case.subject.others,
                case.cast_g(case.g, mode),
            )
        except Exception:
            return None
    return " ".join(
        f"{eqn.primitive.name}{[getattr(v.aval, 'shape', None) for v in eqn.outvars]}"
        for eqn in equations(jaxpr)
    )
