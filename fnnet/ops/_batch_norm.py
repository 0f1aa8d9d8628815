"""Normalisation of images and their like: batch norm in training, and group norm.

    batch_norm : x (..., c, ...), scale (c), shift (c) -> y, x's shape
    group_norm : x (n, ..., c), scale (c), shift (c)   -> y, x's shape

Axes: c channels. A set is what is normalised together: for batch_norm all numbers of a channel, in
all samples and at all places; for group_norm those of a sample in one group of neighbouring
channels, at all places. i, k are over the N numbers of one set; a is the channel of i.

Forward
    m = (1/N) Σ_k x_k           r = ((1/N) Σ_k (x_k - m)² + ε)^(-1/2)
    u_i = (x_i - m) r           y_i = u_i scale_a + shift_a
    m is found as x_0 + m', with x_0 the set's first number and m' = (1/N) Σ_k (x_k - x_0): numbers
    far from 0 and near each other have differences without rounding, where the mean of such numbers
    has lost what they differ by. Of equal numbers u is exactly 0. x_0 is a constant to derivatives:
    u does not depend on it.

Backward, with g_i = ∂L/∂y_i
    scale and shift serve all of a channel:
        dscale_a = Σ_i g_i u_i          dshift_a = Σ_i g_i          over all i of channel a
    The cotangent of u_i is h_i = g_i scale_a. A set is what a sample is in layer_norm (_norm.py):
    from ∂r/∂x_k = -r³ (x_k - m) / N, as the deviations add up to 0, and ∂m/∂x_k = 1/N
        dx_k = h_k r - (1/N) Σ_i h_i r + Σ_i h_i (x_i - m) ∂r/∂x_k
             = r (h_k - (1/N) Σ_i h_i - u_k (1/N) Σ_i h_i u_i)

Residuals
    x and scale, the caller's arrays, and two numbers a set, m' and r, by name "fnnet.batch_norm.m",
    ".r" and likewise of group_norm. Autodiff keeps whole arrays such as x - m and u.
    The variance is a mean of squared deviations: the mean square less the squared mean, which some
    take in one pass, cancels where the mean is large. In float32 for float16 and bfloat16. Unlike
    those of layer_norm, deviations are not scaled: from 10^19 on their squares overflow in float32.

References
    S. Ioffe, C. Szegedy, Batch normalization, arXiv:1502.03167.
    Y. Wu, K. He, Group normalization, arXiv:1803.08494.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from fnnet.ops._checks import floats, require_axis
from fnnet.ops._compiled import compiled
from fnnet.ops._options import AXIS, Number, number, whole_number
from fnnet.rules import Like, Static, accumulator, register, sum_to

Residuals: TypeAlias = tuple[jax.Array, jax.Array | None, Like | None, "_Statistics", Static]


@compiled(axis=AXIS, eps=number(0.0))
def batch_norm(
    x: Float[ArrayLike, "..."],
    scale: Float[ArrayLike, " c"] | None = None,
    shift: Float[ArrayLike, " c"] | None = None,
    *,
    axis: int = -1,
    eps: Number = 1e-5,
) -> Float[Array, "..."]:
    """Batch norm as in training: each channel with mean 0 and variance 1, then scale and shift.

    Mean and variance are those of this batch, and the gradient goes through them. Under
    `jax.shard_map` each device has its own batch. Running means for evaluation are the caller's:
    ``jnp.mean`` and ``jnp.var`` of `x` over the other axes.

    Args:
        x: any shape with at least one axis, real floating point.
        scale: shape (c,), or None for 1.
        shift: shape (c,), or None for 0.
        axis: the axis of the c channels.
        eps: added to the variance.

    Returns:
        Shape and dtype of `x`; float16 and bfloat16 are computed in float32.

    Raises:
        TypeError: for arrays that are not of real floating point dtype.
        ValueError: for shapes that do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnnet import batch_norm
        >>> batch_norm(jnp.array([[1.0, 5.0], [3.0, 5.0]]), eps=0.5).round(3).T.tolist()[1]
        [0.0, 0.0]
        >>> batch_norm(jnp.array([1.0, 3.0]), axis=0).shape
        (2,)
    """
    arrays = floats("batch_norm", optional=("scale", "shift"), x=x, scale=scale, shift=shift)
    require_axis("batch_norm", axis, x=arrays[0])
    _require("batch_norm", arrays[0].shape, axis, scale=arrays[1], shift=arrays[2])
    return _batch_norm(*arrays, axis=axis, eps=eps)


@compiled(groups=whole_number(1), eps=number(0.0))
def group_norm(
    x: Float[ArrayLike, "n *space c"],
    groups: int,
    scale: Float[ArrayLike, " c"] | None = None,
    shift: Float[ArrayLike, " c"] | None = None,
    *,
    eps: Number = 1e-5,
) -> Float[Array, "n *space c"]:
    """Group norm: each group of channels of a sample with mean 0 and variance 1; scale and shift.

    Args:
        x: shape (n, ..., c), real floating point, channels last: images (n, h, w, c), say.
        groups: how many groups the channels form, neighbours together; it divides c. With 1 it is
            layer norm over all of a sample, with c instance norm.
        scale: shape (c,), or None for 1.
        shift: shape (c,), or None for 0.
        eps: added to the variance.

    Returns:
        Shape and dtype of `x`; float16 and bfloat16 are computed in float32.

    Raises:
        TypeError: for arrays that are not of real floating point dtype.
        ValueError: for shapes that do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnnet import group_norm
        >>> group_norm(jnp.array([[1.0, 3.0, 10.0, 30.0]]), 2, eps=0.0).tolist()
        [[-1.0, 1.0, -1.0, 1.0]]
    """
    arrays = floats("group_norm", optional=("scale", "shift"), x=x, scale=scale, shift=shift)
    given = arrays[0].shape
    if len(given) < 2:
        raise ValueError(
            f"group_norm: x must have shape (n, ..., c), samples first and channels last; got "
            f"shape {given}. One sample is x[None]"
        )
    if given[-1] % groups:
        raise ValueError(
            f"group_norm: groups must divide the number of channels, {given[-1]} of x of shape "
            f"{given}; got {groups}"
        )
    _require("group_norm", given, -1, scale=arrays[1], shift=arrays[2])
    return _group_norm(*arrays, groups=groups, eps=eps)


@dataclasses.dataclass(frozen=True)
class _Sets:
    """How x is seen: its shape, the axes of a set, and the shape in which parameters meet it."""

    shape: tuple[int, ...]
    axes: tuple[int, ...]
    parameter: tuple[int, ...]

    @staticmethod
    def of_batch(x: jax.Array, axis: int) -> _Sets:
        axis %= x.ndim
        others = tuple(i for i in range(x.ndim) if i != axis)
        return _Sets(x.shape, others, tuple(n if i == axis else 1 for i, n in enumerate(x.shape)))

    @staticmethod
    def of_groups(x: jax.Array, groups: int) -> _Sets:
        grouped = (groups, x.shape[-1] // groups)
        axes = (*range(1, x.ndim - 1), x.ndim)
        return _Sets((*x.shape[:-1], *grouped), axes, (1,) * (x.ndim - 1) + grouped)

    def first(self, x: jax.Array) -> jax.Array:
        """The first number of each set, as a constant; 0 of a set that is empty."""
        for axis in self.axes:
            if not x.shape[axis]:
                return jnp.zeros((), x.dtype)
            x = lax.slice_in_dim(x, 0, 1, axis=axis)
        return lax.stop_gradient(x)

    def row(self, parameter: jax.Array, like: jax.Array) -> jax.Array:
        """A parameter (c,) for each number of `like`, in its dtype."""
        seen = parameter.astype(like.dtype).reshape(self.parameter)
        return jnp.broadcast_to(seen, self.shape)

    def total(self, g: jax.Array, like: jax.Array | Like) -> jax.Array:
        """The cotangent of a parameter."""
        return sum_to(g, Like(self.parameter, like.dtype)).reshape(like.shape)


class _Statistics(NamedTuple):
    """m' and r of each set, in the accumulator's dtype, a set's axes kept."""

    m: jax.Array
    r: jax.Array

    @staticmethod
    def of(x: jax.Array, eps: Number, sets: _Sets) -> _Statistics:
        steps = _steps(x, sets)
        m = jnp.mean(steps, sets.axes, keepdims=True)
        v = jnp.mean(jnp.square(steps - m), sets.axes, keepdims=True)
        return _Statistics(m, lax.rsqrt(v + jnp.asarray(eps, v.dtype)))

    def normalised(self, x: jax.Array, sets: _Sets) -> jax.Array:
        """u."""
        return (_steps(x, sets) - self.m) * self.r


