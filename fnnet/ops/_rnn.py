"""A recurrent (Elman) layer.

    rnn : x (T, ..., n_in), h0 (..., n_h), wx (n_in, n_h), wh (n_h, n_h), b (n_h)
          -> h (T, ..., n_h), the states after each step

Axes: t of T steps; p over the batch axes together (the sequences); i of n_in inputs; j, k of n_h
units.

Forward, from h_0 = h0
    a_tpk = Σ_i x_tpi wx_ik + b_k + Σ_j h_(t-1)pj wh_jk
    h_tpk = tanh a_tpk
    The first sum needs no state: it is one product for all steps, outside of the loop.

Backward, with g_tpk = ∂L/∂h_tpk
    h_t reaches the loss directly, and through a_(t+1). Call the whole of it e_t:
        e_tpj = g_tpj + Σ_k da_(t+1)pk wh_jk            with da_(T+1) = 0
        da_tpk = e_tpk (1 - h_tpk²)                     as tanh' = 1 - tanh²
    so da runs from the last step to the first, with one product a step. Everything else is a sum
    over all steps, of what the loop has left behind:
        dwh_jk = Σ_tp h_(t-1)pj da_tpk        dh0_pj = Σ_k da_1pk wh_jk
        dwx_ik = Σ_tp x_tpi da_tpk            dx_tpi = Σ_k da_tpk wx_ik           db_k = Σ_tp da_tpk
    Autodiff adds a dwh up in every step instead: T small products, and T sums of n_h² numbers.
    The backward steps read wh turned round, a copy made once: faster, above all under `vmap`. But
    with one sequence on JAX 0.12 scratch memory is a quarter of the arguments above autodiff's.

Forward mode; a dot marks a tangent. By the product rule, and tanh' = 1 - tanh²,
    ȧ_tpk = Σ_i (ẋ_tpi wx_ik + x_tpi ẇx_ik) + ḃ_k + Σ_j (h_(t-1)pj ẇh_jk + ḣ_(t-1)pj wh_jk)
    ḣ_tpk = (1 - h_tpk²) ȧ_tpk                          from ḣ_0 = ḣ0
    ȧ is made step by step, and nothing of all steps is held but h and the result: beside what the
    forward pass holds, which is over then, it needs no scratch memory.

Residuals
    x, h0, wx, wh: the caller's arrays. h: the result, which gives tanh' without a, by name
    "fnnet.rnn.h" (see `jax.checkpoint_policies`). Nothing more.
    float16 and bfloat16 are added up in float32; the states are rounded in each step. For float16 h
    is kept in float32, as it was before: in second derivatives its cotangent, which goes on to be
    multiplied by 1 - h², can be larger than a float16.

References
    J. L. Elman, Finding structure in time, Cognitive Science 14 (1990).
    P. J. Werbos, Backpropagation through time, Proceedings of the IEEE 78 (1990).
    J. Appleyard, T. Kociský, P. Blunsom, Optimizing performance of recurrent neural networks on
    GPUs, arXiv:1604.01946: the products that need no state, all at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from fnnet.ops._checks import floats, require_recurrent, shapes
from fnnet.ops._compiled import compiled
from fnnet.ops._options import PRECISION
from fnnet.rules import Like, Precision, Static, accumulator, contract, register, spread, sum_to

Residuals: TypeAlias = tuple[jax.Array, jax.Array, jax.Array, jax.Array, Like, jax.Array, Static]
Carry: TypeAlias = tuple[jax.Array, jax.Array]  # a state, and its tangent


@compiled(precision=PRECISION)
def rnn(
    x: Float[ArrayLike, "t *batch i"],
    h0: Float[ArrayLike, "*batch h"],
    wx: Float[ArrayLike, "i h"],
    wh: Float[ArrayLike, "h h"],
    b: Float[ArrayLike, " h"],
    *,
    precision: Precision = None,
) -> Float[Array, "t *batch h"]:
    """Recurrent layer ``h_t = tanh(x_t @ wx + h_{t-1} @ wh + b)``.

    Args:
        x: the sequences, time first: shape (T, ..., n_in), real floating point.
        h0: the state before the first step: shape (..., n_h).
        wx: shape (n_in, n_h).
        wh: shape (n_h, n_h).
        b: shape (n_h,).
        precision: of the products, as in `jnp.einsum`, forward and backward alike.

    Returns:
        The states after each step, shape (T, ..., n_h); the last one is ``[-1]``.

    Raises:
        TypeError: for arrays that are not of real floating point dtype.
        ValueError: for shapes that do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnnet import rnn
        >>> x, one = jnp.array([1.0, 0.0])[:, None, None], jnp.ones((1, 1))
        >>> [f"{h:.4f}" for h in rnn(x, 0 * one, one, one, jnp.zeros(1)).ravel()]
        ['0.7616', '0.6420']
    """
    arrays = floats("rnn", x=x, h0=h0, wx=wx, wh=wh, b=b)
    require_recurrent("rnn", *shapes(*arrays), gates=1)
    return _rnn(*arrays, precision=precision)


def _states(
    x: jax.Array, h0: jax.Array, wx: jax.Array, wh: jax.Array, b: jax.Array, precision: Precision
) -> tuple[jax.Array, jax.Array]:
    """h, and h before it was rounded."""
    dtype, wide = jnp.result_type(x, h0, wx, wh, b), accumulator(x, h0, wx, wh, b)
    a = contract("t...i,ik->t...k", x, wx, dtype=wide, precision=precision)
    a = (a + jnp.broadcast_to(b.astype(wide), a.shape)).astype(dtype)

    def step(h: jax.Array, a: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        u = contract("...j,jk->...k", h, wh, dtype=wide, precision=precision)
        exact = jnp.tanh(a.astype(wide) + u)
        h = exact.astype(dtype)
        return h, (h, exact)

    states: tuple[jax.Array, jax.Array] = lax.scan(step, spread(h0.astype(dtype), a, wh), a)[1]
    return states


def _forward(
    x: jax.Array,
    h0: jax.Array,
    wx: jax.Array,
    wh: jax.Array,
    b: jax.Array,
    *,
    precision: Precision = None,
) -> jax.Array:
    return _states(x, h0, wx, wh, b, precision)[0]


def rnn_fwd(
    x: jax.Array,
    h0: jax.Array,
    wx: jax.Array,
    wh: jax.Array,
    b: jax.Array,
    *,
    precision: Precision = None,
) -> tuple[jax.Array, Residuals]:
    """x, h0, wx, wh, b -> h, residuals."""
    h, exact = _states(x, h0, wx, wh, b, precision)
    if h.dtype == jnp.float16:
        kept = checkpoint_name(exact, "fnnet.rnn.h")
    else:  # one and the same array, which the next layer may keep too
        h = kept = checkpoint_name(h, "fnnet.rnn.h")
    return h, (x, h0, wx, wh, Like.of(b), kept, Static(precision))


def rnn_bwd(
    res: Residuals, g: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]:
    """residuals, CT h -> CT x, CT h0, CT wx, CT wh, CT b."""
    x, h0, wx, wh, b, h, static = res
    precision, wide = static.value, accumulator(g, wh)
    back = wh.T  # once, not in every step

    def step(e: jax.Array, gh: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        g, h = (v.astype(wide) for v in gh)
        da = ((e + g) * (1 - h * h)).astype(gh[0].dtype)
        return contract("...k,kj->...j", da, back, dtype=wide, precision=precision), da

    start = spread(jnp.zeros(h0.shape, wide), g, h, wh)
    e0, da = lax.scan(step, start, (g, h), reverse=True)
    before = jnp.concatenate([h0[None].astype(g.dtype), h.astype(g.dtype)])[:-1]
    dx = contract("t...k,ik->t...i", da, wx, like=x, precision=precision)
    dwx = contract("t...i,t...k->ik", x, da, like=wx, precision=precision)
    dwh = contract("t...j,t...k->jk", before, da, like=wh, precision=precision)
    return dx, e0.astype(h0.dtype), dwx, dwh, sum_to(da, b)


def tangent_of_sums(
    pairs: Sequence[tuple[jax.Array | None, jax.Array | None]],
    bias: jax.Array | None,
    shape: tuple[int, ...],
    dtype: Any,
    precision: Precision,
) -> jax.Array:
    """The sum of the products a w and of a bias, of one step; None stands for zero."""
    total = jnp.zeros(shape, dtype)
    if bias is not None:
        total += jnp.broadcast_to(bias.astype(dtype), shape)
    for a, w in pairs:
        if a is not None and w is not None:
            total += contract("...i,ik->...k", a, w, dtype=dtype, precision=precision)
    return total


def _tangent(
    res: Residuals,
    dx: jax.Array | None,
    dh0: jax.Array | None,
    dwx: jax.Array | None,
    dwh: jax.Array | None,
    db: jax.Array | None,
) -> jax.Array:
    """residuals, T x, T h0, T wx, T wh, T b, None for zero -> T h."""
    x, h0, wx, wh, b, h, static = res
    wide, dtype = accumulator(x, h0, wx, wh), jnp.result_type(x, h0, wx, wh, b.dtype)

    def step(before: Carry, at: tuple[Any, Any, Any]) -> tuple[Carry, jax.Array]:
        x, dx, h = at
        old, old_dot = before
        exact = h.astype(wide)
        pairs = [(dx, wx), (x, dwx), (old, dwh), (old_dot, wh)]
        a_dot = tangent_of_sums(pairs, db, h.shape, wide, static.value)
        h_dot = ((1 - exact * exact) * a_dot).astype(dtype)
        return (h.astype(dtype), h_dot), h_dot

    start = (h0.astype(dtype), jnp.zeros(h0.shape, dtype) if dh0 is None else dh0.astype(dtype))
    given = [v for v in (x, dx, wx, dwx, wh, dwh, db, h) if v is not None]
    return lax.scan(step, spread(start, *given), (x, dx, h))[1]


_rnn = register(_forward, rnn_fwd, rnn_bwd, name="rnn", automatic_axes=True, tangent=_tangent)
