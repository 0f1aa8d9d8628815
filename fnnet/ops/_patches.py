"""Patches: the windows of images as rows of a matrix, and their sum, its adjoint.

    patches     : x (n, h, w, c) -> p (n, ho, wo, kh·kw·c)        sum_patches : p -> x

Small windows are taken pixel by pixel, as planes (see `_windows.py`). Of large ones `patches` looks
up first the rows of the image that each window needs, then the columns of those; `sum_patches` adds
up first the columns, then the rows.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fnnet.ops._windows import FEW, Windows, each
from fnnet.rules import accumulator

# up to so many planes their concatenation is compiled fast enough
_FEW_TO_JOIN = 25


def patches(x: jax.Array, windows: Windows, *, apart: bool = False) -> jax.Array:
    """x (n, h, w, c) -> p (n, ho, wo, kh*kw*c), each row a window flattened.

    With `apart`, p is (n, ho, wo, kh*kw, c): so channels that are cut over devices stay where they
    are.
    """
    n, c, k = x.shape[0], x.shape[3], windows.pixels
    shape = (n, *windows.count, k, c) if apart else (n, *windows.count, k * c)
    if windows.none:
        return lax.full_like(x, 0, shape=shape)
    x = windows.gathered(x)
    if windows.tiled:
        t = windows.tiles(x).transpose(0, 1, 3, 2, 4, 5)
    elif k <= _FEW_TO_JOIN:
        planes = list(windows.planes(x))
        return windows.gathered(jnp.stack(planes, 3) if apart else jnp.concatenate(planes, -1))
    else:
        t = _looked_up(windows.pad(x), windows)
    return windows.gathered(t.reshape(shape))


def _looked_up(x: jax.Array, windows: Windows) -> jax.Array:
    """The padded image (n, h, w, c) -> the windows (n, ho, wo, kh, kw, c)."""
    (n, _, w, c), (ho, _), (kh, _) = x.shape, windows.count, windows.size
    rows = lax.GatherDimensionNumbers((0, 3, 4), (1,), (1,))  # n, ho, kh, w, c
    x = _gather(x, _places(windows, 0), rows, (n, 1, w, c))
    columns = lax.GatherDimensionNumbers((0, 1, 3, 5), (3,), (3,))  # n, ho, wo, kh, kw, c
    return _gather(x, _places(windows, 1), columns, (n, ho, kh, 1, c))


def _gather(
    x: jax.Array, places: jax.Array, numbers: lax.GatherDimensionNumbers, sizes: tuple[int, ...]
) -> jax.Array:
    return lax.gather(x, places, numbers, sizes, mode="promise_in_bounds")


def _places(windows: Windows, side: int) -> jax.Array:
    """Where the pixels of each window lie on one side of the padded image, (count, size, 1)."""
    shape = (windows.count[side], windows.size[side], 1)
    start, pixel = (lax.broadcasted_iota(np.int32, shape, axis) for axis in (0, 1))
    return start * np.int32(windows.stride[side]) + pixel * np.int32(windows.dilation[side])


def patches_in_one_loop(x: jax.Array, windows: Windows) -> jax.Array:
    """As `patches`, by pads and a sum where that is one loop: nothing else is written down.

    XLA for CPUs writes a concatenation of planes twice, and an image with its padding once.
    """
    if windows.tiled or windows.pixels > FEW or windows.none:
        return patches(x, windows)
    x = windows.gathered(x)
    c, total = x.shape[3], None
    for k, offset in enumerate(windows.offsets()):
        channels = (k * c, (windows.pixels - 1 - k) * c)
        placed = windows.plane(x, offset, channels)
        total = placed if total is None else total + placed
    assert total is not None
    return windows.gathered(total)


def sum_patches(p: jax.Array, windows: Windows) -> jax.Array:
    """p (n, ho, wo, kh*kw*c) -> the image (n, h, w, c) of their sums: the adjoint of `patches`.

    Or p (n, ho, wo, kh*kw, c), of `patches` with pixels and channels apart.
    """
    n, ho, wo = p.shape[:3]
    (kh, kw), c = windows.size, p.shape[-1] if p.ndim == 5 else p.shape[3] // windows.pixels
    if windows.none:
        return lax.full_like(p, 0, shape=(n, *windows.image, c))
    p = windows.gathered(p)
    if windows.tiled:
        tiles = p.reshape(n, ho, wo, kh, kw, c).transpose(0, 1, 3, 2, 4, 5)
        return windows.gathered(windows.join_tiles(tiles))
    wide = accumulator(p)
    if windows.pixels <= FEW:

        def plane(k: int) -> jax.Array:
            of_pixel = p[:, :, :, k] if p.ndim == 5 else p[..., k * c : (k + 1) * c]
            return of_pixel.astype(wide)

        image = windows.sum_planes(plane)
    else:
        image = _added_up(p.reshape(n, ho, wo, kh, kw, c), windows, wide)
    return windows.gathered(image.astype(p.dtype))


def _added_up(p: jax.Array, windows: Windows, wide: np.dtype) -> jax.Array:
    """The windows (n, ho, wo, kh, kw, c) -> the image (n, h, w, c) of their sums."""
    (n, ho, _, kh, kw, c), width = p.shape, windows.room(1)

    def columns(l: jax.Array, total: jax.Array) -> jax.Array:  # of (n, ho, w, kh, c)
        plane = lax.dynamic_index_in_dim(p, l, 4, keepdims=False)
        return windows.add(total, plane.astype(wide), 1, l, 2)

    rows_of = each(0, kw, columns, lax.full_like(p, 0, wide, (n, ho, width, kh, c)), p)
    rows_of = windows.crop(rows_of, 1, 2)

    def rows(k: jax.Array, total: jax.Array) -> jax.Array:  # of (n, h, w, c)
        return windows.add(total, lax.dynamic_index_in_dim(rows_of, k, 3, keepdims=False), 0, k, 1)

    shape = (n, windows.room(0), windows.image[1], c)
    return windows.crop(each(0, kh, rows, lax.full_like(p, 0, wide, shape), p), 0, 1)
