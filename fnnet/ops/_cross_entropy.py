"""Softmax cross entropy, from logits.

    cross_entropy : logits z (..., c), labels y (...) or t (..., c), weights u (...), v (c) -> loss

Axes: j, k of the c classes; p over all leading axes (the samples).

Forward
    t_pj  the label's distribution: for an integer label 1 at its class y_p, else 0
    t'_pj = (1 - σ) t_pj + σ/c                       σ is the smoothing
    m_p   = max_j z_pj,  s_p = Σ_j exp(z_pj - m_p),  l_p = m_p + log s_p, the log-sum-exp
    e_p   = Σ_j t'_pj (l_p - z_pj) + ζ l_p²          ζ is the z-loss
    w_p   = u_p v_{y_p}                              1 where none are given; 0 for ignored samples
    loss  = w_p e_p                 for reduction "none"
            Σ_p w_p e_p             for "sum"
            Σ_p w_p e_p / Σ_p w_p   for "mean"

    Nowhere is l - z formed, which has lost log s where z is large, but (m - z) + log s: both terms
    are positive. For an integer label, with R = Σ_{j≠y} exp(z_j - m) and o = exp(z_y - m),
        l - z_y = (m - z_y) + log1p(R + (o - 1))     R + o = s; where y is the greatest o is 1, and
                                                     the loss is log1p(R), however small
        e       = (1 - σ) (m - z_y) + σ/c Σ_j (m - z_j) + log s + ζ l²
    For a distribution log s is log1p(s - 1) in the same way, where one class is above all others.

Backward. Let a_p = ∂L/∂e_p: it is g_p w_p, or g w_p, or g w_p / Σ w.
    ∂l_p/∂z_pk = exp(z_pk - l_p) = p_pk, the softmax. With T_p = Σ_j t'_pj (1 for an integer label):
        e_p = -Σ_j t'_pj z_pj + T_p l_p + ζ l_p²
        dz_pk = a_p (p_pk (T_p + 2 ζ l_p) - t'_pk)
        dt_pk = a_p (1 - σ) (l_p - z_pk)
    For an integer label p_y - 1 = -R/s: minus the sum of the others, not a difference that rounding
    eats. So
        dz_k = a (p_k (1 + 2 ζ l) - σ/c),   dz_y = a (-(1 - σ) R/s + (σ + 2 ζ l) o/s - σ/c)
    For a distribution t' - p T is a projection of t', which is applied twice (the tail in
    _softmax.py). With W = ∂L/∂w_p = g_p e_p, or g e_p, or g (e_p - loss) / Σ w, as w_p is in that
    quotient twice,
        du_p = W_p v_{y_p}                dv_k = Σ_{p: y_p = k} W_p u_p

Residuals
    z in its own dtype, the caller's array, and two or three numbers a sample: m, R and o, or m and
    log s. The softmax is one exponential and one sum away (with m they are the forward's own:
    _softmax.py says what that saves), so no array of the logits' size is stored. e is stored where
    du or dv is asked for, one number a sample again. Labels and weights are the caller's.
    The label's logit is gathered; its one-hot is compared for on the fly, never scattered.

What counts
    An ignored sample is as if it were not there, whatever its logits. So is a class of logit -inf
    that has no part in the label: its dz and dt are 0. A label that is no class makes its sample's
    loss and derivative NaN. The mean of nothing (no sample, or all weights 0) is 0; weights that
    cancel each other are not nothing, and their mean is a division by 0.

References
    C. Szegedy et al., Rethinking the Inception architecture, arXiv:1512.00567 (smoothing).
    A. Chowdhery et al., PaLM, arXiv:2204.02311 (z-loss).
"""

from __future__ import annotations

from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Num

from fnnet.ops._checks import describe, floats
from fnnet.ops._compiled import compiled
from fnnet.ops._options import choice, number, whole_number
from fnnet.ops._sample_losses import (
    LossOptions,
    OfClass,
    OfDistribution,
    Reduction,
    as_labels,
    cotangent_of_class,
    cotangents_of_distribution,
    counting,
    exponentials_of_others,
    hot,
    losses,
)
from fnnet.ops._sample_weights import Weights, of_weights, reduced, shares, weighted
from fnnet.rules import register

