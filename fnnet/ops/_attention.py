"""Scaled dot-product attention, without ever holding the matrix of all weights.

    attention : q (..., t, H, d), k (..., s, K, d), v (..., s, K, e) -> o (..., t, H, e)

Axes: leading ones of the batch; t of queries, s of keys and values (positions); H heads of queries,
K of keys, each K serving G = H / K of them (grouped heads); d, e of features. Below the batch and
the head are left out: i is a query, j a key.

Forward, with α the scale and M_ij true where query i may look at key j
    z_ij = α Σ_d q_id k_jd                       over the j with M_ij alone
    m_i  = max_j z_ij        S_i = Σ_j e^(z_ij - m_i)        p_ij = e^(z_ij - m_i) / S_i
    o_ie = Σ_j p_ij v_je
    A query that may look nowhere has the empty sum o_i = 0.
    Key blocks are taken one after the other. With m_i the largest z_ij so far, S_i the sum of the
    e^(z_ij - m_i) and O_i that of the e^(z_ij - m_i) v_j, a further block that raises m_i to m'_i
    rescales what there is by e^(m_i - m'_i) and adds its own. In the end o = O / S.

Backward, with g_ie = ∂L/∂o_ie
    dv_je = Σ_i p_ij g_ie                        dp_ij = Σ_e g_ie v_je
    By the rule of softmax, dz_ij = p_ij (dp_ij - D_i) with D_i = Σ_j p_ij dp_ij. That sum is taken
    as it stands where one block holds all keys of a query. Else it is needed before it can be, and
    needs no p:
        D_i = Σ_e g_ie Σ_j p_ij v_je = Σ_e g_ie o_ie
    so  dq_id = α Σ_j dz_ij k_jd                 dk_jd = α Σ_i dz_ij q_id
        dα    = Σ_ij dz_ij Σ_d q_id k_jd = Σ_id q_id Σ_j dz_ij k_jd,    dq without its α
    A key serves all queries and the G heads of its group: the sums over i run over those too.
    Where p meets g it may be S that moves: Σ_i p_ij g_i is Σ_i e^(z_ij - m_i) (g_i / S_i).

Residuals
    q, k, v, the mask and α: the caller's arrays; m and S: two numbers a query (their sum
    l = m + log S, one number, would lose the digits of log S where m is large). z and p, of t s
    numbers a head, are computed again, block by block. If there are several blocks of keys, o too,
    for D, in float32 (D is a difference's second term: the o that is rounded to bfloat16 would
    leave dz few digits). Named "fnnet.attention.l" and
    "fnnet.attention.o", for policies of `jax.checkpoint`; no policy saves z (`as_one`).
    Sums, z, p and dz in float32 for float16 and bfloat16; as factors of the products with v and g
    weights are rounded to the inputs' dtype, and S and D are sums of the rounded ones (`rounded`).
    What is hidden leaves no trace, be it NaN: see _hidden.py.

References
    A. Vaswani et al., Attention is all you need, arXiv:1706.03762.
    M. Milakov, N. Gimelshein, Online normalizer calculation for softmax, arXiv:1805.02867.
    M. N. Rabe, C. Staats, Self-attention does not need O(n²) memory, arXiv:2112.05682.
    T. Dao et al., FlashAttention, arXiv:2205.14135: D_i and the backward pass by blocks.
    J. Ainslie et al., GQA: grouped heads, arXiv:2305.13245.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from fnnet.ops._attention_shapes import require_attention
from fnnet.ops._checks import floats
from fnnet.ops._compiled import compiled
from fnnet.ops._hidden import finite, of_others
from fnnet.ops._options import FLAG, PRECISION, Number, number, whole_number
from fnnet.ops._rounding import rounded, shift
from fnnet.ops._tiles import (
    Blocks,
    Carry,
    Options,
    Start,
    added,
    as_one,
    by_head,
    by_position,
    part,
    where,
)
from fnnet.rules import Precision, Static, accumulator, register


@compiled(
    causal=FLAG,
    scale=number(or_none="1/√d"),
    block=whole_number(1, or_none="256"),
    precision=PRECISION,
)
def attention(
    q: Float[ArrayLike, "*batch t heads d"],
    k: Float[ArrayLike, "*batch s kv_heads d"],
    v: Float[ArrayLike, "*batch s kv_heads e"],
    *,
    causal: bool = False,
    mask: Bool[ArrayLike, "..."] | None = None,
    scale: Number | None = None,
    block: int | None = None,
    precision: Precision = None,
) -> Float[Array, "*batch t heads e"]:
    """Each query's mean of the values, weighted by ``softmax(scale * q @ k)``.

    Args:
        q: queries, shape (..., t, heads, d), real floating point. Leading axes are batch axes.
        k: keys, shape (..., s, kv_heads, d). heads is a multiple of kv_heads: query head h looks at
            key head h // (heads / kv_heads).
        v: values, shape (..., s, kv_heads, e).
        causal: whether query i sees the keys 0..i only (counted from the first of each).
        mask: true where a query may look at a key; boolean, of a shape that broadcasts to
            (..., heads, t, s), with as many axes or fewer. It is never broadcast in memory. What is
            hidden, by it or causally, leaves no trace in the result or a gradient, not even as NaN.
        scale: of the logits; 1/√d by default. An array of no axes has a derivative: a learned
            temperature.
        block: how many queries and keys are taken at a time at most; 256 by default. The result is
            the same but for rounding, scratch memory grows with its square.
        precision: of the products, as in `jnp.einsum`, forward and backward alike.

    Returns:
        Shape (..., t, heads, e). A query that may look nowhere gives zeros, and has no gradient.
        One that sees numbers so large that all its logits overflow to -inf gives NaN.

    Raises:
        TypeError: for arrays that are not of real floating point dtype, or a mask that is not
            boolean.
        ValueError: for shapes that do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnnet import attention
        >>> q, v = jnp.zeros((2, 1, 1)), jnp.array([2.0, 4.0]).reshape(2, 1, 1)
        >>> attention(q, q, v, causal=True).ravel().tolist()
        [2.0, 3.0]
    """
    queries, keys, values = floats("attention", q=q, k=k, v=v)
    require_attention(queries, keys, values, mask)
    shown = None if mask is None else jnp.asarray(mask)
    options, learned = _options(queries, causal, scale, block, precision)
    return _attention(queries, keys, values, shown, learned, options=options)


class Mean(NamedTuple):
    """The result, and what of it the backward pass needs beside the arguments."""

    o: jax.Array  # (..., t, H, e), in the dtype of the arguments
    exact: jax.Array | None  # o before it was rounded, where D needs it and it was
    m: jax.Array  # (..., K, G, t, 1), as is S
    total: jax.Array


Residuals: TypeAlias = tuple[
    jax.Array, jax.Array, jax.Array, jax.Array | None, jax.Array | None, Mean, Static
]


def _mean(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: jax.Array | None,
    scale: jax.Array | None,
    options: Options,
) -> Mean:
    dtype = jnp.result_type(q, k, v)
    if _is_empty(q, k):
        none = jnp.zeros((*q.shape[:-3], 0, 0, 0, 1), accumulator(q, k, v))
        return Mean(jnp.zeros((*q.shape[:-1], v.shape[-1]), dtype), None, none, none)
    blocks = Blocks(q, k, v, mask, scale, options)

    def meet(i: Start, j: Start, m: jax.Array | None = None) -> tuple[jax.Array, ...]:
        """m with what a pair of blocks adds to it, and the block's S and O."""
        z, *_ = blocks.logits(i, j)
        there = jnp.max(z, -1, keepdims=True)
        m = there if m is None else jnp.maximum(m, there)
        vj = blocks.factor(part(blocks.v, j, blocks.tiles.sb))
        p = rounded(jnp.exp(z - shift(m)), v.dtype)
        o = blocks.product("...rs,...se->...re", p.astype(v.dtype), vj)
        return m, jnp.sum(p, -1, keepdims=True), o

    def step(state: Carry, i: Start, j: Start) -> Carry:
        m_old, total, o = (blocks.of_block(x, i) for x in state)
        m, total_more, o_more = meet(i, j, m_old)
        rescale = jnp.exp(m_old - shift(m))
        new = (m, total * rescale + total_more, o * rescale + o_more)
        return tuple(blocks.put(x, i, y) for x, y in zip(state, new, strict=True))

    if blocks.tiles.is_one:
        m, total, o = (blocks.put(x, 0, x) for x in meet(0, 0))
    else:
        rows = blocks.q.shape[:-1]
        start = (
            jnp.full((*rows, 1), -jnp.inf, blocks.wide),
            jnp.zeros((*rows, 1), blocks.wide),
            jnp.zeros((*rows, v.shape[-1]), blocks.wide),
        )
        state = blocks.tiles.each(step, start, q, k, v, mask, scale)
        m, total, o = (x[..., : q.shape[-3], :] for x in state)
    seen = blocks.seen_at_all()
    if seen is not None:  # of a query that may look nowhere o is 0 / 1
        total = where(jnp.any(seen, -1, keepdims=True), total, 1)
    o = o / total
    if blocks.hides:
        others = of_others(by_head(v, 1), seen, n=q.shape[-3], queries=False)
        o = o + others.astype(o.dtype)
    o = by_position(o)
    exact = None if blocks.tiles.columns == 1 or o.dtype == dtype else o
    return Mean(o.astype(dtype), exact, shift(m), total)


