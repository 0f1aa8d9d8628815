"""Softmax and its logarithm.

    softmax     : z (...) -> p (...)        along one axis
    log_softmax : z (...) -> q (...)        along one axis

Axes: i, k along the axis; all others are batch axes and left out.

Forward
    m   = max_i z_i                         changes nothing but keeps exp from overflowing
    s   = Σ_i exp(z_i - m)                  so Σ_i exp(z_i) = s exp(m)
    p_i = exp(z_i) / Σ_k exp(z_k) = exp(z_i - m) / s
    q_i = log p_i = (z_i - m) - log s       in this order: z - m is exact or nearly so, however
                                            large z is, where z - (m + log s) has lost log s

Backward of softmax, with g_i = ∂L/∂p_i
    With l = log Σ_i exp(z_i), p_i = exp(z_i - l) and ∂l/∂z_k = exp(z_k) / Σ_i exp(z_i) = p_k. So
    ∂p_i/∂z_k = p_i (1[i=k] - p_k): raising z_k raises p_k and lowers all in proportion, and
        dz_k = Σ_i g_i p_i (1[i=k] - p_k) = p_k (g_k - Σ_i g_i p_i)

Backward of log_softmax, with g_i = ∂L/∂q_i
    With the same ∂l/∂z_k = p_k, ∂q_i/∂z_k = 1[i=k] - p_k and
        dz_k = g_k - p_k Σ_i g_i

The tail
    Where one p_k is nearly 1, g_k - Σ_i g_i p_i and g_k - p_k Σ_i g_i are nearly 0, and what is
    left of them is rounding. But Π g = g - Σ_i g_i p_i (for log_softmax its transpose,
    Πᵀ g = g - p Σ_i g_i) is a projection: Π Π = Π, as Σ_i p_i = 1. Applied once more it changes
    nothing, and takes away what rounding left: at the confident class the small number g' = Π g, of
    rounding or not, is subtracted from itself, and minus the sum over the others remains. So
    Σ_k dz_k = 0 to the last digits of the numbers themselves, however small they are.
    No array holds Π g: it is computed for the sum, and again where it is used. Both must be the
    same number at the confident class. They are: there exp(z - m) = 1, and 1 times Σ g / s minus
    g is rounded in one way, whether or not a compiler makes one instruction of it.

Residuals
    z, the caller's array, and m, one number a row: from these p is one exponential and one sum
    away, and no array of z's size is stored. With m, and not l, the exponential is the forward's
    own, exp(z - m), so that a compiler that sees both passes computes it once; l costs a second
    one (1.3 times autodiff's time on a CPU), and exp(z - l) has lost what l has, at large z. The
    outputs would do less well: in bfloat16 a q of -20 is off by up to 0.06, and exp of it by 6 %.
    All sums run in float32 for float16 and bfloat16.
    On GPUs the backward pass makes p anew from z, with one operation after each sum: so XLA has it
    in one kernel that reads z and g once (for an H100; 4 or 5 kernels in the form for CPUs, and 2
    by autodiff of jax.nn's).

References
    J. S. Bridle, Probabilistic interpretation of feedforward classification network outputs, 1990.
"""

from __future__ import annotations

from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from fnnet.ops._checks import floats, require_axis
from fnnet.ops._compiled import compiled
from fnnet.ops._options import AXIS
from fnnet.rules import Static, accumulator, by_platform, register

Residuals: TypeAlias = tuple[jax.Array, jax.Array, Static]


@compiled(axis=AXIS)
def softmax(z: Float[ArrayLike, "..."], axis: int = -1) -> Float[Array, "..."]:
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
    (logits,) = floats("softmax", z=z)
    require_axis("softmax", axis, z=logits)
    return _softmax(logits, axis)


@compiled(axis=AXIS)
def log_softmax(z: Float[ArrayLike, "..."], axis: int = -1) -> Float[Array, "..."]:
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
    (logits,) = floats("log_softmax", z=z)
    require_axis("log_softmax", axis, z=logits)
    return _log_softmax(logits, axis)


def greatest(z: jax.Array, axis: int = -1) -> jax.Array:
    """m, along `axis`, which is kept in size 1; at least in float32.

    No result depends on m, so a rule may take it for a constant (`lax.stop_gradient`). In a plain
    forward it stays what it is, and z - m is formed once: autodiff then gives the greatest class
    minus the sum of the others, as the rules do, where it would lose the tail.
    """
    m = jnp.max(z.astype(accumulator(z)), axis, keepdims=True, initial=-jnp.inf)
    return jnp.where(m == -jnp.inf, jnp.zeros((), m.dtype), m)  # a row of nothing but -inf: log 0


