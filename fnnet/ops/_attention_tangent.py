"""Forward mode of `attention`: its tangent, one block of keys after the other, and its gradient.

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

Its own gradient, reverse mode over forward mode: see _attention_tangent_gradient.py.

References
    C. Lu, Y. Song, Simplifying, Stabilizing and Scaling Continuous-Time Consistency Models,
    arXiv:2410.11081, section F: the tangent of flash attention.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from fnnet.ops._attention_blocks import by_head, by_position, where
from fnnet.ops._attention_mean import Residuals, is_empty, weighted_mean
from fnnet.ops._attention_moved import Dots, Held, Moved
from fnnet.ops._attention_tangent_gradient import tangent_bwd
from fnnet.ops._tiles import Carry, Start, Tiles
from fnnet.rules import Static, register


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
    dots = Dots(dq, dk, dv, dscale)
    if is_empty(q, k) or all(x is None for x in dots):
        return None
    # where p does not move, v̇ takes the place of v
    moved = None if all(x is None for x in (dq, dk, dscale)) else v
    several = Tiles.of(q, k, static.value).columns != 1
    o = mean.o if mean.exact is None else mean.exact
    held = (mean.m, mean.total, None if moved is None or not several else o)
    held = Held(*jax.lax.stop_gradient(held))
    return _tangent(q, k, moved, mask, scale, held, dots, options=static)


def _pushed(moved: Moved, v: jax.Array | None, held: Held, dots: Dots) -> Any:
    """ȯ by head, and μ."""
    blocks = moved.blocks
    t, tiles, wide = blocks.tiles.t, blocks.tiles, blocks.wide

    def step(sums: Carry, i: Start, j: Start) -> Carry:
        out, mu, top = sums
        p, z, seen, _, _, top = moved.of_pair(top, i, j)
        more, mu_i = jnp.zeros((), wide), jnp.zeros((), wide)
        if not moved.still:
            pz = where(seen, p * z, 0)
            mu_i = jnp.sum(pz, -1, keepdims=True)
            if moved.one_column:
                pz = where(seen, p * (z - mu_i), 0)
            more += blocks.product("...rs,...se->...re", pz, moved.of_keys(blocks.v, j))
        if moved.v is not None:
            vj = moved.of_keys(moved.v, j)
            more += blocks.product("...rs,...se->...re", p.astype(vj.dtype), vj)
        out, mu = (
            blocks.put(x, i, blocks.of_block(x, i) + y) for x, y in ((out, more), (mu, mu_i))
        )
        return out, mu, top

    rows = blocks.q.shape[:-1]
    start = (jnp.zeros((*rows, blocks.v.shape[-1]), wide), jnp.zeros((*rows, 1), wide))
    out, mu, _ = tiles.each(step, (*start, blocks.no_top()), *moved.like, *held[:2])
    out, mu = out[..., :t, :], mu[..., :t, :]
    if held.o is not None:
        out = out - mu * by_head(held.o, blocks.groups).astype(wide)
    if blocks.hides:
        if dots.v is not None:
            out = out + moved.unseen(by_head(dots.v, 1), queries=False).astype(wide)
        if v is not None and held.o is None:
            out = jnp.where(moved.is_right(v), out, jnp.nan)
    return out, mu


def _held(
    held: Held, q: jax.Array, k: jax.Array, v: Any, mask: Any, scale: Any, options: Static
) -> Held:
    """`held`, whose derivatives are those of the forward pass that it comes from."""

    def found(q: Any, k: Any, v: Any, mask: Any, scale: Any) -> Held:
        mean = weighted_mean(q, k, v, mask, scale, options.value)
        o = mean.o if mean.exact is None else mean.exact
        return Held(mean.m, mean.total, None if held.o is None else o)

    @jax.custom_jvp
    def same(held: Held, *args: Any) -> Held:
        return held

    def jvp(primals: Any, tangents: Any) -> tuple[Held, Held]:
        _, *args = primals
        again = same(*primals)
        leaves, tree = jax.tree.flatten(tuple(args))
        dots = jax.tree.leaves(tuple(tangents[1:]), is_leaf=lambda x: isinstance(x, SymbolicZero))
        at = [n for n, x in enumerate(dots) if not isinstance(x, SymbolicZero)]

        def of_some(*some: Any) -> Held:
            every = list(leaves)
            for n, x in zip(at, some, strict=True):
                every[n] = x
            return found(*jax.tree.unflatten(tree, every))

        if not at:
            return again, jax.tree.map(jnp.zeros_like, again)
        return again, jax.jvp(of_some, [leaves[n] for n in at], [dots[n] for n in at])[1]

    same.defjvp(jvp, symbolic_zeros=True)
    return same(held, q, k, v, mask, scale)


def _both(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array | None,
    mask: jax.Array | None,
    scale: jax.Array | None,
    held: Held,
    dots: Dots,
    *,
    options: Static,
) -> tuple[jax.Array, tuple[Any, ...]]:
    held = _held(held, q, k, dots.v if v is None else v, mask, scale, options)
    moved = Moved(q, k, v, mask, scale, held, dots, options)
    exact, mu = _pushed(moved, v, held, dots)
    out = by_position(exact).astype(jnp.result_type(q, k, moved.blocks.v))
    if moved.one_column:
        exact = mu = None
    return out, (q, k, v, mask, scale, held, dots, exact, mu, options)


def _tangent_forward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array | None,
    mask: jax.Array | None,
    scale: jax.Array | None,
    held: Held,
    dots: Dots,
    *,
    options: Static,
) -> jax.Array:
    return _both(q, k, v, mask, scale, held, dots, options=options)[0]


_tangent = register(_tangent_forward, _both, tangent_bwd, name="attention's tangent")
