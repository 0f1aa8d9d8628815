"""Normalisation and norms: layer_norm, rms_norm, batch_norm, group_norm, norm."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .elementary import Array, Scalar, absolute, greater, largest, sqrt


def layer_norm(
    x: Array, scale: Array | None = None, shift: Array | None = None, *, eps: Scalar = 1e-5
) -> Array:
    """Layer norm y = scale u + shift, u = (x - mean) / sqrt(var + eps), over the last axis.

    Shapes: x (..., d), scale and shift (d,) -> (..., d); var is the mean squared deviation
    (Ba, Kiros, Hinton 2016, arXiv:1607.06450).

    >>> layer_norm(np.array([[1.0, 3.0]]), eps=0.0)
    array([[-1.,  1.]])
    """
    u, _ = _standardised(x, eps)
    y = u if scale is None else u * scale
    return y if shift is None else y + shift


def layer_norm_vjp(
    x: Array, scale: Array | None, shift: Array | None, g: Array, *, eps: Scalar = 1e-5
) -> tuple[Array, Array | None, Array | None]:
    """Cotangents (dx, dscale, dshift); None where the argument is.

    Write s = sqrt(var + eps), c = x - mean, h = g scale (the cotangent of u = c / s), d entries.
        ds/dc_k = c_k / (d s) = u_k / d        so dL/dc_k = h_k / s - u_k mean(h u) / s
        c_j = x_j - mean(x)                    so dL/dx_k = dL/dc_k - mean(dL/dc)
    and mean(u) = 0 leaves dx = (h - mean(h) - u mean(h u)) / s. dscale and dshift add over rows.
    """
    u, s = _standardised(x, eps)
    h = g if scale is None else g * scale
    mean_h, mean_hu = h.mean(axis=-1, keepdims=True), (h * u).mean(axis=-1, keepdims=True)
    dx = (h - mean_h - u * mean_hu) / s
    return dx, _over_rows(scale, g * u), _over_rows(shift, g)


def _standardised(x: Array, eps: Scalar) -> tuple[Array, Array]:
    c = x - x.mean(axis=-1, keepdims=True)
    s = sqrt((c**2).mean(axis=-1, keepdims=True) + eps)
    return c / s, s


def _over_rows(parameter: Array | None, g: Array) -> Array | None:
    """The cotangent of a parameter that every row shares."""
    return None if parameter is None else np.asarray(g.sum(axis=tuple(range(g.ndim - 1))))


def rms_norm(x: Array, scale: Array | None = None, *, eps: Scalar = 1e-6) -> Array:
    """RMS norm y = scale u, u = x / sqrt(mean(x^2) + eps), over the last axis.

    Shapes: x (..., d), scale (d,) -> (..., d) (Zhang, Sennrich 2019, arXiv:1910.07467).

    >>> rms_norm(np.array([[1.0, 7.0]]), eps=0.0)
    array([[0.2, 1.4]])
    """
    u = x / _rms(x, eps)
    return np.asarray(u if scale is None else u * scale)


def rms_norm_vjp(
    x: Array, scale: Array | None, g: Array, *, eps: Scalar = 1e-6
) -> tuple[Array, Array | None]:
    """Cotangents (dx, dscale); dscale is None where scale is.

    As layer_norm without the mean: with h = g scale and s the root mean square, ds/dx_k = u_k / d,
    so dx = (h - u mean(h u)) / s.
    """
    s = _rms(x, eps)
    u, h = x / s, g if scale is None else g * scale
    return (h - u * (h * u).mean(axis=-1, keepdims=True)) / s, _over_rows(scale, g * u)


def _rms(x: Array, eps: Scalar) -> Any:
    return sqrt((x**2).mean(axis=-1, keepdims=True) + eps)


def batch_norm(
    x: Array,
    scale: Array | None = None,
    shift: Array | None = None,
    *,
    axis: int = -1,
    eps: Scalar = 1e-5,
) -> Array:
    """Batch norm in training: layer norm of each channel, over all axes but `axis`.

    Shapes: x (..., c, ...), scale and shift (c,) -> x's (Ioffe, Szegedy 2015, arXiv:1502.03167).

    >>> batch_norm(np.array([[1.0, 10.0], [3.0, 30.0]]), eps=0.0)
    array([[-1., -1.],
           [ 1.,  1.]])
    """
    channels = np.moveaxis(x, axis, -1)
    u = layer_norm(channels.reshape(-1, channels.shape[-1]).T, eps=eps).T
    return np.moveaxis(_scaled(u, scale, shift).reshape(channels.shape), -1, axis)


def batch_norm_vjp(
    x: Array,
    scale: Array | None,
    shift: Array | None,
    g: Array,
    *,
    axis: int = -1,
    eps: Scalar = 1e-5,
) -> tuple[Array, Array | None, Array | None]:
    """Cotangents (dx, dscale, dshift); None where the argument is.

    y = scale u + shift: dscale and dshift add g u and g over all of a channel; u has g scale, and
    layer norm's rule makes dx of it, each channel taken for a sample.
    """
    channels, g = np.moveaxis(x, axis, -1), np.moveaxis(g, axis, -1)
    rows, g = (v.reshape(-1, channels.shape[-1]) for v in (channels, g))
    u = layer_norm(rows.T, eps=eps).T
    dx = layer_norm_vjp(rows.T, None, None, (g if scale is None else g * scale).T, eps=eps)[0].T
    dx = np.moveaxis(dx.reshape(channels.shape), -1, axis)
    return dx, _over_rows(scale, g * u), _over_rows(shift, g)


def group_norm(
    x: Array,
    groups: int,
    scale: Array | None = None,
    shift: Array | None = None,
    *,
    eps: Scalar = 1e-5,
) -> Array:
    """Group norm: layer norm of each group of channels in each sample, at all places together.

    Shapes: x (n, ..., c), scale and shift (c,) -> x's (Wu, He 2018, arXiv:1803.08494).

    >>> group_norm(np.array([[1.0, 3.0, 10.0, 30.0]]), 2, eps=0.0)
    array([[-1.,  1., -1.,  1.]])
    """
    u = _ungrouped(layer_norm(_grouped(x, groups), eps=eps), x)
    return _scaled(u, scale, shift)


def group_norm_vjp(
    x: Array,
    groups: int,
    scale: Array | None,
    shift: Array | None,
    g: Array,
    *,
    eps: Scalar = 1e-5,
) -> tuple[Array, Array | None, Array | None]:
    """Cotangents (dx, dscale, dshift); None where the argument is. As batch norm's, by groups."""
    rows = _grouped(x, groups)
    u = _ungrouped(layer_norm(rows, eps=eps), x)
    h = _grouped(g if scale is None else g * scale, groups)
    dx = _ungrouped(layer_norm_vjp(rows, None, None, h, eps=eps)[0], x)
    return dx, _over_rows(scale, g * u), _over_rows(shift, g)


