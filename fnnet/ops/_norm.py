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

Range and digits, for each sample by itself (p left out)
    The squares of large numbers overflow, those of small ones vanish; and rounding leaves Σ_i c_i
    at some units of the last place of x, where a row may vary by no more. So
        s = 2^-e ≈ 1 / max |x|        a power of two: multiplying by it rounds nothing
        m = mean of x s               n = mean of x s - m        what rounding left of the mean
        c s = x s - m - n             v = mean of (c s)²         now from 0 to 4
    n is cut to half its digits, which is still far below the last place of x s: where a row is
    constant, x s - m has as few, so that c is exactly 0. Then r² = 1 / (v / s² + ε) or
        r = t q,    u = (c t) q,    q = (v (t/s)² + ε t²)^(-1/2)
    for any t; it is s, or 1 in rows so small that ε alone counts, where ε s² would overflow (or
    that are constant, where it may vanish). In the last formulas m and n too are in the unit t.
    s and n are constants to derivatives: no value depends on s, and n is 0 but for rounding.
    A row without deviation has u = 0; with ε = 0 it is 0/0, NaN. Sums run in float32 for float16
    and bfloat16; of float16 no square leaves its range, and s = 1.

Residuals
    x and scale, the caller's arrays, and t, q, m, n: four numbers a sample, two in rms_norm; by
    name "fnnet.layer_norm.t" and so on. Autodiff keeps whole arrays such as c, c², u. Keeping y
    instead of x fails: y cannot be undone where scale is 0, and near it loses all digits.

References
    J. L. Ba, J. R. Kiros, G. E. Hinton, Layer normalization, arXiv:1607.06450.
    B. Zhang, R. Sennrich, Root mean square layer normalization, arXiv:1910.07467.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from fnnet.ops._checks import floats
from fnnet.ops._compiled import compiled
from fnnet.ops._options import Number, number
from fnnet.rules import Like, accumulator, register, sum_to

LayerNormResiduals: TypeAlias = tuple[jax.Array, jax.Array | None, Like | None, "_Rows"]
RmsNormResiduals: TypeAlias = tuple[jax.Array, jax.Array | None, "_Rows"]


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


class _Rows(NamedTuple):
    """Numbers of each sample, (..., 1), in the accumulator's dtype; m and n of layer_norm alone."""

    t: jax.Array
    q: jax.Array
    m: jax.Array | None = None
    n: jax.Array | None = None

    def normalised(self, x: jax.Array) -> jax.Array:
        """u."""
        c = x.astype(self.t.dtype) * self.t
        if self.m is not None and self.n is not None:
            c = (c - self.m) - self.n
        return c * self.q

    def named(self, op: str) -> _Rows:
        """The same as residuals with names, for `jax.checkpoint` policies."""
        named: Any = {
            name: None if v is None else checkpoint_name(v, f"fnnet.{op}.{name}")
            for name, v in self._asdict().items()
        }
        return _Rows(**named)


