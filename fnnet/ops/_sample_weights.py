"""How much each sample counts: weights, of samples and of classes, and the three reductions.

Letters and derivation as in _cross_entropy.py.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fnnet.ops._sample_losses import LossOptions, counting, is_distribution, valid


class Weights(NamedTuple):
    """The weights that were given: u of the samples, v of the classes; None for ones."""

    samples: jax.Array | None
    classes: jax.Array | None

    @property
    def any(self) -> bool:
        """Whether there are any."""
        return self.samples is not None or self.classes is not None


def weighted(like: jax.Array, labels: jax.Array, given: Weights, options: LossOptions) -> jax.Array:
    """w = u v_y of each sample: 0 for those that do not count."""
    w = jnp.ones(like.shape, like.dtype)
    for factor in _factors(like, labels, given):
        w = w if factor is None else w * factor
    counts = counting(labels, options)
    return w if counts is None else jnp.where(counts, w, jnp.zeros((), w.dtype))


def tangent_of_weights(
    e: jax.Array, labels: jax.Array, given: Weights, dots: Weights, options: LossOptions
) -> jax.Array:
    """The tangent of the loss from those of the weights, None for one that is zero.

    ẇ = u̇ v_y + u v̇_y; of the mean Σ w e / Σ w it is Σ ẇ (e - mean) / Σ w.
    """
    pairs = [Weights(dots.samples, given.classes), Weights(given.samples, dots.classes)]
    moving = [pair for pair, dot in zip(pairs, dots, strict=True) if dot is not None]
    w_dot = jnp.zeros_like(e)
    for pair in moving:
        w_dot = w_dot + weighted(e, labels, pair, options)
    if options.reduction == "none":
        return w_dot * e
    if options.reduction == "sum":
        return jnp.sum(w_dot * e)
    w = weighted(e, labels, given, options)
    total = total_weight(w)
    return jnp.sum(w_dot * (e - jnp.sum(w * e) / total)) / total


def _factors(
    like: jax.Array, labels: jax.Array, given: Weights
) -> tuple[jax.Array | None, jax.Array | None]:
    """u and v_y of each sample."""
    u, v = given
    return (
        None if u is None else u.astype(like.dtype),
        None if v is None or not v.size else v.astype(like.dtype)[_places(labels, v)],
    )


def _places(labels: jax.Array, v: jax.Array) -> jax.Array:
    return jnp.clip(labels, 0, max(v.size - 1, 0))


def total_weight(w: jax.Array) -> jax.Array:
    """The sum of the weights, made 1 where nothing counts: the mean of nothing is 0.

    Weights that cancel count: their mean is a division by 0.
    """
    return jnp.where(jnp.all(w == 0), jnp.ones((), w.dtype), jnp.sum(w))


def reduced(e: jax.Array, w: jax.Array, options: LossOptions) -> jax.Array:
    """The losses of the samples as the one that was asked for."""
    if options.reduction == "none":
        return w * e
    total = jnp.sum(w * e)
    return total if options.reduction == "sum" else total / total_weight(w)


def shares(
    g: jax.Array, labels: jax.Array, w: jax.Array, c: int, options: LossOptions
) -> jax.Array:
    """a, the cotangent of each sample's e; NaN for a label that is no class."""
    a = jnp.broadcast_to(g.astype(w.dtype), w.shape) * w
    if options.reduction == "mean":
        a = a / total_weight(w)
    if is_distribution(labels):
        return a
    # a sample that has no part in the loss stays out of its derivative
    fine = valid(labels, c, options) | (a == 0)
    return jnp.where(fine, a, jnp.full((), jnp.nan, a.dtype))


def of_weights(
    g: jax.Array, e: jax.Array, labels: jax.Array, given: Weights, options: LossOptions
) -> Weights:
    """du and dv, for those that were given."""
    w = weighted(e, labels, given, options)
    dw = jnp.broadcast_to(g.astype(e.dtype), e.shape)
    if options.reduction == "mean":
        total = total_weight(w)
        dw = dw * (e - jnp.sum(w * e) / total) / total
    else:
        dw = dw * e
    counts = counting(labels, options)
    if counts is not None:
        dw = jnp.where(counts, dw, jnp.zeros((), dw.dtype))
    u, v = given
    by_samples, by_classes = _factors(e, labels, given)
    du = dv = None
    if u is not None:
        du = (dw if by_classes is None else dw * by_classes).astype(u.dtype)
    if v is not None:
        dw = dw if by_samples is None else dw * by_samples
        dv = jnp.zeros(v.shape, e.dtype).at[_places(labels, v)].add(dw).astype(v.dtype)
    return Weights(du, dv)
