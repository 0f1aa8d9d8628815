"""Sequences: rnn, gru, attention, rope."""

from __future__ import annotations

import numpy as np

from .dense import lin, lin_vjp
from .elementary import Array, Scalar, cos, sin, sqrt, sum_to, tanh
from .losses import softmax, softmax_vjp
from .tangents import lin_jvp


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


def rnn_jvp(
    x: Array,
    h0: Array,
    wx: Array,
    wh: Array,
    b: Array,
    dx: Array,
    dh0: Array,
    dwx: Array,
    dwh: Array,
    db: Array,
) -> Array:
    """The tangent of all states, from those of the arguments.

    The argument of tanh is a sum of products: its tangent da is that of each by the product rule.
    dh_t = (1 - h_t^2) da, from the first step to the last.
    """
    states = rnn(x, h0, wx, wh, b)
    dstates, before, dh = np.zeros_like(states), h0, dh0
    for t in range(x.shape[0]):
        da = lin_jvp(x[t], wx, b, dx[t], dwx, db) + lin_jvp(before, wh, None, dh, dwh, None)
        before, dh = states[t], (1 - states[t] ** 2) * da
        dstates[t] = dh
    return dstates


def gru(x: Array, h0: Array, wx: Array, wh: Array, b: Array) -> Array:
    """Gated recurrent unit h_t = (1 - z) n + z h_{t-1}, with gates r, z and candidate n.

    With a = x_t wx + b and u = h_{t-1} wh, three blocks of columns each,
        r = s(a_r + u_r)    z = s(a_z + u_z)    n = tanh(a_n + r u_n)
    and s the logistic function. Shapes: x (time, n, n_in), h0 (n, n_h), wx (n_in, 3 n_h),
    wh (n_h, 3 n_h), b (3 n_h,) -> all states (time, n, n_h) (Cho et al. 2014, arXiv:1406.1078; r
    after the product, as in cuDNN).

    >>> one = np.ones((1, 3))
    >>> gru(np.ones((2, 1, 1)), np.zeros((1, 1)), one, one, np.zeros(3)).round(4)[:, 0, 0]
    array([0.2048, 0.3468])
    """
    h, states = h0, np.zeros((x.shape[0], *h0.shape), h0.dtype)
    for t in range(x.shape[0]):
        _, z, n, _ = _gates(x[t], h, wx, wh, b)
        h = (1 - z) * n + z * h
        states[t] = h
    return states


def gru_vjp(
    x: Array, h0: Array, wx: Array, wh: Array, b: Array, g: Array
) -> tuple[Array, Array, Array, Array, Array]:
    """Cotangents (dx, dh0, dwx, dwh, db): backpropagation through time.

    Let e be the whole cotangent of h_t = (1 - z) n + z h, h the state before. Then n has e (1 - z),
    z has e (h - n), and h has e z. As tanh' = 1 - tanh^2 and s' = s (1 - s), the arguments of the
    three functions have
        dn = e (1 - z) (1 - n^2)     dz = e (h - n) z (1 - z)     dr = dn u_n r (1 - r)
    A gate's argument is a + u, the candidate's a_n + r u_n: da = (dr, dz, dn), du = (dr, dz, r dn).
    Then lin's rule for a and for u, from the last step to the first.
    """
    states = gru(x, h0, wx, wh, b)
    dx, dwx, dwh, db = np.zeros_like(x), np.zeros_like(wx), np.zeros_like(wh), np.zeros_like(b)
    e = np.zeros_like(h0)
    for t in reversed(range(x.shape[0])):
        e, h = e + g[t], states[t - 1] if t > 0 else h0
        r, z, n, u_n = _gates(x[t], h, wx, wh, b)
        dn = e * (1 - z) * (1 - n**2)
        dz = e * (h - n) * z * (1 - z)
        dr = dn * u_n * r * (1 - r)
        dx[t], dwx_t, db_t = lin_vjp(x[t], wx, b, np.concatenate([dr, dz, dn], axis=-1))
        dh, dwh_t, _ = lin_vjp(h, wh, None, np.concatenate([dr, dz, r * dn], axis=-1))
        e = e * z + dh
        dwx, dwh, db = dwx + dwx_t, dwh + dwh_t, db + db_t
    return dx, e, dwx, dwh, db


