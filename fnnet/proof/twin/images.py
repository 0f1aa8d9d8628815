"""Images: unfold, fold, conv2d, max_pool, avg_pool.

Images are (n, height, width, channel), kernels (kh, kw, channel in, channel out). Everything here
is one loop over output positions (i, j), each looking at its own window of the padded image; the
backward pass is the same loop, adding into the windows instead of reading from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from .elementary import Array, Scalar, greater

Pair: TypeAlias = int | Sequence[int]
Padding: TypeAlias = str | int | Sequence[Sequence[int]]
Window: TypeAlias = tuple[slice, slice, slice]


class Grid(NamedTuple):
    """Where the windows lie: padding per axis, output size, and (i, j) with its window."""

    pads: tuple[tuple[int, int], tuple[int, int]]
    size: tuple[int, int]
    windows: list[tuple[tuple[int, int], Window]]


def _pair(value: Pair) -> tuple[int, int]:
    first, second = (value, value) if isinstance(value, int) else value
    return first, second


def _lo_hi(padding: Padding, axis: int, length: int, step: int, reach: int) -> tuple[int, int]:
    """The pixels of padding before and after one axis, for a kernel that covers `reach` pixels."""
    if isinstance(padding, int):
        return padding, padding
    if not isinstance(padding, str):
        lo, hi = padding[axis]
        return lo, hi
    if padding == "VALID":
        return 0, 0
    if padding != "SAME":
        raise ValueError(f'padding must be "SAME", "VALID", an int or pairs, got {padding!r}')
    outputs = -(-length // step)  # one for every step; an odd pixel of padding goes to the end
    total = max((outputs - 1) * step + reach - length, 0)
    return total // 2, total - total // 2


def _grid(image: Sequence[int], size: Pair, stride: Pair, padding: Padding, dilation: Pair) -> Grid:
    pads, slices = [], []
    for axis, (k, s, d) in enumerate(zip(_pair(size), _pair(stride), _pair(dilation), strict=True)):
        length, reach = image[axis + 1], d * (k - 1) + 1
        lo, hi = _lo_hi(padding, axis, length, s, reach)
        pads.append((lo, hi))
        starts = range(0, lo + length + hi - reach + 1, s)
        slices.append([slice(start, start + reach, d) for start in starts])
    windows = [
        ((i, j), (slice(None), rows, columns))
        for i, rows in enumerate(slices[0])
        for j, columns in enumerate(slices[1])
    ]
    return Grid((pads[0], pads[1]), (len(slices[0]), len(slices[1])), windows)


def _inside(grid: Grid, image: Sequence[int]) -> Window:
    """The image's own place within the padded image."""
    (top, _), (left, _) = grid.pads
    return slice(None), slice(top, top + image[1]), slice(left, left + image[2])


def _blank(grid: Grid, image: Sequence[int], like: Array, fill: Scalar = 0) -> Array:
    """A padded image with nothing on it."""
    n, h, w, c = image
    (top, bottom), (left, right) = grid.pads
    return np.full((n, top + h + bottom, left + w + right, c), fill, like.dtype)


def _padded(grid: Grid, x: Array, fill: Scalar = 0) -> Array:
    xp = _blank(grid, x.shape, x, fill)
    xp[_inside(grid, x.shape)] = x
    return xp


def unfold(
    x: Array,
    size: Pair,
    *,
    stride: Pair = 1,
    padding: Padding = "VALID",
    dilation: Pair = 1,
) -> Array:
    """Patches as rows: p[n, i, j] is the window at output (i, j), flattened over (kh, kw, c).

    Shapes: x (n, h, w, c) -> (n, ho, wo, kh*kw*c). Also called im2col.

    >>> unfold(np.arange(9.0).reshape(1, 3, 3, 1), 2)[0, 0, 1]
    array([1., 2., 4., 5.])
    """
    grid = _grid(x.shape, size, stride, padding, dilation)
    kh, kw = _pair(size)
    n, c = x.shape[0], x.shape[3]
    xp, p = _padded(grid, x), np.zeros((n, *grid.size, kh * kw * c), x.dtype)
    for (i, j), window in grid.windows:
        p[:, i, j] = xp[window].reshape(n, kh * kw * c)
    return p


def unfold_vjp(
    x: Array,
    size: Pair,
    g: Array,
    *,
    stride: Pair = 1,
    padding: Padding = "VALID",
    dilation: Pair = 1,
) -> tuple[Array]:
    """Cotangent (dx,): the fold of g.

    unfold copies each pixel into every window that covers it. A pixel's cotangent is the sum over
    its copies, and adding the patches back where they came from is fold.
    """
    return (fold(g, x.shape, size, stride=stride, padding=padding, dilation=dilation),)


