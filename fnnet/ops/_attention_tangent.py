"""Forward mode of `attention`: its tangent, one block of keys after the other.

Letters as in _attention.py; a dot marks a tangent. By the product rule, and softmax's
ṗ_ij = p_ij (ż_ij - μ_i),

    ż_ij = Σ_d (α̇ q_id + α q̇_id) k_jd + α Σ_d q_id k̇_jd
    μ_i  = Σ_j p_ij ż_ij
    ȯ_ie = Σ_j (ṗ_ij v_je + p_ij v̇_je) = Σ_j (p_ij ż_ij v_je + p_ij v̇_je) - μ_i o_ie

Where one block holds all keys of a query, μ is taken in time and needs no o, which is rounded.
Else the last sum needs no μ while it is made, so that one pass over the blocks makes it and μ: m, S
and o are residuals of the forward pass, p is made again as in the backward pass. Scratch memory is
that of one block and of two arrays like o, whatever the number of keys. Σ_j ṗ_ij = 0 holds if o, μ
and the sum are of the same weights: in 16 bits they are rounded as the forward pass rounded them.

References
    C. Lu, Y. Song, Simplifying, Stabilizing and Scaling Continuous-Time Consistency Models,
    arXiv:2410.11081, section F: the tangent of flash attention.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fnnet.ops._attention_blocks import Blocks, by_head, by_position, where
from fnnet.ops._attention_mean import Residuals, is_empty
from fnnet.ops._hidden import finite, of_others
from fnnet.ops._tiles import Carry, Start, padded, part


def attention_tangent(
    res: Residuals,
    dq: jax.Array | None,
    dk: jax.Array | None,
    dv: jax.Array | None,
    dmask: None,
    dscale: jax.Array | None,
) -> jax.Array | None:
    """residuals, T q, T k, T v, None for the mask, T scale -> T o; None for a tangent of zero."""
    q, k, v, mask, scale, mean, static = res
    if is_empty(q, k) or all(x is None for x in (dq, dk, dv, dscale)):
        return None
    blocks = Blocks(q, k, v, mask, scale, static.value)
    t, wide, tiles = q.shape[-3], blocks.wide, blocks.tiles

    def of_queries(x: jax.Array) -> jax.Array:
        return blocks.rows(by_head(x, blocks.groups))

    def of_keys(x: jax.Array) -> jax.Array:
        return padded(jnp.moveaxis(x, -2, -3), tiles.whole_s, -2)

    # α̇ q + α q̇, not rounded
    moved = None if dq is None else dq.astype(wide) * blocks.scale
    if dscale is not None:
        more = q.astype(wide) * dscale.astype(wide)
        moved = more if moved is None else moved + more
    q_dot = None if moved is None else of_queries(moved)
    k_dot = None if dk is None else of_keys(dk)
    v_dot = None if dv is None else of_keys(dv)

    over = 1 / mean.total
    over = finite(over) if blocks.hides else where(over > 0, over, jnp.nan)
    m, over = map(blocks.rows, (mean.m, over))

    def of_a_pair(top: jax.Array | None, i: Start, j: Start) -> tuple[jax.Array, ...]:
        """What a pair of blocks adds to the sum and to μ; and `top`."""
        y, seen, qi, kj = blocks.products(i, j)
        mi, over_i = (blocks.of_block(x, i) for x in (m, over))
        p, over_i, top = blocks.again(y, seen, mi, over_i, top, i)
        p = p * over_i
        z_dot = jnp.zeros_like(p)
        if q_dot is not None:
            z_dot += blocks.product("...rd,...sd->...rs", blocks.of_block(q_dot, i), kj)
        if k_dot is not None:
            kj_dot = part(k_dot, j, tiles.sb)
            z_dot += blocks.steep * blocks.product("...rd,...sd->...rs", qi, kj_dot)
        vj = blocks.factor(part(blocks.v, j, tiles.sb))
        pz = where(seen, p * z_dot, 0)
        mu_i = jnp.sum(pz, -1, keepdims=True)
        if tiles.columns == 1:
            pz = where(seen, p * (z_dot - mu_i), 0)
        out = blocks.product("...rs,...se->...re", pz, vj)
        if v_dot is not None:
            vj_dot = blocks.factor(part(v_dot, j, tiles.sb))
            out += blocks.product("...rs,...se->...re", p.astype(v.dtype), vj_dot)
        return out, mu_i, top

    def step(sums: Carry, i: Start, j: Start) -> Carry:
        *both, top = sums
        *more, top = of_a_pair(top, i, j)
        return *(
            blocks.put(x, i, blocks.of_block(x, i) + y) for x, y in zip(both, more, strict=True)
        ), top

    rows = blocks.q.shape[:-1]
    start = (jnp.zeros((*rows, v.shape[-1]), wide), jnp.zeros((*rows, 1), wide), blocks.no_top())
    tangents = [x for x in (dq, dk, dv, dscale) if x is not None]
    out, mu, _ = tiles.each(step, start, *res[:5], *tangents)
    out, mu = out[..., :t, :], mu[..., :t, :]
    if blocks.hides and dv is not None:
        others = of_others(by_head(dv, 1), blocks.seen_at_all(), n=t, queries=False)
        out = out + others.astype(wide)
    if tiles.columns > 1:
        o = by_head(mean.o if mean.exact is None else mean.exact, blocks.groups)
        out = out - mu * o.astype(wide)
    return by_position(out).astype(mean.o.dtype)
