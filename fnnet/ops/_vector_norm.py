"""Norms: L1, L2 (Frobenius, of a matrix), Lp and the greatest magnitude.

    norm : x (...) -> n (...)        over one axis, several, or all

Axes: i, k over the entries of one norm; all others are batch axes and left out. p is `ord`.

Forward
    n = (Σ_i |x_i|^p)^(1/p),            p ≥ 1
    n = max_i |x_i|                     p = inf, the limit of the above

Backward, with g = ∂L/∂n
    From n^p = Σ_i |x_i|^p follows p n^(p-1) ∂n/∂x_k = p |x_k|^(p-1) sign(x_k), so
        dx_k = g sign(x_k) (|x_k| / n)^(p-1)
    p = 1      dx_k = g sign(x_k)
    p = 2      dx_k = g x_k / n                    the unit vector
    p = inf    dx_k = g sign(x_k) / c for each of the c entries with |x_k| = n, else 0
    At x = 0 the norm has a kink, and every vector of the dual unit ball is a subgradient: we take
    0, where autodiff of the forward finds 0/0. So for a single x_k = 0 and p = 1. Second
    derivatives are finite too: 0 at x = 0, and 0 in x_k = 0 for 1 < p < 2, where they have a pole.
    Powers are taken of x_k/m with m = n, and m is held constant: the value is the same, and so are
    all derivatives, but nothing in them is of a size that n, squared, would not fit.

Residuals
    x, the caller's array, and n, one number a norm, by name "fnnet.norm.n": sign and quotient are
    both needed entry by entry. For p = 1 not even n; for p = inf n says which entries count.

Range
    Σ x² leaves the range of float32 from |x| of 1e19 on, and loses digits below 1e-15: then, and
    only then, the entries are divided by the greatest one first, for the price of one more pass.
    For other powers they always are. Sums run in float32 for float16 and bfloat16; of float16 they
    never leave its range.

References
    J. L. Blue, A portable Fortran program to find the Euclidean norm of a vector, ACM TOMS 4, 1978.
"""

from __future__ import annotations

import math
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from fnnet.ops._checks import describe, floats, require_axis
from fnnet.ops._compiled import compiled
from fnnet.ops._options import AXES, FLAG, STATIC
from fnnet.rules import Static, accumulator, by_platform, register

Power: TypeAlias = int | float
Order: TypeAlias = Power | Literal["fro"]
Axis: TypeAlias = int | tuple[int, ...] | None
Residuals: TypeAlias = tuple[jax.Array, jax.Array | None, Static]


@compiled(ord=STATIC, axis=AXES, keepdims=FLAG)
def norm(
    x: Float[ArrayLike, "..."], ord: Order = 2, axis: Axis = None, keepdims: bool = False
) -> Float[Array, "..."]:
    """Norm of the entries along one axis, several, or all; with gradient 0 where it is 0.

    Always of the entries: over two axes it is the Frobenius norm for `ord` 2, where
    `jnp.linalg.norm` has the largest singular value.

    Args:
        x: any shape, real floating point.
        ord: p of the Lp norm: 1 the sum of magnitudes, 2 the Euclidean length, inf the greatest
            magnitude, any number of at least 1. "fro" is 2.
        axis: an axis, a tuple of axes, or None for all of them together.
        keepdims: whether these axes stay, with size 1.

    Returns:
        The norms, without those axes, in the dtype of `x`. Of no entries: 0.

    Raises:
        TypeError: for an array that is not of real floating point dtype.
        ValueError: for an `ord` below 1, and an axis that x does not have.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fnnet import norm
        >>> float(norm(jnp.array([3.0, -4.0]))), float(norm(jnp.array([3.0, -4.0]), 1))
        (5.0, 7.0)
        >>> jax.grad(norm)(jnp.zeros(2)).tolist()
        [0.0, 0.0]
    """
    (given,) = floats("norm", x=x)
    return _norm(given, _order(ord), _axes(given, axis), keepdims)


def _order(ord: Any) -> float:
    if ord == "fro":
        return 2.0
    if isinstance(ord, (int, float, np.number)) and not isinstance(ord, bool) and ord >= 1:
        return float(ord)
    raise ValueError(
        f'norm: ord must be a number of at least 1, inf or "fro"; got {describe(ord)}. '
        "Below 1 there is no norm: the triangle inequality fails"
    )


def _axes(x: Any, axis: Any) -> tuple[int, ...]:
    """The axes, counted from the front."""
    ndim = jnp.ndim(x)
    if axis is None:
        return tuple(range(ndim))
    given = axis if isinstance(axis, tuple) else (axis,)
    for one in given:
        require_axis("norm", one, x=x)
    axes = tuple(int(one) % ndim for one in given)
    if len(set(axes)) < len(axes):
        raise ValueError(f"norm: axis must name each axis once; got {axis}")
    return axes


def _forward(x: jax.Array, ord: Power = 2, axis: Axis = None, keepdims: bool = False) -> jax.Array:
    return _pass(x, ord, axis, keepdims)[0]


