"""Pooling: the greatest or the mean entry of each window of an image, channel by channel.

    max_pool : x (n, h, w, c) -> y (n, ho, wo, c)        avg_pool : the same shapes

Axes: n images; i, j the window; k, l the pixel within it, kh by kw of them; a, b the input's
position; c channels. s is the stride, and x has t pixels of padding before each axis: is + k - t is
the row that pixel k of window i lies on.

Forward
    max_pool   y_nijc = max_kl x_n,(is+k-t),(js+l-t),c            padding is -∞
    avg_pool   y_nijc = (1/m_ij) Σ_kl x_n,(is+k-t),(js+l-t),c     padding is 0; m_ij = kh·kw, or how
                                                                   many pixels are no padding

Backward, with g_nijc = ∂L/∂y_nijc
    max_pool: around a point without ties y_nijc is one of the pixels, number q_nijc = k·kw + l in
    the window, and no other pixel matters: ∂y/∂x is 1 for that pixel and 0 for the others. A pixel
    may be the greatest of several windows:
        dx_nabc = Σ_ijkl g_nijc [q_nijc = k·kw + l] over is+k-t = a, js+l-t = b
    avg_pool: y depends on each pixel of its window with the factor 1/m_ij:
        dx_nabc = Σ_ijkl g_nijc / m_ij over is+k-t = a, js+l-t = b
    Both sums over windows are the adjoint of cutting the image into windows (fold, in `_unfold`).
    Where windows lie side by side each pixel is in one window, and there is no sum.

In two halves
    A window is kh rows of kw pixels, so its sum is the sum of its rows' sums, and likewise back:
        r_najc = Σ_l x_na,(js+l-t),c           y_nijc = (1/m_ij) Σ_k r_n,(is+k-t),j,c
        G_najc = Σ_ik g_nijc / m_ij over is+k-t = a        dx_nabc = Σ_jl G_najc over js+l-t = b
    The greatest of large windows is found, and g taken back to it, in such halves too: how, with
    ties and NaN, is in `_winners`. The program has one size whatever the window's.

Residuals
    max_pool   q, one byte for each output (two for windows of more than 256 pixels): neither x,
               which autodiff keeps and searches again, nor y. Where x is kept anyway, as by a relu
               before the pool, q is one byte more.
    avg_pool   none: the rule is linear.

At kinks
    Of equal pixels the first in row-major order counts, padding too, as in the reverse mode of
    `jax.lax.reduce_window`; and as there the greatest of values with NaN among them is NaN, while
    in the search for q a NaN gives way to whatever comes after it.

References
    Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, Gradient-based learning applied to document
    recognition, 1998.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from fnnet.ops._checks import require_floats
from fnnet.ops._compiled import compiled
from fnnet.ops._options import FLAG, STATIC
from fnnet.ops._windows import FEW, Padding, Pair, Windows, require_image
from fnnet.ops._winners import greatest, to_winners, winner
from fnnet.rules import Static, accumulator, register

MaxPoolResiduals: TypeAlias = tuple[jax.Array, Static]
AvgPoolResiduals: TypeAlias = Static

# up to so many pixels of a window it costs less to add up planes than to spread out windows
_FEW = 16


@compiled(size=STATIC, stride=STATIC, padding=STATIC)
def max_pool(
    x: Float[ArrayLike, "n h w c"],
    size: Pair,
    *,
    stride: Pair | None = None,
    padding: Padding = "VALID",
) -> Float[Array, "n ho wo c"]:
    """The greatest entry of each window, channel by channel.

    Args:
        x: images (n, h, w, c), real floating point.
        size: of a window: a whole number, or a pair of height and width.
        stride: from one window to the next; None for `size`, windows side by side.
        padding: with -inf, which never wins: "SAME" (a window for every `stride` pixels), "VALID"
            (none; pixels beyond the last whole window do not count), a whole number, or two pairs
            (before, after), of height and width.

    Returns:
        Shape (n, ho, wo, c), dtype of `x`. A window with nothing but padding gives -inf.

    Raises:
        TypeError: for an array that is not of real floating point dtype, or a size that is not
            whole.
        ValueError: for shapes and sizes that do not fit.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fnnet import max_pool
        >>> x = jnp.arange(16.0).reshape(1, 4, 4, 1)
        >>> max_pool(x, 2)[0, :, :, 0].tolist()
        [[5.0, 7.0], [13.0, 15.0]]
        >>> jax.grad(lambda x: max_pool(x, 2, stride=1).sum())(x)[0, 1, :, 0].tolist()
        [0.0, 1.0, 1.0, 1.0]
    """
    at = _checked("max_pool", x, size, stride, padding)
    return _max_pool(jnp.asarray(x), at.size, stride=at.stride, padding=at.pads)


@compiled(size=STATIC, stride=STATIC, padding=STATIC, count_include_pad=FLAG)
def avg_pool(
    x: Float[ArrayLike, "n h w c"],
    size: Pair,
    *,
    stride: Pair | None = None,
    padding: Padding = "VALID",
    count_include_pad: bool = True,
) -> Float[Array, "n ho wo c"]:
    """The mean of each window, channel by channel.

    Args:
        x: images (n, h, w, c), real floating point.
        size: of a window: a whole number, or a pair of height and width.
        stride: from one window to the next; None for `size`, windows side by side.
        padding: with zeros, as of `max_pool`.
        count_include_pad: whether the mean is over padding too; else it is over the pixels that
            exist.

    Returns:
        Shape (n, ho, wo, c), dtype of `x`; float16 and bfloat16 are summed in float32. A window
        with nothing but padding gives 0.

    Raises:
        TypeError: for an array that is not of real floating point dtype, or a size that is not
            whole.
        ValueError: for shapes and sizes that do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnnet import avg_pool
        >>> avg_pool(jnp.arange(16.0).reshape(1, 4, 4, 1), 2)[0, :, :, 0].tolist()
        [[2.5, 4.5], [10.5, 12.5]]
    """
    at = _checked("avg_pool", x, size, stride, padding)
    return _avg_pool(
        jnp.asarray(x),
        at.size,
        stride=at.stride,
        padding=at.pads,
        count_include_pad=count_include_pad,
    )


def _windows(op: str, x: Any, size: Any, stride: Any, padding: Any) -> Windows:
    return Windows.of(op, jnp.shape(x), size, size if stride is None else stride, padding)


def _max_pool_forward(
    x: jax.Array, size: Pair, *, stride: Pair | None = None, padding: Padding = "VALID"
) -> jax.Array:
    windows = _windows("max_pool", x, size, stride, padding)
    return _nothing(x, windows) if windows.none else _greatest(x, windows)


def max_pool_fwd(
    x: jax.Array, size: Pair, *, stride: Pair | None = None, padding: Padding = "VALID"
) -> tuple[jax.Array, MaxPoolResiduals]:
    """x -> y, residuals."""
    windows = _windows("max_pool", x, size, stride, padding)
    if windows.none:
        y = _nothing(x, windows)
        return y, (y.astype(np.uint8), Static(windows))
    number = windows.gathered(winner(windows.gathered(x), windows))
    return _greatest(x, windows), (number, Static(windows))


def max_pool_bwd(res: MaxPoolResiduals, g: jax.Array) -> tuple[jax.Array]:
    """residuals, CT y -> CT x."""
    number, static = res
    windows: Windows = static.value
    if windows.none:
        return (_no_pixels(g, windows),)
    number, g = windows.gathered(number), windows.gathered(g)
    return (windows.gathered(to_winners(number, g, windows)),)


def _greatest(x: jax.Array, windows: Windows) -> jax.Array:
    return windows.gathered(greatest(windows.gathered(x), windows))


_max_pool = register(
    _max_pool_forward,
    max_pool_fwd,
    max_pool_bwd,
    name="max_pool",
    static_argnames="size",
    automatic_axes=True,
)


def _avg_pool_forward(
    x: jax.Array,
    size: Pair,
    *,
    stride: Pair | None = None,
    padding: Padding = "VALID",
    count_include_pad: bool = True,
) -> jax.Array:
    windows, wide = _windows("avg_pool", x, size, stride, padding), accumulator(x)
    if windows.none:
        return _nothing(x, windows)
    x = windows.gathered(x)
    y: jax.Array = _sums(x.astype(wide), windows) * _share(windows, count_include_pad, wide)
    return windows.gathered(y.astype(x.dtype))


def avg_pool_fwd(
    x: jax.Array,
    size: Pair,
    *,
    stride: Pair | None = None,
    padding: Padding = "VALID",
    count_include_pad: bool = True,
) -> tuple[jax.Array, AvgPoolResiduals]:
    """x -> y, residuals."""
    y = _avg_pool_forward(
        x, size, stride=stride, padding=padding, count_include_pad=count_include_pad
    )
    return y, Static((_windows("avg_pool", x, size, stride, padding), count_include_pad))


def avg_pool_bwd(res: AvgPoolResiduals, g: jax.Array) -> tuple[jax.Array]:
    """residuals, CT y -> CT x."""
    windows, count_include_pad = res.value
    if windows.none:
        return (_no_pixels(g, windows),)
    return (windows.gathered(_to_pixels(windows.gathered(g), windows, count_include_pad)),)


def _to_pixels(g: jax.Array, windows: Windows, count_include_pad: bool) -> jax.Array:
    each = g.astype(accumulator(g))
    each = each * _share(windows, count_include_pad, each.dtype)
    if windows.tiled and windows.pixels <= FEW and g.shape[3] == 1:
        # XLA for CPUs writes the join of tiles of one channel down before it is what it is to be
        return windows.sum_planes(lambda _: each).astype(g.dtype)
    if windows.tiled:
        each = each.astype(g.dtype)[:, :, None, :, None]
        n, ho, _, wo, _, c = each.shape
        kh, kw = windows.size
        return windows.join_tiles(jnp.broadcast_to(each, (n, ho, kh, wo, kw, c)))
    return _spread(each, windows).astype(g.dtype)


_avg_pool = register(
    _avg_pool_forward,
    avg_pool_fwd,
    avg_pool_bwd,
    name="avg_pool",
    static_argnames="size",
    automatic_axes=True,
)


def _sums(x: jax.Array, windows: Windows) -> jax.Array:
    """The sum of each window, (n, ho, wo, c): of its rows, then of those."""
    for sides in ((0, 1),) if windows.tiled else ((1,), (0,)):
        size, stride, pads = [1] * 4, [1] * 4, [(0, 0)] * 4
        for a in sides:
            size[1 + a], stride[1 + a] = windows.size[a], windows.stride[a]
            pads[1 + a] = windows.pads[a]
        x = lax.reduce_window(x, np.zeros((), x.dtype), lax.add, size, stride, pads)
    return x


def _spread(g: jax.Array, windows: Windows) -> jax.Array:
    """The adjoint of `_sums` where windows overlap: to each pixel the sum of its windows' g."""
    g, around = windows.turned_round(g)
    if not all(g.shape[1:3]):
        return _no_pixels(g, windows)
    for a in (0, 1):
        pads, size, zero = [(0, 0, 0)] * 4, [1] * 4, np.zeros((), g.dtype)
        pads[1 + a], size[1 + a] = (*around[a], windows.stride[a] - 1), windows.size[a]
        g = lax.reduce_window(lax.pad(g, zero, pads), zero, lax.add, size, [1] * 4, "VALID")
    return g


def _share(windows: Windows, count_include_pad: bool, dtype: np.dtype) -> Any:
    """1 / m: what a pixel counts in the mean of its window."""
    if count_include_pad or not windows.padded:
        return dtype.type(1 / windows.pixels)
    rows, columns = (np.maximum(m, 1).astype(dtype) for m in windows.pixels_that_exist())
    return 1 / (jnp.asarray(rows[None, :, None, None]) * jnp.asarray(columns[None, None, :, None]))


def _nothing(x: jax.Array, windows: Windows) -> jax.Array:
    return lax.full_like(x, 0, shape=(x.shape[0], *windows.count, x.shape[3]))


def _no_pixels(g: jax.Array, windows: Windows) -> jax.Array:
    return lax.full_like(g, 0, shape=(g.shape[0], *windows.image, g.shape[3]))


def _checked(op: str, x: Any, size: Any, stride: Any, padding: Any) -> Windows:
    require_floats(op, x=x)
    require_image(op, jnp.shape(x))
    return _windows(op, x, size, stride, padding)