def _steps(x: jax.Array, sets: _Sets) -> jax.Array:
    """x - x_0, in the accumulator's dtype."""
    wide = x.astype(accumulator(x))
    steps: jax.Array = wide - sets.first(wide)
    return steps


def _forward(
    x: jax.Array, scale: jax.Array | None, shift: jax.Array | None, sets: _Sets, eps: Number
) -> jax.Array:
    seen = x.reshape(sets.shape)
    return _scaled(_Statistics.of(seen, eps, sets).normalised(seen, sets), x, scale, shift, sets)


def _scaled(
    u: jax.Array,
    like: jax.Array,
    scale: jax.Array | None,
    shift: jax.Array | None,
    sets: _Sets,
) -> jax.Array:
    """y."""
    y = u if scale is None else u * sets.row(scale, u)
    y = y if shift is None else y + sets.row(shift, y)
    return y.reshape(like.shape).astype(like.dtype)


def _fwd(
    op: str,
    x: jax.Array,
    scale: jax.Array | None,
    shift: jax.Array | None,
    sets: _Sets,
    eps: Number,
) -> tuple[jax.Array, Residuals]:
    seen = x.reshape(sets.shape)
    m, r = _Statistics.of(seen, eps, sets)
    kept = _Statistics(
        checkpoint_name(m, f"fnnet.{op}.m"),
        checkpoint_name(r, f"fnnet.{op}.r"),
    )
    y = _scaled(kept.normalised(seen, sets), x, scale, shift, sets)
    return y, (x, scale, None if shift is None else Like.of(shift), kept, Static(sets))


