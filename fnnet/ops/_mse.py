"""Mean squared error.

    mse : pred (...) or (..., 1), targ (...) -> l ()

Axes: q over all n elements.

Forward
    d_q = pred_q - targ_q
    l = (1/n) Σ_q d_q²                       (0 for n = 0)

Backward, with the scalar g = ∂L/∂l
    dd_q = g ∂l/∂d_q = (2/n) d_q g           only the q-th term of the sum contains d_q
    dpred_q = dd_q ∂d_q/∂pred_q =  dd_q
    dtarg_q = dd_q ∂d_q/∂targ_q = -dd_q

Residuals
    d, in the inputs' dtype: one array, where pred and targ would be two. No smaller one will do, as
    d can be read off the gradient.

References:
    C. F. Gauss, Theoria combinationis observationum erroribus minimis obnoxiae, 1821.
"""

from __future__ import annotations

from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from fnnet.ops._checks import floats
from fnnet.ops._compiled import compiled
from fnnet.rules import Like, accumulator, register

Residuals: TypeAlias = tuple[jax.Array, Like, Like]


@compiled()
def mse(pred: Float[ArrayLike, "..."], targ: Float[ArrayLike, "..."]) -> Float[Array, ""]:
    """Mean of the squared differences over all elements.

    Args:
        pred: predictions, of targ's shape or of targ's shape plus a last axis of 1.
        targ: targets, any shape.

    Returns:
        A scalar; float16 and bfloat16 squares are summed in float32. 0 for empty arrays.

    Raises:
        TypeError: for arrays that are not of real floating point dtype.
        ValueError: for other shapes. Nothing is broadcast: (n, 1) against (n, n)-like surprises,
            where every prediction meets every target, cannot happen.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fnnet import mse
        >>> pred, targ = jnp.array([[1.0], [3.0]]), jnp.array([0.0, 1.0])
        >>> float(mse(pred, targ))
        2.5
        >>> jax.grad(mse)(pred, targ).tolist()
        [[1.0], [2.0]]
    """
    return _mse(*floats("mse", pred=pred, targ=targ))


def _difference(pred: jax.Array, targ: jax.Array) -> jax.Array:
    p, t = pred.shape, targ.shape
    if p not in (t, (*t, 1)):
        raise ValueError(
            f"mse: pred must have targ's shape {t}, or {(*t, 1)}; got {p}. Nothing is broadcast: "
            "reshape one of them"
        )
    return pred.reshape(t) - targ


def _mean_square(d: jax.Array) -> jax.Array:
    wide = accumulator(d)
    return (jnp.sum(jnp.square(d.astype(wide))) / max(d.size, 1)).astype(d.dtype)


def _forward(pred: jax.Array, targ: jax.Array) -> jax.Array:
    return _mean_square(_difference(pred, targ))


def mse_fwd(pred: jax.Array, targ: jax.Array) -> tuple[jax.Array, Residuals]:
    """pred, targ -> l, residuals."""
    d = _difference(pred, targ)
    return _mean_square(d), (d, Like.of(pred), Like.of(targ))


def mse_bwd(res: Residuals, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    """residuals, CT l -> CT pred, CT targ."""
    d, pred, targ = res
    wide = accumulator(d)
    dd = d.astype(wide) * (g.astype(wide) * (2 / max(d.size, 1)))
    return dd.reshape(pred.shape).astype(pred.dtype), -dd.astype(targ.dtype)


_mse = register(_forward, mse_fwd, mse_bwd, name="mse")
