"""Patches of images as rows of a matrix, and back: unfold (im2col) and fold (col2im).

    unfold : x (n, h, w, c) -> p (n, ho, wo, kh*kw*c)        fold : p -> x

Axes: n images; i, j the window; k, l the pixel within it; c channels. s is the stride, d the
dilation, and x is padded with zeros.

Forward
    unfold   p_nij(klc) = x_n,(is+kd),(js+ld),c       a copy of each window
    fold     x_nabc = Σ p_nij(klc) over all i,j,k,l with is+kd = a, js+ld = b
             each patch is added back to where it was taken from; what falls on padding is dropped

Backward
    Both are linear. Write unfold as p = U x: each row of the matrix U has a single 1, in the column
    of the pixel that is copied. With g = ∂L/∂p,
        dx_nabc = Σ g_nij(klc) ∂p_nij(klc)/∂x_nabc = Σ g_nij(klc) over is+kd = a, js+ld = b
    the sum over all copies of that pixel: dx = Uᵀ g, which is fold. And fold is x = Uᵀ p, so that
        dp = U g
    which is unfold. Each is the other's backward, and <unfold(x), p> = <x, fold(p)>.

Residuals
    None: the rules are linear, and the matrix U is known from shapes.

    Both are made of slices and pads, one for each pixel of a small window; of large windows they
    look up, or add up, first one side, then the other (`_patches`). A convolution with one-hot
    kernels would do, as `jax.lax.conv_general_dilated_patches`; but it multiplies by all the zeros
    of U, and its backward is a grouped convolution with as many groups as channels.
    On CPUs the two passes of large windows, in one program, may hold one array of patches in
    float32 more than autodiff's: which of them live together is the compiler's choice.

References
    K. Chellapilla, S. Puri, P. Simard, High performance convolutional neural networks for document
    processing, 2006: convolution as one matrix product.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import export
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from fnnet.ops._checks import describe, require_floats
from fnnet.ops._compiled import compiled
from fnnet.ops._options import STATIC
from fnnet.ops._patches import patches, patches_in_one_loop, sum_patches
from fnnet.ops._window_arguments import require_holdable
from fnnet.ops._windows import (
    Padding,
    Pair,
    Windows,
    require_image,
    whole,
)
from fnnet.rules import Static, register

Residuals: TypeAlias = Static


@compiled(size=STATIC, stride=STATIC, padding=STATIC, dilation=STATIC)
def unfold(
    x: Float[ArrayLike, "n h w c"],
    size: Pair,
    *,
    stride: Pair = 1,
    padding: Padding = "VALID",
    dilation: Pair = 1,
) -> Float[Array, "n ho wo k"]:
    """Patches as rows: each window of the image, flattened. Also called im2col.

    Args:
        x: images (n, h, w, c), real floating point.
        size: of a window: a whole number, or a pair of height and width.
        stride: from one window to the next.
        padding: with zeros: "SAME" (a window for every `stride` pixels), "VALID" (none), a whole
            number, or two pairs (before, after), of height and width.
        dilation: from one pixel of a window to the next.

    Returns:
        Shape (n, ho, wo, kh * kw * c); a row runs over the window's rows, columns and channels, the
        last fastest. dtype of `x`.

    Raises:
        TypeError: for an array that is not of real floating point dtype, or a size that is not
            whole.
        ValueError: for shapes and sizes that do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnnet import unfold
        >>> unfold(jnp.arange(9.0).reshape(1, 3, 3, 1), 2)[0, 0, 1].tolist()
        [1.0, 2.0, 4.0, 5.0]
    """
    require_floats("unfold", x=x)
    require_image("unfold", jnp.shape(x))
    at = Windows.of("unfold", jnp.shape(x), size, stride, padding, dilation)
    n, c = jnp.shape(x)[0], jnp.shape(x)[3]
    require_holdable("unfold", f"size={at.size}", "patches", (n, *at.count, at.pixels * c))
    return _unfold(jnp.asarray(x), at.size, stride=at.stride, padding=at.pads, dilation=at.dilation)


@compiled(shape=STATIC, size=STATIC, stride=STATIC, padding=STATIC, dilation=STATIC)
def fold(
    p: Float[ArrayLike, "n ho wo k"],
    shape: Sequence[int],
    size: Pair,
    *,
    stride: Pair = 1,
    padding: Padding = "VALID",
    dilation: Pair = 1,
) -> Float[Array, "n h w c"]:
    """Add patches up into images: the adjoint of `unfold`. Also called col2im.

    Args:
        p: patches (n, ho, wo, kh * kw * c), real floating point, as `unfold` returns them.
        shape: of the images, (n, h, w, c).
        size: of a window, and the others: as of `unfold`.
        stride: as of `unfold`.
        padding: as of `unfold`. What is added to padding is dropped.
        dilation: as of `unfold`.

    Returns:
        Shape `shape`, dtype of `p`; float16 and bfloat16 are summed in float32. Pixels in no window
        are 0.

    Raises:
        TypeError: for an array that is not of real floating point dtype, or a size that is not
            whole.
        ValueError: for shapes and sizes that do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnnet import fold
        >>> fold(jnp.ones((1, 2, 2, 4)), (1, 3, 3, 1), 2)[0, :, :, 0].tolist()
        [[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]
    """
    require_floats("fold", p=p)
    shape = _require_shape(shape, jnp.shape(p))
    windows = Windows.of("fold", shape, size, stride, padding, dilation)
    want = (shape[0], *windows.count, windows.pixels * shape[3])
    if jnp.shape(p) != want:
        raise ValueError(
            f"fold: p must have shape (n, ho, wo, kh*kw*c) = {want} for images of shape {shape}; "
            f"got shape {jnp.shape(p)}. It is what unfold returns for the same options"
        )
    return _fold(
        jnp.asarray(p),
        shape,
        windows.size,
        stride=windows.stride,
        padding=windows.pads,
        dilation=windows.dilation,
    )


def _unfold_forward(
    x: jax.Array,
    size: Pair,
    *,
    stride: Pair = 1,
    padding: Padding = "VALID",
    dilation: Pair = 1,
) -> jax.Array:
    return patches(x, Windows.of("unfold", x.shape, size, stride, padding, dilation))


def unfold_fwd(
    x: jax.Array,
    size: Pair,
    *,
    stride: Pair = 1,
    padding: Padding = "VALID",
    dilation: Pair = 1,
) -> tuple[jax.Array, Residuals]:
    """x -> p, residuals."""
    windows = Windows.of("unfold", x.shape, size, stride, padding, dilation)
    return patches(x, windows), Static(windows)


def unfold_bwd(res: Residuals, g: jax.Array) -> tuple[jax.Array]:
    """residuals, CT p -> CT x."""
    return (sum_patches(g, res.value),)


_unfold = register(
    _unfold_forward,
    unfold_fwd,
    unfold_bwd,
    name="unfold",
    static_argnames="size",
    automatic_axes=True,
)


def _fold_forward(
    p: jax.Array,
    shape: Sequence[int],
    size: Pair,
    *,
    stride: Pair = 1,
    padding: Padding = "VALID",
    dilation: Pair = 1,
) -> jax.Array:
    return sum_patches(p, Windows.of("fold", shape, size, stride, padding, dilation))


def fold_fwd(
    p: jax.Array,
    shape: Sequence[int],
    size: Pair,
    *,
    stride: Pair = 1,
    padding: Padding = "VALID",
    dilation: Pair = 1,
) -> tuple[jax.Array, Residuals]:
    """p -> x, residuals."""
    windows = Windows.of("fold", shape, size, stride, padding, dilation)
    return sum_patches(p, windows), Static(windows)


def fold_bwd(res: Residuals, g: jax.Array) -> tuple[jax.Array]:
    """residuals, CT x -> CT p."""
    return (patches_in_one_loop(g, res.value),)


_fold = register(
    _fold_forward,
    fold_fwd,
    fold_bwd,
    name="fold",
    static_argnames=("shape", "size"),
    automatic_axes=True,
)


def _require_shape(shape: Any, p: tuple[int, ...]) -> tuple[Any, ...]:
    require_image("fold", p, "p", "(n, ho, wo, kh*kw*c)")
    if not isinstance(shape, (tuple, list)) or len(shape) != 4:
        got = f"{len(shape)} numbers" if isinstance(shape, (tuple, list)) else describe(shape)
        raise ValueError(f"fold: shape must be the images' (n, h, w, c); got {got}")
    # the number of images may be a variable, in jax.export
    n = shape[0] if export.is_symbolic_dim(shape[0]) else whole("fold", "shape", shape[0], 0)
    images = (n, *(whole("fold", "shape", size, 0) for size in shape[1:]))
    require_holdable("fold", f"shape={images}", "images", images)
    return images
