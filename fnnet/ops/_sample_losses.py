"""The loss of each sample, and its cotangents: what the two cross entropies share.

Letters and derivation as in _cross_entropy.py. Arrays of one number a sample have the labels'
shape; those of one number a class have one axis more.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fnnet.ops._options import Number, in_dtype
from fnnet.ops._softmax import exponentials, greatest, less_share

Reduction: TypeAlias = Literal["none", "mean", "sum"]


@dataclasses.dataclass(frozen=True)
class LossOptions:
    """What a loss is computed with, beside its arrays; a pytree of its two numbers."""

    smoothing: Number
    z_loss: Number
    ignore_index: int | None
    reduction: Reduction


jax.tree_util.register_dataclass(
    LossOptions, data_fields=["smoothing", "z_loss"], meta_fields=["ignore_index", "reduction"]
)


class OfClass(NamedTuple):
    """What the backward pass wants of a sample whose label is a class.

    m, the greatest logit; R = Σ_{j≠y} exp(z_j - m), the rest; o = exp(z_y - m), the label's own.
    """

    m: jax.Array
    rest: jax.Array
    own: jax.Array


class OfDistribution(NamedTuple):
    """The same where the label is a distribution: m, and log s."""

    m: jax.Array
    log_s: jax.Array


def absent(option: Number) -> bool:
    """Whether a number is known to be 0, so that what it multiplies need not be computed."""
    return not isinstance(option, jax.Array) and option == 0


def as_labels(given: Any) -> jax.Array:
    """An array; integers of 8 and 16 bits, which may be too few to count the classes, as int32."""
    labels: jax.Array = jnp.asarray(given)
    few = jnp.issubdtype(labels.dtype, jnp.integer) and labels.dtype.itemsize < 4
    return labels.astype(jnp.int32) if few else labels


def is_distribution(labels: jax.Array) -> bool:
    """Whether labels are distributions over the classes, and not classes."""
    return jnp.issubdtype(labels.dtype, jnp.floating)


def counting(labels: jax.Array, options: LossOptions) -> jax.Array | None:
    """Which samples count, or None for all."""
    ignored = options.ignore_index
    if ignored is None or is_distribution(labels):
        return None
    info = np.iinfo(labels.dtype)
    return labels != ignored if info.min <= ignored <= info.max else None


def valid(labels: jax.Array, c: int, options: LossOptions) -> jax.Array:
    """Which labels are a class, or ignored."""
    known = (labels >= 0) & (labels < c)
    counts = counting(labels, options)
    return known if counts is None else known | ~counts


def hot(labels: jax.Array, c: int) -> jax.Array:
    """The one-hot of the labels, compared for: nothing is scattered."""
    return labels[..., None] == jnp.arange(c, dtype=labels.dtype)[(None,) * labels.ndim]


def losses(
    logits: jax.Array, labels: jax.Array, options: LossOptions, *, constant_m: bool
) -> tuple[jax.Array, OfClass | OfDistribution]:
    """e of each sample, and what its backward pass wants.

    Args:
        logits: z.
        labels: y or t.
        options: of the loss.
        constant_m: whether m is a constant to autodiff; see `greatest`.
    """
    m = greatest(logits)
    m = lax.stop_gradient(m) if constant_m else m
    if is_distribution(labels):
        return _of_distribution(logits, labels, m, options)
    c = logits.shape[-1]
    rest, _ = exponentials_of_others(logits, m, hot(labels, c))
    chosen = jnp.zeros(labels.shape, m.dtype)
    if c:  # gathered: no pass over all classes
        known = (labels >= 0) & (labels < c)
        at = jnp.where(known, labels, jnp.zeros((), labels.dtype))[..., None]
        chosen = jnp.take_along_axis(logits, at, -1, mode="clip")[..., 0].astype(m.dtype)
    gaps = jnp.zeros_like(rest)
    if not absent(options.smoothing):
        gaps = -jnp.sum(logits.astype(m.dtype) - m, -1)
    return of_class(m[..., 0], rest, chosen, gaps, labels, c, options)


def exponentials_of_others(
    z: jax.Array, m: jax.Array, at_label: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """R, and its terms: exp(z - m), 0 at the label."""
    e = jnp.where(at_label, jnp.zeros((), m.dtype), jnp.exp(z.astype(m.dtype) - m))
    return jnp.sum(e, -1), e


def shares_of_others(z: jax.Array, of: OfClass, at_label: jax.Array) -> jax.Array:
    """The terms of R divided by s: exp((z - m) - log s), 0 at the label.

    Not the quotient of the above, nor of the same z - m: what a compiler has as one expression it
    keeps in memory between its two uses, and this one it makes anew from z.
    """
    m = lax.optimization_barrier(of.m)
    d = (z.astype(m.dtype) - m[..., None]) - jnp.log(of.rest + of.own)[..., None]
    return jnp.where(at_label, jnp.zeros((), d.dtype), jnp.exp(d))


def of_class(
    m: jax.Array,
    rest: jax.Array,
    chosen: jax.Array,
    gaps: jax.Array,
    labels: jax.Array,
    c: int,
    options: LossOptions,
) -> tuple[jax.Array, OfClass]:
    """e from m, R, z_y and, where there is smoothing, Σ_j (m - z_j)."""
    smoothing, z_loss = (in_dtype(x, m.dtype) for x in (options.smoothing, options.z_loss))
    gap = m - chosen
    own = jnp.exp(-gap)
    log_s = jnp.log1p(rest + (own - 1))
    if absent(smoothing):
        e = gap + log_s
    else:
        e = (1 - smoothing) * gap + smoothing / max(c, 1) * gaps + log_s
    if not absent(z_loss):
        e = e + z_loss * (m + log_s) ** 2
    # a label that is no class: NaN as a factor, so that the derivative is NaN too
    one, nan = jnp.ones((), e.dtype), jnp.full((), jnp.nan, e.dtype)
    e = e * jnp.where(valid(labels, c, options), one, nan)
    counts = counting(labels, options)
    if counts is not None:
        e = jnp.where(counts, e, jnp.zeros((), e.dtype))
    return e, OfClass(m, rest, own)


def cotangent_of_class(
    e: jax.Array,
    at_label: jax.Array,
    a: jax.Array,
    of: OfClass,
    c: int,
    options: LossOptions,
    *,
    divided: bool = False,
) -> jax.Array:
    """dz of some classes, from `exponentials_of_others`, and whether they are the label.

    Where those are `divided` by s already, they are so.
    """
    smoothing, z_loss = (in_dtype(x, a.dtype) for x in (options.smoothing, options.z_loss))
    s = of.rest + of.own
    at_own, others = -of.rest, e
    if not absent(smoothing):
        at_own = smoothing * of.own - (1 - smoothing) * of.rest
    if not absent(z_loss):
        pull = 2 * z_loss * (of.m + jnp.log(s))
        at_own, others = at_own + pull * of.own, e * (1 + pull)[..., None]
    share = a / s
    own = (at_own * share)[..., None]
    dz = jnp.where(at_label, own, others * (a if divided else share)[..., None])
    return dz if absent(smoothing) else dz - (a * (smoothing / max(c, 1)))[..., None]


def _targets(labels: jax.Array, c: int, dtype: Any, options: LossOptions) -> jax.Array:
    """The smoothed distributions t'."""
    if absent(options.smoothing):
        return labels.astype(dtype)
    s = in_dtype(options.smoothing, dtype)
    return (1 - s) * labels.astype(dtype) + s / max(c, 1)


