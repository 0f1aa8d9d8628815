"""Which pixel of each window is the greatest, and its adjoint: the two halves of `max_pool`.

Letters as in _pool.py: q_nijc = k·kw + l is the number of the pixel (k, l) that wins window (i, j).

The search
    goes through the pixels x_0, x_1, ... of a window in row-major order, as the reverse mode of
    `jax.lax.reduce_window` does, and keeps one of them:
        kept <- kept if kept >= x_q else x_q
    So of equal pixels the first is kept. A NaN is never >=, nor is anything >= it: it is kept when
    it comes, and gives way to whatever comes after it. What is kept at the end is therefore the
    first of the greatest of the pixels after the last NaN, or that NaN if it is the last of all.

In two halves
    The pixels of row k alone give (kept_k, l_k). To go through row k with the pixel `kept` of the
    rows before it
      - ends at l_k if the row has a NaN, which forgets what was before;
      - else at `kept` if that is >= each of the row, that is >= kept_k, and at l_k if not.
    So the search over pixels is one over columns, for every row of the image, then one over rows:
        kept, q <- kept, q if kept >= kept_k and row k has no NaN else kept_k, k·kw + l_k
    Windows side by side need no search: three reductions find the last NaN, the greatest after it,
    and the first pixel equal to that.

The adjoint
        dx_nabc = Σ_ijkl g_nijc [q_nijc = k·kw + l] over is+k-t = a, js+l-t = b
    in two halves as well. With k and l the row and the column of q,
        G_najc = Σ_ik g_nijc [k_nijc = k] over is+k-t = a
    is what row a gets from the windows of column j. They all have chosen the same pixel of that
    row, l_najc, since the search through a row of one window knows nothing of the other rows. So
        dx_nabc = Σ_jl G_najc [l_najc = l] over js+l-t = b
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fnnet.ops._windows import FEW, Windows, each
from fnnet.rules import accumulator

# up to so many pixels of windows side by side it costs less to add up planes than to spread tiles
_FEW_SIDE_BY_SIDE = 16


def greatest(x: jax.Array, windows: Windows) -> jax.Array:
    """The greatest pixel of each window, NaN if there is one: (n, ho, wo, c)."""
    if few(windows):
        best, *planes = windows.planes(x, -np.inf)
        for plane in planes:  # not lax.max, which autodiff halves between equal pixels
            best = lax.select((best >= plane) | (best != best), best, plane)
        return best
    x = windows.pad(x, -np.inf)
    for axis in (2, 1):
        size, step = [1, 1, 1, 1], [1, 1, 1, 1]
        size[axis], step[axis] = windows.size[axis - 1], windows.stride[axis - 1]
        x = lax.reduce_window(x, np.asarray(-np.inf, x.dtype), lax.max, size, step, "VALID")
    return x


def few(windows: Windows) -> bool:
    """Whether the windows are searched pixel by pixel."""
    return windows.pixels <= (_FEW_SIDE_BY_SIDE if windows.tiled else FEW)


def winner(x: jax.Array, windows: Windows) -> jax.Array:
    """The number q (n, ho, wo, c) of the greatest pixel of each window, in as few bytes as do."""
    dtype = np.min_scalar_type(windows.pixels - 1)
    if few(windows):
        kept, *planes = windows.planes(x, -np.inf)
        number = lax.full_like(kept, 0, dtype)
        for q, plane in enumerate(planes, 1):
            keep = kept >= plane
            kept, number = lax.select(keep, kept, plane), jnp.where(keep, number, dtype.type(q))
        return number
    # nothing here has a derivative: JAX need not look for one
    x = lax.stop_gradient(x)
    if windows.tiled:
        return _winner_of_tiles(windows.tiles(x, -np.inf), windows).astype(dtype)
    return _winner_in_two_halves(windows.pad(x, -np.inf), windows).astype(dtype)


def _winner_of_tiles(t: jax.Array, windows: Windows) -> jax.Array:
    """Windows (n, ho, kh, wo, kw, c) -> q (n, ho, wo, c)."""
    inside, last, infinity = (2, 4), np.int32(windows.pixels - 1), np.asarray(-np.inf, t.dtype)
    q = jnp.broadcast_to(_numbers(windows), t.shape)

    def back(a: jax.Array) -> jax.Array:
        return jnp.broadcast_to(a[:, :, None, :, None], t.shape)

    start = jnp.where(jnp.isnan(t), q, np.int32(-1)).max(inside) + np.int32(1)
    after = q >= back(jnp.minimum(start, last))
    most = jnp.where(after, t, infinity).max(inside)
    return jnp.where(after & ~(t < back(most)), q, last).min(inside)


def _numbers(windows: Windows) -> jax.Array:
    """The numbers of a window's pixels, (1, 1, kh, 1, kw, 1)."""
    (kh, kw), inside = windows.size, (2, 4)
    row, column = (lax.broadcasted_iota(np.int32, (1, 1, kh, 1, kw, 1), a) for a in inside)
    return row * np.int32(kw) + column