def fold(
    p: Array,
    shape: Sequence[int],
    size: Pair,
    *,
    stride: Pair = 1,
    padding: Padding = "VALID",
    dilation: Pair = 1,
) -> Array:
    """Add patches into an image of `shape` (n, h, w, c): the adjoint of unfold.

    Shapes: p (n, ho, wo, kh*kw*c) -> shape. What falls on the padding is dropped.

    >>> fold(np.ones((1, 2, 2, 4)), (1, 3, 3, 1), 2)[0, :, :, 0]
    array([[1., 2., 1.],
           [2., 4., 2.],
           [1., 2., 1.]])
    """
    grid = _grid(shape, size, stride, padding, dilation)
    kh, kw = _pair(size)
    xp = _blank(grid, shape, p)
    for (i, j), window in grid.windows:
        xp[window] += p[:, i, j].reshape(shape[0], kh, kw, shape[3])
    return xp[_inside(grid, shape)]


def fold_vjp(
    p: Array,
    shape: Sequence[int],
    size: Pair,
    g: Array,
    *,
    stride: Pair = 1,
    padding: Padding = "VALID",
    dilation: Pair = 1,
) -> tuple[Array]:
    """Cotangent (dp,): the unfold of g.

    fold is linear and adds p[n, i, j, k] onto one pixel, so each entry of p takes the cotangent of
    the pixel it was added to. An entry on the padding meets a padded zero.
    """
    return (unfold(g, size, stride=stride, padding=padding, dilation=dilation),)


def conv2d(
    x: Array,
    w: Array,
    b: Array | None = None,
    *,
    stride: Pair = 1,
    padding: Padding = "SAME",
    dilation: Pair = 1,
    groups: int = 1,
    form: str = "direct",
) -> Array:
    """Cross-correlation y[n,i,j,o] = sum_klc x[n, i s + k d, j s + l d, c] w[k,l,c,o] + b[o].

    Shapes: x (n, h, w, c_in), w (kh, kw, c_in / groups, c_out), b (c_out,) -> (n, ho, wo, c_out).
    With groups, channels are split into that many parts that do not see each other. `form` picks
    an algorithm in fnnet and is ignored here: the result is the same.

    >>> x, w = np.arange(9.0).reshape(1, 3, 3, 1), np.arange(4.0).reshape(2, 2, 1, 1)
    >>> conv2d(x, w, padding="VALID")[0, :, :, 0]
    array([[19., 25.],
           [37., 43.]])
    """
    grid = _grid(x.shape, w.shape[:2], stride, padding, dilation)
    xp, y = _padded(grid, x), np.zeros((x.shape[0], *grid.size, w.shape[3]), x.dtype)
    for cin, cout in _groups(x, w, groups):
        for (i, j), window in grid.windows:
            y[:, i, j, cout] = np.einsum("nklc,klco->no", xp[window][..., cin], w[..., cout])
    return y if b is None else y + b


def conv2d_vjp(
    x: Array,
    w: Array,
    b: Array | None,
    g: Array,
    *,
    stride: Pair = 1,
    padding: Padding = "SAME",
    dilation: Pair = 1,
    groups: int = 1,
    form: str = "direct",
) -> tuple[Array, Array, Array | None]:
    """Cotangents (dx, dw, db); db is None where b is.

    At each output position the layer is lin on one window, so lin's rule holds there:
    the window receives sum_o g_no w_klco, and w receives sum_n x_nklc g_no. Windows overlap and
    all share w: the contributions add up. b is added at every (n, i, j).
    """
    grid = _grid(x.shape, w.shape[:2], stride, padding, dilation)
    xp, dxp, dw = _padded(grid, x), _blank(grid, x.shape, x), np.zeros_like(w)
    for cin, cout in _groups(x, w, groups):
        for (i, j), window in grid.windows:
            g_here = g[:, i, j, cout]
            dxp[window][..., cin] += np.einsum("no,klco->nklc", g_here, w[..., cout])
            dw[..., cout] += np.einsum("nklc,no->klco", xp[window][..., cin], g_here)
    db = None if b is None else np.asarray(g.sum(axis=(0, 1, 2)))
    return dxp[_inside(grid, x.shape)], dw, db


