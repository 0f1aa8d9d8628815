"""Softmax and its logarithm.

    softmax     : z (...) -> p (...)        along one axis
    log_softmax : z (...) -> q (...)        along one axis

Axes: i, k along the axis; all others are batch axes and left out.

Forward
    l   = log Σ_i exp(z_i) = m + log Σ_i exp(z_i - m),   m = max_i z_i
                                                m changes nothing but keeps exp from overflowing
    p_i = exp(z_i) / Σ_k exp(z_k) = exp(z_i - l)
    q_i = z_i - l = log p_i

Backward of softmax, with g_i = ∂L/∂p_i
    ∂l/∂z_k = exp(z_k) / Σ_i exp(z_i) = p_k, so ∂p_i/∂z_k = p_i (1[i=k] - p_k): raising z_k raises
    p_k and lowers all in proportion. So
        dz_k = Σ_i g_i p_i (1[i=k] - p_k) = p_k (g_k - Σ_i g_i p_i)

Backward of log_softmax, with g_i = ∂L/∂q_i
    With the same ∂l/∂z_k = p_k, ∂q_i/∂z_k = 1[i=k] - p_k and
        dz_k = g_k - p_k Σ_i g_i,           p_k = exp(z_k - l)

Residuals
    z, the caller's array, and l, one number a row: from these p is one exponential away, and no
    array of z's size is stored. The outputs would do less well: in bfloat16 a q of -20 is off by up
    to 0.06, and exp of it by 6 %. All sums run in float32 for float16 and bfloat16.

References
    J. S. Bridle, Probabilistic interpretation of feedforward classification network outputs, 1990.
"""

from __future__ import annotations

from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from fnnet.ops._checks import require_axis, require_floats
from fnnet.ops._compiled import compiled
from fnnet.rules import Static, accumulator, register

Residuals: TypeAlias = tuple[jax.Array, jax.Array, Static]


@compiled("axis")
def softmax(z: Float[Array, "..."], axis: int = -1) -> Float[Array, "..."]:
    """Probabilities ``exp(z) / sum(exp(z))`` along an axis.

    Args:
        z: logits, any shape with at least one axis, real floating point. -inf is a probability of
            0; a row of nothing but -inf gives NaN, as there is nothing to choose from.
        axis: the axis that sums to one.

    Returns:
        Shape and dtype of `z`.

    Raises:
        TypeError: for an array that is not of real floating point dtype.
        ValueError: for an axis that z does not have.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnnet import softmax
        >>> [f"{p:.4f}" for p in softmax(jnp.log(jnp.array([1.0, 3.0]))).tolist()]
        ['0.2500', '0.7500']
    """
    require_floats("softmax", z=z)
    require_axis("softmax", axis, z=z)
    return _softmax(jnp.asarray(z), axis)


@compiled("axis")
def log_softmax(z: Float[Array, "..."], axis: int = -1) -> Float[Array, "..."]:
    """Logarithm of softmax, ``z - log(sum(exp(z)))``, along an axis.

    Args:
        z: logits, any shape with at least one axis, real floating point.
        axis: the axis whose probabilities sum to one.

    Returns:
        Shape and dtype of `z`.

    Raises:
        TypeError: for an array that is not of real floating point dtype.
        ValueError: for an axis that z does not have.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnnet import log_softmax
        >>> f"{log_softmax(jnp.zeros(4))[0]:.4f}"
        '-1.3863'
    """
    require_floats("log_softmax", z=z)
    require_axis("log_softmax", axis, z=z)
    return _log_softmax(jnp.asarray(z), axis)


def _shifted(z: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """m, and exp(z - m); at least in float32."""
    z = z.astype(accumulator(z))
    # the derivative does not depend on m, whichever m it is
    m = lax.stop_gradient(jnp.max(z, axis, keepdims=True, initial=-jnp.inf))
    m = jnp.where(m == -jnp.inf, jnp.zeros((), m.dtype), m)  # a row of nothing but -inf: log 0
    return m, jnp.exp(z - m)


def log_sum_exp(z: jax.Array, axis: int = -1) -> jax.Array:
    """l, along `axis`, which is kept in size 1; at least in float32."""
    m, e = _shifted(z, axis)
    return m + jnp.log(jnp.sum(e, axis, keepdims=True))


def _probabilities(z: jax.Array, l: jax.Array) -> jax.Array:
    return jnp.exp(z.astype(l.dtype) - l)


def _softmax_forward(z: jax.Array, axis: int = -1) -> jax.Array:
    _, e = _shifted(z, axis)
    return (e / jnp.sum(e, axis, keepdims=True)).astype(z.dtype)


def softmax_fwd(z: jax.Array, axis: int = -1) -> tuple[jax.Array, Residuals]:
    """z -> p, residuals."""
    m, e = _shifted(z, axis)
    s = jnp.sum(e, axis, keepdims=True)
    return (e / s).astype(z.dtype), (z, m + jnp.log(s), Static(axis))


def softmax_bwd(res: Residuals, g: jax.Array) -> tuple[jax.Array]:
    """residuals, CT p -> CT z."""
    z, l, axis = res
    p, gw = _probabilities(z, l), g.astype(l.dtype)
    return ((p * (gw - jnp.sum(gw * p, axis.value, keepdims=True))).astype(z.dtype),)


_softmax = register(
    _softmax_forward, softmax_fwd, softmax_bwd, name="softmax", static_argnames=("axis",)
)


def _log_softmax_forward(z: jax.Array, axis: int = -1) -> jax.Array:
    return (z.astype(accumulator(z)) - log_sum_exp(z, axis)).astype(z.dtype)


def log_softmax_fwd(z: jax.Array, axis: int = -1) -> tuple[jax.Array, Residuals]:
    """z -> q, residuals."""
    l = log_sum_exp(z, axis)
    return (z.astype(l.dtype) - l).astype(z.dtype), (z, l, Static(axis))


def log_softmax_bwd(res: Residuals, g: jax.Array) -> tuple[jax.Array]:
    """residuals, CT q -> CT z."""
    z, l, axis = res
    p, gw = _probabilities(z, l), g.astype(l.dtype)
    return ((gw - p * jnp.sum(gw, axis.value, keepdims=True)).astype(z.dtype),)


_log_softmax = register(
    _log_softmax_forward,
    log_softmax_fwd,
    log_softmax_bwd,
    name="log_softmax",
    static_argnames=("axis",),
)
