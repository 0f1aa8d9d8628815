"""What is benchmarked: unfold, fold, conv2d, max_pool, avg_pool."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fnnet import ops
from fnnet.measure.row import Function, Row, Shape

_IMAGE = ("NHWC", "HWIO", "NHWC")
_SIZE = 3

_CONVOLUTIONS: list[list[Shape]] = [
    [(64, 14, 14, 16), (3, 3, 16, 32), (32,)],
    [(16, 32, 32, 32), (3, 3, 32, 64), (64,)],
]
_POOLS: list[list[Shape]] = [[(64, 28, 28, 16)], [(32, 32, 32, 64)]]


def _patches(x: jax.Array) -> jax.Array:
    """Windows of 3×3 by a convolution; its channels run first, ours last."""
    n, h, w, c = x.shape
    size = (_SIZE, _SIZE)
    p = lax.conv_general_dilated_patches(x, size, (1, 1), "SAME", dimension_numbers=_IMAGE)
    p = p.reshape(n, h, w, c, *size).transpose(0, 1, 2, 4, 5, 3)
    return p.reshape(n, h, w, _SIZE * _SIZE * c)


def _of_patches(f: Function) -> Function:
    """A function of patches (n, h, w, 9c) and images' shape (n, h, w, c) as one of patches."""
    return lambda p: f(p, (*p.shape[:3], p.shape[3] // (_SIZE * _SIZE)))


def _fold_by_convolution(p: jax.Array, shape: Shape) -> jax.Array:
    image: jax.Array = jax.linear_transpose(_patches, jax.ShapeDtypeStruct(shape, p.dtype))(p)[0]
    return image


def _conv(x: jax.Array, w: jax.Array, b: jax.Array) -> jax.Array:
    y = lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=_IMAGE)
    return y + jnp.broadcast_to(b, y.shape)


def _conv_by_patches(x: jax.Array, w: jax.Array, b: jax.Array) -> jax.Array:
    y = _patches(x) @ w.reshape(-1, w.shape[3])
    return y + jnp.broadcast_to(b, y.shape)


def _reduce_window(x: jax.Array, start: Any, op: Any, size: int, stride: int) -> jax.Array:
    window, step = (1, size, size, 1), (1, stride, stride, 1)
    y: jax.Array = lax.reduce_window(x, start, op, window, step, "VALID")
    return y


def _max(size: int, stride: int) -> Function:
    return lambda x: _reduce_window(x, -np.inf, lax.max, size, stride)


def _mean(size: int, stride: int) -> Function:
    return lambda x: _reduce_window(x, 0.0, lax.add, size, stride) / (size * size)


ROWS = (
    Row(
        "unfold, 3×3",
        partial(ops.unfold, size=_SIZE, padding="SAME"),
        sizes=[size[:1] for size in _CONVOLUTIONS],
        peers={"conv patches": lambda: _patches},
    ),
    Row(
        "fold, 3×3",
        _of_patches(partial(ops.fold, size=_SIZE, padding="SAME")),
        sizes=[[(64, 14, 14, 144)], [(16, 32, 32, 288)]],
        peers={"conv patches": lambda: _of_patches(_fold_by_convolution)},
    ),
    Row("conv2d", ops.conv2d, sizes=_CONVOLUTIONS, peers={"lax.conv": lambda: _conv}),
    Row(
        "conv2d, by unfold",
        partial(ops.conv2d, form="unfold"),
        sizes=_CONVOLUTIONS,
        peers={"conv patches": lambda: _conv_by_patches},
    ),
    *(
        Row(
            f"{name}, {size}×{size} stride {stride}",
            partial(op, size=size, stride=stride),
            sizes=_POOLS,
            peers={"reduce_window": partial(peer, size, stride)},
        )
        for name, op, peer in (("max_pool", ops.max_pool, _max), ("avg_pool", ops.avg_pool, _mean))
        for size, stride in ((2, 2), (3, 2))
    ),
)
