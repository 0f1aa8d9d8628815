"""In which precision a traced function computes."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax.extend import core

from fnnet.check.modes import epsilon
from fnnet.rules.jaxpr import opened


def narrowest(jaxpr: Any) -> float:
    """The coarsest spacing of the float dtypes that any equation gives, at any depth."""
    coarsest = 0.0
    for eqn in equations(jaxpr):
        for v in eqn.outvars:
            dtype = getattr(v.aval, "dtype", None)
            if dtype is not None and jnp.issubdtype(dtype, jnp.inexact):
                coarsest = max(coarsest, epsilon(dtype))
    return coarsest


def equations(jaxpr: Any) -> Any:
    """Every equation of a jaxpr, those of inner functions too."""
    for eqn in opened(jaxpr)[0].eqns:
        yield eqn
        for inner in core.jaxprs_in_params(eqn.params):
            yield from equations(inner)


def calls_host(jaxpr: Any) -> bool:
    """Whether a traced function calls back to Python on the host."""
    return any("callback" in eqn.primitive.name for eqn in equations(jaxpr))
