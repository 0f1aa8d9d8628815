"""Points: pairwise_distance."""

from __future__ import annotations

from typing import Any

import numpy as np

from .elementary import Array, absolute, greater, sqrt


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