def _surprise(d: jax.Array, t: jax.Array, log_s: jax.Array) -> jax.Array:
    """-q = log s - (z - m); 0 for a class of probability 0 that has no part in t' either."""
    surprise = log_s - d
    nowhere = (t == 0) & (surprise == jnp.inf)
    return jnp.where(nowhere, jnp.zeros((), d.dtype), surprise)


def _of_distribution(
    logits: jax.Array, labels: jax.Array, m: jax.Array, options: LossOptions
) -> tuple[jax.Array, OfDistribution]:
    d = logits.astype(m.dtype) - m
    e = jnp.exp(d)
    s = jnp.sum(e, -1, keepdims=True)
    rest = jnp.sum(jnp.where(d == 0, e - 1, e), -1, keepdims=True)
    # s < 2: the greatest is alone, and 1 of s is its own
    log_s = jnp.where((s >= 1) & (s < 2), jnp.log1p(rest), jnp.log(s))
    t = _targets(labels, logits.shape[-1], m.dtype, options)
    each = jnp.sum(t * _surprise(d, t, log_s), -1)
    m, log_s = m[..., 0], log_s[..., 0]
    if not absent(options.z_loss):
        each = each + in_dtype(options.z_loss, m.dtype) * (m + log_s) ** 2
    return each, OfDistribution(m, log_s)


def cotangents_of_distribution(
    logits: jax.Array, labels: jax.Array, a: jax.Array, of: OfDistribution, options: LossOptions
) -> tuple[jax.Array, jax.Array]:
    """dz and dt."""
    m, log_s, a = of.m[..., None], of.log_s[..., None], a[..., None]
    e, s = exponentials(logits, m)
    t = _targets(labels, logits.shape[-1], m.dtype, options)
    # t' - p Σ t', twice: see the tail in _softmax.py
    dz = -a * less_share(t, e, s)
    if not absent(options.z_loss):
        dz = dz + e * (a * (2 * in_dtype(options.z_loss, m.dtype) * (m + log_s)) / s)
    surprise = _surprise(logits.astype(m.dtype) - m, t, log_s)
    dt = a * (1 - in_dtype(options.smoothing, m.dtype)) * surprise
    return dz, dt
