"""The blocks of `attention`: which meet, what of them is seen, and how they are laid out.

Letters as in _attention.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from fnnet.ops._hidden import finite
from fnnet.ops._options import in_dtype
from fnnet.rules import Precision, accumulator, contract, spread

T = TypeVar("T")
Carry: TypeAlias = Any
Start: TypeAlias = Any  # of a block of positions: a traced number, or 0 where there is one block

BLOCK = 256  # positions; a block of weights is BLOCK x BLOCK for each head
_ALIGNED = 8  # the rows of a tile of registers, of most devices


@dataclasses.dataclass(frozen=True)
class Options:
    """What of the keyword arguments both passes need; `scale` where it is a Python number."""

    causal: bool
    scale: float | None
    block: int | None
    precision: Precision


@dataclasses.dataclass(frozen=True)
class Tiles:
    """Which blocks of queries meet which blocks of keys.

    t and s may be symbolic (`jax.export`): then the loop is as long as the arguments of the
    exported program ask.
    """

    t: int
    s: int
    tb: int  # queries, and keys, in a block
    sb: int
    rows: int  # blocks of queries, and of keys
    columns: int
    causal: bool

    @staticmethod
    def of(q: jax.Array, k: jax.Array, options: Options) -> Tiles:
        """The blocks of q (..., t, H, d) and k (..., s, K, d)."""
        t, s = q.shape[-3], k.shape[-3]
        most = BLOCK if options.block is None else options.block
        (tb, rows), (sb, columns) = _cut(t, most), _cut(s, most)
        return Tiles(t, s, tb, sb, rows, columns, options.causal)

    @property
    def whole_t(self) -> int:
        """The positions of queries in whole blocks."""
        return self.rows * self.tb

    @property
    def whole_s(self) -> int:
        """The positions of keys in whole blocks."""
        return self.columns * self.sb

    @property
    def is_one(self) -> bool:
        """Whether all queries meet all keys at once."""
        return self.rows == self.columns == 1

    def each(self, step: Callable[[Carry, Start, Start], Carry], carry: Carry, *like: Any) -> Carry:
        """`step(carry, i, j)` for one pair of blocks after the other, of arrays `like` these.

        i and j are the positions at which the blocks begin. Above the diagonal nothing is causal.
        """
        if self.is_one:
            return step(carry, 0, 0)
        pairs, triangle = self._pairs()

        def one(state: Carry, _: Any) -> tuple[Carry, None]:
            i, j, carry = state
            end = jnp.asarray(self.s, i.dtype)
            end = jnp.minimum(i + self.tb, end) if triangle else end
            last = j + self.sb >= end
            then = jnp.where(last, i + self.tb, i), jnp.where(last, jnp.zeros_like(j), j + self.sb)
            return (*then, step(carry, i, j)), None

        zero = jnp.zeros((), jnp.int32)
        start = (zero, zero, spread(carry, *like))
        if isinstance(pairs, int):
            return lax.scan(one, start, length=pairs)[0][-1]
        # scan takes a symbolic length from an array alone
        return lax.scan(one, start, jnp.arange(pairs, dtype=jnp.int32))[0][-1]

    def _pairs(self) -> tuple[int, bool]:
        """How many pairs of blocks meet, and whether those above the diagonal are left out."""
        if not self.causal:
            return self.rows * self.columns, False
        if isinstance(self.rows, int) and isinstance(self.columns, int):
            ends = (-(-(i + 1) * self.tb // self.sb) for i in range(self.rows))
            return sum(min(end, self.columns) for end in ends), True
        if self.t == self.s:
            return self.rows * (self.rows + 1) // 2, True
        return self.rows * self.columns, False  # which of them is more is not known yet


def _cut(n: int, most: int) -> tuple[int, int]:
    """The size of blocks of n positions, `most` or less, and their number.

    Example:
        >>> _cut(200, 256), _cut(300, 256), _cut(5, 3)
        ((200, 1), (152, 2), (3, 2))
    """
    try:
        if n <= most:
            return n, 1
    except jax.errors.InconclusiveDimensionOperation:  # n is symbolic
        return most, (n + most - 1) // most
    if isinstance(n, int):  # alike in size, so that the last one is no smaller than the others
        mean = -(-n // -(-n // most))
        most = min(most, -(-mean // _ALIGNED) * _ALIGNED)
    return most, (n + most - 1) // most


class Blocks:
    """Blocks of the arguments, laid out by head: ..., K, G before positions and features.

    Attributes:
        tiles: which blocks there are.
        wide: the dtype of sums.
        is_wide: whether the arguments have that dtype: then numbers lose nothing by being scaled
            before a product, which is cheaper than after it.
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
        self.hides = options.causal or mask is not None
        self.q = self.rows(by_head(q * self.scale if self.is_wide else q, self.groups))
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

    def logits(
        self, i: Start, j: Start
    ) -> tuple[jax.Array, jax.Array | None, jax.Array, jax.Array]:
        """z of a block, -inf where nothing is seen; what is seen; the block's q and k."""
        q, k = self.of_block(self.q, i), part(self.k, j, self.tiles.sb)
        z = self.product("...rd,...sd->...rs", q, k)
        z, seen = z if self.is_wide else z * self.scale, self._seen(i, j)
        return where(seen, z, -jnp.inf), seen, q, k

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


def part(x: jax.Array, start: Start, size: int, axis: int = -2) -> jax.Array:
    """A block of positions of `x`; all of them where there is one block."""
    return x if isinstance(start, int) else lax.dynamic_slice_in_dim(x, start, size, x.ndim + axis)


def put(x: jax.Array, start: Start, block: jax.Array) -> jax.Array:
    """`x` (..., positions, features) with one block of positions replaced."""
    if isinstance(start, int):
        return block
    return lax.dynamic_update_slice_in_dim(x, block, start, x.ndim - 2)


def added(x: jax.Array, start: Start, more: jax.Array) -> jax.Array:
    """`x` with `more` added to its block from `start` on; `more` where there is one block."""
    if isinstance(start, int):
        return more
    return put(x, start, part(x, start, more.shape[-2]) + more)


def padded(x: jax.Array, size: int, axis: int) -> jax.Array:
    """`x` with zeros after it, up to `size` of them along an axis."""
    more = size - x.shape[axis]
    if isinstance(more, int) and more == 0:
        return x
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, more)
    return jnp.pad(x, widths)


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


def as_one(f: Callable[..., T]) -> Callable[..., T]:
    """`f`, of which a policy of `jax.checkpoint` saves nothing but its results, by name.

    Policies look into loops and calls, and "save the products" would save every block of z. They do
    not look into a `jax.custom_jvp`. This one's rule is JAX's own: derivatives are those of `f`.
    """
    whole = jax.custom_jvp(f)
    whole.defjvp(lambda primals, tangents: jax.jvp(f, primals, tangents))
    return jax.jit(whole)  # as an equation, which JAX may trace again
