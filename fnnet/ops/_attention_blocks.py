"""The arguments of `attention` in blocks: laid out by head, what of them is seen, their weights.

Letters as in _attention.py. A weight e^(z - m) is made of products y,
with the scale α = σ |α|, σ = ±1:

    float32             y = Σ_d (α q_d) k_d      e^(z - m) = e^(y - max y)
    of 16 bits          y = Σ_d (σ q_d) k_d      e^(z - m) = e^(|α| (y - max y))

Of 16 bits q cannot be scaled without being rounded. The difference is taken first: it is exact
where it matters, near the top. |α| y - |α| max y is not: a processor that multiplies and subtracts
at once rounds the second product alone, and an error of 2^-24 |z| is a power's before long.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fnnet.ops._hidden import finite
from fnnet.ops._options import in_dtype
from fnnet.ops._rounding import is_rounded, rounded, shift
from fnnet.ops._tiles import Options, Start, Tiles, padded, part, put
from fnnet.rules import accumulator, contract


class Blocks:
    """Blocks of the arguments, laid out by head: ..., K, G before positions and features.

    Attributes:
        tiles: which blocks there are.
        wide: the dtype of sums.
        is_wide: whether the arguments have that dtype: then numbers lose nothing by being scaled
            before a product, which is cheaper than after it.
        scale: α.
        steep: what y is still to be scaled by: |α|, or 1 where q is scaled.
        hides: whether anything is hidden from any query, by causality or the mask.
    """

    def __init__(
        self,
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        mask: jax.Array | None,
        scale: jax.Array | None,
        options: Options,
    ) -> None:
        self.tiles, self._precision = Tiles.of(q, k, options), options.precision
        self._kv_heads, self.groups = k.shape[-2], q.shape[-2] // k.shape[-2]
        self.wide = accumulator(q, k, v)
        self.is_wide = all(x.dtype == self.wide for x in (q, k, v))
        factor: Any = options.scale if scale is None else in_dtype(scale, self.wide)
        self.scale = factor
        self.steep: Any = 1
        if self.is_wide:
            q = q * factor
        elif isinstance(factor, float):
            self.steep, q = abs(factor), -q if factor < 0 else q
        else:
            sign = jnp.where(factor < 0, -jnp.ones_like(factor), jnp.ones_like(factor))
            self.steep, q = factor * sign, q * sign.astype(q.dtype)
        self.hides = options.causal or mask is not None
        self.q = self.rows(by_head(q, self.groups))
        self.k, self.v = (padded(jnp.moveaxis(x, -2, -3), self.tiles.whole_s, -2) for x in (k, v))
        self._mask = self._whole_mask = None
        if mask is not None:
            self._mask = whole = self._by_group(mask, q.ndim)
            for axis, size in ((-2, self.tiles.whole_t), (-1, self.tiles.whole_s)):
                whole = whole if whole.shape[axis] == 1 else padded(whole, size, axis)
            self._whole_mask = whole

    def _by_group(self, mask: jax.Array, ndim: int) -> jax.Array:
        """(..., H, t, s), as it broadcasts, -> (..., K, G, t, s); axes of size 1 stay."""
        mask = mask.reshape((1,) * (ndim - mask.ndim) + mask.shape)
        *n, h, t, s = mask.shape
        return mask.reshape(*n, *((1, 1) if h == 1 else (self._kv_heads, self.groups)), t, s)

    def rows(self, x: jax.Array) -> jax.Array:
        """`x` (..., t, f) in whole blocks."""
        return padded(x, self.tiles.whole_t, -2)

    def of_block(self, x: jax.Array, i: Start) -> jax.Array:
        """The block of queries from i on, of x (..., K, G, t, f): (..., K, G tb, f).

        As matrices: further axes cost XLA copies of a block.
        """
        x = part(x, i, self.tiles.tb)
        return x.reshape(*x.shape[:-3], self.groups * self.tiles.tb, x.shape[-1])

    def put(self, x: jax.Array, i: Start, block: jax.Array) -> jax.Array:
        """`x` with the block of queries from i on replaced."""
        apart = (*block.shape[:-2], self.groups, self.tiles.tb, block.shape[-1])
        return put(x, i, block.reshape(apart))

    def products(
        self, i: Start, j: Start
    ) -> tuple[jax.Array, jax.Array | None, jax.Array, jax.Array]:
        """y of a block; what of it is seen; the block's q, as it is in y, and k."""
        q, k = self.of_block(self.q, i), part(self.k, j, self.tiles.sb)
        return self.product("...rd,...sd->...rs", q, k), self._seen(i, j), q, k

    def top(self, y: jax.Array, seen: jax.Array | None, m: jax.Array | None = None) -> jax.Array:
        """The largest y that each query has seen, m before this block; -inf if none."""
        there = jnp.max(where(seen, y, -jnp.inf), -1, keepdims=True)
        return there if m is None else jnp.maximum(m, there)

    def weights(self, y: jax.Array, seen: jax.Array | None, m: jax.Array) -> jax.Array:
        """e^(z - m) where it is seen, else 0."""
        return jnp.exp(where(seen, self._scaled(y - m), -jnp.inf))

    def again(
        self, y: jax.Array, seen: jax.Array | None, m: jax.Array, over: Any, top: Any, i: Start
    ) -> tuple[jax.Array, Any, Any]:
        """e^(z - m') as the forward pass rounded it, over e^(m - m') for m' its largest y so far.

        `top` holds these of all queries, so far; None where m' = m will do, nothing being rounded.
        """
        if top is not None:
            # p does not depend on it
            highest = jax.lax.stop_gradient(self.top(y, seen, self.of_block(top, i)))
            top = self.put(top, i, highest)
            m, over = shift(highest), over * self.rescaled(highest, m)
        return rounded(self.weights(y, seen, m), self.v.dtype), over, top

    def no_top(self) -> jax.Array | None:
        """The first `top` of `again`."""
        if self.tiles.columns == 1 or not is_rounded(self.wide, self.v.dtype):
            return None
        return jnp.full((*self.q.shape[:-1], 1), -jnp.inf, self.wide)

    def rescaled(self, old: jax.Array, m: jax.Array) -> jax.Array:
        """What sums that were made with an older m are multiplied by; 0 if nothing was seen yet."""
        there = old != -jnp.inf
        # a difference from -inf has no derivative, not even one that is multiplied by 0
        power = jnp.exp(self._scaled(jnp.where(there, old, m) - m))
        return jnp.where(there, power, jnp.zeros_like(power))

    def _scaled(self, y: jax.Array) -> jax.Array:
        return y if self.is_wide else self.steep * y

    def _seen(self, i: Start, j: Start) -> jax.Array | None:
        """Which queries of block i see which keys of block j: (..., G tb, sb); None for all."""
        tiles, seen = self.tiles, self._whole_mask
        if seen is not None:
            for axis, start, size in ((-2, i, tiles.tb), (-1, j, tiles.sb)):
                seen = seen if seen.shape[axis] == 1 else part(seen, start, size, axis)
        row = i + jnp.arange(tiles.tb, dtype=jnp.int32)[:, None]
        col = j + jnp.arange(tiles.sb, dtype=jnp.int32)[None, :]
        if tiles.causal:
            seen = both(seen, jnp.broadcast_to(col, (tiles.tb, tiles.sb)) <= row)
        if tiles.whole_t != tiles.t:
            seen = both(seen, row < tiles.t)
        if tiles.whole_s != tiles.s:
            seen = both(seen, col < tiles.s)
        if seen is None:
            return None
        before = seen.shape[:-3]
        seen = jnp.broadcast_to(seen, (*before, self.groups, tiles.tb, tiles.sb))
        return seen.reshape(*before, self.groups * tiles.tb, tiles.sb)

    def seen_at_all(self) -> jax.Array | None:
        """Which query sees which key, (..., K, G, t, s), axes of size 1 among them.

        None without a mask. For sums over it: it is never held.
        """
        if self._mask is None or not self.tiles.causal:
            return self._mask
        row, col = (jnp.arange(n, dtype=jnp.int32) for n in (self.tiles.t, self.tiles.s))
        return both(self._mask, jnp.broadcast_to(col, (row.size, col.size)) <= row[:, None])

    def factor(self, x: jax.Array) -> jax.Array:
        """`x` as a factor of a product with weights, which what is hidden must not spoil."""
        return finite(x) if self.hides else x

    def product(self, subscripts: str, *operands: jax.Array) -> jax.Array:
        """Summed in the wide dtype, in which dz, not rounded, is multiplied too."""
        if len({x.dtype for x in operands}) > 1:
            operands = tuple(x.astype(self.wide) for x in operands)
        return contract(subscripts, *operands, dtype=self.wide, precision=self._precision)


def by_head(x: jax.Array, groups: int) -> jax.Array:
    """(..., positions, heads, f) -> (..., heads / groups, groups, positions, f)."""
    *n, p, h, f = x.shape
    return jnp.moveaxis(x.reshape(*n, p, h // groups, groups, f), -4, -2)


def by_position(x: jax.Array) -> jax.Array:
    """The inverse of `by_head`."""
    *n, heads, groups, p, f = x.shape
    return jnp.moveaxis(x, -2, -4).reshape(*n, p, heads * groups, f)


def both(a: jax.Array | None, b: jax.Array) -> jax.Array:
    """`a & b`, axes counted from the last; None stands for true."""
    if a is None:
        return b
    ndim = max(a.ndim, b.ndim)
    a, b = (x.reshape((1,) * (ndim - x.ndim) + x.shape) for x in (a, b))
    return a & b


def where(seen: jax.Array | None, x: jax.Array, other: float) -> jax.Array:
    """`x` where it is seen, else `other`; `x` where None says that all is seen."""
    if seen is None:
        return x
    seen = seen.reshape((1,) * (x.ndim - seen.ndim) + seen.shape)
    return jnp.where(jnp.broadcast_to(seen, x.shape), x, jnp.asarray(other, x.dtype))
