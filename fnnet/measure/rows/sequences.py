"""What is benchmarked: recurrent layers, attention and rotary embedding."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fnnet import ops
from fnnet.measure.row import Function, Row, shapes_in_words, with_tangent


def _recurrent(gates: int) -> Callable[[jax.Array, Sequence[int]], list[Any]]:
    """Arguments of a size (steps, sequences, inputs, units)."""

    def draw(key: jax.Array, size: Sequence[int]) -> list[Any]:
        t, n, i, h = size
        kx, kwx, kwh = jax.random.split(key, 3)
        return [
            jax.random.normal(kx, (t, n, i), jnp.float32),
            jnp.zeros((n, h), jnp.float32),
            jax.random.normal(kwx, (i, gates * h), jnp.float32) / math.sqrt(i),
            jax.random.normal(kwh, (h, gates * h), jnp.float32) / math.sqrt(h),
            jnp.zeros(gates * h, jnp.float32),
        ]

    return draw


def _steps(size: Sequence[int]) -> str:
    t, n, i, h = size
    return f"{t} steps of {n}, {i}-{h}"


def _heads(size: Sequence[int]) -> str:
    t, heads, d = size
    return f"{t} positions, {heads} heads of {d}"


def _queries(key: jax.Array, size: Sequence[int]) -> list[Any]:
    return list(jax.random.normal(key, (3, 1, *size), jnp.float32))


def whole_attention(q: jax.Array, k: jax.Array, v: jax.Array, *, causal: bool) -> jax.Array:
    """Attention with the whole matrix of weights, as one writes it first."""
    z = jnp.einsum("nthd,nshd->nhts", q, k) / math.sqrt(q.shape[-1])
    if causal:
        seen = jnp.tri(z.shape[-2], z.shape[-1], dtype=bool)
        z = jnp.where(jnp.broadcast_to(seen, z.shape), z, -jnp.inf)
    return jnp.einsum("nhts,nshe->nthe", jax.nn.softmax(z, -1), v)


_CHUNK = 256


def _checkpointed_chunks(causal: bool) -> Function:
    """The plain form for one chunk of queries after the other, each under `jax.checkpoint`."""

    def attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        n, t, h, d = q.shape
        size = min(_CHUNK, t)

        @jax.checkpoint
        def chunk(start: jax.Array, q: jax.Array) -> jax.Array:
            z = jnp.einsum("nthd,nshd->nhts", q, k) / math.sqrt(d)
            if causal:
                seen = jnp.arange(t)[None, :] <= start + jnp.arange(size)[:, None]
                z = jnp.where(jnp.broadcast_to(seen, z.shape), z, -jnp.inf)
            return jnp.einsum("nhts,nshe->nthe", jax.nn.softmax(z, -1), v)

        chunks = jnp.moveaxis(q.reshape(n, t // size, size, h, d), 1, 0)
        starts = size * jnp.arange(t // size)
        out = lax.map(lambda a: chunk(*a), (starts, chunks))
        return jnp.moveaxis(out, 0, 1).reshape(n, t, h, v.shape[-1])

    return attention


def _attention(name: str, causal: bool) -> Row:
    def whole(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return whole_attention(q, k, v, causal=causal)

    return Row(
        name,
        partial(ops.attention, causal=True) if causal else ops.attention,
        sizes=[(1024, 4, 64), (2048, 4, 64)],
        draw=_queries,
        words=_heads,
        auto=whole,
        checkpoint=_checkpointed_chunks(causal),
        eager=not causal,
    )


def _at_positions(key: jax.Array, shape: Sequence[int]) -> list[Any]:
    return [jax.random.normal(key, tuple(shape), jnp.float32), jnp.arange(shape[-3])]


def _in_halves(x: jax.Array, positions: jax.Array) -> jax.Array:
    """As models have it: cosines and sines of both halves, and the halves changed."""
    half = x.shape[-1] // 2
    frequencies = jnp.asarray(10000.0 ** (-np.arange(half) / half), x.dtype)
    angles = positions.astype(x.dtype)[:, None] * frequencies[None, :]
    angles = jnp.concatenate([angles, angles], -1)[:, None, :]
    a, b = jnp.split(x, 2, -1)
    cos, sin = (jnp.broadcast_to(f(angles), x.shape) for f in (jnp.cos, jnp.sin))
    return x * cos + jnp.concatenate([-b, a], -1) * sin


_HAND = (
    Row(
        "rnn",
        ops.rnn,
        sizes=[(256, 16, 128, 256), (512, 8, 64, 256)],
        draw=_recurrent(1),
        words=_steps,
    ),
    Row(
        "gru",
        ops.gru,
        sizes=[(256, 16, 128, 256), (512, 8, 64, 256)],
        draw=_recurrent(3),
        words=_steps,
    ),
    _attention("attention", causal=False),
    _attention("attention, causal", causal=True),
    Row(
        "rope",
        ops.rope,
        sizes=[(4, 256, 4, 64), (4, 1024, 8, 64)],
        draw=_at_positions,
        words=lambda size: shapes_in_words([size]),
        argnums=[0],
        peers={"in halves": lambda: _in_halves},
    ),
)
ROWS = (*_HAND, *map(with_tangent, _HAND[:3]))
