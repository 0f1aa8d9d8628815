"""Probabilities and their losses: softmax, log_softmax, cross_entropy, linear_cross_entropy."""

from __future__ import annotations

from typing import Any

import numpy as np

from .dense import lin, lin_vjp
from .elementary import Array, Scalar, exp, largest, log, sum_to, tanh


def softmax(z: Array, axis: int = -1) -> Array:
    """Probabilities p_i = exp(z_i) / sum_j exp(z_j) along `axis`.

    The greatest z is subtracted first: the quotient does not change and nothing overflows.

    >>> softmax(np.array([0.0, np.log(3.0)])).round(2)
    array([0.25, 0.75])
    """
    z = np.moveaxis(z, axis, -1)
    e = exp(z - largest(z))
    return np.moveaxis(e / e.sum(axis=-1, keepdims=True), -1, axis)


def softmax_vjp(z: Array, g: Array, axis: int = -1) -> tuple[Array]:
    """Cotangent (dz,): p_k (g_k - sum_i g_i p_i).

    With the quotient rule, d p_i / d z_k = p_i (1[i=k] - p_k): raising z_k raises p_k and lowers
    all in proportion. Summed against g_i this is p_k g_k - p_k sum_i g_i p_i.
    """
    p = softmax(z, axis)
    return (p * (g - (g * p).sum(axis=axis, keepdims=True)),)


def log_softmax(z: Array, axis: int = -1) -> Array:
    """The logarithm of softmax, z_i - log sum_j exp(z_j) along `axis`.

    >>> log_softmax(np.array([0.0, 0.0])).round(4)
    array([-0.6931, -0.6931])
    """
    z = np.moveaxis(z, axis, -1)
    return np.moveaxis(z - _logsumexp(z), -1, axis)


def log_softmax_vjp(z: Array, g: Array, axis: int = -1) -> tuple[Array]:
    """Cotangent (dz,): g_k - p_k sum_i g_i.

    The derivative of log sum exp is p_k, so d (z_i - lse) / d z_k = 1[i=k] - p_k; sum against g_i.
    """
    return (g - softmax(z, axis) * g.sum(axis=axis, keepdims=True),)


def _logsumexp(z: Array) -> Array:
    """Log sum_j exp(z_j) over the last axis, which is kept with length 1."""
    top = largest(z)
    return np.asarray(top + log(exp(z - top).sum(axis=-1, keepdims=True)))