def norm_fwd(
    x: jax.Array, ord: Order = 2, axis: Axis = None, keepdims: bool = False
) -> tuple[jax.Array, Residuals]:
    """x -> n, residuals."""
    p = _order(ord)
    out, n = _pass(x, p, axis, keepdims)
    n = checkpoint_name(n, "fnnet.norm.n")
    return out, (x, None if p == 1 else n, Static((p, _axes(x, axis), keepdims)))


def norm_bwd(res: Residuals, g: jax.Array) -> tuple[jax.Array]:
    """residuals, CT n -> CT x."""
    x, n, static = res
    p, axes, keepdims = static.value
    w = x.astype(accumulator(x))
    g = (g if keepdims else jnp.expand_dims(g, axes)).astype(w.dtype)
    return ((_slope(w, n, p, axes) * g).astype(x.dtype),)


_norm = register(
    _forward, norm_fwd, norm_bwd, name="norm", static_argnames=("ord", "axis", "keepdims")
)


def _pass(x: jax.Array, p: Power, axis: Axis, keepdims: bool) -> tuple[jax.Array, jax.Array]:
    """The norms as they are returned; and, with all axes and in the accumulator's dtype, n."""
    axes = _axes(x, axis)
    w = x.astype(accumulator(x))
    if p == 1:
        n = jnp.sum(_magnitude(w), axes, keepdims=True)
    elif p == math.inf:
        n = jnp.max(_magnitude(w), axes, keepdims=True, initial=0)
    elif p == 2:
        n = _length(w, axes, safe=x.dtype == jnp.float16)
    else:
        n = _scaled(w, p, axes)
    out = n.astype(x.dtype)
    return (out if keepdims else jnp.squeeze(out, axes)), n


def _length(w: jax.Array, axes: tuple[int, ...], *, safe: bool) -> jax.Array:
    """√Σ w². Only where squares leave the range is it worth a look at the greatest entry."""
    if safe:
        return root(jnp.sum(w * w, axes, keepdims=True), 2)
    limits = np.finfo(w.dtype)  # float32 or float64

    def looked_at(w: jax.Array) -> jax.Array:
        total = jnp.sum(w * w, axes, keepdims=True)
        fits = (total >= limits.tiny / limits.eps) & (total <= limits.max)
        n: jax.Array = lax.cond(
            jnp.all(fits),
            lambda w, total: jnp.sqrt(jnp.where(fits, total, jnp.ones((), total.dtype))),
            lambda w, total: _scaled(w, 2, axes),
            w,
            total,
        )
        return n

    # what is asked of all rows at once costs GPUs a halt, and chips that share the rows an exchange
    return by_platform(w, cpu=looked_at, default=lambda w: _scaled(w, 2, axes))


def _scaled(w: jax.Array, p: Power, axes: tuple[int, ...]) -> jax.Array:
    """m (Σ |w/m|^p)^(1/p) with m the greatest magnitude, held constant."""
    m = _unit(jnp.max(jnp.abs(w), axes, keepdims=True, initial=0))
    return m * root(jnp.sum(_power(w / m, p), axes, keepdims=True), p)


def _unit(m: jax.Array) -> jax.Array:
    """What entries are divided by: m, held constant, or 1 where m is 0 or not finite."""
    m = lax.stop_gradient(jnp.where((m > 0) & (m < jnp.inf), m, jnp.ones((), m.dtype)))
    # a compiler divides by multiplying with 1/m, which must not be so small as to count as 0
    return jnp.minimum(m, np.finfo(m.dtype).max / 8)


def _slope(w: jax.Array, n: jax.Array | None, p: Power, axes: tuple[int, ...]) -> jax.Array:
    """∂n/∂w."""
    if n is None:
        return jnp.sign(w)
    if p == math.inf:
        hits = (jnp.abs(w) == n).astype(w.dtype)
        return jnp.sign(w) * hits / jnp.sum(hits, axes, keepdims=True)
    one = jnp.ones((), w.dtype)
    m = _unit(n)
    u = (w / m) * (one / (jnp.where(n == 0, one, n) / m))
    if p == 2:
        return jnp.where(n == 0, jnp.zeros((), w.dtype), u)
    return jnp.sign(w) * _power(u, p - 1)


def _magnitude(w: jax.Array) -> jax.Array:
    """|w|, written so that autodiff of this text has our derivative at 0, and NaN at NaN."""
    return w * jnp.sign(w)


def _power(w: jax.Array, p: Power) -> jax.Array:
    """|w|^p; constant at 0, where the derivatives of a power may have a pole."""
    if p == 2:
        return w * w
    zero = w == 0
    a = jnp.abs(jnp.where(zero, jnp.ones((), w.dtype), w))
    return jnp.where(zero, jnp.zeros((), w.dtype), a ** (int(p) if p == int(p) else p))


def root(total: jax.Array, p: Power) -> jax.Array:
    """total^(1/p), with all its derivatives 0 at 0."""
    zero = total == 0
    t = jnp.where(zero, jnp.ones((), total.dtype), total)
    return jnp.where(zero, jnp.zeros((), total.dtype), jnp.sqrt(t) if p == 2 else t ** (1 / p))
