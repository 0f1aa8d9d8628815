"""The gradient of the tangent of `attention`: reverse mode over forward mode.

Letters as in _attention_tangent.py, and γ_ie = ∂L/∂ȯ_ie for an L that is made of ȯ, such as a loss
with a time derivative in it. ȯ depends on ż and p, where μ_i holds both, on v and v̇. With

    a_ij = Σ_e γ_ie v_je        A_i = Σ_j p_ij a_ij = Σ_e γ_ie o_ie        c_ij = Σ_e γ_ie v̇_je

    ∂L/∂ż_ij = p_ij a_ij - p_ij A_i = p_ij (a_ij - A_i)                                    =: ζ_ij
    ∂L/∂p_ij = ż_ij a_ij - μ_i a_ij - ż_ij A_i + c_ij = π_ij - μ_i A_i,
               π_ij = (ż_ij - μ_i) (a_ij - A_i) + c_ij
    By the rule of softmax, for which what is alike for all j does not count,
    ∂L/∂z_ij = p_ij (π_ij - Π_i)                                                           =: η_ij
    with Π_i = Σ_j p_ij π_ij = Σ_j p_ij (ż_ij - μ_i) a_ij + Σ_j p_ij c_ij = Σ_e γ_ie ȯ_ie,
    as Σ_j p_ij (ż_ij - μ_i) = 0. As D of the backward pass, A and Π need no p: one pass again.

    CT v_je = Σ_i ṗ_ij γ_ie                      CT v̇_je = Σ_i p_ij γ_ie
    CT q_id = Σ_j (α η_ij k_jd + α ζ_ij k̇_jd + α̇ ζ_ij k_jd)        CT q̇_id = α Σ_j ζ_ij k_jd
    CT k_jd = Σ_i (α η_ij q_id + ζ_ij (α̇ q_id + α q̇_id))           CT k̇_jd = α Σ_i ζ_ij q_id
    CT α = Σ_ij (η_ij Σ_d q_id k_jd + ζ_ij Σ_d (q̇_id k_jd + q_id k̇_jd))
    CT α̇ = Σ_ij ζ_ij Σ_d q_id k_jd

Residuals
    The arguments, m, S and o, μ and ȯ: nothing of t s numbers. m, S and o are functions of q, k and
    v, of which alone ȯ is a function here; `_held` (_attention_tangent.py) says so where this
    gradient is differentiated once more.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fnnet.ops._attention_blocks import by_head, by_position, where
from fnnet.ops._attention_moved import Dots, Moved
from fnnet.ops._tiles import Carry, Start, added


def tangent_bwd(res: Any, g: jax.Array) -> tuple[Any, ...]:
    """residuals, CT ȯ -> CT q, CT k, CT v, None, CT scale, None, CT of the tangents."""
    q, k, v, mask, scale, held, dots, exact, mu, options = res
    moved = Moved(q, k, v, mask, scale, held, dots, options)
    blocks, still, one_column = moved.blocks, moved.still, moved.one_column
    t, s, wide = blocks.tiles.t, blocks.tiles.s, blocks.wide
    g = given = by_head(g, blocks.groups)

    def with_g(x: jax.Array | None) -> jax.Array:
        if x is None or one_column:
            return jnp.zeros_like(held.m)
        return jnp.sum(g.astype(wide) * x, -1, keepdims=True)

    sum_a = with_g(None if held.o is None else by_head(held.o, blocks.groups))
    sum_pi = with_g(exact)
    if blocks.hides:  # factors are made finite: what of a query is not must be seen in the sums
        right = jnp.all(jnp.isfinite(g), -1, keepdims=True) & (held.total < jnp.inf)
        if one_column and v is not None:
            right &= moved.is_right(v)
        sum_a = jnp.where(right, sum_a, jnp.nan)
        if one_column and dots.v is not None:
            right &= moved.is_right(dots.v)
        sum_pi = jnp.where(right, sum_pi, jnp.nan)
    mu = jnp.zeros_like(held.m) if mu is None else mu
    rows = tuple(map(blocks.rows, (g, sum_a, sum_pi, mu)))

    def step(sums: Carry, i: Start, j: Start) -> Carry:
        p, z, seen, qi, kj, top = moved.of_pair(sums["top"], i, j)
        gi, sum_a, sum_pi, mu = (blocks.of_block(x, i) for x in rows)
        gi, qi, kj = map(blocks.factor, (gi, qi, kj))
        new = {**sums, "top": top}

        def total(x: jax.Array) -> jax.Array:
            return jnp.sum(x, -1, keepdims=True)

        def with_keys(name: str, x: jax.Array, y: jax.Array) -> None:
            more = blocks.product("...rs,...sd->...rd", x, y)
            new[name] = blocks.put(new[name], i, blocks.of_block(new[name], i) + more)

        def with_queries(name: str, x: jax.Array, y: jax.Array, factor: Any = 1) -> None:
            more = factor * blocks.product("...rs,...rd->...sd", x, y)
            new[name] = added(new[name], j, more)

        pi = jnp.zeros_like(p)
        lone = p >= 1  # then all other p vanish, and the differences are 0
        if moved.v is not None:
            pi += blocks.product("...re,...se->...rs", gi, moved.of_keys(moved.v, j))
            with_queries("v_dot", p.astype(gi.dtype), gi)
        if not still:
            a = blocks.product("...re,...se->...rs", gi, moved.of_keys(blocks.v, j))
            if one_column:
                sum_a, mu = sum_a + total(p * a), total(where(seen, p * z, 0))
            a = jnp.where(lone, 0, a - sum_a)
            z = where(seen, z - mu, 0)
            pi += z * a
            zeta = where(seen, p * a, 0)
            with_keys("zeta_k", zeta, kj)
            if moved.k is not None:
                with_keys("q", zeta, moved.of_keys(moved.k, j))
            with_queries("k_dot", zeta, qi, blocks.steep)
            with_queries("v", p * z, gi)
        if one_column:
            sum_pi = sum_pi + total(p * pi)
        eta = where(seen, p * jnp.where(lone, 0, pi - sum_pi), 0)
        with_keys("q", eta, kj)
        more = blocks.steep * blocks.product("...rs,...rd->...sd", eta, qi)
        if moved.q is not None:
            qi_dot = blocks.factor(blocks.of_block(moved.q, i))
            more += blocks.product("...rs,...rd->...sd", zeta, qi_dot)
        new["k"] = added(new["k"], j, more)
        return new

    like = {"q": blocks.q, "k": blocks.k}
    like |= {} if moved.v is None else {"v_dot": blocks.v}
    like |= {} if still else {"zeta_k": blocks.q, "k_dot": blocks.k, "v": blocks.v}
    sums: dict[str, Any] = {name: jnp.zeros_like(x, dtype=wide) for name, x in like.items()}
    sums["top"] = blocks.no_top()
    sums = blocks.tiles.each(step, sums, *moved.like, *held[:2], given)

    def of_values(name: str) -> jax.Array:
        found = sums[name][..., :s, :]
        if blocks.hides:
            found = found + jnp.sum(moved.unseen(given, queries=True), -3).astype(wide)
        return jnp.moveaxis(found, -3, -2).astype(blocks.v.dtype)

    def of_keys(name: str) -> jax.Array:
        return jnp.moveaxis(sums[name][..., :s, :], -3, -2).astype(k.dtype)

    eta_k = sums["q"][..., :t, :]
    zeta_k: Any = None if still else sums["zeta_k"][..., :t, :]
    turned = eta_k * blocks.scale
    queries = by_head(blocks.factor(q), blocks.groups).astype(wide)
    ct_scale = None if scale is None else jnp.sum(queries * eta_k)
    ct_dots = Dots(None, None, None, None)
    if moved.v is not None:
        ct_dots = ct_dots._replace(v=of_values("v_dot"))
    if not still:
        if dots.scale is not None:
            turned = turned + dots.scale.astype(wide) * zeta_k
            ct_dots = ct_dots._replace(scale=jnp.sum(queries * zeta_k).astype(dots.scale.dtype))
        if dots.q is not None:
            ct_dots = ct_dots._replace(q=by_position(zeta_k * blocks.scale).astype(q.dtype))
            if ct_scale is not None:
                moves = by_head(blocks.factor(dots.q), blocks.groups).astype(wide)
                ct_scale = ct_scale + jnp.sum(moves * zeta_k)
        if dots.k is not None:
            ct_dots = ct_dots._replace(k=of_keys("k_dot"))
    return (
        by_position(turned).astype(q.dtype),
        of_keys("k"),
        None if still else of_values("v"),
        None,
        None if ct_scale is None else ct_scale.astype(scale.dtype),
        None,
        ct_dots,
    )
