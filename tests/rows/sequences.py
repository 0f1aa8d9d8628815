"""Rows of the table: rnn, gru, attention, rope."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec as P

import fnnet
from fnnet.proof import reference as twin
from tests.call import Call


def _inputs(x: Any, wx: Any, b: Any) -> Any:
    a = jnp.einsum("t...i,ik->t...k", x, wx)
    return a + jnp.broadcast_to(b, a.shape)


def _rnn(x: Any, h0: Any, wx: Any, wh: Any, b: Any) -> Any:
    def step(h: Any, a: Any) -> Any:
        h = jnp.tanh(a + h @ wh)
        return h, h

    return lax.scan(step, h0, _inputs(x, wx, b))[1]


def _gru(x: Any, h0: Any, wx: Any, wh: Any, b: Any) -> Any:
    def step(h: Any, a: Any) -> Any:
        (ar, az, an), (ur, uz, un) = jnp.split(a, 3, -1), jnp.split(h @ wh, 3, -1)
        r, z = jax.nn.sigmoid(ar + ur), jax.nn.sigmoid(az + uz)
        h = (1 - z) * jnp.tanh(an + r * un) + z * h
        return h, h

    return lax.scan(step, h0, _inputs(x, wx, b))[1]


def _attention(
    q: Any,
    k: Any,
    v: Any,
    *,
    causal: bool = False,
    mask: Any = None,
    scale: Any = None,
    block: Any = None,
) -> Any:
    """With the whole matrix of weights."""
    groups = q.shape[-2] // k.shape[-2]
    k, v = jnp.repeat(k, groups, -2), jnp.repeat(v, groups, -2)
    z = jnp.einsum("...thd,...shd->...hts", q, k) * (
        float(q.shape[-1] ** -0.5) if scale is None else scale
    )
    if mask is None and not causal:
        return jnp.einsum("...hts,...she->...the", jax.nn.softmax(z, -1), v)
    seen = jnp.ones(z.shape, bool) if mask is None else jnp.broadcast_to(mask, z.shape)
    if causal:
        seen &= jnp.broadcast_to(jnp.tri(*z.shape[-2:], dtype=bool), z.shape)
    some = seen.any(-1, keepdims=True)
    z = jnp.where(seen, z, jnp.where(jnp.broadcast_to(some, z.shape), -jnp.inf, 0.0))
    p = jnp.where(jnp.broadcast_to(some, z.shape), jax.nn.softmax(z, -1), 0.0)
    return jnp.einsum("...hts,...she->...the", p, v)


def _masked(f: Callable[..., Any]) -> Callable[..., Any]:
    """`f` with a mask that leaves the second query of the first sequence nothing to look at."""

    def masked(q: Any, k: Any, v: Any, **options: Any) -> Any:
        return f(q, k, v, mask=_mask(q.shape[0], q.shape[1], k.shape[1]), **options)

    return masked


def _mask(n: int, t: int, s: int) -> Any:
    mask = (np.arange(n)[:, None, None] + np.arange(t)[:, None] + np.arange(s)) % 3 > 0
    mask[:1, 1:2] = False
    return jnp.asarray(mask[:, None])


def _learned(f: Callable[..., Any]) -> Callable[..., Any]:
    """`f` with its scale among the arguments."""
    return lambda q, k, v, scale, **options: f(q, k, v, scale=scale, **options)


def _twin_of_one(x: Any, h0: Any, wx: Any, wh: Any, b: Any, g: Any) -> Any:
    dx, dh0, *rest = twin.rnn_vjp(x[:, None], h0[None], wx, wh, b, g[:, None])
    return dx[:, 0], dh0[0], *rest


def _rope(x: Any, positions: Any, *, base: Any = 10000.0, interleaved: bool = False) -> Any:
    half, dtype = x.shape[-1] // 2, x.dtype
    at = jnp.broadcast_to(positions, x.shape[:-2]).astype(dtype)
    frequencies = jnp.asarray(base ** (-np.arange(half) / half), dtype)
    angles = jnp.einsum("...t,i->...ti", at, frequencies)[..., None, :]
    if interleaved:
        a, b = x[..., ::2], x[..., 1::2]
    else:
        a, b = x[..., :half], x[..., half:]
    cos, sin = (jnp.broadcast_to(f(angles), a.shape) for f in (jnp.cos, jnp.sin))
    y = jnp.stack([a * cos - b * sin, b * cos + a * sin], -1 if interleaved else -2)
    return y.reshape(x.shape)


def _counted(f: Callable[..., Any]) -> Callable[..., Any]:
    """`f` at the positions 0, 1, 2 ..."""
    return lambda x, **options: f(x, np.arange(x.shape[-3]), **options)


_SEQUENCE = P(None, "d")

_MESH = "JAX 0.12 transposes h @ wh in a scan only where the mesh is set"
_SATURATED = "of large weights the states saturate, their slopes cancel"
_CANCELS = "dz is the difference of two sums of products g v"
_UNSEEN = "blocks that nobody sees are not looked at: they cannot spoil a sum"

ROWS = [
    Call(
        "rnn",
        fnnet.rnn,
        _rnn,
        shapes=[(3, 8, 4), (8, 6), (4, 6), (6, 6), (6,)],
        batch=[1, 0, None, None, None],
        layouts=[(_SEQUENCE, P("d"), P(), P(), P())],
        excuses={
            "test_explicit_mesh: no mesh is set": _MESH,
            "test_huge_and_tiny": _SATURATED,
        },
        big=[(32, 16, 32), (16, 64), (32, 64), (64, 64), (64,)],
        terms=512,
        rounded=12,  # three steps; the slope 1 - h² of a rounded state
        twin=twin.rnn_vjp,
    ),
    Call(
        "gru",
        fnnet.gru,
        _gru,
        shapes=[(3, 8, 4), (8, 2), (4, 6), (2, 6), (6,)],
        batch=[1, 0, None, None, None],
        layouts=[(_SEQUENCE, P("d"), P(), P(), P())],
        excuses={
            "test_explicit_mesh: no mesh is set": _MESH,
            "test_huge_and_tiny": _SATURATED,
        },
        big=[(32, 16, 32), (16, 64), (32, 192), (64, 192), (192,)],
        terms=512,
        rounded=4,
        twin=twin.gru_vjp,
    ),
    Call(
        "rnn of one sequence",
        fnnet.rnn,
        _rnn,
        shapes=[(3, 4), (6,), (4, 6), (6, 6), (6,)],
        batch=[None] * 5,
        big=[(32, 32), (64,), (32, 64), (64, 64), (64,)],
        terms=512,
        rounded=12,
        twin=_twin_of_one,
        excuses={
            "test_huge_and_tiny": _SATURATED,
        },
        variant=True,
    ),
    Call(
        "attention",
        fnnet.attention,
        _attention,
        shapes=[(8, 5, 2, 2), (8, 7, 2, 2), (8, 7, 2, 3)],
        batch=[0, 0, 0],
        layouts=[(P("d"), P("d"), P("d"))],
        big=[(2, 512, 2, 16), (2, 512, 2, 16), (2, 512, 2, 16)],
        terms=256,
        recomputed=1,
        excuses={
            "test_huge_and_tiny": _CANCELS,
        },
        rounded=2,
        twin=twin.attention_vjp,
    ),
    Call(
        "attention, causal, grouped, by blocks",
        fnnet.attention,
        _attention,
        shapes=[(8, 7, 4, 2), (8, 7, 2, 2), (8, 7, 2, 3)],
        batch=[0, 0, 0],
        big=[(2, 512, 4, 16), (2, 512, 2, 16), (2, 512, 2, 16)],
        terms=256,
        recomputed=1,
        excuses={
            "test_huge_and_tiny": _CANCELS,
            "test_nan_and_inf": _UNSEEN,
        },
        rounded=2,
        options={"causal": True, "block": 3, "scale": 0.3},
        twin=lambda *args: twin.attention_vjp(*args, causal=True, scale=0.3),
        variant=True,
    ),
    Call(
        "attention, masked, by blocks",
        fnnet.attention,
        _attention,
        adapt=_masked,
        shapes=[(8, 5, 2, 2), (8, 7, 2, 2), (8, 7, 2, 3)],
        batch=[0, 0, 0],
        big=[(2, 512, 2, 16), (2, 512, 2, 16), (2, 512, 2, 16)],
        terms=256,
        recomputed=1,
        excuses={
            "test_huge_and_tiny": _CANCELS,
            "test_nan_and_inf": _UNSEEN,
        },
        rounded=2,
        options={"block": 4},
        twin=lambda q, k, v, g: twin.attention_vjp(
            q, k, v, g, mask=np.asarray(_mask(q.shape[0], q.shape[1], k.shape[1]))
        ),
        variant=True,
    ),
    Call(
        "attention without a batch, grouped",
        fnnet.attention,
        _attention,
        shapes=[(5, 4, 2), (6, 2, 2), (6, 2, 3)],
        batch=[None] * 3,
        big=[(512, 4, 16), (512, 2, 16), (512, 2, 16)],
        terms=256,
        recomputed=1,
        excuses={
            "test_huge_and_tiny": _CANCELS,
        },
        rounded=2,
        twin=twin.attention_vjp,
        variant=True,
    ),
    Call(
        "attention of two batch axes, learned scale",
        fnnet.attention,
        _attention,
        adapt=_learned,
        shapes=[(8, 2, 3, 1, 2), (8, 2, 4, 1, 2), (8, 2, 4, 1, 3), ()],
        batch=[0, 0, 0, None],
        big=[(1, 2, 512, 2, 16), (1, 2, 512, 2, 16), (1, 2, 512, 2, 16), ()],
        terms=256,
        recomputed=2,  # the logits; and dq, of which dscale is a sum
        excuses={
            "test_huge_and_tiny": _CANCELS,
            "test_nan_and_inf": _UNSEEN,
        },
        rounded=2,
        options={"causal": True, "block": 2},
        twin=lambda q, k, v, scale, g: twin.attention_vjp(q, k, v, g, causal=True, scale=scale),
        variant=True,
    ),
    Call(
        "rope",
        fnnet.rope,
        _rope,
        adapt=_counted,
        shapes=[(8, 4, 2, 4)],
        batch=[0],
        layouts=[(P("d"),), (P("d", None, "m"),)],
        big=[(4, 64, 4, 32)],
        terms=4,
        twin=lambda x, g: twin.rope_vjp(x, np.arange(4), g)[:1],
    ),
    Call(
        "rope, interleaved, at positions with a derivative",
        fnnet.rope,
        _rope,
        shapes=[(8, 4, 2, 4), (4,)],
        batch=[0, None],
        big=[(4, 64, 4, 32), (64,)],
        terms=64,
        rounded=2,
        options={"interleaved": True, "base": 50.0},
        twin=lambda x, s, g: twin.rope_vjp(x, s, g, interleaved=True, base=50.0),
        excuses={"test_huge_and_tiny": "of angles of 10^100 no digit is left"},
        variant=True,
    ),
]
