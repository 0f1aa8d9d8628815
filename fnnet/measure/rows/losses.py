"""What is benchmarked: softmax, log_softmax, cross_entropy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from fnnet import ops
from fnnet.measure.row import Function, Row, Shape


def _logits_and_labels(key: jax.Array, shapes: Sequence[Shape]) -> list[Any]:
    (logits,) = shapes
    k1, k2 = jax.random.split(key)
    labels = jax.random.randint(k2, logits[:-1], 0, logits[-1])
    return [3 * jax.random.normal(k1, logits, jnp.float32), labels]


def _optax_cross_entropy() -> Function:
    import optax

    each = optax.losses.softmax_cross_entropy_with_integer_labels
    return lambda logits, labels: jnp.mean(each(logits, labels))


ROWS = (
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
)
