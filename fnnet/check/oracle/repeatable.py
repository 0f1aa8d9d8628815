"""Is a rule the same function each time it is called?"""

from __future__ import annotations

import re
from typing import Any

import jax
import numpy as np

from fnnet.check.case.case import Case
from fnnet.check.case.modes import to_numpy, widened
from fnnet.check.case.traced import pull
from fnnet.check.oracle.tolerance import scale_of
from fnnet.rules.jaxpr import opened


def difference(case: Case) -> str:
    """Between what the rule's gradient differs, in words; "" where it does not."""
    first = case.hand_at_args(case.work)[1]
    again = case.by_hand(case.values, case.g)
    for a, b in zip(first, again, strict=True):
        # one executable may add up in another order, where a device runs in parallel
        near = 64 * case.work_eps * scale_of(b)
        if not np.allclose(widened(a), b, rtol=0, atol=near, equal_nan=True):
            return "between two calls"
    if case.pull_hand.traceable and not _same_program(*(_traced(case) for _ in range(2))):
        return "between two traces: its Python code keeps state, or draws random numbers"
    return ""


def _traced(case: Case) -> Any:
    mode = case.work
    with mode.context():
        return jax.make_jaxpr(pull(case.hand))(
            mode.cast(case.values, case.subject.values),
            case.subject.others,
            case.cast_g(case.g, mode),
        )


def _same_program(one: Any, two: Any) -> bool:
    texts = [re.sub(r"0x[0-9a-f]+", "", str(jaxpr)) for jaxpr in (one, two)]
    if texts[0] != texts[1]:
        return False
    consts = [to_numpy(list(opened(jaxpr)[1])) for jaxpr in (one, two)]
    return all(np.array_equal(a, b) for a, b in zip(*consts, strict=True))