def exponentials(z: jax.Array, m: jax.Array, axis: int = -1) -> tuple[jax.Array, jax.Array]:
    """exp(z - m), and its sum s along `axis`, which is kept in size 1."""
    e = jnp.exp(z.astype(m.dtype) - m)
    return e, jnp.sum(e, axis, keepdims=True)


def _anew(z: jax.Array, m: jax.Array, g: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """p, which the compiler is kept from sharing with the forward pass; and g, as wide."""
    z, g = lax.optimization_barrier((z, g))
    e, s = exponentials(z, m, axis)
    return e / s, g.astype(m.dtype)


def _softmax_forward(z: jax.Array, axis: int = -1) -> jax.Array:
    return _probabilities(z, greatest(z, axis), axis)


def _probabilities(z: jax.Array, m: jax.Array, axis: int) -> jax.Array:
    e, s = exponentials(z, m, axis)
    return (e / s).astype(z.dtype)


def softmax_fwd(z: jax.Array, axis: int = -1) -> tuple[jax.Array, Residuals]:
    """z -> p, residuals."""
    m = lax.stop_gradient(greatest(z, axis))
    return _probabilities(z, m, axis), (z, m, Static(axis))


def softmax_bwd(res: Residuals, g: jax.Array) -> tuple[jax.Array]:
    """residuals, CT p -> CT z."""
    z, m, axis = res

    def on_gpus(z: jax.Array, m: jax.Array, g: jax.Array) -> jax.Array:
        p, g = _anew(z, m, g, axis.value)
        for _ in range(2):
            g = g - jnp.sum(g * p, axis.value, keepdims=True)
        return (p * g).astype(z.dtype)

    def elsewhere(z: jax.Array, m: jax.Array, g: jax.Array) -> jax.Array:
        e, s = exponentials(z, m, axis.value)
        gw = g.astype(m.dtype)

        def mean(g: jax.Array) -> jax.Array:
            # Σ_i g_i p_i, and no array p beside e
            return jnp.sum(g * e, axis.value, keepdims=True) / s

        once = mean(gw)
        twice = mean(gw - once)
        # the same difference, but to a compiler another: it makes it again, and keeps no array
        again: jax.Array = lax.optimization_barrier(once)
        gw = (gw - again) - twice
        return (e * (gw / s)).astype(z.dtype)

    return (by_platform(z, m, g, gpu=on_gpus, default=elsewhere),)


_softmax = register(
    _softmax_forward, softmax_fwd, softmax_bwd, name="softmax", static_argnames=("axis",)
)


def _log_softmax_forward(z: jax.Array, axis: int = -1) -> jax.Array:
    return _logarithms(z, greatest(z, axis), axis)


def _logarithms(z: jax.Array, m: jax.Array, axis: int) -> jax.Array:
    d = z.astype(m.dtype) - m
    return (d - jnp.log(jnp.sum(jnp.exp(d), axis, keepdims=True))).astype(z.dtype)


def log_softmax_fwd(z: jax.Array, axis: int = -1) -> tuple[jax.Array, Residuals]:
    """z -> q, residuals."""
    m = lax.stop_gradient(greatest(z, axis))
    return _logarithms(z, m, axis), (z, m, Static(axis))


def log_softmax_bwd(res: Residuals, g: jax.Array) -> tuple[jax.Array]:
    """residuals, CT q -> CT z."""
    z, m, axis = res

    def on_gpus(z: jax.Array, m: jax.Array, g: jax.Array) -> jax.Array:
        p, g = _anew(z, m, g, axis.value)
        for _ in range(2):
            g = g - p * jnp.sum(g, axis.value, keepdims=True)
        return g.astype(z.dtype)

    def elsewhere(z: jax.Array, m: jax.Array, g: jax.Array) -> jax.Array:
        e, s = exponentials(z, m, axis.value)
        return less_share(g.astype(m.dtype), e, s, axis.value).astype(z.dtype)

    return (by_platform(z, m, g, gpu=on_gpus, default=elsewhere),)


def less_share(g: jax.Array, e: jax.Array, s: jax.Array, axis: int = -1) -> jax.Array:
    """Πᵀ Πᵀ g, where Πᵀ g = g - p Σ_i g_i, with p = e / s."""
    once = jnp.sum(g, axis, keepdims=True) / s
    twice = jnp.sum(g - e * once, axis, keepdims=True) / s
    # The same difference once more, but to a compiler another: it makes it again, and keeps no
    # array of it. Where it matters, at the greatest class, it is the same number, fused into one
    # instruction or not: e is 1 there.
    rest: jax.Array = g - e * lax.optimization_barrier(once)
    return rest - e * twice


_log_softmax = register(
    _log_softmax_forward,
    log_softmax_fwd,
    log_softmax_bwd,
    name="log_softmax",
    static_argnames=("axis",),
)
