"""Which blocks of queries and keys of `attention` meet, and how a block is taken from an array.

Letters as in _attention.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from fnnet.rules import Precision, spread

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
