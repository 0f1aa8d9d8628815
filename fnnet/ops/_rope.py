"""Rotary position embedding: pairs of features turned by an angle that grows with the position.

    rope : x (..., t, heads, d), positions s (..., t) -> y (..., t, heads, d)

Axes: t of T positions; i of d/2 pairs of features; heads and leading axes are left out. A pair is
(x_i, x_(i + d/2)), or, interleaved, (x_(2i), x_(2i + 1)); below (a_i, b_i).

Forward, with the frequencies ω_i = base^(-2i/d) and θ_ti = s_t ω_i
    y = (a cos θ - b sin θ, b cos θ + a sin θ)              a rotation of each pair
    so that products of rotated queries and keys depend on the distance of their positions alone.

Backward, with (g_a, g_b) = ∂L/∂y
    A rotation's transpose is its inverse, the rotation by -θ:
        dx = (g_a cos θ + g_b sin θ, g_b cos θ - g_a sin θ)
    Where positions are floats, they have a cotangent too. From ∂y/∂θ = (-y_b, y_a)
        ds_t = Σ_i ω_i (g_b y_a - g_a y_b)
    added up over heads and the axes along which s was broadcast. With y written out, that is
        g_b y_a - g_a y_b = a (g_b cos θ - g_a sin θ) - b (g_b sin θ + g_a cos θ) = a dx_b - b dx_a

Residuals
    The positions, the caller's array; x, too, where a derivative by positions is asked for. Cosines
    and sines are made again: of positions and pairs they are, not of batch and heads. Autodiff
    keeps both.
    Angles in float32 for float16 and bfloat16: from 10^5 on their last digit is 0.01.

References
    J. Su et al., RoFormer, arXiv:2104.09864: interleaved. GPT-NeoX and Llama in Hugging Face's
    transformers take halves.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from fnnet.ops._checks import describe, floats, is_array_or_number
from fnnet.ops._compiled import compiled
from fnnet.ops._options import FLAG, Number, in_dtype, number
from fnnet.rules import Like, Static, accumulator, register, sum_to

Residuals: TypeAlias = tuple[jax.Array, Like, jax.Array, jax.Array | None, Static]


@compiled(base=number(0.0, above=True), interleaved=FLAG)
def rope(
    x: Float[ArrayLike, "*batch t heads d"],
    positions: Real[ArrayLike, "..."],
    *,
    base: Number = 10000.0,
    interleaved: bool = False,
) -> Float[Array, "*batch t heads d"]:
    """Rotary position embedding of queries or keys.

    Args:
        x: shape (..., t, heads, d), real floating point, d even: as `attention` takes it.
        positions: of each of the t, integers or floats; of a shape that broadcasts to (..., t),
            with as many axes or fewer. Floats have a derivative.
        base: of the frequencies base^(-2i/d). It may be traced, but has no derivative.
        interleaved: whether neighbours are a pair, (x_0, x_1), (x_2, x_3) ...; by default the two
            halves are: (x_0, x_(d/2)), (x_1, x_(d/2 + 1)) ...

    Returns:
        Shape and dtype of `x`; float16 and bfloat16 are computed in float32.

    Raises:
        TypeError: for an `x` that is not of real floating point dtype, or positions that are no
            real numbers.
        ValueError: for shapes that do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnnet import rope
        >>> x = jnp.tile(jnp.array([1.0, 0.0]), (2, 1, 1))
        >>> [[f"{y:.4f}" for y in row] for row in rope(x, jnp.arange(2))[:, 0]]
        [['1.0000', '0.0000'], ['0.5403', '0.8415']]
    """
    (given,) = floats("rope", x=x)
    at = _require(given, positions)
    options, traced = _options(base, interleaved)
    return _rope(given, at, traced, options=options)


def _options(base: Number, interleaved: bool) -> tuple[Static, jax.Array | None]:
    """The options, and the base if it is an array."""
    if isinstance(base, jax.Array):
        return Static((None, interleaved)), jax.lax.stop_gradient(base)
    return Static((float(base), interleaved)), None


def _require(x: jax.Array, positions: Any) -> jax.Array:
    if x.ndim < 3 or x.shape[-1] % 2:
        raise ValueError(
            "rope: x must have shape (..., t, heads, d) with d even, pairs of features; got shape "
            f"{x.shape}. One head is x[..., None, :]"
        )
    if not is_array_or_number(positions):
        raise TypeError(
            f"rope: positions must be an array of real numbers; got {describe(positions)}. "
            "Convert it with jnp.asarray"
        )
    dtype = jnp.result_type(positions)
    if not (jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)):
        raise TypeError(
            f"rope: positions must be an array of real numbers; got {describe(positions)}. "
            "Count them, as jnp.arange does"
        )
    at = jnp.asarray(positions)
    wanted = x.shape[:-2]
    last = wanted[len(wanted) - at.ndim :] if at.ndim <= len(wanted) else None
    if last is None or any(n not in (1, m) for n, m in zip(at.shape, last, strict=True)):
        raise ValueError(
            f"rope: positions must broadcast to (..., t) = {wanted} of x of shape {x.shape}, with "
            f"as many axes or fewer; got shape {at.shape}"
        )
    return at


def _forward(
    x: jax.Array, positions: jax.Array, base: jax.Array | None = None, *, options: Static
) -> jax.Array:
    a, b = _pairs(x.astype(accumulator(x)), options)
    cos, sin, _ = _turn(positions, Like.of(x), base, options)
    return _whole(a * cos - b * sin, b * cos + a * sin, options).astype(x.dtype)


def _fwd(
    x: jax.Array, positions: jax.Array, base: jax.Array | None = None, *, options: Static
) -> tuple[jax.Array, Residuals]:
    y = _forward(x, positions, base, options=options)
    return y, (x, Like.of(x), positions, base, options)


def rope_fwd(
    x: jax.Array,
    positions: jax.Array,
    *,
    base: Number = 10000.0,
    interleaved: bool = False,
) -> tuple[jax.Array, Residuals]:
    """x, positions -> y, residuals."""
    options, traced = _options(base, interleaved)
    return _fwd(x, positions, traced, options=options)


def rope_bwd(res: Residuals, g: jax.Array) -> tuple[jax.Array, jax.Array | None, None]:
    """residuals, CT y -> CT x, CT positions where they are floats, None for the base."""
    x, like, positions, base, options = res
    ga, gb = _pairs(g.astype(accumulator(g)), options)
    cos, sin, frequencies = _turn(positions, like, base, options)
    da, db = ga * cos + gb * sin, gb * cos - ga * sin
    dx = _whole(da, db, options).astype(like.dtype)
    if not jnp.issubdtype(positions.dtype, jnp.floating):
        return dx, None, None
    a, b = _pairs(x.astype(da.dtype), options)
    turned = (a * db - b * da) * frequencies.reshape((1,) * (da.ndim - 1) + (-1,))
    return dx, sum_to(jnp.sum(turned, (-2, -1)), positions), None


_rope = register(_forward, _fwd, rope_bwd, name="rope", automatic_axes=True)


def _turn(
    positions: jax.Array, like: Like, base: jax.Array | None, options: Static
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Cosines and sines, of shapes that broadcast to pairs of `like`; and the frequencies."""
    wide = np.promote_types(like.dtype, np.float32)
    number, _ = options.value
    powers = -np.arange(like.shape[-1] // 2) * 2 / max(like.shape[-1], 1)
    if base is None:
        frequencies = jnp.asarray(number**powers, wide)
    else:
        frequencies = jnp.exp(jnp.log(in_dtype(base, wide)) * jnp.asarray(powers, wide))
    more = len(like.shape) - 2 - positions.ndim
    at = positions.astype(wide).reshape((1,) * more + positions.shape + (1, 1))
    angles = at * frequencies.reshape((1,) * (at.ndim - 1) + (-1,))
    return jnp.cos(angles), jnp.sin(angles), frequencies


def _pairs(x: jax.Array, options: Static) -> tuple[jax.Array, jax.Array]:
    """a and b of x."""
    _, interleaved = options.value
    if interleaved:
        x = x.reshape(*x.shape[:-1], x.shape[-1] // 2, 2)
        return x[..., 0], x[..., 1]
    a, b = jnp.split(x, 2, -1)
    return a, b


def _whole(a: jax.Array, b: jax.Array, options: Static) -> jax.Array:
    """The inverse of `_pairs`."""
    _, interleaved = options.value
    if interleaved:
        return jnp.stack([a, b], -1).reshape(*a.shape[:-1], 2 * a.shape[-1])
    return jnp.concatenate([a, b], -1)
