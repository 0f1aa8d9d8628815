"""How many bytes does the backward pass keep, by the rule and by autodiff?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from fnnet.check.case.finding import Detail, Finding
from fnnet.check.case.modes import NATIVE
from fnnet.check.oracle.evidence import Evidence

NAME = "residual bytes"


def ask(e: Evidence) -> list[Finding]:
    """Count what either pass would store; wrong only if a stated budget is exceeded."""
    case = e.case
    by_hand = _bytes(e, case.hand)
    by_auto = _bytes(e, case.truth) if case.has_oracle else None
    case.residual_bytes = (by_hand, by_auto)
    if by_hand is None:
        words = "the rule cannot be traced, so what it keeps cannot be counted"
        return [Finding(NAME, "skipped", detail=Detail(words=words))]
    auto = "" if by_auto is None else f", autodiff {by_auto}"
    words = f"the rule keeps {by_hand} bytes{auto}"
    detail = Detail(words=words, hand=by_hand, auto=by_auto)
    if case.budget_bytes is not None and by_hand > case.budget_bytes:
        detail["words"] = f"{words}; the budget is {case.budget_bytes}"
        return [
            Finding(
                NAME,
                "wrong",
                got=by_hand,
                want=case.budget_bytes,
                error=float(by_hand - case.budget_bytes),
                bound=0.0,
                detail=detail,
            )
        ]
    return [Finding(NAME, "correct", got=by_hand, want=by_auto, detail=detail)]


def _bytes(e: Evidence, flat: Callable[..., Any]) -> int | None:
    case = e.case

    def backward(values: Any, others: Any) -> Any:
        return jax.vjp(lambda v: flat(v, others)[0], values)[1]

    with NATIVE.context():
        try:
            kept = jax.eval_shape(backward, case.subject.values, case.subject.others)
        except Exception:
            return None
    return int(sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(kept)))