Residuals: TypeAlias = tuple[
    jax.Array, jax.Array, Weights, OfClass | OfDistribution, jax.Array | None, LossOptions
]


@compiled(
    smoothing=number(0.0, 1.0),
    z_loss=number(0.0),
    ignore_index=whole_number(or_none="none"),
    reduction=choice("none", "mean", "sum"),
)
def cross_entropy(
    logits: Float[ArrayLike, "*batch c"],
    labels: Num[ArrayLike, "..."],
    *,
    smoothing: float = 0.0,
    z_loss: float = 0.0,
    weights: Float[ArrayLike, "*batch"] | None = None,
    class_weights: Float[ArrayLike, " c"] | None = None,
    ignore_index: int | None = None,
    reduction: Reduction = "mean",
) -> Float[Array, "..."]:
    """Softmax cross entropy.

    Args:
        logits: shape (..., c), real floating point; -inf is a class of probability 0.
        labels: classes as integers of shape (...), or distributions of shape (..., c), which may be
            differentiated too. A class that is not in 0..c-1, and is not ignored, gives NaN, in
            the loss and in the gradient of its logits.
        smoothing: the share of each label that is spread over all classes, from 0 to 1; may be
            traced (a schedule), but has no derivative.
        z_loss: factor of the squared log-sum-exp, which keeps logits from drifting; may be traced,
            but has no derivative.
        weights: of the samples, shape (...); 1 by default.
        class_weights: of the classes, shape (c,), for integer labels: the same as
            ``weights=class_weights[labels]``, times `weights` where both are given.
        ignore_index: an integer label whose samples have no loss, no gradient, and do not count.
        reduction: "none" for shape (...), "sum", or "mean": the sum over the sum of the weights
            that count, and 0 if nothing counts. Weights that add up to 0 and are not 0 themselves
            give an infinity or NaN.

    Returns:
        The loss, in the logits' dtype; float16 and bfloat16 are computed in float32.

    Raises:
        TypeError: for logits or weights that are not of real floating point dtype.
        ValueError: for shapes that do not fit, and options out of range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fnnet import cross_entropy
        >>> logits, labels = jnp.zeros((5, 10)), jnp.arange(5)
        >>> f"{cross_entropy(logits, labels):.4f}"
        '2.3026'
        >>> [f"{d:.4f}" for d in jax.grad(cross_entropy)(logits, labels)[0, :2].tolist()]
        ['-0.1800', '0.0200']
    """
    z, u, v = floats(
        "cross_entropy",
        optional=("weights", "class_weights"),
        logits=logits,
        weights=weights,
        class_weights=class_weights,
    )
    options = LossOptions(smoothing, z_loss, ignore_index, reduction)
    require_labels("cross_entropy", z.shape, labels, Weights(u, v), options)
    return _cross_entropy(z, as_labels(labels), u, v, options=options)


def _forward(
    logits: jax.Array,
    labels: jax.Array,
    weights: jax.Array | None,
    class_weights: jax.Array | None,
    *,
    options: LossOptions,
) -> jax.Array:
    counts = counting(labels, options)
    if counts is not None:  # autodiff of what follows meets 0 times NaN, else
        logits = jnp.where(counts[..., None], logits, jnp.zeros((), logits.dtype))
    e, _ = losses(logits, labels, options, constant_m=False)
    w = weighted(e, labels, Weights(weights, class_weights), options)
    return reduced(e, w, options).astype(logits.dtype)


def _fwd(
    logits: jax.Array,
    labels: jax.Array,
    weights: jax.Array | None,
    class_weights: jax.Array | None,
    *,
    options: LossOptions,
) -> tuple[jax.Array, Residuals]:
    given = Weights(weights, class_weights)
    e, of = losses(logits, labels, options, constant_m=True)
    loss = reduced(e, weighted(e, labels, given, options), options).astype(logits.dtype)
    return loss, (logits, labels, given, of, e if given.any else None, options)


