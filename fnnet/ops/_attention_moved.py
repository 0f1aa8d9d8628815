"""Blocks of the arguments of `attention` and of their tangents, and what a pair of them makes.

Letters as in _attention_tangent.py: p, and ż = (α̇ q + α q̇) · k + α q · k̇.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fnnet.ops._attention_blocks import Blocks, by_head, where
from fnnet.ops._hidden import finite, of_others
from fnnet.ops._tiles import Start, padded, part
from fnnet.rules import Static


class Held(NamedTuple):
    """What the forward pass knows: m and S, and o where there are several blocks of keys."""

    m: jax.Array
    total: jax.Array
    o: jax.Array | None


class Dots(NamedTuple):
    """The tangents of the arguments, None for those that are zero."""

    q: jax.Array | None
    k: jax.Array | None
    v: jax.Array | None
    scale: jax.Array | None


class Moved:
    """The blocks of the arguments and of their tangents, and what a pair of them makes."""

    def __init__(
        self,
        q: jax.Array,
        k: jax.Array,
        v: jax.Array | None,
        mask: jax.Array | None,
        scale: jax.Array | None,
        held: Held,
        dots: Dots,
        options: Static,
    ) -> None:
        one: Any = dots.v if v is None else v
        self.blocks = blocks = Blocks(q, k, one, mask, scale, options.value)
        self.still = v is None  # z and p do not move
        self.one_column = blocks.tiles.columns == 1
        # α̇ q + α q̇, not rounded
        moved = None if dots.q is None else dots.q.astype(blocks.wide) * blocks.scale
        if dots.scale is not None:
            more = q.astype(blocks.wide) * dots.scale.astype(blocks.wide)
            moved = more if moved is None else moved + more
        self.q = None if moved is None else self.of_queries(moved)
        self.k, self.v = (None if x is None else self._of_keys(x) for x in (dots.k, dots.v))
        over = 1 / held.total
        over = finite(over) if blocks.hides else where(over > 0, over, jnp.nan)
        self._m, self._over = map(blocks.rows, (held.m, over))
        self.like = [x for x in (q, k, v, mask, scale, *dots) if x is not None]

    def of_queries(self, x: jax.Array) -> jax.Array:
        """(..., t, H, f) -> (..., K, G, t, f), in whole blocks."""
        return self.blocks.rows(by_head(x, self.blocks.groups))

    def _of_keys(self, x: jax.Array) -> jax.Array:
        return padded(jnp.moveaxis(x, -2, -3), self.blocks.tiles.whole_s, -2)

    def of_keys(self, x: jax.Array, j: Start) -> jax.Array:
        """A block of keys, as a factor."""
        return self.blocks.factor(part(x, j, self.blocks.tiles.sb))

    def of_pair(self, top: jax.Array | None, i: Start, j: Start) -> tuple[Any, ...]:
        """p, ż and what is seen of a pair of blocks; its q and k as in y; the next `top`."""
        blocks = self.blocks
        y, seen, qi, kj = blocks.products(i, j)
        m, over = (blocks.of_block(x, i) for x in (self._m, self._over))
        p, over, top = blocks.again(y, seen, m, over, top, i)
        p = p * over
        z = jnp.zeros_like(p)
        if self.q is not None:
            z += blocks.product("...rd,...sd->...rs", blocks.of_block(self.q, i), kj)
        if self.k is not None:
            k_dot = part(self.k, j, blocks.tiles.sb)
            z += blocks.steep * blocks.product("...rd,...sd->...rs", qi, k_dot)
        return p, z, seen, qi, kj, top

    def unseen(self, x: jax.Array, *, queries: bool) -> jax.Array:
        """What is not finite of values, or of cotangents, for those that see it."""
        tiles = self.blocks.tiles
        n = tiles.s if queries else tiles.t
        return of_others(x, self.blocks.seen_at_all(), n=n, queries=queries)

    def is_right(self, v: jax.Array) -> jax.Array:
        """Whether each query has a finite mean of the values that it sees."""
        return jnp.all(self.unseen(by_head(v, 1), queries=False) == 0, -1, keepdims=True)
