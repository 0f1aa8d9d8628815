"""Digits that must not be lost, and infinities that must not meet, in sums of exponentials."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def shift(m: jax.Array) -> jax.Array:
    """What is taken from z before it is raised to a power: m, the largest z, or 0 if not finite.

    Then what is hidden, z = -inf, has the weight e^-inf = 0 everywhere: where nothing is seen
    (m = -inf) and where something that is seen is NaN.
    """
    return jnp.where(jnp.isfinite(m), m, jnp.zeros_like(m))


def rounded(p: jax.Array, dtype: Any) -> jax.Array:
    """`p` with as many digits as `dtype` has, in its own dtype.

    As a factor of a product a weight is rounded. The sum it is divided by, and the derivative,
    must be those of the same weights: then the weights add up to 1, and their dz to 0.
    """
    return lax.reduce_precision(p, 8, _digits(dtype)) if is_rounded(p.dtype, dtype) else p


def is_rounded(wide: Any, dtype: Any) -> bool:
    """Whether weights in the `wide` dtype lose digits as factors of numbers of `dtype`."""
    return _digits(dtype) < _digits(wide)


def _digits(dtype: Any) -> int:
    return int(jnp.finfo(dtype).nmant)  # type: ignore[no-untyped-call]