def _scaled(u: Array, scale: Array | None, shift: Array | None) -> Array:
    y = u if scale is None else u * scale
    return y if shift is None else y + shift


def _grouped(x: Array, groups: int) -> Array:
    """x (n, ..., c) as (n, groups, numbers of a group)."""
    n, c = x.shape[0], x.shape[-1]
    return np.moveaxis(x.reshape(n, -1, groups, c // groups), 1, 2).reshape(n, groups, -1)


def _ungrouped(rows: Array, like: Array) -> Array:
    """The inverse of `_grouped`."""
    n, groups, c = *rows.shape[:2], like.shape[-1]
    return np.moveaxis(rows.reshape(n, groups, -1, c // groups), 1, 2).reshape(like.shape)


def norm(
    x: Array,
    ord: Any = 2,
    axis: int | tuple[int, ...] | None = None,
    *,
    keepdims: bool = False,
) -> Any:
    """(sum |x|^p)^(1/p) with p = ord >= 1, over `axis` (all axes if None).

    ord 1 is the sum of magnitudes, 2 (or "fro") the Euclidean length, which over all entries of a
    matrix is the Frobenius norm; inf, where the powers tend to, is the greatest magnitude.

    >>> float(norm(np.arange(24.0).reshape(2, 3, 4)).round(4))
    65.7571
    """
    if ord == math.inf:
        return _greatest(absolute(x), axis, keepdims)
    if ord == 1:
        return absolute(x).sum(axis=axis, keepdims=keepdims)
    if ord in (2, "fro"):  # the square root of a sum of squares: rounds better than powers do
        squares: Any = x**2  # of numbers or of symbols, as NumPy's types do not say
        return sqrt(squares.sum(axis=axis, keepdims=keepdims))
    return (absolute(x) ** ord).sum(axis=axis, keepdims=keepdims) ** (1 / ord)


def norm_vjp(
    x: Array,
    g: Any,
    ord: Any = 2,
    axis: int | tuple[int, ...] | None = None,
    *,
    keepdims: bool = False,
) -> tuple[Array]:
    """Cotangent (dx,): g sign(x_k) (|x_k| / n)^(p-1), with n the norm.

    From n^p = sum |x|^p:  p n^(p-1) dn = p |x_k|^(p-1) sign(x_k) dx_k. For p = 2 this is x / n, the
    unit vector, for p = 1 the sign. Where n = 0 every direction is a steepest one; 0 is chosen, a
    subgradient, and it is finite. So is it for a single zero when p = 1. For p = inf n is the
    greatest |x_k|, so its slope is sign(x_k) there; entries that are alike the greatest share it.
    """
    n = norm(x, ord, axis, keepdims=True)
    sign = np.where(greater(x, 0), 1, np.where(greater(0, x), -1, 0))
    n = np.where(n == 0, 1, n)  # all entries are 0 there: so is everything below
    if ord in (2, "fro"):
        slope = x / n
    elif ord == math.inf:
        greatest = np.asarray(absolute(x) == n)
        count = greatest.sum(axis=axis, keepdims=True)
        slope = sign * greatest / np.maximum(count, 1)
    else:
        slope = sign if ord == 1 else sign * absolute(x) ** (ord - 1) / n ** (ord - 1)
    return (np.asarray(slope * (g if keepdims else np.reshape(g, n.shape))),)


def _greatest(x: Array, axis: int | tuple[int, ...] | None, keepdims: bool) -> Any:
    """The greatest entry along `axis`."""
    given = range(x.ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    axes = sorted(a % x.ndim for a in given)
    last = np.moveaxis(x, axes, range(-len(axes), 0))
    shape = last.shape[: x.ndim - len(axes)]
    n = largest(last.reshape(*shape, -1))[..., 0]
    return np.expand_dims(n, tuple(axes)) if keepdims else n
