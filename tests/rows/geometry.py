"""Rows of the table: pairwise_distance, kernel_sum."""

from __future__ import annotations

from collections.abc import Callable
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
    return _root(squares)


def _root(x: Any) -> Any:
    """The square root, whose derivatives at 0 are 0."""
    return jnp.where(x == 0, 0, jnp.sqrt(jnp.where(x == 0, 1, x)))


def _kernel_sum(
    p: Any,
    q: Any,
    weights: Any = None,
    *,
    kernel: str = "gaussian",
    scale: Any = 1.0,
    block: Any = None,
) -> Any:
    r = _pairwise_distance(p, q, ord="sq") / (scale * scale)
    if kernel == "gaussian":
        f = jnp.exp(-r / 2)
    elif kernel == "laplacian":
        f = jnp.exp(-_root(r))
    else:
        f = 1 / (1 + r / 2)
    if weights is None:
        return jnp.sum(f, -1)
    return jnp.sum(f * jnp.broadcast_to(weights[..., None, :], f.shape), -1)


def _learned(f: Callable[..., Any]) -> Callable[..., Any]:
    """`f` with its scale among the arguments."""
    return lambda p, q, weights, scale, **options: f(p, q, weights, scale=scale, **options)


_VANISHES = "of distances of 10^100 kernels vanish, and what is left of them is no number"

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
    Call(
        "kernel_sum",
        fnnet.kernel_sum,
        _kernel_sum,
        shapes=[(8, 6), (4, 6), (4,)],
        batch=[0, None, None],
        layouts=[(P("d"), P(), P()), (P("d", "m"), P(None, "m"), P())],
        big=[(256, 16), (512, 16), (512,)],
        terms=64,
        twin=twin.kernel_sum_vjp,
        excuses={"test_huge_and_tiny": _VANISHES},
    ),
    Call(
        "kernel_sum, laplacian, in blocks of batches, learned scale",
        fnnet.kernel_sum,
        _kernel_sum,
        adapt=_learned,
        shapes=[(8, 5, 2), (8, 3, 2), (8, 3), ()],
        batch=[0, 0, 0, None],
        big=[(4, 256, 16), (4, 512, 16), (4, 512), ()],
        terms=64,
        options={"kernel": "laplacian", "block": 2},
        twin=lambda p, q, weights, scale, g: twin.kernel_sum_vjp(
            p, q, weights, g, kernel="laplacian", scale=scale
        ),
        poisoned=[0, 1, 2],
        excuses={"test_huge_and_tiny": _VANISHES},
        variant=True,
    ),
    Call(
        "kernel_sum, rational quadratic, in blocks, without weights",
        fnnet.kernel_sum,
        _kernel_sum,
        shapes=[(8, 6), (5, 6)],
        batch=[0, None],
        big=[(256, 16), (512, 16)],
        terms=64,
        options={"kernel": "rq", "block": 3, "scale": 2.0},
        twin=lambda p, q, g: twin.kernel_sum_vjp(p, q, None, g, kernel="rq", scale=2.0)[:2],
        variant=True,
    ),
]
