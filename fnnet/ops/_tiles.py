"""The blocks of `attention`: which meet, what of them is seen, and how they are laid out.

Letters as in _attention.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fnnet.rules import Precision, accumulator, contract, spread

Carry: TypeAlias = Any


@dataclasses.dataclass(frozen=True)
class Options:
    """What of the keyword arguments both passes need."""

    causal: bool
    scale: float
    block: int
    precision: Precision


@dataclasses.dataclass(frozen=True)
class Tiles:
    """Which blocks of queries meet which blocks of keys, and what of them is seen."""

    t: int
    s: int
    tb: int  # queries, and keys, in a block
    sb: int
    causal: bool

    @staticmethod
    def of(q: jax.Array, k: jax.Array, options: Options) -> Tiles:
        t, s = q.shape[1], k.shape[1]
        tb, sb = (max(1, min(options.block, n)) for n in (t, s))
        return Tiles(t, s, tb, sb, options.causal)

    @property
    def pairs(self) -> np.ndarray:
        """The starts (i, j) of the blocks that meet; above the diagonal nothing is causal."""
        return np.array(
            [
                (i, j)
                for i in range(0, self.t, self.tb)
                for j in range(0, self.s, self.sb)
                if not self.causal or j < i + self.tb
            ],
            np.int32,
        ).reshape(-1, 2)

    def each(
        self, step: Callable[[Carry, jax.Array, jax.Array], Carry], carry: Carry, *like: Any
    ) -> Carry:
        """`step(carry, i, j)` for one pair of blocks after the other, of arrays `like` these."""
        pairs = jnp.asarray(self.pairs)
        if len(pairs) == 1:
            return step(carry, pairs[0, 0], pairs[0, 1])
        carry = spread(carry, *like)
        return lax.scan(lambda c, pair: (step(c, pair[0], pair[1]), None), carry, pairs)[0]

    def padded(self, x: jax.Array, block: int) -> jax.Array:
        """`x` (..., positions, features) with whole blocks of positions, one at least."""
        more = -x.shape[-2] % block if x.shape[-2] else block
        return jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, more), (0, 0)]) if more else x

    def seen(self, i: jax.Array, j: jax.Array, mask: jax.Array | None) -> jax.Array | None:
        """Which queries of block i see which keys of block j: (..., tb, sb), or None for all."""
        row = i + jnp.arange(self.tb, dtype=i.dtype)[:, None]
        col = j + jnp.arange(self.sb, dtype=i.dtype)[None, :]
        seen = None
        if self.s % self.sb:
            seen = jnp.broadcast_to(col < self.s, (self.tb, self.sb))
        if self.causal:
            below = col <= row
            seen = below if seen is None else seen & below
        if mask is not None:
            for axis, start, size in ((-2, i, self.tb), (-1, j, self.sb)):
                if mask.shape[axis] > 1:
                    mask = lax.dynamic_slice_in_dim(mask, start, size, axis)
            shown = jnp.broadcast_to(mask, (*mask.shape[:-2], self.tb, self.sb))
            seen = shown if seen is None else seen[(None,) * (shown.ndim - 2)] & shown
        return seen


def by_head(x: jax.Array, groups: int) -> jax.Array:
    """(n, positions, heads, f) -> (n, heads / groups, groups, positions, f)."""
    n, p, h, f = x.shape
    return jnp.moveaxis(x.reshape(n, p, h // groups, groups, f), 1, 3)


def by_position(x: jax.Array) -> jax.Array:
    """The inverse of `by_head`."""
    n, heads, groups, p, f = x.shape
    return jnp.moveaxis(x, 3, 1).reshape(n, p, heads * groups, f)


class Blocks:
    """Blocks of the arguments, laid out by head: n, K, G before positions and features."""

    def __init__(
        self, q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array | None, options: Options
    ) -> None:
        self.options, self.tiles = options, Tiles.of(q, k, options)
        self.groups = q.shape[2] // max(k.shape[2], 1)
        self.wide = accumulator(q, k, v)
        self.q = self.queries(q)
        self.k, self.v = (self.tiles.padded(by_head(x, 1)[:, :, 0], self.tiles.sb) for x in (k, v))
        self.mask = None if mask is None else self._by_group(mask, k.shape[2])

    def queries(self, x: jax.Array) -> jax.Array:
        """What has the axes of queries, by head and in whole blocks."""
        return self.tiles.padded(by_head(x, self.groups), self.tiles.tb)

    def _by_group(self, mask: jax.Array, heads: int) -> jax.Array:
        """(n, heads, t, s) -> (n, K, G, t, s), in whole blocks; axes of size 1 stay."""
        n, h, t, s = mask.shape
        mask = mask.reshape(n, *((1, 1) if h == 1 else (heads, h // heads)), t, s)
        more = [
            -size % block if size > 1 else 0
            for size, block in ((t, self.tiles.tb), (s, self.tiles.sb))
        ]
        return jnp.pad(mask, [(0, 0)] * 3 + [(0, m) for m in more]) if any(more) else mask

    def logits(self, i: jax.Array, j: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """z of a block, -inf where nothing is seen; and its q and k."""
        q, k = part(self.q, i, self.tiles.tb), part(self.k, j, self.tiles.sb)
        z = self.product("nkgtd,nksd->nkgts", q, k) * self.options.scale
        seen = self.tiles.seen(i, j, self.mask)
        if seen is not None:
            seen = jnp.broadcast_to(seen[(None,) * (z.ndim - seen.ndim)], z.shape)
            z = jnp.where(seen, z, -jnp.inf)
        return z, q, k

    def product(self, subscripts: str, *operands: jax.Array) -> jax.Array:
        """Summed in the wide dtype."""
        return contract(subscripts, *operands, dtype=self.wide, precision=self.options.precision)


def part(x: jax.Array, start: jax.Array, size: int) -> jax.Array:
    """A block of positions of `x` (..., positions, features)."""
    return lax.dynamic_slice_in_dim(x, start, size, x.ndim - 2)


def added(x: jax.Array, start: jax.Array, more: jax.Array) -> jax.Array:
    """`x` with `more` added to its block from `start` on."""
    there = part(x, start, more.shape[-2])
    return lax.dynamic_update_slice_in_dim(x, there + more, start, x.ndim - 2)
