"""What is benchmarked: distances of points, and sums of kernels of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp

from fnnet import ops
from fnnet.measure.row import Function, Row, Shape, normals

_POINTS: list[list[Shape]] = [[(256, 16), (256, 16)], [(1024, 64), (1024, 64)]]


def _squares(p: jax.Array, q: jax.Array) -> jax.Array:
    """As one writes it first: all differences."""
    return jnp.sum(jnp.square(p[:, None, :] - q[None, :, :]), -1)


def _weighted_sum(phi: Function) -> Function:
    def sums(p: jax.Array, q: jax.Array, weights: jax.Array) -> jax.Array:
        k = phi(_squares(p, q))
        return jnp.sum(k * jnp.broadcast_to(weights, k.shape), -1)

    return sums


def _near(key: jax.Array, shapes: Sequence[Shape]) -> list[jax.Array]:
    """Points whose distances are about 1, and weights."""
    return [x / math.sqrt(2 * shapes[0][1]) for x in normals(key, shapes)]


ROWS = (
    Row(
        "pairwise_distance",
        ops.pairwise_distance,
        sizes=_POINTS,
        auto=lambda p, q: jnp.sqrt(_squares(p, q)),
    ),
    Row(
        "pairwise_distance, squared",
        partial(ops.pairwise_distance, ord="sq"),
        sizes=_POINTS,
        auto=_squares,
    ),
    Row(
        "pairwise_distance, order 1",
        partial(ops.pairwise_distance, ord=1),
        sizes=_POINTS,
        auto=lambda p, q: jnp.sum(jnp.abs(p[:, None, :] - q[None, :, :]), -1),
    ),
    *(
        Row(
            name,
            op,
            sizes=[[*size, size[1][:1]] for size in _POINTS],
            draw=_near,
            auto=_weighted_sum(phi),
        )
        for name, op, phi in (
            ("kernel_sum", ops.kernel_sum, lambda r: jnp.exp(-r / 2)),
            (
                "kernel_sum, laplacian",
                partial(ops.kernel_sum, kernel="laplacian"),
                lambda r: jnp.exp(-jnp.sqrt(r)),
            ),
        )
    ),
)
