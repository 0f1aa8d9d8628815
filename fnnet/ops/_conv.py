"""A convolutional layer of images, with shared weights at every position.

    conv2d : x (n, h, w, c_in), w (kh, kw, c_in/groups, c_out), b (c_out) -> y (n, ho, wo, c_out)

Axes: n images; i, j the output's position; a, b the input's; k, l the pixel of the kernel; c the
input's channels, o the output's. s is the stride, d the dilation; x is padded with zeros, t of them
before each axis, and written with padded positions. What is called convolution in neural nets is
the cross-correlation: the kernel is not turned round. With groups the sums over c and o run within
one group of channels.

Forward
    y_nijo = Σ_klc x_n,(is+kd),(js+ld),c w_klco + b_o

Backward, with g_nijo = ∂L/∂y_nijo
    x_nabc enters y_nijo through the pixel k, l of the kernel for which is + kd = a, js + ld = b,
    with the factor w_klco:
        dx_nabc = Σ_ijklo g_nijo w_klco over is+kd = a, js+ld = b
    Written as a sum over the kernel's pixels, k' = kh-1-k turns the condition into
    is + kd = is + (kh-1)d - k'd = a: a convolution of g, spread out with s-1 zeros between its
    elements, with the kernel turned round and its channels c and o exchanged. It is padded with
    (kh-1)d - t zeros before, so that its first element is padded position t, x's own first.
    w_klco enters y_nijo for every image and position, with the factor x:
        dw_klco = Σ_nij x_n,(is+kd),(js+ld),c g_nijo
    a convolution of x with the "kernel" g, whose dilation is the layer's stride and whose stride is
    the layer's dilation; the images n are its channels and the channels c its images.
    b_o enters every y_nijo with the factor 1:
        db_o = Σ_nij g_nijo

Two forms
    "direct": the three sums above as three convolutions of XLA's.
    "unfold": p = unfold(x), with rows of length K = kh·kw·c_in, makes of the layer `lin`:
        y = p w + b        dp = g wᵀ, dx = fold(dp)        dw = pᵀ g        db = 1ᵀ g
    with w as a matrix (K, c_out). It needs kh·kw times the memory of x for p, and shows what the
    direct form computes. On CPUs its products of 16 bits make float32 copies of p, and the two
    passes in one program may hold one of these more than autodiff's.

Residuals
    x and w, the caller's arrays, in both forms: p is not stored but unfolded again.

References
    Y. LeCun et al., Backpropagation applied to handwritten zip code recognition, 1989.
    V. Dumoulin, F. Visin, A guide to convolution arithmetic for deep learning, arXiv:1603.07285.
"""

from __future__ import annotations

from functools import partial
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from fnnet.ops._checks import floats, shapes
from fnnet.ops._compiled import compiled
from fnnet.ops._conv_sums import Direct, Unfold
from fnnet.ops._options import OUT_SHARDING, PRECISION, STATIC, choice, whole_number
from fnnet.ops._window_arguments import require_holdable
from fnnet.ops._windows import Padding, Pair, Windows, require_image
from fnnet.rules import (
    Like,
    OutSharding,
    Precision,
    Static,
    accumulator,
    forward_with_axes_automatic,
    register,
    result_sharding,
    sum_to,
    tells_of_out_sharding,
)

Form: TypeAlias = Literal["direct", "unfold"]
Residuals: TypeAlias = tuple[jax.Array, jax.Array, Like | None, Static]


