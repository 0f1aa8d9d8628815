"""What is benchmarked: softmax, log_softmax, cross_entropy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from fnnet import ops
from fnnet.measure.row import Function, Row, Shape, with_tangent
from fnnet.rules import plain


def _logits_and_labels(key: jax.Array, shapes: Sequence[Shape]) -> list[Any]:
    (logits,) = shapes
    k1, k2 = jax.random.split(key)
    labels = jax.random.randint(k2, logits[:-1], 0, logits[-1])
    return [3 * jax.random.normal(k1, logits, jnp.float32), labels]


def _optax_cross_entropy() -> Function:
    import optax

    each = optax.losses.softmax_cross_entropy_with_integer_labels
    return lambda logits, labels: jnp.mean(each(logits, labels))


def _tokens(key: jax.Array, size: Sequence[int]) -> list[Any]:
    """x, w and labels for a size (tokens, features, classes)."""
    n, d, c = size
    kx, kw, kl = jax.random.split(key, 3)
    x, w = (jax.random.normal(k, s, jnp.float32) for k, s in ((kx, (n, d)), (kw, (d, c))))
    return [x, w / math.sqrt(d), jax.random.randint(kl, (n,), 0, c)]


def _vocabulary(size: Sequence[int]) -> str:
    n, d, c = size
    return f"{n}×{d} {d}×{c}"


def _all_logits(x: jax.Array, w: jax.Array, labels: jax.Array) -> jax.Array:
    return plain(ops.cross_entropy)(x @ w, labels)


def _optax_of_all_logits() -> Function:
    loss = _optax_cross_entropy()
    return lambda x, w, labels: loss(x @ w, labels)


_HAND = (
    Row(
        "softmax",
        ops.softmax,
        sizes=[[(256, 100)], [(2048, 1000)]],
        peers={"jax.nn": lambda: jax.nn.softmax},
    ),
    Row(
        "log_softmax",
        ops.log_softmax,
        sizes=[[(256, 100)], [(2048, 1000)]],
        peers={"jax.nn": lambda: jax.nn.log_softmax},
    ),
    Row(
        "cross_entropy",
        ops.cross_entropy,
        sizes=[[(256, 100)], [(2048, 1000)]],
        draw=_logits_and_labels,
        argnums=[0],
        peers={"optax": _optax_cross_entropy},
    ),
    Row(
        "linear_cross_entropy",
        ops.linear_cross_entropy,
        sizes=[(1024, 256, 8192), (4096, 256, 32768)],
        draw=_tokens,
        words=_vocabulary,
        argnums=[0, 1],
        auto=_all_logits,
        peers={"optax": _optax_of_all_logits},
    ),
    Row(
        "linear_cross_entropy, recomputed",
        partial(ops.linear_cross_entropy, mode="recompute"),
        sizes=[(1024, 256, 8192), (4096, 256, 32768)],
        draw=_tokens,
        words=_vocabulary,
        argnums=[0, 1],
        auto=_all_logits,
        eager=False,
    ),
)
ROWS = (*_HAND, *map(with_tangent, _HAND[3:]))
