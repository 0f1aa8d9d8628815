"""Rows of the table: pairwise_distance."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

import fnnet
from fnnet.proof import reference as twin
from tests.call import Call


def _pairwise_distance(p: Any, q: Any = None, *, ord: Any = 2) -> Any:
    x = p[..., :, None, :] - (p if q is None else q)[..., None, :, :]
    if ord == 1:
        return jnp.sum(x * jnp.sign(x), -1)  # autodiff of jnp.abs has a slope of 1 at 0
    squares = jnp.sum(x * x, -1)
    if ord == "sq":
        return squares
    same = squares == 0
    return jnp.where(same, 0, jnp.sqrt(jnp.where(same, 1, squares)))


ROWS = [
    Call(
        "pairwise_distance",
        fnnet.pairwise_distance,
        _pairwise_distance,
        shapes=[(8, 6), (4, 6)],
        batch=[0, None],
        layouts=[(P("d"), P()), (P("d", "m"), P(None, "m"))],
        big=[(128, 16), (256, 16)],
        terms=64,
        twin=twin.pairwise_distance_vjp,
    ),
    Call(
        "pairwise_distance, squared, of batches",
        fnnet.pairwise_distance,
        _pairwise_distance,
        shapes=[(8, 3, 2), (8, 4, 2)],
        batch=[0, 0],
        big=[(4, 64, 16), (4, 128, 16)],
        terms=64,
        options={"ord": "sq"},
        twin=lambda p, q, g: twin.pairwise_distance_vjp(p, q, g, ord="sq"),
        variant=True,
    ),
    Call(
        "pairwise_distance of order 1",
        fnnet.pairwise_distance,
        _pairwise_distance,
        shapes=[(8, 6), (4, 6)],
        batch=[0, None],
        big=[(128, 16), (256, 16)],
        terms=64,
        options={"ord": 1},
        twin=lambda p, q, g: twin.pairwise_distance_vjp(p, q, g, ord=1),
        variant=True,
    ),
    Call(
        "pairwise_distance of one set of points",
        fnnet.pairwise_distance,
        _pairwise_distance,
        shapes=[(8, 6)],
        batch=[None],  # one point has nothing that a batch is counted by
        big=[(256, 16)],
        terms=64,
        twin=lambda p, g: twin.pairwise_distance_vjp(p, None, g)[:1],
        variant=True,
    ),
]
