"""Sequences: rnn, attention."""

from __future__ import annotations

import numpy as np

from .dense import lin, lin_vjp
from .elementary import Array, Scalar, sqrt, tanh
from .losses import softmax, softmax_vjp


def rnn(x: Array, h0: Array, wx: Array, wh: Array, b: Array) -> Array:
    """Recurrent layer h_t = tanh(x_t wx + h_{t-1} wh + b), from t = 1 with h_0 given.

    Shapes: x (time, n, n_in), h0 (n, n_h), wx (n_in, n_h), wh (n_h, n_h), b (n_h,)
    -> all states h_1, h_2, ... (time, n, n_h) (Elman 1990).

    >>> one = np.ones((1, 1))
    >>> rnn(np.array([1.0, 0.0]).reshape(2, 1, 1), 0 * one, one, one, np.zeros(1)).round(4)[:, 0, 0]
    array([0.7616, 0.642 ])
    """
    h, states = h0, np.zeros((x.shape[0], *h0.shape), h0.dtype)
    for t in range(x.shape[0]):
        h = tanh(lin(x[t], wx, b) + lin(h, wh))
        states[t] = h
    return states


def rnn_vjp(
    x: Array, h0: Array, wx: Array, wh: Array, b: Array, g: Array
) -> tuple[Array, Array, Array, Array, Array]:
    """Cotangents (dx, dh0, dwx, dwh, db): backpropagation through time.

    State h_t reaches the loss directly (g_t) and through the next state. So, from the last step
    to the first, dh = g_t + (what step t+1 passed back); da = dh (1 - h_t^2), tanh's slope; then
    lin's rule twice. The weights serve at every step: their cotangents add.
    """
    states = rnn(x, h0, wx, wh, b)
    dx, dwx, dwh, db = np.zeros_like(x), np.zeros_like(wx), np.zeros_like(wh), np.zeros_like(b)
    dh = np.zeros_like(h0)
    for t in reversed(range(x.shape[0])):
        da = (dh + g[t]) * (1 - states[t] ** 2)
        dx[t], dwx_t, db_t = lin_vjp(x[t], wx, b, da)
        dh, dwh_t, _ = lin_vjp(states[t - 1] if t > 0 else h0, wh, None, da)
        dwx, dwh, db = dwx + dwx_t, dwh + dwh_t, db + db_t
    return dx, dh, dwx, dwh, db


def attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    causal: bool = False,
    mask: Array | None = None,
    scale: Scalar | None = None,
    block: int | None = None,
) -> Array:
    """Each query's mean of the values, weighted by softmax(scale q k^T).

    Shapes: q (n, t, heads, d), k (n, s, kv_heads, d), v (n, s, kv_heads, d_v)
    -> (n, t, heads, d_v) (Vaswani et al. 2017, arXiv:1706.03762). heads is a multiple of kv_heads;
    query head h looks at kv head h // (heads / kv_heads). scale None means 1 / sqrt(d).
    `causal`: query i sees keys 0..i. `mask` (broadcast to (n, heads, t, s)): True where a query
    may look. A query that may look nowhere gives zeros. `block` is ignored: same result.

    >>> q, v = np.zeros((1, 2, 1, 1)), np.array([2.0, 4.0]).reshape(1, 2, 1, 1)
    >>> attention(q, q, v, causal=True)[0, :, 0, 0]
    array([2., 3.])
    """
    scale = 1 / sqrt(q.shape[3]) if scale is None else scale
    group, allowed = q.shape[2] // k.shape[2], _allowed(q, k, causal, mask)
    out = np.zeros((*q.shape[:3], v.shape[3]), v.dtype)
    for n, i, h in np.ndindex(*q.shape[:3]):
        seen = allowed[n, h, i]
        if seen.any():
            p = softmax(scale * (k[n, seen, h // group] @ q[n, i, h]))
            out[n, i, h] = p @ v[n, seen, h // group]
    return out


def attention_vjp(
    q: Array,
    k: Array,
    v: Array,
    g: Array,
    *,
    causal: bool = False,
    mask: Array | None = None,
    scale: Scalar | None = None,
    block: int | None = None,
) -> tuple[Array, Array, Array]:
    """Cotangents (dq, dk, dv), one query at a time.

    With z_j = scale k_j . q, p = softmax(z), out = sum_j p_j v_j over the keys that are seen:
        dv_j = p_j g,   dp_j = v_j . g,   dz by softmax's rule,
        dq = scale sum_j dz_j k_j,   dk_j = scale dz_j q.
    Keys and values serve many queries (and all heads of a group): their cotangents add.
    """
    scale = 1 / sqrt(q.shape[3]) if scale is None else scale
    group, allowed = q.shape[2] // k.shape[2], _allowed(q, k, causal, mask)
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    for n, i, h in np.ndindex(*q.shape[:3]):
        seen, o = allowed[n, h, i], h // group
        if not seen.any():
            continue
        query, keys, values, g_out = q[n, i, h], k[n, seen, o], v[n, seen, o], g[n, i, h]
        z = scale * (keys @ query)
        (dz,) = softmax_vjp(z, values @ g_out)
        dv[n, seen, o] += np.outer(softmax(z), g_out)
        dq[n, i, h] += scale * (dz @ keys)
        dk[n, seen, o] += scale * np.outer(dz, query)
    return dq, dk, dv


def _allowed(q: Array, k: Array, causal: bool, mask: Array | None) -> Array:
    """Which query may look at which key: (n, heads, t, s)."""
    n, t, heads, _ = q.shape
    s = k.shape[1]
    seen = (
        np.ones((n, heads, t, s), bool) if mask is None else np.broadcast_to(mask, (n, heads, t, s))
    )
    return seen & (np.arange(s) <= np.arange(t)[:, None]) if causal else seen
