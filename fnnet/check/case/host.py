"""What is in a traced function: its equations, and whether it calls back to Python on the host."""

from __future__ import annotations

import math
from typing import Any

from jax.extend import core

from fnnet.rules.jaxpr import opened

CALLBACKS = ("pure_callback", "io_callback")


def equations(jaxpr: Any) -> Any:
    """Every equation of a jaxpr, those of inner functions too."""
    for eqn in opened(jaxpr)[0].eqns:
        yield eqn
        for inner in _functions_in(eqn):
            yield from equations(inner)


def _functions_in(eqn: Any) -> Any:
    """The traced functions that an equation holds, those of one of JAX's classes too."""
    yield from core.jaxprs_in_params(eqn.params)
    prim = eqn.params.get("_prim")
    for held in getattr(prim, "params", {}).values():
        jaxpr = getattr(held, "jaxpr", held)  # a function traced by jit has it beside its types
        if hasattr(jaxpr, "eqns"):
            yield jaxpr


def calls_host(jaxpr: Any) -> bool:
    """Whether a traced function calls back to Python on the host."""
    return any("callback" in eqn.primitive.name for eqn in equations(jaxpr))


def work(jaxpr: Any) -> float:
    """How many elements a traced function computes, about; of a `while` one step is counted."""
    total = 0.0
    for eqn in opened(jaxpr)[0].eqns:
        inner = list(core.jaxprs_in_params(eqn.params))
        if inner:
            trips = eqn.params.get("length", 1) if eqn.primitive.name == "scan" else 1
            total += sum(trips * work(j) for j in inner)
            continue
        sizes = [getattr(v.aval, "size", 1) for v in (*eqn.invars, *eqn.outvars)]
        total += max(sizes, default=1)
        if eqn.primitive.name == "dot_general":
            (left, _), _ = eqn.params["dimension_numbers"]
            # a multiplication costs far less than what else is done to an element
            shape = eqn.invars[0].aval.shape
            total += sizes[-1] * math.prod(shape[k] for k in left) / 16
    return total