def _rows(x: jax.Array, eps: Number, *, centred: bool) -> _Rows:
    c = x.astype(accumulator(x))
    limits = np.finfo(c.dtype)
    e = jnp.asarray(eps, c.dtype)
    s = _unit(c, spare=x.dtype == jnp.float16)
    c = c * s
    m = n = None
    if centred:
        m = jnp.mean(c, -1, keepdims=True)
        c = c - m
        rest = lax.stop_gradient(jnp.mean(c, -1, keepdims=True))
        n = lax.reduce_precision(rest, limits.nexp, limits.nmant // 2)
        c = c - n
    v = jnp.mean(c * c, -1, keepdims=True)
    one = jnp.ones((), c.dtype)
    own = lax.stop_gradient(v) > limits.eps * limits.eps * e * s * s
    t, k = jnp.where(own, s, one), jnp.where(own, one, one / s)  # s and 1/s are powers of two
    q = lax.rsqrt(v * k * k + e * t * t)
    return _Rows(t, q) if m is None or n is None else _Rows(t, q, m * k, n * k)


def _unit(w: jax.Array, *, spare: bool) -> jax.Array:
    """s; 1 where the accumulator's range is so wide that no square leaves it."""
    if spare:
        return jnp.ones((), w.dtype)
    limits = np.finfo(w.dtype)
    most = jnp.max(jnp.abs(lax.stop_gradient(w)), -1, keepdims=True, initial=0)
    most = jnp.clip(most, limits.tiny, limits.max / 4)
    return 1 / lax.reduce_precision(most, limits.nexp, 0)  # rounded to a power of two


def _row(p: jax.Array, like: jax.Array) -> jax.Array:
    """A parameter (d,) as one row for each sample of `like`, in its dtype."""
    return jnp.broadcast_to(p.astype(like.dtype), like.shape)


def _scaled(
    u: jax.Array, scale: jax.Array | None, shift: jax.Array | None, like: jax.Array
) -> jax.Array:
    """y, in the dtype of `like`."""
    y = u if scale is None else u * _row(scale, u)
    return (y if shift is None else y + _row(shift, y)).astype(like.dtype)


def _unnormalised(
    rows: _Rows, u: jax.Array, scale: jax.Array | None, g: jax.Array
) -> tuple[jax.Array, jax.Array | None]:
    """CT (c t) and CT scale."""
    d, gu = u.shape[-1], g * u
    if scale is None:
        h, hu = g, gu / d
    else:
        # divided before they are added up: XLA for CPU then stores none of these arrays
        h, hu = g * _row(scale, g), gu * _row(scale.astype(g.dtype) / d, g)
    dc = rows.q * h - u * (rows.q * jnp.sum(hu, -1, keepdims=True))
    return dc, None if scale is None else sum_to(gu, scale)


def _layer_norm_forward(
    x: jax.Array,
    scale: jax.Array | None = None,
    shift: jax.Array | None = None,
    *,
    eps: Number = 1e-5,
) -> jax.Array:
    rows = _rows(x, eps, centred=True)
    return _scaled(rows.normalised(x), scale, shift, x)


def layer_norm_fwd(
    x: jax.Array,
    scale: jax.Array | None = None,
    shift: jax.Array | None = None,
    *,
    eps: Number = 1e-5,
) -> tuple[jax.Array, LayerNormResiduals]:
    """x, scale, shift -> y, residuals."""
    rows = _rows(x, eps, centred=True).named("layer_norm")
    y = _scaled(rows.normalised(x), scale, shift, x)
    return y, (x, scale, None if shift is None else Like.of(shift), rows)


def layer_norm_bwd(
    res: LayerNormResiduals, g: jax.Array
) -> tuple[jax.Array, jax.Array | None, jax.Array | None]:
    """residuals, CT y -> CT x, CT scale, CT shift."""
    x, scale, shift, rows = res
    u = rows.normalised(x)
    g = g.astype(u.dtype)
    dc, dscale = _unnormalised(rows, u, scale, g)
    dx = ((dc - jnp.mean(dc, -1, keepdims=True)) * rows.t).astype(x.dtype)
    return dx, dscale, None if shift is None else sum_to(g, shift)


_layer_norm = register(_layer_norm_forward, layer_norm_fwd, layer_norm_bwd, name="layer_norm")


def _rms_norm_forward(
    x: jax.Array, scale: jax.Array | None = None, *, eps: Number = 1e-6
) -> jax.Array:
    return _scaled(_rows(x, eps, centred=False).normalised(x), scale, None, x)


def rms_norm_fwd(
    x: jax.Array, scale: jax.Array | None = None, *, eps: Number = 1e-6
) -> tuple[jax.Array, RmsNormResiduals]:
    """x, scale -> y, residuals."""
    rows = _rows(x, eps, centred=False).named("rms_norm")
    return _scaled(rows.normalised(x), scale, None, x), (x, scale, rows)


def rms_norm_bwd(res: RmsNormResiduals, g: jax.Array) -> tuple[jax.Array, jax.Array | None]:
    """residuals, CT y -> CT x, CT scale."""
    x, scale, rows = res
    u = rows.normalised(x)
    dc, dscale = _unnormalised(rows, u, scale, g.astype(u.dtype))
    return (dc * rows.t).astype(x.dtype), dscale


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
