"""Which rule ran? A function may have none, and a transform may pass a rule by in silence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from fnnet.check.case.case import Case
from fnnet.check.case.finding import Detail, Finding
from fnnet.check.oracle.evidence import Evidence

NAME = "which rule ran"

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
        return [no_rule(case)]
    if not case.has_oracle or case.declared or case.program(case.hand) == case.program(case.truth):
        words = f"rules: {', '.join(names)}"
        return [Finding(NAME, "correct", detail=Detail(words=words, rules=names))]
    passed_by = []
    for name, transform in TRANSFORMS.items():
        by_rule = case.program(case.hand, transform)
        if by_rule is not None and by_rule == case.program(case.truth, transform):
            passed_by.append(name)
    if passed_by:
        words = (
            f"under {', '.join(passed_by)} the program is autodiff's own: the rule "
            f"{', '.join(names)} is passed by, or says the same"
        )
        return [Finding(NAME, "skipped", detail=Detail(words=words, rules=names))]
    words = f"rules: {', '.join(names)}; they run under {', '.join(TRANSFORMS)} too"
    return [Finding(NAME, "correct", detail=Detail(words=words, rules=names))]


def no_rule(case: Case) -> Finding:
    """What is said where nothing is hand-written: a comparison of autodiff with itself is none."""
    words = (
        "no custom rule is in this function: autodiff was compared with itself. Was defvjp called "
        "on another object, or the function passed that the rule was made for?"
    )
    if case.rules_of_jax:
        names = ", ".join(dict.fromkeys(r.name for r in case.rules_of_jax))
        words = (
            f"no rule is in this function but JAX's own ({names}). Was defvjp called on another "
            "object, or the function passed that the rule was made for?"
        )
    if case.allow_no_rule:
        return Finding(NAME, "skipped", detail=Detail(words=words, rules=[]))
    words += " If there is none on purpose, say allow_no_rule=True"
    return Finding(NAME, "undecidable", detail=Detail(words=words, rules=[], no_rule=True))


def rule_names(case: Case) -> list[str] | None:
    """The names of the hand-written rules in the function; None if it cannot be traced."""
    if case.rules is None:
        return None
    return list(
        dict.fromkeys(
            r.name if r.kind in ("custom_vjp", r.name) else f"{r.name} ({r.kind})"
            for r in case.rules
        )
    )