@compiled(
    stride=STATIC,
    padding=STATIC,
    dilation=STATIC,
    groups=whole_number(1),
    form=choice("direct", "unfold"),
    precision=PRECISION,
    out_sharding=OUT_SHARDING,
)
def conv2d(
    x: Float[ArrayLike, "n h w c"],
    w: Float[ArrayLike, "kh kw i o"],
    b: Float[ArrayLike, " o"] | None = None,
    *,
    stride: Pair = 1,
    padding: Padding = "SAME",
    dilation: Pair = 1,
    groups: int = 1,
    form: Form = "direct",
    precision: Precision = None,
    out_sharding: OutSharding = None,
) -> Float[Array, "n ho wo o"]:
    """Convolutional layer: at every position of the image the same linear map of a window.

    It is the cross-correlation, as everywhere in neural nets: the kernel is not turned round.

    Args:
        x: images (n, h, w, c_in), real floating point.
        w: kernels (kh, kw, c_in / groups, c_out).
        b: shape (c_out,), or None for no bias.
        stride: from one window to the next: a whole number, or a pair for height and width.
        padding: with zeros: "SAME" (an output for every `stride` pixels), "VALID" (none), a whole
            number, or two pairs (before, after), of height and width.
        dilation: from one pixel of a window to the next.
        groups: into how many parts the channels are split; each part of the output's channels sees
            its own part of the input's. c_in for a depthwise convolution.
        form: "direct", by XLA's convolutions, or "unfold", by patches and matrix products: the same
            numbers but for rounding.
        precision: of the products, as in `jnp.einsum`, forward and backward alike; by default the
            one in force (`jax.default_matmul_precision`).
        out_sharding: the result's sharding (`jax.P` or `jax.NamedSharding`) on a mesh of explicit
            axes, as in `jnp.matmul`: needed where w, or the channels of x, are sharded. Left out,
            "unfold" shards the result's images as those of x.

    Returns:
        Shape (n, ho, wo, c_out). float16 and bfloat16 products are summed in float32, the bias is
        added to the sum, and the result is rounded once.

    Raises:
        TypeError: for arrays that are not of real floating point dtype, or sizes that are not
            whole.
        ValueError: for shapes and sizes that do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnnet import conv2d
        >>> x, w = jnp.arange(9.0).reshape(1, 3, 3, 1), jnp.arange(4.0).reshape(2, 2, 1, 1)
        >>> conv2d(x, w, padding="VALID")[0, :, :, 0].tolist()
        [[19.0, 25.0], [37.0, 43.0]]
    """
    arrays = floats("conv2d", optional="b", x=x, w=w, b=b)
    image, kernel, bias = shapes(*arrays)
    _require(image, kernel, bias, groups)
    windows = Windows.of("conv2d", image, kernel[:2], stride, padding, dilation)
    require_holdable(
        "conv2d", f"padding={windows.pads}", "a result", (image[0], *windows.count, kernel[3])
    )
    if form == "unfold":
        p = (image[0], *windows.count, windows.pixels * image[3])
        require_holdable("conv2d", f"padding={windows.pads}", "patches", p)
    with tells_of_out_sharding("conv2d"):
        return _conv2d(
            *arrays,
            stride=windows.stride,
            padding=windows.pads,
            dilation=windows.dilation,
            groups=groups,
            form=form,
            precision=precision,
            out_sharding=out_sharding,
        )


def _forward(
    x: jax.Array,
    w: jax.Array,
    b: jax.Array | None = None,
    *,
    stride: Pair = 1,
    padding: Padding = "SAME",
    dilation: Pair = 1,
    groups: int = 1,
    form: Form = "direct",
    precision: Precision = None,
    out_sharding: OutSharding = None,
) -> jax.Array:
    windows = Windows.of("conv2d", x.shape, w.shape[:2], stride, padding, dilation)
    out = result_sharding("conv2d", out_sharding, 4, x, w)
    if form == "unfold":  # with loops or slices, which know nothing of shardings
        unfold = partial(_by_unfold, sums=Unfold(windows, groups, precision, out is not None))
        return forward_with_axes_automatic(unfold, (x, w) if b is None else (x, w, b), out=out)
    dtype = jnp.result_type(x, w) if b is None else jnp.result_type(x, w, b)
    x, w = x.astype(dtype), w.astype(dtype)
    if windows.none:
        y = lax.full_like(x, 0, shape=(x.shape[0], *windows.count, w.shape[3]))
        return y if out is None else jax.reshard(y, out)
    y = Direct(windows, groups, precision).to_y(x, w, out)
    if b is not None and out is not None:
        b = jax.reshard(b, NamedSharding(out.mesh, P(out.spec[-1])))
    return (y if b is None else _with_bias(y, b)).astype(dtype)