def _forward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: jax.Array | None,
    scale: jax.Array | None,
    *,
    options: Static,
) -> jax.Array:
    return _mean(q, k, v, mask, scale, options.value).o


def _fwd(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: jax.Array | None,
    scale: jax.Array | None,
    *,
    options: Static,
) -> tuple[jax.Array, Residuals]:
    mean = as_one(partial(_mean, options=options.value))(q, k, v, mask, scale)
    o, m, total = (
        checkpoint_name(x, f"fnnet.attention.{name}")
        for x, name in ((mean.o, "o"), (mean.m, "l"), (mean.total, "l"))
    )
    exact = None if mean.exact is None else checkpoint_name(mean.exact, "fnnet.attention.o")
    return o, (q, k, v, mask, scale, Mean(o, exact, m, total), options)


def attention_fwd(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    causal: bool = False,
    mask: jax.Array | None = None,
    scale: Number | None = None,
    block: int | None = None,
    precision: Precision = None,
) -> tuple[jax.Array, Residuals]:
    """q, k, v -> o, residuals."""
    options, learned = _options(q, causal, scale, block, precision)
    return _fwd(q, k, v, mask, learned, options=options)


def attention_bwd(
    res: Residuals, g: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, None, jax.Array | None]:
    """residuals, CT o -> CT q, CT k, CT v, None for the mask, CT scale where it is an array."""
    q, k, v, mask, scale, mean, static = res
    if _is_empty(q, k):
        zero = None if scale is None else jnp.zeros_like(scale)
        return jnp.zeros_like(q), jnp.zeros_like(k), jnp.zeros_like(v), None, zero
    blocks = Blocks(q, k, v, mask, scale, static.value)
    t, s, wide = q.shape[-3], k.shape[-3], blocks.wide
    one_column = blocks.tiles.columns == 1

    over, d = 1 / mean.total, jnp.zeros_like(mean.total)
    like, g = g, by_head(g, blocks.groups)
    if not one_column:
        o = mean.o if mean.exact is None else mean.exact
        d = jnp.sum(g.astype(wide) * by_head(o, blocks.groups), -1, keepdims=True)
    if blocks.hides:
        # factors are made finite: what of a query is not must be seen in its g and its D
        right = (over > 0) & (over < jnp.inf)
        g, over = where(right, g, jnp.nan), finite(over)
        if one_column:
            others = of_others(by_head(v, 1), blocks.seen_at_all(), n=t, queries=False)
            right = jnp.all((others == 0) & jnp.isfinite(g), -1, keepdims=True)
        d = where(right, d, jnp.nan)
    else:
        over = where(over > 0, over, jnp.nan)  # z = inf was seen
    given = g
    if blocks.is_wide:  # p / S g is p g / S: of one number a query and feature, not a key
        g, d = g * over, d * over
    m, over, g, d = map(blocks.rows, (mean.m, over, g, d))

    def step(sums: Carry, i: Start, j: Start) -> Carry:
        dq, dk, dv = sums
        z, seen, qi, kj = blocks.logits(i, j)
        mi, over_i, gi, di = (blocks.of_block(x, i) for x in (m, over, g, d))
        vj = part(blocks.v, j, blocks.tiles.sb)
        gi, vj, qi, kj = map(blocks.factor, (gi, vj, qi, kj))
        p = rounded(jnp.exp(z - mi), v.dtype)
        p = p if blocks.is_wide else p * over_i
        dp = blocks.product("...re,...se->...rs", gi, vj)
        if one_column:
            sum_i = jnp.sum(p * dp, -1, keepdims=True)
            di = di + (sum_i * over_i if blocks.is_wide else sum_i)
        dz = where(seen, p * (dp - di), 0)
        dqi = blocks.of_block(dq, i) + blocks.product("...rs,...sd->...rd", dz, kj)
        return (
            blocks.put(dq, i, dqi),
            added(dk, j, blocks.product("...rs,...rd->...sd", dz, qi)),
            added(dv, j, blocks.product("...rs,...re->...se", p.astype(g.dtype), gi)),
        )

    start = tuple(jnp.zeros_like(x, dtype=wide) for x in (blocks.q, blocks.k, blocks.v))
    dq, dk, dv = blocks.tiles.each(step, start, q, k, v, mask, scale, like)
    dq, dk, dv = dq[..., :t, :], dk[..., :s, :], dv[..., :s, :]
    if blocks.hides:
        others = of_others(given, blocks.seen_at_all(), n=s, queries=True)
        dv = dv + jnp.sum(others, -3).astype(wide)
    dscale = None
    if scale is not None:
        queries = by_head(blocks.factor(q), blocks.groups)
        dscale = jnp.sum(queries.astype(wide) * dq).astype(scale.dtype)
    dq = by_position(dq * blocks.scale)
    dk = dk if blocks.is_wide else dk * blocks.scale
    dk, dv = jnp.moveaxis(dk, -3, -2), jnp.moveaxis(dv, -3, -2)
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), None, dscale


_attention = register(_forward, _fwd, attention_bwd, name="attention", automatic_axes=True)


def _options(
    q: jax.Array, causal: bool, scale: Number | None, block: int | None, precision: Precision
) -> tuple[Static, jax.Array | None]:
    """The options, and the scale if it is an array: that one has a derivative."""
    if isinstance(scale, jax.Array):
        return Static(Options(causal, None, block, precision)), scale
    number = 1 / math.sqrt(max(q.shape[-1], 1)) if scale is None else float(scale)
    return Static(Options(causal, number, block, precision)), None


def _is_empty(q: jax.Array, k: jax.Array) -> bool:
    """Whether there are no heads, no queries or no keys."""
    return 0 in (*q.shape[-3:-1], *k.shape[-3:-1])
