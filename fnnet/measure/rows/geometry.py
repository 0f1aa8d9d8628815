"""What is benchmarked: distances of points."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from fnnet import ops
from fnnet.measure.row import Row

_POINTS = [[(256, 16), (256, 16)], [(1024, 64), (1024, 64)]]


def _squares(p: jax.Array, q: jax.Array) -> jax.Array:
    """As one writes it first: all differences."""
    return jnp.sum(jnp.square(p[:, None, :] - q[None, :, :]), -1)


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
)
