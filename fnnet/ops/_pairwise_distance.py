"""The distances of all pairs of points: Euclidean, squared, or L1.

    pairwise_distance : p (..., n, d), q (..., m, d) -> D (..., n, m)

Axes: i of n points, j of m points, k of d features; leading ones of the batch are left out.

Forward
    ord 2       D_ij = (Σ_k (p_ik - q_jk)²)^(1/2)
    ord "sq"    D_ij = Σ_k (p_ik - q_jk)²
    ord 1       D_ij = Σ_k |p_ik - q_jk|

Backward, with g_ij = ∂L/∂D_ij
    From D² = Σ_k (p_k - q_k)² follows 2 D ∂D/∂p_k = 2 (p_k - q_k); of all three orders
        ∂D_ij/∂p_ik = s_ij f(p_ik - q_jk) = -∂D_ij/∂q_jk
    ord 2       f(x) = x            s = 1 / D
    ord "sq"    f(x) = x            s = 2
    ord 1       f(x) = sign(x)      s = 1
    p_i is in the pairs (i, j) of all j, so with a_ij = g_ij s_ij
        dp_ik = Σ_j a_ij f(p_ik - q_jk)         dq_jk = -Σ_i a_ij f(p_ik - q_jk)
    Without q, D is of p and p, and p has the sum of both.
    For f(x) = x, dp_i = p_i Σ_j a_ij - Σ_j a_ij q_j would be a product of matrices. It loses the
    digits that D has by differences: see _differences.py.
    Where D_ij = 0 it has a kink, and every direction is a subgradient: s = 0 is taken, where
    autodiff of the forward finds 0/0; and sign(0) = 0. Second derivatives are 0 there, too.

Residuals
    p and q, the caller's arrays, and for ord 2 D, which is the result (of 16 bits: in float32);
    by name "fnnet.pairwise_distance.d". Autodiff keeps arrays of n m d numbers.

Range
    Squares of differences beyond 10^±18 leave the range of float32. Where the greatest number is
    beyond, points are first multiplied by a power of two that brings it to 1, and D is divided by
    it: that rounds nothing. It is a constant to derivatives, and a f(p - q) does not depend on it.
    ord "sq" has squares for its result, and is left as it is. Sums run in float32 for float16 and
    bfloat16.

References
    SciPy, scipy.spatial.distance.cdist: by differences, in float64.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from fnnet.ops._checks import describe, floats
from fnnet.ops._compiled import compiled
from fnnet.ops._differences import OfDifference, over_features, over_points, require_points
from fnnet.ops._options import STATIC
from fnnet.ops._vector_norm import root
from fnnet.rules import Static, accumulator, register

Order: TypeAlias = Literal[1, 2, "sq"]
Residuals: TypeAlias = tuple[jax.Array, jax.Array | None, jax.Array | None, Static]


@compiled(ord=STATIC)
def pairwise_distance(
    p: Float[ArrayLike, "*batch n d"],
    q: Float[ArrayLike, "*batch m d"] | None = None,
    *,
    ord: Order = 2,
) -> Float[Array, "*batch n m"]:
    """Distances of every point of `p` from every point of `q`.

    Args:
        p: n points of d features, shape (..., n, d), real floating point. Leading axes are batch
            axes.
        q: m points, shape (..., m, d); None stands for `p` itself.
        ord: 2 for the Euclidean distance, "sq" for its square, 1 for the sum of magnitudes.

    Returns:
        Shape (..., n, m), in the dtype of `p` and `q`. Where two points are the same, the distance
        is exactly 0, and so is its gradient.

    Raises:
        TypeError: for arrays that are not of real floating point dtype.
        ValueError: for shapes that do not fit, and any other `ord`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fnnet import pairwise_distance
        >>> p = jnp.array([[0.0, 0.0], [3.0, 4.0]])
        >>> pairwise_distance(p).tolist()
        [[0.0, 5.0], [5.0, 0.0]]
        >>> jax.grad(lambda p: pairwise_distance(p)[0, 0])(p).tolist()
        [[0.0, 0.0], [0.0, 0.0]]
    """
    points, others = floats("pairwise_distance", optional=("q",), p=p, q=q)
    require_points("pairwise_distance", points, others)
    return _pairwise_distance(points, others, ord=_order(ord))


def _order(ord: Any) -> Order:
    for known in (1, 2, "sq"):
        if type(ord) is not bool and ord == known:
            return known
    raise ValueError(f'pairwise_distance: ord must be 1, 2 or "sq"; got {describe(ord)}')


def _forward(p: jax.Array, q: jax.Array | None = None, *, ord: Order = 2) -> jax.Array:
    return _distances(p, q, ord).astype(_narrow(p, q))


def pairwise_distance_fwd(
    p: jax.Array, q: jax.Array | None = None, *, ord: Order = 2
) -> tuple[jax.Array, Residuals]:
    """p, q -> D, residuals."""
    d = checkpoint_name(_distances(p, q, ord), "fnnet.pairwise_distance.d")
    return d.astype(_narrow(p, q)), (p, q, d if ord == 2 else None, Static(ord))


def pairwise_distance_bwd(res: Residuals, g: jax.Array) -> tuple[jax.Array, jax.Array | None]:
    """residuals, CT D -> CT p, CT q."""
    p, q, d, static = res
    wide, other, unit = _scaled(p, q, static.value)
    a = g.astype(wide.dtype)
    if d is not None:
        zero = d == 0
        a = jnp.where(zero, 0, a / (jnp.where(zero, 1, d) * unit))
    elif static.value == "sq":
        a = 2 * a
    slope: OfDifference = jnp.sign if static.value == 1 else lambda x: x
    dp, dq = over_points(a, slope, wide, other)
    if q is None:
        return (dp + dq).astype(p.dtype), None
    return dp.astype(p.dtype), dq.astype(q.dtype)


_pairwise_distance = register(
    _forward,
    pairwise_distance_fwd,
    pairwise_distance_bwd,
    name="pairwise_distance",
    automatic_axes=True,
)


def _distances(p: jax.Array, q: jax.Array | None, ord: Order) -> jax.Array:
    """D, in the accumulator's dtype."""
    wide, other, unit = _scaled(p, q, ord)
    # |x| so that autodiff of this text has our slope at 0
    d = over_features((lambda x: x * jnp.sign(x)) if ord == 1 else jnp.square, wide, other)
    return root(d, 2) / unit if ord == 2 else d


