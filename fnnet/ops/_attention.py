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
    Key blocks are taken one after the other: see _attention_mean.py.

Forward mode: see _attention_tangent.py.

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

    Σ_j dz_ij = 0. What is left of it by rounding, times what the keys have in common, is an error
    of dq_i. So o, hence D, and p must be of the same weights. Of several blocks, the forward pass
    rounds e^(z_ij - m'_i) to 16 bits, m'_i the largest z so far, and rescales later; the backward
    pass finds these m' again, rounds as it did, and p is that times e^(m'_i - m_i) / S_i.
    Where p_ij = 1, all other p_i vanish, and D_i = dp_ij. The two are sums in different orders: it
    is dp_ij that is taken for D_i, so that dz_i is 0, as it is in one block.
    Where all but a small ε of a query's weight is on key j, dz_ij = p_ij (dp_ij - D_i) is a small
    difference of two rounded sums: its error, 2^-24 / ε of itself, is that of `jax.nn` too. Of one
    block the two are sums of the same numbers, whose errors partly agree; of several D_i has o_i,
    rounded, in the place of v_j. Sums of the differences dp_ij' - dp_ij would keep all digits, but
    need the v_j of each query's heaviest key: one more array of o's size, which is not kept.

Residuals
    q, k, v, the mask and α: the caller's arrays; m and S: two numbers a query (their sum
    l = m + log S, one number, would lose the digits of log S where m is large). z and p, of t s
    numbers a head, are computed again, block by block. If there are several blocks of keys, o too,
    for D, in float32 (D is a difference's second term: the o that is rounded to bfloat16 would
    leave dz few digits). Named "fnnet.attention.l" and
    "fnnet.attention.o", for policies of `jax.checkpoint`; no policy saves z (`as_one`).
    Sums, z, p and dz in float32 for float16 and bfloat16; as factors of the products with v and g
    weights are rounded to the inputs' dtype, and S and D are sums of the rounded ones (`rounded`).
    Of the scale and the digits of z - m: see _attention_blocks.py.
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

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from fnnet.ops._attention_blocks import Blocks, by_head, by_position, where
from fnnet.ops._attention_mean import Mean, Residuals, as_one, is_empty, weighted_mean
from fnnet.ops._attention_shapes import require_attention
from fnnet.ops._attention_tangent import attention_tangent
from fnnet.ops._checks import floats
from fnnet.ops._compiled import compiled
from fnnet.ops._hidden import finite, of_others
from fnnet.ops._options import FLAG, PRECISION, Number, number, whole_number
from fnnet.ops._tiles import Carry, Options, Start, added, part
from fnnet.rules import Precision, Static, register


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


def _forward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: jax.Array | None,
    scale: jax.Array | None,
    *,
    options: Static,
) -> jax.Array:
    return weighted_mean(q, k, v, mask, scale, options.value).o


def _fwd(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    mask: jax.Array | None,
    scale: jax.Array | None,
    *,
    options: Static,
) -> tuple[jax.Array, Residuals]:
    mean = as_one(partial(weighted_mean, options=options.value))(q, k, v, mask, scale)
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
    if is_empty(q, k):
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
    all_of_it = jnp.where(jnp.isfinite(d), mean.total if blocks.is_wide else 1, jnp.inf)
    rows = tuple(map(blocks.rows, (mean.m, over, g, d, all_of_it)))

    def step(sums: Carry, i: Start, j: Start) -> Carry:
        dq, dk, dv, top = sums
        y, seen, qi, kj = blocks.products(i, j)
        m, over, gi, di, all_i = (blocks.of_block(x, i) for x in rows)
        vj = part(blocks.v, j, blocks.tiles.sb)
        gi, vj, qi, kj = map(blocks.factor, (gi, vj, qi, kj))
        p, over, top = blocks.again(y, seen, m, over, top, i)
        p = p if blocks.is_wide else p * over
        dp = blocks.product("...re,...se->...rs", gi, vj)
        if one_column:
            sum_i = jnp.sum(p * dp, -1, keepdims=True)
            di = di + (sum_i * over if blocks.is_wide else sum_i)
        else:
            di = jnp.where(p < all_i, di, dp)
        dz = where(seen, p * (dp - di), 0)
        dqi = blocks.of_block(dq, i) + blocks.product("...rs,...sd->...rd", dz, kj)
        return (
            blocks.put(dq, i, dqi),
            added(dk, j, blocks.product("...rs,...rd->...sd", dz, qi)),
            added(dv, j, blocks.product("...rs,...re->...se", p.astype(g.dtype), gi)),
            top,
        )

    zeros = (jnp.zeros_like(x, dtype=wide) for x in (blocks.q, blocks.k, blocks.v))
    dq, dk, dv, _ = blocks.tiles.each(step, (*zeros, blocks.no_top()), q, k, v, mask, scale, like)
    dq, dk, dv = dq[..., :t, :], dk[..., :s, :], dv[..., :s, :]
    if blocks.hides:
        others = of_others(given, blocks.seen_at_all(), n=s, queries=True)
        dv = dv + jnp.sum(others, -3).astype(wide)
    dscale = None
    if scale is not None:
        queries = by_head(blocks.factor(q), blocks.groups)
        dscale = jnp.sum(queries.astype(wide) * dq).astype(scale.dtype)
    dq = by_position(dq * blocks.scale)
    dk = dk if blocks.is_wide else dk * blocks.steep
    dk, dv = jnp.moveaxis(dk, -3, -2), jnp.moveaxis(dv, -3, -2)
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), None, dscale


_attention = register(
    _forward,
    _fwd,
    attention_bwd,
    name="attention",
    automatic_axes=True,
    tangent=attention_tangent,
)


def _options(
    q: jax.Array, causal: bool, scale: Number | None, block: int | None, precision: Precision
) -> tuple[Static, jax.Array | None]:
    """The options, and the scale if it is an array: that one has a derivative."""
    if isinstance(scale, jax.Array):
        return Static(Options(causal, None, block, precision)), scale
    number = 1 / math.sqrt(max(q.shape[-1], 1)) if scale is None else float(scale)
    return Static(Options(causal, number, block, precision)), None
