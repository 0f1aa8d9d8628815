"""Normalisation of each sample over its last axis: layer norm and RMS norm.

    layer_norm : x (..., d), scale (d), shift (d) -> y (..., d)
    rms_norm   : x (..., d), scale (d)            -> y (..., d)

Axes: i, k of the d features; p over all leading axes (the samples).

Forward
    layer_norm    c_pi = x_pi - (1/d) Σ_k x_pk       the deviation from the sample's mean
    rms_norm      c_pi = x_pi
    both          r_p  = ((1/d) Σ_k c_pk² + ε)^(-1/2)
                  u_pi = c_pi r_p                    the normalised sample
                  y_pi = u_pi scale_i + shift_i

Backward, with g_pi = ∂L/∂y_pi
    scale and shift serve every sample:
        dscale_i = Σ_p g_pi u_pi        dshift_i = Σ_p g_pi
    The cotangent of u is h_pi = g_pi scale_i. In u = c r, c_k also enters through r. From
    r = v^(-1/2) and ∂v/∂c_k = 2 c_k / d comes ∂r/∂c_k = -½ v^(-3/2) 2 c_k / d = -r³ c_k / d, so
        dc_k = h_k r + (Σ_i h_i c_i) ∂r/∂c_k = r (h_k - u_k (1/d) Σ_i h_i u_i)
    For rms_norm dx = dc. For layer_norm every c_i contains -x_k / d:
        dx_k = dc_k - (1/d) Σ_i dc_i = r (h_k - (1/d) Σ_i h_i - u_k (1/d) Σ_i h_i u_i)
    as Σ_i u_i = 0.

Residuals
    x and scale, the caller's arrays. The two numbers a sample (its mean and r) are computed again:
    two short sums, where autodiff keeps whole arrays such as c, c², u. Keeping y instead of x
    fails: y cannot be undone where scale is 0, and near it loses all digits.
    Sums run in float32 for float16 and bfloat16.

References
    J. L. Ba, J. R. Kiros, G. E. Hinton, Layer normalization, arXiv:1607.06450.
    B. Zhang, R. Sennrich, Root mean square layer normalization, arXiv:1910.07467.
"""

from __future__ import annotations

from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from fnnet.ops._checks import floats
from fnnet.ops._compiled import compiled
from fnnet.ops._options import Number, number
from fnnet.rules import Like, Static, accumulator, register, sum_to

LayerNormResiduals: TypeAlias = tuple[jax.Array, jax.Array | None, Like | None, Static]
RmsNormResiduals: TypeAlias = tuple[jax.Array, jax.Array | None, Static]


@compiled(eps=number(0.0))
def layer_norm(
    x: Float[ArrayLike, "*batch d"],
    scale: Float[ArrayLike, " d"] | None = None,
    shift: Float[ArrayLike, " d"] | None = None,
    *,
    eps: Number = 1e-5,
) -> Float[Array, "*batch d"]:
    """Layer norm: mean 0 and variance 1 over the last axis, then scale and shift.

    Args:
        x: shape (..., d), real floating point.
        scale: shape (d,), or None for 1.
        shift: shape (d,), or None for 0.
        eps: added to the variance.

    Returns:
        Shape and dtype of `x`; float16 and bfloat16 are computed in float32.

    Raises:
        TypeError: for arrays that are not of real floating point dtype.
        ValueError: for shapes that do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnnet import layer_norm
        >>> layer_norm(jnp.array([[1.0, 3.0]]), eps=0.0).tolist()
        [[-1.0, 1.0]]
    """
    arrays = floats("layer_norm", optional=("scale", "shift"), x=x, scale=scale, shift=shift)
    _require("layer_norm", arrays[0], scale=arrays[1], shift=arrays[2])
    return _layer_norm(*arrays, eps=eps)


@compiled(eps=number(0.0))
def rms_norm(
    x: Float[ArrayLike, "*batch d"],
    scale: Float[ArrayLike, " d"] | None = None,
    *,
    eps: Number = 1e-6,
) -> Float[Array, "*batch d"]:
    """RMS norm: mean square 1 over the last axis, then scale.

    Args:
        x: shape (..., d), real floating point.
        scale: shape (d,), or None for 1.
        eps: added to the mean square.

    Returns:
        Shape and dtype of `x`; float16 and bfloat16 are computed in float32.

    Raises:
        TypeError: for arrays that are not of real floating point dtype.
        ValueError: for shapes that do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnnet import rms_norm
        >>> [f"{y:.4f}" for y in rms_norm(jnp.array([1.0, 7.0]), eps=0.0).tolist()]
        ['0.2000', '1.4000']
    """
    arrays = floats("rms_norm", optional=("scale",), x=x, scale=scale)
    _require("rms_norm", arrays[0], scale=arrays[1])
    return _rms_norm(*arrays, eps=eps)


