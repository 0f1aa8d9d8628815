"""The chapter's ops: matmul, lin, relu, mse."""

from __future__ import annotations

import numpy as np

from .elementary import Array, Scalar, greater, maximum, sum_to


def matmul(a: Array, b: Array) -> Array:
    """Matrix product c_ik = sum_j a_ij b_jk, over broadcast leading axes.

    Shapes: a (..., n, m), b (..., m, p) -> (..., n, p). A vector stands for a row on the left, a
    column on the right, as in NumPy.

    >>> matmul(np.arange(20).reshape(5, 4), np.array([1, 2, 4, 8]))
    array([ 34,  94, 154, 214, 274])
    """
    return np.asarray(a @ b)


def matmul_vjp(a: Array, b: Array, g: Array) -> tuple[Array, Array]:
    """Cotangents (da, db).

    L changes with a_ij through every c_ik, and d c_ik / d a_ij = b_jk:
        da_ij = sum_k g_ik b_jk, which is g b^T;   likewise db_jk = sum_i a_ij g_ik, which is a^T g.
    """
    row, column = a.ndim == 1, b.ndim == 1
    a2 = a[None, :] if row else a
    b2 = b[:, None] if column else b
    g2 = np.expand_dims(g, -1) if column else np.asarray(g)
    g2 = np.expand_dims(g2, -2) if row else g2
    da = sum_to(g2 @ np.swapaxes(b2, -1, -2), a2.shape)
    db = sum_to(np.swapaxes(a2, -1, -2) @ g2, b2.shape)
    return da.reshape(a.shape), db.reshape(b.shape)


def lin(x: Array, w: Array, b: Array | None = None) -> Array:
    """Linear layer y_no = sum_i x_ni w_io + b_o; n runs over all leading axes.

    Shapes: x (..., n_in), w (n_in, n_out), b (n_out,) -> (..., n_out).

    >>> lin(np.array([[1.0, 2.0]]), np.array([[1.0], [10.0]]), np.array([0.5]))
    array([[21.5]])
    """
    y = np.asarray(x @ w)
    return y if b is None else y + b


def lin_vjp(x: Array, w: Array, b: Array | None, g: Array) -> tuple[Array, Array, Array | None]:
    """Cotangents (dx, dw, db); db is None where b is.

    d y_no / d x_ni = w_io      so dx_ni = sum_o g_no w_io      (g w^T)
    d y_no / d w_io = x_ni      so dw_io = sum_n x_ni g_no      (x^T g)
    d y_no / d b_o  = 1         so db_o  = sum_n g_no
    """
    n_in, n_out = w.shape
    rows, g_rows = x.reshape(-1, n_in), g.reshape(-1, n_out)
    dx = (g_rows @ w.T).reshape(x.shape)
    dw = rows.T @ g_rows
    return dx, dw, None if b is None else np.asarray(g_rows.sum(axis=0))


def relu(x: Array) -> Array:
    """max(x, 0), elementwise.

    >>> relu(np.array([-1.0, 0.0, 2.0]))
    array([0., 0., 2.])
    """
    return np.asarray(maximum(x, 0))


def relu_vjp(x: Array, g: Array) -> tuple[Array]:
    """Cotangent (dx,): g where x > 0, else 0.

    The slope is 1 right of zero and 0 left of it. At zero any value between is a subgradient; 0 is
    chosen, as everyone does.
    """
    return (np.where(greater(x, 0), g, 0),)


def mse(pred: Array, targ: Array) -> Scalar:
    """Mean squared error, (1/n) sum_i (pred_i - targ_i)^2, over all n entries.

    `pred` has the shape of `targ`, or that shape and a last axis of 1 (the output of a layer with
    one unit). Anything else would broadcast silently and is a ValueError. No entries: 0.

    >>> float(mse(np.array([[1.0], [4.0]]), np.array([2.0, 2.0])))
    2.5
    """
    diff = _difference(pred, targ)
    return np.sum(diff**2) / max(diff.size, 1)


def mse_vjp(pred: Array, targ: Array, g: Scalar) -> tuple[Array, Array]:
    """Cotangents (dpred, dtarg).

    d/d pred_i of (1/n) (pred_i - targ_i)^2 is 2 (pred_i - targ_i) / n: the square's chain rule.
    targ enters with the opposite sign.
    """
    diff = _difference(pred, targ)
    d = np.asarray(g * 2 * diff / max(diff.size, 1))
    return d.reshape(pred.shape), np.asarray(-d)


def _difference(pred: Array, targ: Array) -> Array:
    if pred.shape not in (targ.shape, (*targ.shape, 1)):
        raise ValueError(
            f"mse: pred must have targ's shape {targ.shape} or {(*targ.shape, 1)}, got {pred.shape}"
        )
    return np.asarray(pred.reshape(targ.shape) - targ)