def _by_unfold(
    x: jax.Array,
    w: jax.Array,
    b: jax.Array | None = None,
    *,
    sums: Unfold,
) -> jax.Array:
    dtype = jnp.result_type(x, w) if b is None else jnp.result_type(x, w, b)
    x, w = x.astype(dtype), w.astype(dtype)
    if sums.windows.none:
        return lax.full_like(x, 0, shape=(x.shape[0], *sums.windows.count, w.shape[3]))
    y = sums.to_y(x, w, dtype if b is None else accumulator(x, w))
    return (y if b is None else _with_bias(y, b)).astype(dtype)


def _with_bias(y: jax.Array, b: jax.Array) -> jax.Array:
    return y + jnp.broadcast_to(b.astype(y.dtype), y.shape)


def conv2d_fwd(
    x: jax.Array,
    w: jax.Array,
    b: jax.Array | None = None,
    *,
    stride: Pair = 1,
    padding: Padding = "SAME",
    dilation: Pair = 1,
    groups: int = 1,
    form: Form = "direct",
    precision: Precision = None,
    out_sharding: OutSharding = None,
) -> tuple[jax.Array, Residuals]:
    """x, w, b -> y, residuals."""
    y = _forward(
        x,
        w,
        b,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        form=form,
        precision=precision,
        out_sharding=out_sharding,
    )
    windows = Windows.of("conv2d", x.shape, w.shape[:2], stride, padding, dilation)
    sums: Direct | Unfold = Direct(windows, groups, precision)
    if form == "unfold":
        sums = Unfold(windows, groups, precision, out_sharding is not None)
    return y, (x, w, None if b is None else Like.of(b), Static(sums))


def conv2d_bwd(res: Residuals, g: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """residuals, CT y -> CT x, CT w, CT b."""
    x, w, b, static = res
    sums: Direct | Unfold = static.value
    if sums.windows.none:
        return jnp.zeros_like(x), jnp.zeros_like(w), None if b is None else sum_to(g, b)
    dw = sums.to_w(x.astype(g.dtype), g).astype(w.dtype)
    dx = sums.to_x(w.astype(g.dtype), g).astype(x.dtype)
    return dx, dw, None if b is None else sum_to(g, b)


_conv2d = register(_forward, conv2d_fwd, conv2d_bwd, name="conv2d")


def _require(
    x: tuple[int, ...], w: tuple[int, ...], b: tuple[int, ...] | None, groups: int
) -> None:
    require_image("conv2d", x, axes="(n, h, w, c_in)")
    require_image("conv2d", w, "w", "(kh, kw, c_in / groups, c_out)")
    if not all(w[:2]):
        raise ValueError(f"conv2d: w must have at least one pixel; got shape {w}")
    if w[3] % groups:
        raise ValueError(
            f"conv2d: groups must divide the c_out = {w[3]} output channels of w; got {groups}"
        )
    if x[3] != w[2] * groups:
        of_groups = f" in {groups} groups" if groups > 1 else ""
        remedy = ""
        if x[1] == w[2] * groups:
            remedy = ". x seems to be (n, c, h, w): pass x.transpose(0, 2, 3, 1)"
        elif x[3] == w[1] * groups:
            remedy = ". w seems to be (c_out, c_in, kh, kw): pass w.transpose(2, 3, 1, 0)"
        elif w[2] and x[3] % w[2] == 0:
            remedy = f". It fits groups={x[3] // w[2]}"
        raise ValueError(
            f"conv2d: w of shape {w} takes {w[2] * groups} input channels{of_groups}, but x of "
            f"shape {x} has {x[3]}; x is (n, h, w, c_in), w (kh, kw, c_in / groups, c_out){remedy}"
        )
    if b is not None and b != w[3:]:
        raise ValueError(
            f"conv2d: b must have shape (c_out,) = {w[3:]}; got shape {b}. "
            "A bias has one number for each output channel"
        )