def _winner_in_two_halves(x: jax.Array, windows: Windows) -> jax.Array:
    """The padded image -> q (n, ho, wo, c)."""
    kh, kw = windows.size

    def columns(l: jax.Array, carry: tuple[jax.Array, jax.Array, jax.Array]) -> Any:
        kept, number, nan = carry
        new = windows.cut(x, 1, l, 2)
        keep = kept >= new
        return lax.select(keep, kept, new), jnp.where(keep, number, l), nan | jnp.isnan(new)

    kept = windows.cut(x, 1, jnp.int32(0), 2)
    start = (kept, lax.full_like(kept, 0, np.int32), jnp.isnan(kept))
    of_rows = each(1, kw, columns, start, x)

    def rows(k: jax.Array, carry: tuple[jax.Array, jax.Array]) -> Any:
        kept, number = carry
        new, column, nan = (windows.cut(a, 0, k, 1) for a in of_rows)
        keep = (kept >= new) & ~nan
        there = k * np.int32(kw) + column
        return lax.select(keep, kept, new), lax.select(keep, number, there)

    kept, column, _ = (windows.cut(a, 0, jnp.int32(0), 1) for a in of_rows)
    return each(1, kh, rows, (kept, column), x)[1]


def to_winners(number: jax.Array, g: jax.Array, windows: Windows) -> jax.Array:
    """The adjoint: g (n, ho, wo, c), each to the pixel its window has chosen: (n, h, w, c)."""
    if windows.tiled and not few(windows):
        hit = number[:, :, None, :, None] == _numbers(windows).astype(number.dtype)
        return windows.join_tiles(jnp.where(hit, g[:, :, None, :, None], _zero(g)))
    wide = g.astype(accumulator(g))
    if few(windows):
        dx = windows.sum_planes(
            lambda q: jnp.where(number == number.dtype.type(q), wide, _zero(wide))
        )
    else:
        dx = _to_winners_in_two_halves(number, wide, windows)
    return dx.astype(g.dtype)


def _to_winners_in_two_halves(number: jax.Array, g: jax.Array, windows: Windows) -> jax.Array:
    n, _, wo, c = g.shape
    (kh, kw), kind = windows.size, number.dtype
    q = number.astype(np.int32)
    row, column = (a.astype(kind) for a in (q // np.int32(kw), q % np.int32(kw)))

    def rows(k: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        total, chosen = carry
        hit = row == k.astype(kind)
        total = windows.add(total, jnp.where(hit, g, _zero(g)), 0, k, 1)
        # the columns that a row's windows have chosen are all the same: the greatest is each
        return total, windows.add(chosen, jnp.where(hit, column, kind.type(0)), 0, k, 1, lax.max)

    shape = (n, windows.room(0), wo, c)
    start = lax.full_like(g, 0, shape=shape), lax.full_like(number, 0, shape=shape)
    total, chosen = (windows.crop(a, 0, 1) for a in each(0, kh, rows, start, g, number))

    def columns(l: jax.Array, dx: jax.Array) -> jax.Array:
        return windows.add(dx, jnp.where(chosen == l.astype(kind), total, _zero(g)), 1, l, 2)

    shape = (n, windows.image[0], windows.room(1), c)
    dx = each(0, kw, columns, lax.full_like(g, 0, shape=shape), g, number)
    return windows.crop(dx, 1, 2)


def _zero(g: jax.Array) -> np.ndarray:
    return np.zeros((), g.dtype)
