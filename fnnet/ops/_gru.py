"""A gated recurrent unit (GRU).

    gru : x (T, ..., n_in), h0 (..., n_h), wx (n_in, 3 n_h), wh (n_h, 3 n_h), b (3 n_h)
          -> h (T, ..., n_h), the states after each step

Axes: t of T steps; p over the batch axes together (the sequences); i of n_in inputs; j, k of n_h
units. The columns of wx, wh and b are three blocks: r (reset), z (update), n (candidate).

Forward, from h_0 = h0, with σ the logistic function
    a_tp = Σ_i x_tpi wx_i + b                three blocks a^r, a^z, a^n, for all steps at once
    u_tp = Σ_j h_(t-1)pj wh_j                three blocks u^r, u^z, u^n
    r = σ(a^r + u^r)    z = σ(a^z + u^z)    n = tanh(a^n + r u^n)
    h_t = (1 - z) n + z h_(t-1)

Backward, with g_t = ∂L/∂h_t; all products are unit by unit, t and p left out
    e is the whole cotangent of h_t: g_t and what step t+1 hands back. h_t contains z, n, h_(t-1):
        ∂L/∂n = e (1 - z)        ∂L/∂z = e (h_(t-1) - n)
    From tanh' = 1 - tanh² and σ' = σ (1 - σ), the cotangents of the arguments of tanh and σ:
        s^n = e (1 - z) (1 - n²)     s^z = e (h_(t-1) - n) z (1 - z)     s^r = s^n u^n r (1 - r)
    a enters as it is, u^n with the factor r:
        da = (s^r, s^z, s^n)         du = (s^r, s^z, s^n r)
    and h_(t-1) enters h_t directly, and u:
        e_(t-1) = g_(t-1) + z e + Σ_k du_k wh_jk
    That is one product a step. The rest is summed over all steps after the loop:
        dwh_jk = Σ_tp h_(t-1)pj du_tpk       dwx_ik = Σ_tp x_tpi da_tpk
        dx_tpi = Σ_k da_tpk wx_ik            db_k = Σ_tp da_tpk

Forward mode; a dot marks a tangent. By the product rule, and σ' = σ (1 - σ), tanh' = 1 - tanh²,
    ȧ = Σ_i (ẋ_i wx_i + x_i ẇx_i) + ḃ        u̇ = Σ_j (h_(t-1)j ẇh_j + ḣ_(t-1)j wh_j)
    ṙ = r (1 - r) (ȧ^r + u̇^r)     ż = z (1 - z) (ȧ^z + u̇^z)     ṅ = (1 - n²) (ȧ^n + ṙ u^n + r u̇^n)
    ḣ_t = (1 - z) ṅ + ż (h_(t-1) - n) + z ḣ_(t-1)
    Both sums are made step by step, and nothing of all steps is held but h, the gates and the
    result: beside what the forward pass holds, which is over then, it needs no scratch memory.

Residuals
    x, h0, wx, wh: the caller's arrays; h: the result; r, z, n, u^n; by name "fnnet.gru.h" and so
    on ("fnnet.gru.u" the last). The last four could be
    computed again from h, by two more products of all steps (a and u), at a fifth more time.
    Autodiff keeps more than ten arrays of all steps.
    float16 and bfloat16 are added up in float32; the states are rounded in each step. For float16
    the gates are kept in float32: in second derivatives their cotangents, which go on to be
    multiplied by σ' and tanh', can be larger than a float16.

References
    K. Cho et al., Learning phrase representations using RNN encoder-decoder, arXiv:1406.1078; here
    in the form in which r multiplies h wh_n (the reset after the product, as in cuDNN and
    PyTorch), with a single bias.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from fnnet.ops._checks import floats, require_recurrent, shapes
from fnnet.ops._compiled import compiled
from fnnet.ops._options import PRECISION
from fnnet.ops._rnn import Carry, tangent_of_sums
from fnnet.rules import Like, Precision, Static, accumulator, contract, register, spread, sum_to

Residuals: TypeAlias = tuple[
    jax.Array, jax.Array, jax.Array, jax.Array, Like, jax.Array, "Gates", Static
]


class Gates(NamedTuple):
    """r, z, n and u^n."""

    r: jax.Array
    z: jax.Array
    n: jax.Array
    u: jax.Array


@compiled(precision=PRECISION)
def gru(
    x: Float[ArrayLike, "t *batch i"],
    h0: Float[ArrayLike, "*batch h"],
    wx: Float[ArrayLike, "i 3*h"],
    wh: Float[ArrayLike, "h 3*h"],
    b: Float[ArrayLike, " 3*h"],
    *,
    precision: Precision = None,
) -> Float[Array, "t *batch h"]:
    """Gated recurrent unit.

    Args:
        x: the sequences, time first: shape (T, ..., n_in), real floating point.
        h0: the state before the first step: shape (..., n_h).
        wx: shape (n_in, 3 n_h): the weights of the reset gate, the update gate and the candidate,
            side by side.
        wh: shape (n_h, 3 n_h), likewise.
        b: shape (3 n_h,), likewise.
        precision: of the products, as in `jnp.einsum`, forward and backward alike.

    Returns:
        The states after each step, shape (T, ..., n_h); the last one is ``[-1]``.

    Raises:
        TypeError: for arrays that are not of real floating point dtype.
        ValueError: for shapes that do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnnet import gru
        >>> x, h0, w = jnp.ones((2, 1, 1)), jnp.zeros((1, 1)), jnp.ones((1, 3))
        >>> [f"{h:.4f}" for h in gru(x, h0, w, w, jnp.zeros(3)).ravel()]
        ['0.2048', '0.3468']
    """
    arrays = floats("gru", x=x, h0=h0, wx=wx, wh=wh, b=b)
    require_recurrent("gru", *shapes(*arrays), gates=3)
    return _gru(*arrays, precision=precision)


def _states(
    x: jax.Array, h0: jax.Array, wx: jax.Array, wh: jax.Array, b: jax.Array, precision: Precision
) -> tuple[jax.Array, Gates]:
    """h, and r, z, n, u^n, after each step."""
    dtype, wide = jnp.result_type(x, h0, wx, wh, b), accumulator(x, h0, wx, wh, b)
    kept = wide if dtype == jnp.float16 else dtype
    a = contract("t...i,ik->t...k", x, wx, dtype=wide, precision=precision)
    a = (a + jnp.broadcast_to(b.astype(wide), a.shape)).astype(dtype)

    def step(h: jax.Array, a: jax.Array) -> tuple[jax.Array, tuple[jax.Array, Gates]]:
        u = contract("...j,jk->...k", h, wh, dtype=wide, precision=precision)
        ar, az, an = jnp.split(a.astype(wide), 3, -1)
        ur, uz, un = jnp.split(u, 3, -1)
        r, z = jax.nn.sigmoid(ar + ur), jax.nn.sigmoid(az + uz)
        n = jnp.tanh(an + r * un)
        h = ((1 - z) * n + z * h.astype(wide)).astype(dtype)
        return h, (h, Gates(*(v.astype(kept) for v in (r, z, n, un))))

    states: tuple[jax.Array, Gates] = lax.scan(step, spread(h0.astype(dtype), a, wh), a)[1]
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


def gru_fwd(
    x: jax.Array,
    h0: jax.Array,
    wx: jax.Array,
    wh: jax.Array,
    b: jax.Array,
    *,
    precision: Precision = None,
) -> tuple[jax.Array, Residuals]:
    """x, h0, wx, wh, b -> h, residuals."""
    h, gates = _states(x, h0, wx, wh, b, precision)
    h = checkpoint_name(h, "fnnet.gru.h")
    r, z, n, un = (checkpoint_name(v, f"fnnet.gru.{k}") for k, v in gates._asdict().items())
    gates = Gates(r, z, n, un)
    return h, (x, h0, wx, wh, Like.of(b), h, gates, Static(precision))


def gru_bwd(
    res: Residuals, g: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]:
    """residuals, CT h -> CT x, CT h0, CT wx, CT wh, CT b."""
    x, h0, wx, wh, b, h, gates, static = res
    precision, wide = static.value, accumulator(g, wh)
    before = jnp.concatenate([h0[None].astype(h.dtype), h])[:-1]
    back = wh.T  # once, not in every step

    def step(
        e: jax.Array, at: tuple[jax.Array, ...]
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        g, h, r, z, n, un = (v.astype(wide) for v in at)
        e = e + g
        sn = e * (1 - z) * (1 - n * n)
        sz = e * (h - n) * z * (1 - z)
        sr = sn * un * r * (1 - r)
        du = jnp.concatenate([sr, sz, sn * r], -1).astype(at[0].dtype)
        before = z * e + contract("...k,kj->...j", du, back, dtype=wide, precision=precision)
        return before, (du, sn.astype(du.dtype))

    start = spread(jnp.zeros(h0.shape, wide), g, h, wh)
    e0, (du, sn) = lax.scan(step, start, (g, before, *gates), reverse=True)
    da = jnp.concatenate([du[..., : 2 * sn.shape[-1]], sn], -1)
    dx = contract("t...k,ik->t...i", da, wx, like=x, precision=precision)
    dwx = contract("t...i,t...k->ik", x, da, like=wx, precision=precision)
    dwh = contract("t...j,t...k->jk", before, du, like=wh, precision=precision)
    return dx, e0.astype(h0.dtype), dwx, dwh, sum_to(da, b)


def _tangent(
    res: Residuals,
    dx: jax.Array | None,
    dh0: jax.Array | None,
    dwx: jax.Array | None,
    dwh: jax.Array | None,
    db: jax.Array | None,
) -> jax.Array | None:
    """residuals, T x, T h0, T wx, T wh, T b -> T h; None for a tangent of zero."""
    x, h0, wx, wh, b, h, gates, static = res
    wide, dtype = accumulator(x, h0, wx, wh), jnp.result_type(x, h0, wx, wh, b.dtype)

    def step(before: Carry, at: tuple[Any, ...]) -> tuple[Carry, jax.Array]:
        x, dx, h_new, *gates = at
        h, h_dot = (v.astype(wide) for v in before)
        r, z, n, un = (v.astype(wide) for v in gates)
        shape, precision = (*h.shape[:-1], wx.shape[-1]), static.value
        a_dot = tangent_of_sums([(dx, wx), (x, dwx)], db, shape, wide, precision)
        states = [(before[0], dwh), (before[1], wh)]
        u_dot = tangent_of_sums(states, None, shape, wide, precision)
        ar, az, an = jnp.split(a_dot, 3, -1)
        ur, uz, un_dot = jnp.split(u_dot, 3, -1)
        r_dot, z_dot = r * (1 - r) * (ar + ur), z * (1 - z) * (az + uz)
        n_dot = (1 - n * n) * (an + r_dot * un + r * un_dot)
        h_dot = ((1 - z) * n_dot + z_dot * (h - n) + z * h_dot).astype(dtype)
        return (h_new, h_dot), h_dot

    start = (h0.astype(dtype), jnp.zeros(h0.shape, dtype) if dh0 is None else dh0.astype(dtype))
    given = [v for v in (x, dx, wx, dwx, wh, dwh, db, h, *gates) if v is not None]
    return lax.scan(step, spread(start, *given), (x, dx, h, *gates))[1]


_gru = register(_forward, gru_fwd, gru_bwd, name="gru", automatic_axes=True, tangent=_tangent)