def _normalised(x: jax.Array, eps: Number, *, centred: bool) -> tuple[jax.Array, jax.Array]:
    """u and r, in the accumulator's dtype."""
    c = x.astype(accumulator(x))
    if centred:
        c = c - jnp.mean(c, -1, keepdims=True)
    r = lax.rsqrt(jnp.mean(c * c, -1, keepdims=True) + eps)
    return c * r, r


def _row(p: jax.Array, like: jax.Array) -> jax.Array:
    """A parameter (d,) as one row for each sample of `like`, in its dtype."""
    return jnp.broadcast_to(p.astype(like.dtype), like.shape)


def _layer_norm_forward(
    x: jax.Array,
    scale: jax.Array | None = None,
    shift: jax.Array | None = None,
    *,
    eps: Number = 1e-5,
) -> jax.Array:
    y, _ = _normalised(x, eps, centred=True)
    if scale is not None:
        y = y * _row(scale, y)
    if shift is not None:
        y = y + _row(shift, y)
    return y.astype(x.dtype)


def layer_norm_fwd(
    x: jax.Array,
    scale: jax.Array | None = None,
    shift: jax.Array | None = None,
    *,
    eps: Number = 1e-5,
) -> tuple[jax.Array, LayerNormResiduals]:
    """x, scale, shift -> y, residuals."""
    y = _layer_norm_forward(x, scale, shift, eps=eps)
    return y, (x, scale, None if shift is None else Like.of(shift), Static(eps))


def layer_norm_bwd(
    res: LayerNormResiduals, g: jax.Array
) -> tuple[jax.Array, jax.Array | None, jax.Array | None]:
    """residuals, CT y -> CT x, CT scale, CT shift."""
    x, scale, shift, eps = res
    u, r = _normalised(x, eps.value, centred=True)
    g = g.astype(u.dtype)
    h = g if scale is None else g * _row(scale, g)
    mean_h, mean_hu = jnp.mean(h, -1, keepdims=True), jnp.mean(h * u, -1, keepdims=True)
    dx = (r * (h - mean_h - u * mean_hu)).astype(x.dtype)
    dscale = None if scale is None else sum_to(g * u, scale)
    return dx, dscale, None if shift is None else sum_to(g, shift)


_layer_norm = register(_layer_norm_forward, layer_norm_fwd, layer_norm_bwd, name="layer_norm")


def _rms_norm_forward(
    x: jax.Array, scale: jax.Array | None = None, *, eps: Number = 1e-6
) -> jax.Array:
    y, _ = _normalised(x, eps, centred=False)
    return (y if scale is None else y * _row(scale, y)).astype(x.dtype)


def rms_norm_fwd(
    x: jax.Array, scale: jax.Array | None = None, *, eps: Number = 1e-6
) -> tuple[jax.Array, RmsNormResiduals]:
    """x, scale -> y, residuals."""
    return _rms_norm_forward(x, scale, eps=eps), (x, scale, Static(eps))


def rms_norm_bwd(res: RmsNormResiduals, g: jax.Array) -> tuple[jax.Array, jax.Array | None]:
    """residuals, CT y -> CT x, CT scale."""
    x, scale, eps = res
    u, r = _normalised(x, eps.value, centred=False)
    g = g.astype(u.dtype)
    h = g if scale is None else g * _row(scale, g)
    dx = (r * (h - u * jnp.mean(h * u, -1, keepdims=True))).astype(x.dtype)
    return dx, None if scale is None else sum_to(g * u, scale)


_rms_norm = register(_rms_norm_forward, rms_norm_fwd, rms_norm_bwd, name="rms_norm")


def _require(op: str, x: jax.Array, **parameters: jax.Array | None) -> None:
    given = {name: p for name, p in parameters.items() if p is not None}
    if not jnp.ndim(x):
        raise ValueError(
            f"{op}: x must have at least one axis, the last one's features; got a scalar"
        )
    for name, p in given.items():
        if jnp.shape(p) != jnp.shape(x)[-1:]:
            raise ValueError(
                f"{op}: {name} must have shape (d,) = {jnp.shape(x)[-1:]}, one number for each "
                f"feature of x; got shape {jnp.shape(p)} with x of shape {jnp.shape(x)}"
            )