def _scaled(
    p: jax.Array, q: jax.Array | None, ord: Order
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Both sets of points times a power of two, in the accumulator's dtype; and that power."""
    both = (p, p if q is None else q)
    dtype = accumulator(*both)
    points = [x.astype(dtype) for x in both]
    one = jnp.ones((), dtype)
    if ord != 2 or _narrow(p, q) == jnp.float16:  # whose squares fit
        return points[0], points[1], one
    limits = np.finfo(dtype)
    each = (jnp.max(jnp.abs(x), (-2, -1), keepdims=True, initial=0) for x in points)
    most = lax.stop_gradient(jnp.maximum(*each))
    # 2^16 features may be added up; from below, squares keep all digits of 10^-3 of the greatest
    low, high = np.sqrt(limits.tiny / limits.eps) * 1e3, np.sqrt(limits.max) / 2**10
    beyond = (most > 0) & (most < jnp.inf) & ((most < low) | (most > high))
    power = lax.reduce_precision(jnp.clip(most, limits.tiny, limits.max / 4), limits.nexp, 0)
    unit = jnp.where(beyond, 1 / power, one)
    return points[0] * unit, points[1] * unit, unit


def _narrow(p: jax.Array, q: jax.Array | None) -> np.dtype:
    return jnp.result_type(p) if q is None else jnp.result_type(p, q)