def cross_entropy_fwd(
    logits: jax.Array,
    labels: jax.Array,
    *,
    smoothing: float = 0.0,
    z_loss: float = 0.0,
    weights: jax.Array | None = None,
    class_weights: jax.Array | None = None,
    ignore_index: int | None = None,
    reduction: Reduction = "mean",
) -> tuple[jax.Array, Residuals]:
    """logits, labels -> loss, residuals."""
    options = LossOptions(smoothing, z_loss, ignore_index, reduction)
    return _fwd(logits, as_labels(labels), weights, class_weights, options=options)


def cross_entropy_bwd(
    res: Residuals, g: jax.Array
) -> tuple[jax.Array, jax.Array | None, jax.Array | None, jax.Array | None]:
    """residuals, CT loss -> CT logits, CT labels (None for integers), CT of both weights."""
    logits, labels, given, of, e, options = res
    c = logits.shape[-1]
    a = shares(g, labels, weighted(of.m, labels, given, options), c, options)
    dt = None
    if isinstance(of, OfDistribution):
        dz, dt = cotangents_of_distribution(logits, labels, a, of, options)
        dt = dt.astype(labels.dtype)
    else:
        at_label = hot(labels, c)
        _, others = exponentials_of_others(logits, of.m[..., None], at_label)
        dz = cotangent_of_class(others, at_label, a, of, c, options)
    counts = counting(labels, options)
    if counts is not None:  # an ignored sample is ignored, whatever its logits
        dz = jnp.where(counts[..., None], dz, jnp.zeros((), dz.dtype))
    du, dv = (None, None) if e is None else of_weights(g, e, labels, given, options)
    return dz.astype(logits.dtype), dt, du, dv


_cross_entropy = register(
    _forward, _fwd, cross_entropy_bwd, name="cross_entropy", automatic_axes=True
)


_CLASSES = "integer classes (...)"


def require_labels(
    op: str, logits: tuple[int, ...], labels: Any, weights: Weights, options: LossOptions
) -> None:
    """Raise unless labels, weights and options fit logits of this shape."""
    if not logits:
        raise ValueError(f"{op}: logits must have shape (..., c); got a scalar")
    if not hasattr(labels, "dtype"):
        raise TypeError(f"{op}: labels must be an array; got {describe(labels)}")
    if jnp.issubdtype(labels.dtype, jnp.integer):
        wanted, kind = logits[:-1], _CLASSES
    elif jnp.issubdtype(labels.dtype, jnp.floating):
        wanted, kind = logits, "distributions (..., c)"
        if options.ignore_index is not None:
            raise ValueError(
                f"{op}: ignore_index needs integer labels; got {describe(labels)}. "
                "Give such samples weight 0"
            )
    else:
        raise TypeError(
            f"{op}: labels must be integers or real floating point numbers; got {describe(labels)}"
        )
    if labels.shape != wanted:
        raise ValueError(
            f"{op}: labels must be {kind} of shape {wanted} for logits of shape {logits}; "
            f"got {describe(labels)}. Labels of float dtype are distributions, of integer dtype "
            "classes"
        )
    u, v = weights
    if u is not None and u.shape != logits[:-1]:
        remedy = ". Weights of classes are class_weights=" if u.shape == logits[-1:] else ""
        raise ValueError(
            f"{op}: weights must have shape {logits[:-1]}, one for each sample; "
            f"got {u.shape}{remedy}"
        )
    if v is not None and v.shape != logits[-1:]:
        raise ValueError(
            f"{op}: class_weights must have shape {logits[-1:]}, one for each class; got {v.shape}"
        )
    if v is not None and kind != _CLASSES:
        raise ValueError(
            f"{op}: class_weights needs integer labels; got {describe(labels)}. For distributions "
            "give labels * class_weights as labels"
        )
