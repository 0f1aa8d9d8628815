"""Softmax cross entropy, from logits.

    cross_entropy : logits z (..., c), labels (...) or t (..., c), weights w (...) -> loss

Axes: j, k of the c classes; p over all leading axes (the samples).

Forward
    t_pj  the label's distribution: for an integer label 1 at its class, else 0
    t'_pj = (1 - s) t_pj + s/c                       s is the smoothing
    l_p   = log Σ_j exp(z_pj)                        the log-sum-exp
    e_p   = -Σ_j t'_pj (z_pj - l_p) + ζ l_p²         ζ is the z-loss
    loss  = w_p e_p             for reduction "none"
            Σ_p w_p e_p         for "sum"
            Σ_p w_p e_p / Σ_p w_p   for "mean"       ignored samples have w_p = 0

Backward. Let a_p = ∂L/∂e_p: it is g_p w_p, or g w_p, or g w_p / Σ w.
    ∂l_p/∂z_pk = exp(z_pk - l_p) = p_pk, the softmax. With T_p = Σ_j t'_pj (1 for an integer label):
        e_p = -Σ_j t'_pj z_pj + T_p l_p + ζ l_p²
        dz_pk = a_p (p_pk (T_p + 2 ζ l_p) - t'_pk)
        dt_pk = a_p (1 - s) (l_p - z_pk)
        dw_p  = g_p e_p, or g e_p, or g (e_p - loss) / Σ w    w_p is in the quotient twice

Residuals
    z in its own dtype, the caller's array, and one number a sample: its greatest logit m, or l for
    distributions, whose own cotangent wants it. The softmax is one exponential and one sum away
    (with m they are the forward's own: _softmax.py says what that saves), so no array of the
    logits' size is stored. e is stored where dw is asked for, one number a sample again. Labels and
    weights are the caller's.
    The label's logit is gathered; its one-hot is compared for on the fly, never scattered.

References
    C. Szegedy et al., Rethinking the Inception architecture, arXiv:1512.00567 (smoothing).
    A. Chowdhery et al., PaLM, arXiv:2204.02311 (z-loss).
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Num

from fnnet.ops._checks import describe, floats
from fnnet.ops._compiled import compiled
from fnnet.ops._options import choice, number, whole_number
from fnnet.ops._softmax import exponentials, greatest
from fnnet.rules import Static, register

Reduction: TypeAlias = Literal["none", "mean", "sum"]


class Options(NamedTuple):
    """What a loss is computed with, beside its arrays."""

    smoothing: float
    z_loss: float
    ignore_index: int | None
    reduction: Reduction


Residuals: TypeAlias = tuple[
    jax.Array, jax.Array, jax.Array | None, jax.Array, jax.Array | None, Static
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
    ignore_index: int | None = None,
    reduction: Reduction = "mean",
) -> Float[Array, "..."]:
    """Softmax cross entropy.

    Args:
        logits: shape (..., c), real floating point; -inf is a class of probability 0.
        labels: classes as integers of shape (...), or distributions of shape (..., c), which may be
            differentiated too. A class that is not in 0..c-1, and is not ignored, gives NaN.
        smoothing: the share of each label that is spread over all classes, from 0 to 1.
        z_loss: factor of the squared log-sum-exp, which keeps logits from drifting.
        weights: of the samples, shape (...); 1 by default.
        ignore_index: an integer label whose samples have no loss, no gradient, and do not count.
        reduction: "none" for shape (...), "sum", or "mean": the sum over the sum of the weights
            that count, and 0 if nothing counts.

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
    z, w = floats("cross_entropy", optional=("weights",), logits=logits, weights=weights)
    options = Options(smoothing, z_loss, ignore_index, reduction)
    require_labels("cross_entropy", z.shape, labels, w, options)
    return _cross_entropy(z, as_labels(labels), w, options=Static(options))


def _is_distribution(labels: jax.Array) -> bool:
    return jnp.issubdtype(labels.dtype, jnp.floating)


