"""A linear (dense, fully connected) layer.

    lin : x (..., n_in), w (n_in, n_out), b (n_out) -> y (..., n_out)

Axes: p over all leading axes of x together (the samples), i of n_in inputs, j of n_out outputs.

Forward
    y_pj = Σ_i x_pi w_ij + b_j

Backward, for a scalar loss L with g_pj = ∂L/∂y_pj
    x_pi enters the y_pj of its own sample, each with the factor w_ij:
        dx_pi = Σ_j g_pj ∂y_pj/∂x_pi = Σ_j g_pj w_ij
    w_ij enters y_pj for every sample p, with the factor x_pi:
        dw_ij = Σ_p g_pj ∂y_pj/∂w_ij = Σ_p x_pi g_pj
    b_j enters y_pj for every sample p, with the factor 1:
        db_j = Σ_p g_pj
    In matrices, dx = g wᵀ, dw = xᵀ g, db = 1ᵀ g. For complex arrays JAX's cotangents are not
    conjugated.

Residuals
    x and w: dw contains x and dx contains w, whole; both are the caller's arrays. b enters by
    addition and leaves no trace but its dtype. y is not needed.

References:
    The chapter "A neural net from the foundations" of Deep Learning for Coders (J. Howard,
    S. Gugger, 2020) derives the same rule class by class.
"""

from __future__ import annotations

from functools import partial
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import ArrayLike
from jaxtyping import Array, Inexact

from fnnet.ops._checks import floats, shapes
from fnnet.ops._compiled import compiled
from fnnet.ops._options import OUT_SHARDING, PRECISION
from fnnet.rules import (
    Like,
    OutSharding,
    Precision,
    Static,
    accumulator,
    contract,
    register,
    result_sharding,
    sum_to,
    tells_of_out_sharding,
)

Residuals: TypeAlias = tuple[jax.Array, jax.Array, Like | None, Static]


@compiled(precision=PRECISION, out_sharding=OUT_SHARDING)
def lin(
    x: Inexact[ArrayLike, "*batch i"],
    w: Inexact[ArrayLike, "i j"],
    b: Inexact[ArrayLike, " j"] | None = None,
    *,
    precision: Precision = None,
    out_sharding: OutSharding = None,
) -> Inexact[Array, "*batch j"]:
    """Linear layer ``x @ w + b``.

    Args:
        x: shape (..., n_in); any number of leading axes, none too.
        w: shape (n_in, n_out).
        b: shape (n_out,), or None for no bias.
        precision: of the products, as in `jnp.einsum`, forward and backward alike; by default the
            one in force (`jax.default_matmul_precision`).
        out_sharding: the result's sharding (`jax.P` or `jax.NamedSharding`) on a mesh of explicit
            axes, as in `jnp.matmul`: needed where an axis that is summed over is sharded.

    Returns:
        Shape (..., n_out). float16 and bfloat16 products are summed in float32, the bias is added
        to the sum, and the result is rounded once; with a bias in bfloat16 the sum is rounded
        before too, as in ``jnp.matmul(x, w) + b``, so that a policy of `jax.checkpoint` that saves
        products saves 16 bits of each.

    Raises:
        TypeError: for arrays that are not of float or complex dtype.
        ValueError: for shapes that do not fit. The bias is not broadcast: (1,) is refused.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fnnet import lin
        >>> x, w, b = jnp.ones((5, 2)), jnp.ones((2, 3)), jnp.zeros(3)
        >>> lin(x, w, b).shape
        (5, 3)
        >>> jax.grad(lambda b: lin(x, w, b).sum())(b)
        Array([5., 5., 5.], dtype=float32)
    """
    arrays = floats("lin", complex_too=True, optional="b", x=x, w=w, b=b)
    _require_shapes(*shapes(*arrays))
    with tells_of_out_sharding("lin"):
        return _lin(*arrays, precision=precision, out_sharding=out_sharding)


def _forward(
    x: jax.Array,
    w: jax.Array,
    b: jax.Array | None = None,
    *,
    precision: Precision = None,
    out_sharding: OutSharding = None,
) -> jax.Array:
    out = result_sharding("lin", out_sharding, x.ndim, x, w)
    product = partial(contract, "...i,ij->...j", x, w, precision=precision, out_sharding=out)
    if b is None:
        return product()
    dtype = jnp.result_type(x, w, b)
    wide = accumulator(x, w, b)
    if dtype == jnp.bfloat16:
        # What a policy that saves products saves, it should save in bfloat16, the dtype of those
        # who use such policies. In float16 the product is rounded once, after the bias is added.
        wide = dtype
    y = product(dtype=wide)
    if out is not None:
        b = jax.reshard(b, NamedSharding(out.mesh, P(out.spec[-1])))
    # the bias is one row for all samples
    return (y + jnp.broadcast_to(b.astype(wide), y.shape)).astype(dtype)


def lin_fwd(
    x: jax.Array,
    w: jax.Array,
    b: jax.Array | None = None,
    *,
    precision: Precision = None,
    out_sharding: OutSharding = None,
) -> tuple[jax.Array, Residuals]:
    """x, w, b -> y, residuals."""
    y = _forward(x, w, b, precision=precision, out_sharding=out_sharding)
    return y, (x, w, None if b is None else Like.of(b), Static(precision))


def lin_bwd(res: Residuals, g: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """residuals, CT y -> CT x, CT w, CT b."""
    x, w, b, precision = res
    dx = contract("...j,ij->...i", g, w, like=x, precision=precision.value)
    if x.ndim > 2:
        # (gᵀ x)ᵀ, as autodiff has it: XLA for CPUs copies g, not x, which is mostly the larger
        dw = contract("...j,...i->ji", g, x, like=w, precision=precision.value).T
    else:
        dw = contract("...i,...j->ij", x, g, like=w, precision=precision.value)
    db = None if b is None else sum_to(g, b)
    return dx, dw, db


_lin = register(_forward, lin_fwd, lin_bwd, name="lin")


def _require_shapes(x: tuple[int, ...], w: tuple[int, ...], b: tuple[int, ...] | None) -> None:
    if len(w) != 2:
        raise ValueError(f"lin: w must have shape (n_in, n_out); got shape {w}")
    if not x or x[-1] != w[0]:
        transposed = bool(x) and x[-1] == w[1]
        remedy = "w seems transposed: pass w.T" if transposed else "x is (..., n_in)"
        raise ValueError(
            f"lin: the last axis of x must have the size n_in = {w[0]} of w's first axis; "
            f"got x of shape {x} and w of shape {w}. {remedy}"
        )
    if b is not None and b != w[1:]:
        raise ValueError(
            f"lin: b must have shape (n_out,) = {w[1:]}; got shape {b}. "
            "A bias has one number for each column of w"
        )