def _bwd(res: Residuals, g: jax.Array) -> tuple[jax.Array, jax.Array | None, jax.Array | None]:
    x, scale, shift, statistics, static = res
    sets: _Sets = static.value
    u = statistics.normalised(x.reshape(sets.shape), sets)
    g = g.reshape(sets.shape).astype(u.dtype)
    h = g if scale is None else g * sets.row(scale, g)
    mean_h, mean_hu = (jnp.mean(v, sets.axes, keepdims=True) for v in (h, h * u))
    dx = statistics.r * (h - mean_h - u * mean_hu)
    return (
        dx.reshape(x.shape).astype(x.dtype),
        None if scale is None else sets.total(g * u, scale),
        None if shift is None else sets.total(g, shift),
    )


def _batch_norm_forward(
    x: jax.Array,
    scale: jax.Array | None = None,
    shift: jax.Array | None = None,
    *,
    axis: int = -1,
    eps: Number = 1e-5,
) -> jax.Array:
    return _forward(x, scale, shift, _Sets.of_batch(x, axis), eps)


def batch_norm_fwd(
    x: jax.Array,
    scale: jax.Array | None = None,
    shift: jax.Array | None = None,
    *,
    axis: int = -1,
    eps: Number = 1e-5,
) -> tuple[jax.Array, Residuals]:
    """x, scale, shift -> y, residuals."""
    return _fwd("batch_norm", x, scale, shift, _Sets.of_batch(x, axis), eps)


def batch_norm_bwd(
    res: Residuals, g: jax.Array
) -> tuple[jax.Array, jax.Array | None, jax.Array | None]:
    """residuals, CT y -> CT x, CT scale, CT shift."""
    return _bwd(res, g)


_batch_norm = register(
    _batch_norm_forward, batch_norm_fwd, batch_norm_bwd, name="batch_norm", automatic_axes=True
)


def _group_norm_forward(
    x: jax.Array,
    scale: jax.Array | None = None,
    shift: jax.Array | None = None,
    *,
    groups: int,
    eps: Number = 1e-5,
) -> jax.Array:
    return _forward(x, scale, shift, _Sets.of_groups(x, groups), eps)


def _group_norm_fwd(
    x: jax.Array,
    scale: jax.Array | None = None,
    shift: jax.Array | None = None,
    *,
    groups: int,
    eps: Number = 1e-5,
) -> tuple[jax.Array, Residuals]:
    return _fwd("group_norm", x, scale, shift, _Sets.of_groups(x, groups), eps)


def group_norm_fwd(
    x: jax.Array,
    groups: int,
    scale: jax.Array | None = None,
    shift: jax.Array | None = None,
    *,
    eps: Number = 1e-5,
) -> tuple[jax.Array, Residuals]:
    """x, scale, shift -> y, residuals."""
    return _group_norm_fwd(x, scale, shift, groups=groups, eps=eps)


def group_norm_bwd(
    res: Residuals, g: jax.Array
) -> tuple[jax.Array, jax.Array | None, jax.Array | None]:
    """residuals, CT y -> CT x, CT scale, CT shift."""
    return _bwd(res, g)


_group_norm = register(
    _group_norm_forward, _group_norm_fwd, group_norm_bwd, name="group_norm", automatic_axes=True
)


def _require(op: str, shape: tuple[int, ...], axis: int, **parameters: jax.Array | None) -> None:
    for name, p in parameters.items():
        if p is not None and p.shape != (shape[axis],):
            raise ValueError(
                f"{op}: {name} must have shape (c,) = {(shape[axis],)}, one number for each "
                f"channel of x; got shape {p.shape} with x of shape {shape}"
            )
