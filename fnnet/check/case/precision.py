"""In which precision a traced function computes."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from fnnet.check.case.host import equations
from fnnet.check.case.modes import epsilon


def narrowest(jaxpr: Any) -> float:
    """The coarsest spacing of the float dtypes that any equation gives, at any depth."""
    coarsest = 0.0
    for eqn in equations(jaxpr):
        for v in eqn.outvars:
            dtype = getattr(v.aval, "dtype", None)
            if dtype is not None and jnp.issubdtype(dtype, jnp.inexact):
                coarsest = max(coarsest, epsilon(dtype))
    return coarsest