def as_labels(given: Any) -> jax.Array:
    """An array; integers of 8 and 16 bits, which may be too few to count the classes, as int32."""
    labels: jax.Array = jnp.asarray(given)
    few = jnp.issubdtype(labels.dtype, jnp.integer) and labels.dtype.itemsize < 4
    return labels.astype(jnp.int32) if few else labels


def counting(labels: jax.Array, options: Options) -> jax.Array | None:
    """Which samples count, or None for all."""
    if options.ignore_index is None or _is_distribution(labels):
        return None
    return labels != options.ignore_index


def _targets(labels: jax.Array, c: int, dtype: Any, options: Options) -> jax.Array:
    """The smoothed distributions t'."""
    s = options.smoothing
    if _is_distribution(labels):
        return (1 - s) * labels.astype(dtype) + s / max(c, 1)
    hot = labels[..., None] == jnp.arange(c, dtype=labels.dtype)[(None,) * labels.ndim]
    on, off = (jnp.full((), v, dtype) for v in (1 - s + s / max(c, 1), s / max(c, 1)))
    return jnp.where(hot, on, off)


def _each(logits: jax.Array, labels: jax.Array, options: Options) -> tuple[jax.Array, jax.Array]:
    """e of each sample, and m or l, which the backward pass wants."""
    m = greatest(logits)
    _, s = exponentials(logits, m)
    l = m + jnp.log(s)
    of = _of_distribution if _is_distribution(labels) else _of_class
    e = of(logits, labels, l, options)
    if options.z_loss:
        e = e + options.z_loss * l[..., 0] ** 2
    counts = counting(labels, options)
    if counts is not None:
        e = jnp.where(counts, e, jnp.zeros((), e.dtype))
    return e, (l if _is_distribution(labels) else m)[..., 0]


def _of_distribution(
    logits: jax.Array, labels: jax.Array, l: jax.Array, options: Options
) -> jax.Array:
    t = _targets(labels, logits.shape[-1], l.dtype, options)
    q = logits.astype(l.dtype) - l
    # a class that has no part in t' may have probability 0: 0 times -inf would be NaN
    return -jnp.sum(jnp.where(t == 0, jnp.zeros((), l.dtype), t * q), -1)


def _of_class(logits: jax.Array, labels: jax.Array, l: jax.Array, options: Options) -> jax.Array:
    """l - (1 - s) z_y - s/c Σ_j z_j: no pass over all classes where there is no smoothing."""
    c, share = logits.shape[-1], options.smoothing
    if not c:
        return jnp.full(labels.shape, jnp.nan, l.dtype)
    known = (labels >= 0) & (labels < c)
    at = jnp.where(known, labels, jnp.zeros((), labels.dtype))[..., None]
    chosen = jnp.take_along_axis(logits, at, -1, mode="clip").astype(l.dtype)
    e = l - (1 - share) * chosen if share else l - chosen
    if share:
        e = e - share / c * jnp.sum(logits, -1, keepdims=True, dtype=l.dtype)
    return jnp.where(known, e[..., 0], jnp.full((), jnp.nan, e.dtype))


def weighted(
    like: jax.Array, labels: jax.Array, weights: jax.Array | None, options: Options
) -> jax.Array:
    """The samples' weights: 0 for those that do not count."""
    w = jnp.ones(like.shape, like.dtype) if weights is None else weights.astype(like.dtype)
    counts = counting(labels, options)
    return w if counts is None else jnp.where(counts, w, jnp.zeros((), w.dtype))


def total_weight(w: jax.Array) -> jax.Array:
    """The sum of the weights, made 1 where nothing counts: the mean of nothing is 0."""
    total = jnp.sum(w)
    return jnp.where(total == 0, jnp.ones((), w.dtype), total)


def reduced(e: jax.Array, w: jax.Array, options: Options) -> jax.Array:
    if options.reduction == "none":
        return w * e
    total = jnp.sum(w * e)
    return total if options.reduction == "sum" else total / total_weight(w)