def gru_jvp(
    x: Array,
    h0: Array,
    wx: Array,
    wh: Array,
    b: Array,
    dx: Array,
    dh0: Array,
    dwx: Array,
    dwh: Array,
    db: Array,
) -> Array:
    """The tangent of all states, from those of the arguments.

    a and u are sums of products: da and du by lin's tangent. As s' = s (1 - s), tanh' = 1 - tanh^2,
        dr = r (1 - r) (da_r + du_r)      dn = (1 - n^2) (da_n + dr u_n + r du_n)
        dz = z (1 - z) (da_z + du_z)      dh_t = (1 - z) dn + dz (h - n) + z dh
    with h the state before, from the first step to the last.
    """
    states = gru(x, h0, wx, wh, b)
    dstates, h, dh = np.zeros_like(states), h0, dh0
    for t in range(x.shape[0]):
        r, z, n, u_n = _gates(x[t], h, wx, wh, b)
        da_r, da_z, da_n = np.split(lin_jvp(x[t], wx, b, dx[t], dwx, db), 3, axis=-1)
        du_r, du_z, du_n = np.split(lin_jvp(h, wh, None, dh, dwh, None), 3, axis=-1)
        dr, dz = r * (1 - r) * (da_r + du_r), z * (1 - z) * (da_z + du_z)
        dn = (1 - n**2) * (da_n + dr * u_n + r * du_n)
        h, dh = states[t], (1 - z) * dn + dz * (h - n) + z * dh
        dstates[t] = dh
    return dstates


def _gates(x: Array, h: Array, wx: Array, wh: Array, b: Array) -> tuple[Array, Array, Array, Array]:
    """The gates r and z, the candidate n, and u_n, of one step."""
    a_r, a_z, a_n = np.split(lin(x, wx, b), 3, axis=-1)
    u_r, u_z, u_n = np.split(lin(h, wh), 3, axis=-1)
    r, z = _logistic(a_r + u_r), _logistic(a_z + u_z)
    return r, z, tanh(a_n + r * u_n), u_n


def _logistic(x: Array) -> Array:
    """1 / (1 + exp(-x)), in a form that does not overflow."""
    return np.asarray((1 + tanh(x / 2)) / 2)


def attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    causal: bool = False,
    mask: Array | None = None,
    scale: Scalar | Array | None = None,
    block: int | None = None,
) -> Array:
    """Each query's mean of the values, weighted by softmax(scale q k^T).

    Shapes: q (..., t, heads, d), k (..., s, kv_heads, d), v (..., s, kv_heads, d_v)
    -> (..., t, heads, d_v) (Vaswani et al. 2017, arXiv:1706.03762). heads is a multiple of
    kv_heads; query head h looks at kv head h // (heads / kv_heads). scale None means 1 / sqrt(d).
    `causal`: query i sees keys 0..i. `mask` (broadcast to (..., heads, t, s)): True where a query
    may look. A query that may look nowhere gives zeros. `block` is ignored: same result.

    >>> q, v = np.zeros((2, 1, 1)), np.array([2.0, 4.0]).reshape(2, 1, 1)
    >>> attention(q, q, v, causal=True)[:, 0, 0]
    array([2., 3.])
    """
    factor = 1 / sqrt(q.shape[-1]) if scale is None else scale
    group, allowed = q.shape[-2] // k.shape[-2], _allowed(q, k, causal, mask)
    out = np.zeros((*q.shape[:-1], v.shape[-1]), v.dtype)
    for *n, i, h in np.ndindex(*q.shape[:-1]):
        seen = allowed[*n, h, i]
        if seen.any():
            p = softmax(factor * (k[*n, seen, h // group] @ q[*n, i, h]))
            out[*n, i, h] = p @ v[*n, seen, h // group]
    return out


def attention_vjp(
    q: Array,
    k: Array,
    v: Array,
    g: Array,
    *,
    causal: bool = False,
    mask: Array | None = None,
    scale: Scalar | Array | None = None,
    block: int | None = None,
) -> tuple[Array, ...]:
    """Cotangents (dq, dk, dv), one query at a time; then dscale where scale is an array.

    With z_j = scale k_j . q, p = softmax(z), out = sum_j p_j v_j over the keys that are seen:
        dv_j = p_j g,   dp_j = v_j . g,   dz by softmax's rule,
        dq = scale sum_j dz_j k_j,   dk_j = scale dz_j q,   dscale = sum_j dz_j k_j . q.
    Keys and values serve many queries (and all heads of a group), the scale serves all: their
    cotangents add.
    """
    factor = 1 / sqrt(q.shape[-1]) if scale is None else scale
    group, allowed = q.shape[-2] // k.shape[-2], _allowed(q, k, causal, mask)
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    dscale = np.zeros((), q.dtype)
    for *n, i, h in np.ndindex(*q.shape[:-1]):
        seen, o = allowed[*n, h, i], h // group
        if not seen.any():
            continue
        query, keys, values, g_out = q[*n, i, h], k[*n, seen, o], v[*n, seen, o], g[*n, i, h]
        products = keys @ query
        z = factor * products
        (dz,) = softmax_vjp(z, values @ g_out)
        dv[*n, seen, o] += np.outer(softmax(z), g_out)
        dq[*n, i, h] += factor * (dz @ keys)
        dk[*n, seen, o] += factor * np.outer(dz, query)
        dscale[...] += dz @ products
    return (dq, dk, dv, dscale) if isinstance(scale, np.ndarray) else (dq, dk, dv)


def attention_jvp(
    q: Array,
    k: Array,
    v: Array,
    dq: Array,
    dk: Array,
    dv: Array,
    *,
    causal: bool = False,
    mask: Array | None = None,
    scale: Scalar | Array | None = None,
    dscale: Scalar | Array = 0,
    block: int | None = None,
) -> Array:
    """The tangent of the result, one query at a time, from those of the arguments.

    With z_j, p_j and out as in `attention_vjp`,
        dz_j = (dscale q + scale dq) . k_j + scale q . dk_j,   mu = sum_j p_j dz_j,
        dout = sum_j p_j (dz_j - mu) v_j + sum_j p_j dv_j.
    """
    factor = 1 / sqrt(q.shape[-1]) if scale is None else scale
    group, allowed = q.shape[-2] // k.shape[-2], _allowed(q, k, causal, mask)
    out = np.zeros((*q.shape[:-1], v.shape[-1]), v.dtype)
    for *n, i, h in np.ndindex(*q.shape[:-1]):
        seen, o = allowed[*n, h, i], h // group
        if not seen.any():
            continue
        query, keys, values = q[*n, i, h], k[*n, seen, o], v[*n, seen, o]
        p = softmax(factor * (keys @ query))
        moved = dscale * query + factor * dq[*n, i, h]
        dz = keys @ moved + factor * (dk[*n, seen, o] @ query)
        out[*n, i, h] = (p * (dz - p @ dz)) @ values + p @ dv[*n, seen, o]
    return out


def attention_jvp_vjp(
    q: Array,
    k: Array,
    v: Array,
    dq: Array,
    dk: Array,
    dv: Array,
    g: Array,
    *,
    causal: bool = False,
    mask: Array | None = None,
    scale: Scalar | Array | None = None,
    dscale: Scalar | Array = 0,
    block: int | None = None,
) -> tuple[Array, ...]:
    """Cotangents of all that `attention_jvp` takes: reverse mode over forward mode.

    In the order q, k, v, dq, dk, dv, and those of scale and dscale where scale is an array. With
    the letters there, a_j = g . v_j and A = sum_j p_j a_j, dout . g is
    sum_j p_j (dz_j - mu) a_j + sum_j p_j (g . dv_j), where mu holds p and dz too:
        of dz_j    zeta_j = p_j (a_j - A)
        of p_j     pi_j = (dz_j - mu) (a_j - A) + g . dv_j, but for what is the same for all j,
        of z_j     eta_j = p_j (pi_j - sum_i p_i pi_i)    by softmax's rule
        of v_j     p_j (dz_j - mu) g          of dv_j    p_j g
    z_j and dz_j are sums of products: theirs are the rest.
    """
    factor = 1 / sqrt(q.shape[-1]) if scale is None else scale
    group, allowed = q.shape[-2] // k.shape[-2], _allowed(q, k, causal, mask)
    of_q, of_k, of_v, of_dq, of_dk, of_dv = (np.zeros_like(x) for x in (q, k, v, dq, dk, dv))
    of_scale, of_dscale = np.zeros((), q.dtype), np.zeros((), q.dtype)
    for *n, i, h in np.ndindex(*q.shape[:-1]):
        seen, o = allowed[*n, h, i], h // group
        if not seen.any():
            continue
        at, here = (*n, i, h), (*n, seen, o)
        p = softmax(factor * (k[here] @ q[at]))
        dz = k[here] @ (dscale * q[at] + factor * dq[at]) + factor * (dk[here] @ q[at])
        moved, a = dz - p @ dz, v[here] @ g[at]
        zeta = p * (a - p @ a)
        pi = moved * (a - p @ a) + dv[here] @ g[at]
        eta = p * (pi - p @ pi)
        of_q[at] += factor * (eta @ k[here] + zeta @ dk[here]) + dscale * (zeta @ k[here])
        of_dq[at] += factor * (zeta @ k[here])
        of_k[here] += np.outer(factor * eta + dscale * zeta, q[at]) + np.outer(
            factor * zeta, dq[at]
        )
        of_dk[here] += np.outer(factor * zeta, q[at])
        of_v[here] += np.outer(p * moved, g[at])
        of_dv[here] += np.outer(p, g[at])
        of_scale += q[at] @ (eta @ k[here] + zeta @ dk[here]) + dq[at] @ (zeta @ k[here])
        of_dscale += q[at] @ (zeta @ k[here])
    every = (of_q, of_k, of_v, of_dq, of_dk, of_dv)
    return (*every, of_scale, of_dscale) if isinstance(scale, np.ndarray) else every


def _allowed(q: Array, k: Array, causal: bool, mask: Array | None) -> Array:
    """Which query may look at which key: (..., heads, t, s)."""
    *n, t, heads, _ = q.shape
    s = k.shape[-3]
    seen = np.broadcast_to(np.True_ if mask is None else mask, (*n, heads, t, s))
    return seen & (np.arange(s) <= np.arange(t)[:, None]) if causal else seen


def rope(x: Array, positions: Array, *, base: Scalar = 10000.0, interleaved: bool = False) -> Array:
    """Rotary position embedding: pairs of features (a_i, b_i), turned by positions base^(-2i/d).

    Shapes: x (..., t, heads, d), positions broadcasting to (..., t) -> x's (Su et al. 2021,
    arXiv:2104.09864). A pair is (x_i, x_(i + d/2)), or of neighbours if `interleaved`.

    >>> rope(np.array([[[1.0, 0.0]], [[1.0, 0.0]]]), np.arange(2)).round(4)[:, 0]
    array([[1.    , 0.    ],
           [0.5403, 0.8415]])
    """
    a, b = _pairs(x, interleaved)
    angle = _angles(positions, x, base)
    return _whole(a * cos(angle) - b * sin(angle), b * cos(angle) + a * sin(angle), interleaved)


def rope_vjp(
    x: Array, positions: Array, g: Array, *, base: Scalar = 10000.0, interleaved: bool = False
) -> tuple[Array, Array | None]:
    """Cotangents (dx, dpositions); None for positions that are integers.

    A rotation's transpose is the rotation back: dx is g turned by the negative angles. The result
    changes with the angle by (-y_b, y_a); an angle is a position times its frequency.
    """
    dx = rope(g, -positions, base=base, interleaved=interleaved)
    if positions.dtype.kind in "iu":
        return dx, None
    y = rope(x, positions, base=base, interleaved=interleaved)
    (ya, yb), (ga, gb) = _pairs(y, interleaved), _pairs(g, interleaved)
    turned = (gb * ya - ga * yb) * _angles(np.ones_like(positions), x, base)
    return dx, sum_to(np.asarray(turned.sum(axis=(-2, -1))), positions.shape)


def _angles(positions: Array, like: Array, base: Scalar) -> Array:
    """The angle of every pair, of a shape that broadcasts to (..., t, heads, d/2)."""
    d = like.shape[-1]
    frequencies = np.array([base ** (-2 * i / d) for i in range(d // 2)])
    return np.asarray(positions[..., None, None] * frequencies)


def _pairs(x: Array, interleaved: bool) -> tuple[Array, Array]:
    half = x.shape[-1] // 2
    return (x[..., ::2], x[..., 1::2]) if interleaved else (x[..., :half], x[..., half:])


def _whole(a: Array, b: Array, interleaved: bool) -> Array:
    if not interleaved:
        return np.concatenate([a, b], axis=-1)
    return np.stack([a, b], axis=-1).reshape(*a.shape[:-1], 2 * a.shape[-1])
