"""Scaled dot-product attention, without ever holding the matrix of all weights.

    attention : q (n, t, H, d), k (n, s, K, d), v (n, s, K, e) -> o (n, t, H, e)

Axes: n of the batch; t of queries, s of keys and values (positions); H heads of queries, K of keys,
each K serving G = H / K of them (grouped heads); d, e of features. Below n and the head are left
out: i is a query, j a key.

Forward, with α the scale and M_ij true where query i may look at key j
    z_ij = α Σ_d q_id k_jd                       over the j with M_ij alone
    l_i  = log Σ_j e^(z_ij)                      p_ij = e^(z_ij - l_i)
    o_ie = Σ_j p_ij v_je
    A query that may look nowhere has the empty sum o_i = 0.
    Key blocks are taken one after the other. With m_i the largest z_ij so far, S_i the sum of the
    e^(z_ij - m_i) and O_i that of the e^(z_ij - m_i) v_j, a further block that raises m_i to m'_i
    rescales what there is by e^(m_i - m'_i) and adds its own. In the end o = O / S, l = m + log S.

Backward, with g_ie = ∂L/∂o_ie
    dv_je = Σ_i p_ij g_ie                        dp_ij = Σ_e g_ie v_je
    By the rule of softmax, dz_ij = p_ij (dp_ij - Σ_j' p_ij' dp_ij'), and that sum needs no p:
        Σ_j p_ij dp_ij = Σ_e g_ie Σ_j p_ij v_je = Σ_e g_ie o_ie =: D_i
    so  dz_ij = p_ij (dp_ij - D_i)
        dq_id = α Σ_j dz_ij k_jd                 dk_jd = α Σ_i dz_ij q_id
    A key serves all queries and the G heads of its group: the sums over i run over those too.

Residuals
    q, k, v and the mask: the caller's arrays; o: the result; l: one number a query. z and p, of
    t s numbers a head, are computed again, block by block, as p = e^(z - l).
    Sums, z and p in float32 for float16 and bfloat16; p and dz are rounded to the inputs' dtype as
    factors of the products, as in the references.

References
    A. Vaswani et al., Attention is all you need, arXiv:1706.03762.
    M. Milakov, N. Gimelshein, Online normalizer calculation for softmax, arXiv:1805.02867.
    M. N. Rabe, C. Staats, Self-attention does not need O(n²) memory, arXiv:2112.05682.
    T. Dao et al., FlashAttention, arXiv:2205.14135: D_i and the backward pass by blocks.
    J. Ainslie et al., GQA: grouped heads, arXiv:2305.13245.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from fnnet.ops._checks import describe, floats
from fnnet.ops._compiled import compiled
from fnnet.ops._options import FLAG, PRECISION, number, whole_number
from fnnet.ops._tiles import Blocks, Carry, Options, added, by_position, part
from fnnet.rules import Precision, Static, register

BLOCK = 256  # positions; a block of weights is BLOCK x BLOCK for each head

Residuals: TypeAlias = tuple[
    jax.Array, jax.Array, jax.Array, jax.Array | None, jax.Array, jax.Array, Static
]


@compiled(
    causal=FLAG,
    scale=number(or_none="1/√d"),
    block=whole_number(1, or_none="256"),
    precision=PRECISION,
)
def attention(
    q: Float[ArrayLike, "n t heads d"],
    k: Float[ArrayLike, "n s kv_heads d"],
    v: Float[ArrayLike, "n s kv_heads e"],
    *,
    causal: bool = False,
    mask: Bool[ArrayLike, "#n #heads #t #s"] | None = None,
    scale: float | None = None,
    block: int | None = None,
    precision: Precision = None,
) -> Float[Array, "n t heads e"]:
    """Each query's mean of the values, weighted by ``softmax(scale * q @ k)``.

    Args:
        q: queries, shape (n, t, heads, d), real floating point.
        k: keys, shape (n, s, kv_heads, d). heads is a multiple of kv_heads: query head h looks at
            key head h // (heads / kv_heads).
        v: values, shape (n, s, kv_heads, e).
        causal: whether query i sees the keys 0..i only (counted from the first of each).
        mask: true where a query may look at a key; boolean, of a shape that broadcasts to
            (n, heads, t, s), with four axes. It is never broadcast in memory.
        scale: of the logits; 1/√d by default.
        block: how many queries and keys are taken at a time; 256 by default. The result is the same
            but for rounding, scratch memory grows with its square.
        precision: of the products, as in `jnp.einsum`, forward and backward alike.

    Returns:
        Shape (n, t, heads, e). A query that may look nowhere gives zeros, and has no gradient.

    Raises:
        TypeError: for arrays that are not of real floating point dtype, or a mask that is not
            boolean.
        ValueError: for shapes that do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnnet import attention
        >>> q, v = jnp.zeros((1, 2, 1, 1)), jnp.array([2.0, 4.0]).reshape(1, 2, 1, 1)
        >>> attention(q, q, v, causal=True).ravel().tolist()
        [2.0, 3.0]
    """
    queries, keys, values = floats("attention", q=q, k=k, v=v)
    _require(queries, keys, values, mask)
    shown = None if mask is None else jnp.asarray(mask)
    alpha = 1 / math.sqrt(max(queries.shape[-1], 1)) if scale is None else scale
    options = Options(causal, alpha, BLOCK if block is None else block, precision)
    return _attention(queries, keys, values, shown, options=Static(options))


def _mean(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array | None, options: Options
) -> tuple[jax.Array, jax.Array]:
    """o (n, t, H, e) and l (n, K, G, t + padding, 1)."""
    blocks = Blocks(q, k, v, mask, options)
    tb = blocks.tiles.tb

    def step(state: Carry, i: jax.Array, j: jax.Array) -> Carry:
        m, total, o = (part(x, i, tb) for x in state)
        z, *_ = blocks.logits(i, j)
        m_new = jnp.maximum(m, jnp.max(z, -1, keepdims=True))
        shift = jnp.where(m_new == -jnp.inf, jnp.zeros_like(m_new), m_new)  # nothing seen so far
        p, rescale = jnp.exp(z - shift), jnp.exp(m - shift)
        v = part(blocks.v, j, blocks.tiles.sb)
        new = (
            m_new,
            total * rescale + jnp.sum(p, -1, keepdims=True),
            o * rescale + blocks.product("nkgts,nkse->nkgte", p.astype(v.dtype), v),
        )
        pasted = (
            lax.dynamic_update_slice_in_dim(x, y, i, x.ndim - 2)
            for x, y in zip(state, new, strict=True)
        )
        return tuple(pasted)

    rows = blocks.q.shape[:-1]
    start = (
        jnp.full((*rows, 1), -jnp.inf, blocks.wide),
        jnp.zeros((*rows, 1), blocks.wide),
        jnp.zeros((*rows, v.shape[-1]), blocks.wide),
    )
    m, total, o = blocks.tiles.each(step, start, q, k, v, mask)
    nothing = total == 0
    total = jnp.where(nothing, jnp.ones_like(total), total)
    l = jnp.where(nothing, jnp.zeros_like(m), m) + jnp.log(total)
    o = by_position((o / total)[..., : q.shape[1], :])
    return o.astype(jnp.result_type(q, k, v)), l


def _forward(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array | None, *, options: Static
) -> jax.Array:
    return _mean(q, k, v, mask, options.value)[0]


def _fwd(
    q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array | None, *, options: Static
) -> tuple[jax.Array, Residuals]:
    o, l = _mean(q, k, v, mask, options.value)
    return o, (q, k, v, mask, o, l, options)


def attention_fwd(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    causal: bool = False,
    mask: jax.Array | None = None,
    scale: float | None = None,
    block: int | None = None,
    precision: Precision = None,
) -> tuple[jax.Array, Residuals]:
    """q, k, v -> o, residuals."""
    alpha = 1 / math.sqrt(max(q.shape[-1], 1)) if scale is None else float(scale)
    options = Options(bool(causal), alpha, BLOCK if block is None else int(block), precision)
    return _fwd(q, k, v, mask, options=Static(options))


def attention_bwd(res: Residuals, g: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, None]:
    """residuals, CT o -> CT q, CT k, CT v, and None for the mask."""
    q, k, v, mask, o, l, static = res
    blocks = Blocks(q, k, v, mask, static.value)
    tb, sb, alpha = blocks.tiles.tb, blocks.tiles.sb, static.value.scale
    d = jnp.sum(g.astype(blocks.wide) * o.astype(blocks.wide), -1, keepdims=True)
    g, d = blocks.queries(g), blocks.queries(d)

    def step(sums: Carry, i: jax.Array, j: jax.Array) -> Carry:
        dq, dk, dv = sums
        z, q, k = blocks.logits(i, j)
        p = jnp.exp(z - part(l, i, tb))
        gi, v = part(g, i, tb), part(blocks.v, j, sb)
        dp = blocks.product("nkgte,nkse->nkgts", gi, v)
        dz = (p * (dp - part(d, i, tb)) * alpha).astype(q.dtype)
        return (
            added(dq, i, blocks.product("nkgts,nksd->nkgtd", dz, k)),
            added(dk, j, blocks.product("nkgts,nkgtd->nksd", dz, q)),
            added(dv, j, blocks.product("nkgts,nkgte->nkse", p.astype(g.dtype), gi)),
        )

    start = tuple(jnp.zeros_like(x, dtype=blocks.wide) for x in (blocks.q, blocks.k, blocks.v))
    dq, dk, dv = blocks.tiles.each(step, start, q, k, v, mask, g)
    dq = by_position(dq[..., : q.shape[1], :]).astype(q.dtype)
    dk = by_position(dk[:, :, None, : k.shape[1]]).astype(k.dtype)
    dv = by_position(dv[:, :, None, : v.shape[1]]).astype(v.dtype)
    return dq, dk, dv, None


_attention = register(_forward, _fwd, attention_bwd, name="attention", automatic_axes=True)


def _require(q: Any, k: Any, v: Any, mask: Any) -> None:
    shapes = {"q": jnp.shape(q), "k": jnp.shape(k), "v": jnp.shape(v)}
    for name, shape in shapes.items():
        if len(shape) != 4:
            raise ValueError(
                f"attention: {name} must have shape (batch, time, head, feature); got shape {shape}"
            )
    (n, t, heads, d), (_, s, kv_heads, _) = shapes["q"], shapes["k"]
    if shapes["k"] != (n, s, kv_heads, d):
        raise ValueError(
            f"attention: k must have q's batch size {n} and q's number of features {d}; got q of "
            f"shape {shapes['q']} and k of shape {shapes['k']}"
        )
    if shapes["v"][:3] != (n, s, kv_heads):
        raise ValueError(
            f"attention: v must have one value for each key, shape {(n, s, kv_heads)} and "
            f"features; got v of shape {shapes['v']} with k of shape {shapes['k']}"
        )
    if (kv_heads == 0 and heads) or (kv_heads and heads % kv_heads):
        raise ValueError(
            f"attention: the heads of q, {heads}, must be a multiple of those of k and v, "
            f"{kv_heads}. The axes are (batch, time, head, feature)"
        )
    if mask is not None:
        whole = (n, heads, t, s)
        if not hasattr(mask, "dtype") or mask.dtype != bool:
            raise TypeError(
                f"attention: mask must be boolean, true where a query may look; got "
                f"{describe(mask)}. Of numbers to be added to the logits, compare them: mask > -inf"
            )
        if mask.ndim != 4 or any(m not in (1, w) for m, w in zip(mask.shape, whole, strict=True)):
            raise ValueError(
                f"attention: mask must have four axes that broadcast to (batch, head, query, key) "
                f"= {whole}; got shape {mask.shape}. Give missing axes the size 1: mask[None, None]"
            )