def cross_entropy(
    logits: Array,
    labels: Array,
    *,
    smoothing: Scalar = 0,
    z_loss: Scalar = 0,
    weights: Array | None = None,
    class_weights: Array | None = None,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> Any:
    """Softmax cross entropy, from logits.

    With q the label's distribution (one-hot for an integer label), v classes and
    lse = log sum_j exp(z_j):
        q'_j = (1 - smoothing) q_j + smoothing / v
        loss = - sum_j q'_j (z_j - lse) + z_loss lse^2

    Shapes: logits (..., v); labels integers (...,) or distributions (..., v); weights broadcast to
    (...,), one for each label; class_weights (v,), for integer labels, multiply them by that of
    the label's class. Labels equal to ignore_index have loss 0 and do not count; a label that is no
    class gives NaN.
    reduction "none" gives (...,) with each loss times its weight, "sum" their sum, "mean" that sum
    divided by the sum of the weights that count (without weights: by their number; 0 if none do).
    Weights that are not 0 and add up to 0 are a division by 0.

    >>> float(cross_entropy(np.zeros((5, 10)), np.arange(5)).round(4))
    2.3026
    """
    loss, keep, *_ = _each_loss(logits, labels, smoothing, z_loss, ignore_index)
    w = _weights(keep, labels, weights, class_weights)
    if reduction == "none":
        return np.asarray(w * loss)
    total = np.sum(w * loss)
    return total if reduction == "sum" else total / _weight(w)


def cross_entropy_vjp(
    logits: Array,
    labels: Array,
    g: Any,
    *,
    smoothing: Scalar = 0,
    z_loss: Scalar = 0,
    weights: Array | None = None,
    class_weights: Array | None = None,
    ignore_index: int | None = None,
    reduction: str = "mean",
) -> tuple[Array | None, ...]:
    """Cotangents (dlogits, dlabels), then dweights and dclass_weights where those are given.

    dlabels is None for integer labels. Write c for the cotangent of one label's loss: g times its
    weight, divided by the total weight W if the reduction is "mean". With d lse / d z_k = p_k,
        d loss / d z_k  = p_k sum_j q'_j - q'_k + 2 z_loss lse p_k    (for sum q' = 1: p - q')
        d loss / d q_k  = -(1 - smoothing) (z_k - lse)
        d out / d w_i   = loss_i, and for "mean" (loss_i - out) / W: w_i is in the quotient twice
    where w_i is the product of the label's weight and its class's: each is the other's factor. A
    class that has no part in q' and probability 0 is as if it were not there: its dlabels are 0.
    """
    loss, keep, q, lse, logp = _each_loss(logits, labels, smoothing, z_loss, ignore_index)
    w = _weights(keep, labels, weights, class_weights)
    if reduction == "mean":
        w_total = _weight(w)
        dw = g * (loss - np.sum(w * loss) / w_total) / w_total
        c = g * w / w_total
    else:
        dw, c = g * loss, g * w
    c, counts = np.asarray(c)[..., None], np.asarray(keep)[..., None]
    dlogits = c * (exp(logp) * (q.sum(axis=-1, keepdims=True) + 2 * z_loss * lse) - q)
    integer = labels.ndim < logits.ndim
    absent = (q == 0) & (logp == -np.inf)
    cotangents: list[Array | None] = [
        np.where(counts, dlogits, 0),  # whatever the logits of a label that does not count
        None if integer else -c * (1 - smoothing) * np.where(absent, 0, logp),
    ]
    dw = np.where(keep, dw, 0)
    if weights is not None:
        other = 1 if class_weights is None else class_weights[np.where(keep, labels, 0)]
        cotangents.append(sum_to(dw * other, weights.shape))
    if class_weights is not None:
        shares = dw if weights is None else dw * weights
        classes = range(class_weights.size)
        cotangents.append(np.array([np.sum(np.where(labels == k, shares, 0)) for k in classes]))
    return tuple(cotangents)


def _cross_entropy_jvp(
    logits: Array,
    labels: Array,
    dlogits: Array,
    dlabels: Array | None,
    *,
    smoothing: Scalar = 0,
    z_loss: Scalar = 0,
    weights: Array | None = None,
    class_weights: Array | None = None,
    ignore_index: int | None = None,
    reduction: str = "mean",
    dweights: Array | None = None,
    dclass_weights: Array | None = None,
) -> Any:
    """The tangent of the loss, from those of the logits and of labels that are distributions.

    With s = sum_k p_k dz_k, which is the tangent of lse,
        dloss_i = s (sum_j q'_j + 2 z_loss lse) - sum_k q'_k dz_k - sum_k dq'_k (z_k - lse)
    a sample's weight w = u v[label] has dw = du v[label] + u dv[label], and the quotient of
    "mean", out = sum_i w_i loss_i / W, has (sum_i (w_i dloss_i + dw_i (loss_i - out))) / W.
    """
    loss, keep, q, lse, logp = _each_loss(logits, labels, smoothing, z_loss, ignore_index)
    dlse = (exp(logp) * dlogits).sum(axis=-1)
    dloss = dlse * (q.sum(axis=-1) + 2 * z_loss * lse[..., 0]) - (q * dlogits).sum(axis=-1)
    if dlabels is not None:
        dloss = dloss - (1 - smoothing) * (dlabels * logp).sum(axis=-1)
    w = _weights(keep, labels, weights, class_weights)
    dw = np.zeros(keep.shape, int)
    if dweights is not None:
        dw = dw + _weights(keep, labels, dweights, class_weights)
    if dclass_weights is not None:
        dw = dw + _weights(keep, labels, weights, dclass_weights)
    if reduction == "none":
        return np.asarray(w * dloss + dw * loss)
    if reduction == "sum":
        return np.sum(w * dloss + dw * loss)
    out = np.sum(w * loss) / _weight(w)
    return np.sum(w * dloss + dw * (loss - out)) / _weight(w)


def _each_loss(
    logits: Array, labels: Array, smoothing: Scalar, z_loss: Scalar, ignore_index: int | None
) -> tuple[Array, Array, Array, Array, Array]:
    """What both passes need: loss, which labels count, q', lse and log p."""
    v = logits.shape[-1]
    if labels.ndim < logits.ndim:
        keep = np.ones(labels.shape, bool) if ignore_index is None else labels != ignore_index
        known = (labels >= 0) & (labels < v)
        flat = np.zeros((labels.size, v), logits.dtype)
        flat[np.arange(labels.size), np.where(known, labels, 0).reshape(-1)] = 1
        flat[~(known | ~keep).reshape(-1)] = np.nan
        q = flat.reshape(logits.shape)
    else:
        keep, q = np.ones(logits.shape[:-1], bool), labels
    q = (1 - smoothing) * q + smoothing / v
    lse = _logsumexp(logits)
    logp = logits - lse
    # A class that has no part in q may have probability 0: 0 times -inf would be NaN.
    loss = -(q * np.where(q == 0, 0, logp)).sum(axis=-1) + z_loss * lse[..., 0] ** 2
    return np.where(keep, loss, 0), keep, q, lse, logp


def _weights(
    keep: Array, labels: Array, weights: Array | None, class_weights: Array | None
) -> Array:
    """Of each label, times that of its class; 0 where it does not count."""
    w = np.ones(keep.shape, int) if weights is None else np.broadcast_to(weights, keep.shape)
    if class_weights is not None:
        w = w * class_weights[np.where(keep, labels, 0)]
    return np.where(keep, w, 0)


def _weight(w: Array) -> Scalar:
    """The total weight, made 1 where nothing counts so that the mean of nothing is 0."""
    return 1 if np.all(w == 0) else np.sum(w)


def linear_cross_entropy(
    x: Array,
    w: Array,
    labels: Array,
    b: Array | None = None,
    *,
    softcap: Scalar | None = None,
    chunk: int | None = None,
    mode: str = "auto",
    **options: Any,
) -> Any:
    """cross_entropy(cap(lin(x, w, b)), labels, **options), with cap(z) = softcap tanh(z / softcap).

    Shapes: x (..., d), w (d, v), b (v,), labels as in cross_entropy. A class whose b is -inf has
    the logit -inf, whatever its column of w. `chunk` and `mode` pick an algorithm in fnnet and are
    ignored here: the result is the same.

    >>> x, w = np.zeros((2, 3)), np.ones((3, 4))
    >>> float(linear_cross_entropy(x, w, np.array([0, 1])).round(4))
    1.3863
    """
    return cross_entropy(_logits(x, w, b, softcap)[0], labels, **options)


def linear_cross_entropy_vjp(
    x: Array,
    w: Array,
    labels: Array,
    b: Array | None,
    g: Any,
    *,
    softcap: Scalar | None = None,
    chunk: int | None = None,
    mode: str = "auto",
    **options: Any,
) -> tuple[Array | None, ...]:
    """Cotangents (dx, dw, dlabels, db), then dweights where weights are given.

    The chain rule, from the outside in: cross_entropy's rule gives the cotangent of the capped
    logits, the slope of softcap tanh(z / softcap) is 1 - tanh(z / softcap)^2, lin's rule does the
    rest.
    """
    logits, slope, used = _logits(x, w, b, softcap)
    dlogits, dlabels, *dweights = cross_entropy_vjp(logits, labels, g, **options)
    assert dlogits is not None
    dx, dw, db = lin_vjp(x, used, b, dlogits * slope)
    return dx, dw, dlabels, db, *dweights


def linear_cross_entropy_jvp(
    x: Array,
    w: Array,
    labels: Array,
    b: Array | None,
    dx: Array,
    dw: Array,
    dlabels: Array | None,
    db: Array | None,
    *,
    softcap: Scalar | None = None,
    chunk: int | None = None,
    mode: str = "auto",
    **options: Any,
) -> Any:
    """The tangent of the loss; dlabels is None for integer labels, db where b is.

    The chain rule, from the inside out: lin's tangent dx w + x dw + db, times the slope of the cap,
    is that of the logits. Those of weights are given as dweights, of class_weights likewise.
    """
    logits, slope, used = _logits(x, w, b, softcap)
    dlogits = slope * (lin(dx, used) + lin(x, dw, db))
    if b is not None:
        dlogits = np.where(b == -np.inf, 0, dlogits)
    return _cross_entropy_jvp(logits, labels, dlogits, dlabels, **options)


def _logits(
    x: Array, w: Array, b: Array | None, softcap: Scalar | None
) -> tuple[Array, Any, Array]:
    """The capped logits, the slope of the cap, and w without the classes that b rules out."""
    out = np.False_ if b is None else b == -np.inf
    if np.any(out):
        w = np.where(out, 0, w)
    z, slope = lin(x, w, b), 1
    if softcap is not None:
        t = tanh(z / softcap)
        z, slope = softcap * t, 1 - t**2
    return np.where(out, -np.inf, z) if np.any(out) else z, slope, w
