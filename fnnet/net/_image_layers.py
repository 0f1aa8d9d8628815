"""Layers of images (n, height, width, channels): convolution and max pooling."""

import math
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from fnnet.net._layer import Layer, Params, no_params, size_of
from fnnet.net.init import Initializer, kaiming_normal, zeros
from fnnet.ops import conv2d, max_pool


class ConvParams(NamedTuple):
    """The parameters of one convolutional layer.

    Attributes:
        w: kernels (kh, kw, c_in / groups, c_out).
        b: bias (c_out,), or None for no bias.
    """

    w: Array
    b: Array | None


def conv(
    c_in: int,
    c_out: int,
    size: int | tuple[int, int],
    *,
    bias: bool = True,
    init: Initializer = kaiming_normal,
    groups: int = 1,
    **options: Any,
) -> Layer:
    """A convolution of images (n, h, w, c_in) to (n, ho, wo, c_out), through `fnnet.conv2d`.

    Args:
        c_in: channels of x.
        c_out: channels of the result.
        size: of the kernel, a whole number or a pair of height and width.
        bias: whether there is a b; it starts at 0.
        init: draws w as a matrix (kh * kw * c_in / groups, c_out): what feeds one output counts.
        groups: as of `conv2d`.
        options: the others of `conv2d`: stride, padding, dilation, form, precision.

    Returns:
        a Layer with ConvParams; `apply` raises ValueError if x does not fit.

    Raises:
        TypeError: if a size is no whole number, or `init` cannot be called.
        ValueError: if a size is less than 1, or groups do not divide the channels.

    >>> import jax
    >>> layer = conv(3, 8, 5, stride=2)
    >>> params = layer.init(jax.random.key(0))
    >>> params.w.shape, layer.apply(params, jnp.ones((2, 28, 28, 3))).shape
    ((5, 5, 3, 8), (2, 14, 14, 8))
    """
    sizes = {"c_in": c_in, "c_out": c_out, "groups": groups}
    c_in, c_out, groups = (size_of("conv", name, n) for name, n in sizes.items())
    pair = size if isinstance(size, tuple) else (size, size)
    kh, kw = (size_of("conv", "size", k) for k in pair)
    if c_in % groups or c_out % groups:
        raise ValueError(f"conv: groups must divide c_in={c_in} and c_out={c_out}, got {groups}")
    if not callable(init):
        raise TypeError(f"conv: init must be an initialiser, got {init!r}")
    shape = (kh, kw, c_in // groups, c_out)
    options["groups"] = groups
    return Layer(partial(_conv_params, shape, bias, init), partial(_conv_apply, shape, options))


def _conv_params(
    shape: tuple[int, ...],
    bias: bool,
    init: Initializer,
    key: Array,
    dtype: DTypeLike = jnp.float32,
) -> ConvParams:
    *taps, c_out = shape
    w = init(key, (math.prod(taps), c_out), dtype).reshape(shape)
    return ConvParams(w=w, b=zeros(key, (c_out,), dtype) if bias else None)


def _conv_apply(
    shape: tuple[int, ...], options: dict[str, Any], params: ConvParams, x: Array
) -> Array:
    if jnp.shape(params.w) != shape:
        raise ValueError(
            f"conv: w must have shape {shape}, got {jnp.shape(params.w)}: "
            "these are another layer's parameters"
        )
    return conv2d(x, params.w, params.b, **options)


def max_pool_layer(size: int | tuple[int, int] = 2, **options: Any) -> Layer:
    """The greatest of each window of images (n, h, w, c), without parameters: `fnnet.max_pool`.

    Args:
        size: of a window.
        options: the others of `max_pool`: stride, padding.

    >>> max_pool_layer(2).apply((), jnp.ones((5, 28, 28, 3))).shape
    (5, 14, 14, 3)
    """
    return Layer(no_params, partial(_max_pool_apply, size, options))


def _max_pool_apply(
    size: int | tuple[int, int], options: dict[str, Any], params: Params, x: Array
) -> Array:
    return max_pool(x, size, **options)