def _groups(x: Array, w: Array, groups: int) -> list[tuple[slice, slice]]:
    """The input and output channels of each group."""
    cin, cout = w.shape[2], w.shape[3] // groups
    if cin * groups != x.shape[3] or cout * groups != w.shape[3]:
        raise ValueError(f"conv2d: {groups} groups do not fit x {x.shape} and w {w.shape}")
    return [(slice(r * cin, (r + 1) * cin), slice(r * cout, (r + 1) * cout)) for r in range(groups)]


def max_pool(
    x: Array, size: Pair, *, stride: Pair | None = None, padding: Padding = "VALID"
) -> Array:
    """The greatest entry of each window, per channel. stride None means size.

    Shapes: x (n, h, w, c) -> (n, ho, wo, c). Padding never wins.

    >>> max_pool(np.arange(16.0).reshape(1, 4, 4, 1), 2)[0, :, :, 0]
    array([[ 5.,  7.],
           [13., 15.]])
    """
    grid = _grid(x.shape, size, size if stride is None else stride, padding, 1)
    xp = _padded(grid, x, -np.inf)
    y = np.zeros((x.shape[0], *grid.size, x.shape[3]), x.dtype)
    for (i, j), window in grid.windows:
        y[:, i, j] = _winner(xp[window])[0]
    return y


def max_pool_vjp(
    x: Array, size: Pair, g: Array, *, stride: Pair | None = None, padding: Padding = "VALID"
) -> tuple[Array]:
    """Cotangent (dx,): each output's g goes to the pixel that won its window.

    Around a point without ties the output is that pixel, and no other matters. Of equal pixels the
    first in row-major order wins. A pixel may win several overlapping windows: it gets the sum.
    """
    grid = _grid(x.shape, size, size if stride is None else stride, padding, 1)
    xp, dxp = _padded(grid, x, -np.inf), _blank(grid, x.shape, x)
    kh, kw = _pair(size)
    for (i, j), window in grid.windows:
        first = _winner(xp[window])[1]
        for k in range(kh * kw):
            dxp[window][:, k // kw, k % kw] += np.where(first == k, g[:, i, j], 0)
    return (dxp[_inside(grid, x.shape)],)


def _winner(window: Array) -> tuple[Array, Array]:
    """The greatest of (n, kh, kw, c) over its window, and which one it was: the first such."""
    n, kh, kw, c = window.shape
    entries = window.reshape(n, kh * kw, c)
    best, first = entries[:, 0], np.zeros((n, c), int)
    for k in range(1, kh * kw):
        better = greater(entries[:, k], best)
        best, first = np.where(better, entries[:, k], best), np.where(better, k, first)
    return best, first


def avg_pool(
    x: Array,
    size: Pair,
    *,
    stride: Pair | None = None,
    padding: Padding = "VALID",
    count_include_pad: bool = True,
) -> Array:
    """The mean of each window, per channel. stride None means size.

    Shapes: x (n, h, w, c) -> (n, ho, wo, c). Padding counts as zeros; without `count_include_pad`
    the mean is over the pixels that exist.

    >>> avg_pool(np.arange(16.0).reshape(1, 4, 4, 1), 2)[0, :, :, 0]
    array([[ 2.5,  4.5],
           [10.5, 12.5]])
    """
    grid = _grid(x.shape, size, size if stride is None else stride, padding, 1)
    xp, y = _padded(grid, x), np.zeros((x.shape[0], *grid.size, x.shape[3]), x.dtype)
    for (i, j), window in grid.windows:
        y[:, i, j] = xp[window].sum(axis=(1, 2)) / _count(grid, x, window, count_include_pad)
    return y


def avg_pool_vjp(
    x: Array,
    size: Pair,
    g: Array,
    *,
    stride: Pair | None = None,
    padding: Padding = "VALID",
    count_include_pad: bool = True,
) -> tuple[Array]:
    """Cotangent (dx,): every pixel of a window gets g / (number of pixels in it).

    The mean is linear with the slope 1/count in each of its pixels; overlapping windows add up.
    """
    grid = _grid(x.shape, size, size if stride is None else stride, padding, 1)
    dxp = _blank(grid, x.shape, x)
    for (i, j), window in grid.windows:
        dxp[window] += (g[:, i, j] / _count(grid, x, window, count_include_pad))[:, None, None]
    return (dxp[_inside(grid, x.shape)],)


def _count(grid: Grid, x: Array, window: Window, count_include_pad: bool) -> int:
    """How many entries the mean of this window is over."""
    exists = np.zeros(_blank(grid, x.shape, x).shape[1:3], int)
    exists[_inside(grid, x.shape)[1:]] = 1
    here = exists[window[1:]]
    return here.size if count_include_pad else max(int(here.sum()), 1)
