"""Points: pairwise_distance, kernel_sum."""

from __future__ import annotations

from typing import Any

import numpy as np

from .elementary import Array, Scalar, absolute, exp, greater, sqrt


def pairwise_distance(p: Array, q: Array | None = None, *, ord: Any = 2) -> Array:
    """Distances D_ij of points p_i and q_j: Euclidean (ord 2), squared ("sq"), or L1 (1).

    Shapes: p (..., n, d), q (..., m, d) -> (..., n, m). q None stands for p.

    >>> pairwise_distance(np.array([[0.0, 0.0], [3.0, 4.0]]))
    array([[0., 5.],
           [5., 0.]])
    """
    x = _differences(p, q)
    if ord == 1:
        return np.asarray(absolute(x).sum(axis=-1))
    squares = np.asarray((x**2).sum(axis=-1))
    return squares if ord == "sq" else np.asarray(sqrt(squares))


def pairwise_distance_vjp(
    p: Array, q: Array | None, g: Array, *, ord: Any = 2
) -> tuple[Array, Array | None]:
    """Cotangents (dp, dq); without q, which is p then, dp has both and dq is None.

    With x = p_i - q_j, D is |x|, |x|^2 or sum |x_k|: its derivative in x is x / D, 2 x or sign(x),
    in p_i the same, in q_j its negative. A point is in many pairs: their cotangents add. At x = 0
    the distance has a kink; 0 is chosen, a subgradient.
    """
    x = _differences(p, q)
    if ord == 1:
        slope = np.where(greater(x, 0), 1, np.where(greater(0, x), -1, 0))
    elif ord == "sq":
        slope = 2 * x
    else:
        d = pairwise_distance(p, q)[..., None]
        slope = x / np.where(d == 0, 1, d)
    dx = g[..., None] * slope
    dp, dq = dx.sum(axis=-2), -dx.sum(axis=-3)
    return (dp + dq, None) if q is None else (dp, dq)


def _differences(p: Array, q: Array | None) -> Array:
    """p_i - q_j, shape (..., n, m, d)."""
    q = p if q is None else q
    return p[..., :, None, :] - q[..., None, :, :]


def kernel_sum(
    p: Array,
    q: Array | None = None,
    weights: Array | None = None,
    *,
    kernel: str = "gaussian",
    scale: Scalar | Array = 1.0,
    block: int | None = None,
) -> Array:
    """At each point p_i, sum_j weights_j f(r_ij) with r = |p_i - q_j|^2 / scale^2.

    f(r) is exp(-r/2) for "gaussian", exp(-sqrt(r)) for "laplacian", 1 / (1 + r/2) for "rq".
    Shapes: p (..., n, d), q (..., m, d), weights (..., m) -> (..., n). q None stands for p, weights
    None for ones; `block` is ignored: same result.

    >>> kernel_sum(np.array([[0.0], [2.0]]), scale=2.0).round(4)
    array([1.6065, 1.6065])
    """
    f = _kernel(_squares(p, q, scale), kernel)
    return np.asarray((f if weights is None else f * weights[..., None, :]).sum(axis=-1))


def kernel_sum_vjp(
    p: Array,
    q: Array | None,
    weights: Array | None,
    g: Array,
    *,
    kernel: str = "gaussian",
    scale: Scalar | Array = 1.0,
    block: int | None = None,
) -> tuple[Array | None, ...]:
    """Cotangents (dp, dq, dweights), None where the argument is; then dscale if that is an array.

    weights_j has sum_i g_i f_ij, and r_ij has h_ij = g_i weights_j f'(r_ij), where f' is -f/2,
    -f / (2 sqrt(r)) (chosen 0 at r = 0, a kink) or -f^2/2. With x = p_i - q_j, r = |x|^2 / scale^2:
        dr/dp_i = 2 x / scale^2 = -dr/dq_j,        dr/dscale = -2 r / scale.
    """
    r = _squares(p, q, scale)
    f = _kernel(r, kernel)
    if kernel == "laplacian":
        slope = np.where(r == 0, 0, -f / (2 * np.where(r == 0, 1, sqrt(r))))
    else:
        slope = -f / 2 if kernel == "gaussian" else -(f**2) / 2
    gf = g[..., :, None] * f
    h = g[..., :, None] * slope
    h = h if weights is None else h * weights[..., None, :]
    dx = 2 * h[..., None] * _differences(p, q) / scale**2
    dp, dq = dx.sum(axis=-2), -dx.sum(axis=-3)
    points = (dp + dq, None) if q is None else (dp, dq)
    given = (*points, None if weights is None else gf.sum(axis=-2))
    if not isinstance(scale, np.ndarray):
        return given
    dscale = np.zeros((), dtype=r.dtype)
    dscale[...] = (-2 * h * r / scale).sum()
    return (*given, dscale)


def _squares(p: Array, q: Array | None, scale: Scalar | Array) -> Array:
    return np.asarray((_differences(p, q) ** 2).sum(axis=-1) / scale**2)


def _kernel(r: Array, kernel: str) -> Array:
    if kernel == "gaussian":
        return np.asarray(exp(-r / 2))
    return np.asarray(exp(-sqrt(r)) if kernel == "laplacian" else 1 / (1 + r / 2))
