"""Forward derivatives, evaluated: a function's tangents along several directions at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from fnnet.check.case.case import Case
from fnnet.check.case.host import equations
from fnnet.check.case.modes import Program, widened
from fnnet.check.case.subject import Arrays
from fnnet.check.diagnosis.explain import lacks_forward
from fnnet.check.oracle.evidence import Evidence
from fnnet.check.oracle.tolerance import scale_of

Flat = Callable[..., Any]


def tangent(e: Evidence, draw: int) -> Arrays:
    """A tangent for each argument, 0 in elements that the reverse left undecided."""
    case = e.case
    rng = case.rng(12, draw)
    found = []
    for i, x in enumerate(case.values):
        r = rng.choice([-1.0, 1.0], x.shape) * rng.integers(32, 96, x.shape) / 64
        found.append(np.where(e.unwitnessed(i), 0, np.asarray(r * (scale_of(x) or 1.0), x.dtype)))
    return found


def pushed(flat: Flat) -> Flat:
    """``values, others, rows of tangents -> rows of the outputs' tangents``, by `jax.jvp`."""

    def run(values: Arrays, others: Arrays, tangents: Arrays) -> Any:
        def at(v: Arrays) -> Any:
            return jax.jvp(lambda x: flat(x, others)[0], (values,), (v,))[1]

        return jax.lax.map(at, tangents)

    return run


def linearized(flat: Flat) -> Flat:
    """The same by `jax.linearize`."""

    def run(values: Arrays, others: Arrays, tangents: Arrays) -> Any:
        def at(v: Arrays) -> Any:
            return jax.linearize(lambda x: flat(x, others)[0], values)[1](v)

        return jax.lax.map(at, tangents)

    return run


def evaluated(case: Case, run: Flat, rows: list[Arrays], values: Arrays | None = None) -> Any:
    """For each row of tangents the outputs' tangents."""
    return rows_of(case, Program(run, lambda: case.calls_host), rows, values)


def rows_of(case: Case, program: Program, rows: list[Arrays], values: Arrays | None = None) -> Any:
    """The same by a program that is made already; at other `values` than the caller's, if given."""
    mode, like = case.work, case.subject.values
    stacked = [np.stack(x) for x in zip(*rows, strict=True)]
    out = program(
        mode,
        mode.cast(case.values if values is None else values, like),
        case.subject.others,
        mode.cast(stacked, like),
    )
    out = [widened(x) for x in out]
    return [[x[k] for x in out] for k in range(len(rows))]


def of_reverse_alone(case: Case, rows: list[Arrays]) -> bool:
    """Whether what JAX would push forward is a custom_vjp: one of its classes says so when run."""
    mode, like = case.work, case.subject.values
    stacked = [np.stack(x) for x in zip(*rows, strict=True)]
    with mode.context():
        try:
            jaxpr = jax.make_jaxpr(pushed(case.hand))(
                mode.cast(case.values, like), case.subject.others, mode.cast(stacked, like)
            )
        except Exception as error:
            return lacks_forward(error)
    return any(eqn.primitive.name == "call_hi_primitive_linearized" for eqn in equations(jaxpr))