def _forward(
    logits: jax.Array, labels: jax.Array, weights: jax.Array | None, *, options: Static
) -> jax.Array:
    e, _ = _each(logits, labels, options.value)
    w = weighted(e, labels, weights, options.value)
    return reduced(e, w, options.value).astype(logits.dtype)


def _fwd(
    logits: jax.Array, labels: jax.Array, weights: jax.Array | None, *, options: Static
) -> tuple[jax.Array, Residuals]:
    e, m = _each(logits, labels, options.value)
    w = weighted(e, labels, weights, options.value)
    loss = reduced(e, w, options.value).astype(logits.dtype)
    return loss, (logits, labels, weights, m, None if weights is None else e, options)


def cross_entropy_fwd(
    logits: jax.Array,
    labels: jax.Array,
    *,
    smoothing: float = 0.0,
    z_loss: float = 0.0,
    weights: jax.Array | None = None,
    ignore_index: int | None = None,
    reduction: Reduction = "mean",
) -> tuple[jax.Array, Residuals]:
    """logits, labels -> loss, residuals."""
    options = Options(smoothing, z_loss, ignore_index, reduction)
    return _fwd(logits, as_labels(labels), weights, options=Static(options))


def cross_entropy_bwd(
    res: Residuals, g: jax.Array
) -> tuple[jax.Array, jax.Array | None, jax.Array | None]:
    """residuals, CT loss -> CT logits, CT labels (None for integers), CT weights."""
    logits, labels, weights, shift, e, static = res
    options = static.value
    w = weighted(shift, labels, weights, options)
    counts = counting(labels, options)
    g = jnp.broadcast_to(g.astype(w.dtype), w.shape)
    total = total_weight(w) if options.reduction == "mean" else jnp.ones((), w.dtype)

    a = (g * w / total)[..., None]
    t = _targets(labels, logits.shape[-1], w.dtype, options)
    if _is_distribution(labels):
        l = shift[..., None]
        q = logits.astype(l.dtype) - l
        powers, s, pull = jnp.exp(q), jnp.ones_like(l), jnp.sum(t, -1, keepdims=True)
    else:
        powers, s = exponentials(logits, shift[..., None])
        l = shift[..., None] + jnp.log(s)
        pull = jnp.ones_like(l)
    if options.z_loss:
        pull = pull + 2 * options.z_loss * l
    dz = powers * (a * pull / s) - a * t
    if counts is not None:  # an ignored sample is ignored, whatever its logits
        dz = jnp.where(counts[..., None], dz, jnp.zeros((), dz.dtype))
    dt = dw = None
    if _is_distribution(labels):
        dt = (-a * (1 - options.smoothing) * q).astype(labels.dtype)
    if weights is not None and e is not None:
        mean = jnp.sum(w * e) / total if options.reduction == "mean" else jnp.zeros((), e.dtype)
        dw = g * (e - mean) / total
        if counts is not None:
            dw = jnp.where(counts, dw, jnp.zeros((), dw.dtype))
        dw = dw.astype(weights.dtype)
    return dz.astype(logits.dtype), dt, dw


_cross_entropy = register(
    _forward, _fwd, cross_entropy_bwd, name="cross_entropy", automatic_axes=True
)


def require_labels(
    op: str, logits: tuple[int, ...], labels: Any, weights: Any, options: Options
) -> None:
    """Raise unless labels, weights and options fit logits of this shape."""
    if not logits:
        raise ValueError(f"{op}: logits must have shape (..., c); got a scalar")
    if not hasattr(labels, "dtype"):
        raise TypeError(f"{op}: labels must be an array; got {describe(labels)}")
    if jnp.issubdtype(labels.dtype, jnp.integer):
        wanted, kind = logits[:-1], "integer classes (...)"
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
    if weights is not None and jnp.shape(weights) != logits[:-1]:
        raise ValueError(
            f"{op}: weights must have shape {logits[:-1]}, one for each sample; "
            f"got {jnp.shape(weights)}"
        )
