"""A linear layer and softmax cross entropy as one op, without ever holding all logits.

    linear_cross_entropy : x (..., d), w (d, c), labels (...), b (c), weights u (...), v (c) -> loss

Axes: i of d features; j, k of c classes; p over all leading axes of x (the samples).

Forward
    a_pk = Σ_i x_pi w_ik + b_k
    z_pk = κ tanh(a_pk / κ), or a_pk where there is no soft-cap κ; -inf where b_k is -inf
    loss = cross_entropy(z, labels)          whose derivation and letters see (_cross_entropy.py)

Backward. From cross_entropy, with A_p = ∂L/∂e_p (g times the sample's weight, divided by their sum
for "mean"), P the softmax, R_p/s_p = Σ_{j≠y} P_pj, σ the smoothing, ζ the z-loss and y_p the label:
        dz_pk = A_p (P_pk (1 + 2 ζ l_p) - σ/c)                               for k ≠ y_p
        dz_py = A_p (-(1 - σ) R_p/s_p + (σ + 2 ζ l_p) P_py - σ/c)
    The soft-cap's slope is 1 - tanh² = 1 - (z/κ)²:
        da_pk = dz_pk (1 - (z_pk/κ)²)
    and from lin
        dx_pi = Σ_k da_pk w_ik        dw_ik = Σ_p x_pi da_pk        db_k = Σ_p da_pk
    A class that is ruled out has da = 0, and its weights are taken for 0: whatever they are, NaN
    too, they reach neither the loss nor dx (with b, mode "forward" holds such a copy of w). du and
    dv as in _cross_entropy.py.

Two ways to hold only a chunk of the logits at a time
    recompute  Chunks of classes. Forward: m, and R as seen from it, by the online rule (as in
               attention): where a chunk raises m to m', R becomes R exp(m - m') + the chunk's, and
               Σ_j (m - z_j) grows by m' - m for every class before. Backward: each chunk of z
               again, from it da, the chunk's columns of dw, and a part of
               dx. Four products of the size of x w, but for any reduction, and no sum of dw is
               held: each column is complete when it is made.
    forward    Chunks of samples. For a loss that is one number, A_p is g times what is known in the
               forward pass: so da, dx and dw are made there, from the one z, and the backward pass
               multiplies them by g. Three products. Wrong for reduction "none", where each sample
               has its own g. dw is a sum over chunks and wants float32: "auto" takes this way only
               for arrays of float32 or wider.

Forward mode; a dot marks a tangent. A tangent of e_p is the cotangents for A_p = 1 times tangents,
        ė_p = Σ_k da_pk ȧ_pk      with ȧ_pk = Σ_i (ẋ_pi w_ik + x_pi ẇ_ik) + ḃ_k,
    by chunks of classes, from m, R and exp(z_y - m): three products, and a chunk of z, ȧ and da is
    held at a time. Of the loss it is Σ_p A_p ė_p for g = 1; that of the weights is added, ẇ of the
    sample's weight: Σ_p ẇ_p e_p, for "mean" Σ_p ẇ_p (e_p - loss) divided by their sum.
    From mode "forward" the loss's is Σ dx ẋ + Σ dw ẇ + Σ db ḃ: no product at all. What is
    differentiated once more holds no chunk: each step is computed again (`jax.checkpoint`).

Residuals
    recompute: x, w, b, labels, weights: the caller's arrays; m, R and exp(z_y - m), three float32 a
    sample. From l = m + log s alone P would be exp(z - l), which has lost digits at large z.
    forward: dx, dw, db: of the size of x, w, b. Either way e, where du or dv is asked for.
    Logits, softmax and sums in float32 for float16 and bfloat16; da is rounded to the inputs' dtype
    as a factor of the products.

References
    E. Wijmans et al., Cut your losses in large-vocabulary language models, arXiv:2411.09009.
    P.-L. Hsu et al., Liger kernel, arXiv:2410.10989: the gradients in the forward pass.
    M. Rivière et al., Gemma 2, arXiv:2408.00118: the soft-cap.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from fnnet.ops import _logit_chunks as chunks
from fnnet.ops._checks import describe, floats
from fnnet.ops._compiled import compiled
from fnnet.ops._cross_entropy import require_labels
from fnnet.ops._options import PRECISION, choice, number, whole_number
from fnnet.ops._sample_losses import LossOptions, OfClass, Reduction, as_labels
from fnnet.ops._sample_weights import (
    Weights,
    of_weights,
    reduced,
    shares,
    tangent_of_weights,
    weighted,
)
from fnnet.rules import Precision, accumulator, register

Mode: TypeAlias = Literal["auto", "forward", "recompute"]


class Recomputed(NamedTuple):
    """The residuals of mode "recompute"."""

    x: jax.Array
    w: jax.Array
    b: jax.Array | None
    labels: jax.Array
    weights: Weights
    of: OfClass
    e: jax.Array | None
    settings: chunks.Settings


class Ready(NamedTuple):
    """The residuals of mode "forward": cotangents but for the factor g."""

    dx: jax.Array
    dw: jax.Array
    db: jax.Array | None
    dweights: Weights


@compiled(
    smoothing=number(0.0, 1.0),
    z_loss=number(0.0),
    ignore_index=whole_number(or_none="none"),
    reduction=choice("none", "mean", "sum"),
    softcap=number(0.0, above=True, or_none="no soft-cap"),
    chunk=whole_number(1, or_none="one chosen by size"),
    mode=choice("auto", "forward", "recompute"),
    precision=PRECISION,
)
def linear_cross_entropy(
    x: Float[ArrayLike, "*batch d"],
    w: Float[ArrayLike, "d c"],
    labels: Int[ArrayLike, "*batch"],
    b: Float[ArrayLike, " c"] | None = None,
    *,
    smoothing: float = 0.0,
    z_loss: float = 0.0,
    weights: Float[ArrayLike, "*batch"] | None = None,
    class_weights: Float[ArrayLike, " c"] | None = None,
    ignore_index: int | None = None,
    reduction: Reduction = "mean",
    softcap: float | None = None,
    chunk: int | None = None,
    mode: Mode = "auto",
    precision: Precision = None,
) -> Float[Array, "..."]:
    """``cross_entropy(lin(x, w, b), labels)`` in little memory, for large vocabularies.

    Args:
        x: shape (..., d), real floating point.
        w: shape (d, c).
        labels: classes as integers, shape (...). A class that is not in 0..c-1, and is not ignored,
            gives NaN, in the loss and in the gradients that its sample has a part in.
        b: shape (c,), or None for no bias; -inf rules a class out, whatever its weights.
        smoothing: the share of each label that is spread over all classes, from 0 to 1. It, z_loss
            and softcap may be traced (a schedule), but have no derivative.
        z_loss: factor of the squared log-sum-exp.
        weights: of the samples, shape (...); 1 by default.
        class_weights: of the classes, shape (c,): the same as ``weights=class_weights[labels]``,
            times `weights` where both are given.
        ignore_index: an integer label whose samples have no loss, no gradient, and do not count.
        reduction: "none" for shape (...), "sum", or "mean": the sum over the sum of the weights
            that count, and 0 if nothing counts. Weights that add up to 0 and are not 0 themselves
            give an infinity or NaN.
        softcap: logits become ``softcap * tanh(logits / softcap)``; none by default.
        chunk: how much is taken at a time: samples in mode "forward", classes in mode "recompute".
            It need not divide their number. By default it is chosen by size.
        mode: "forward" computes the gradients in the forward pass (three large products, float32
            sums of dw; not for reduction "none"); "recompute" computes the logits twice (four
            products, least memory); "auto" takes "forward" where it can and the arrays are at least
            float32.
        precision: of the products, as in `jnp.einsum`, forward and backward alike.

    Returns:
        The loss, in the dtype of `x` and `w`; float16 and bfloat16 are computed in float32.

    Raises:
        TypeError: for `x`, `w`, `b` or `weights` that are not of real floating point dtype, and
            labels that are not integers.
        ValueError: for shapes that do not fit, and options out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> from fnnet import linear_cross_entropy
        >>> x, w = jnp.zeros((5, 3)), jnp.ones((3, 10))
        >>> f"{linear_cross_entropy(x, w, jnp.arange(5)):.4f}"
        '2.3026'
    """
    op = "linear_cross_entropy"
    rows, table, bias, u, v = floats(
        op,
        optional=("b", "weights", "class_weights"),
        x=x,
        w=w,
        b=b,
        weights=weights,
        class_weights=class_weights,
    )
    options = LossOptions(smoothing, z_loss, ignore_index, reduction)
    _require(rows.shape, table.shape, None if bias is None else bias.shape, labels)
    require_labels(op, (*rows.shape[:-1], table.shape[1]), labels, Weights(u, v), options)
    _require_mode(mode, reduction)
    settings = _settings(rows, table, bias, options, softcap, chunk, mode, precision)
    return _linear_cross_entropy(rows, table, as_labels(labels), bias, u, v, settings=settings)


def _settings(
    x: jax.Array,
    w: jax.Array,
    b: jax.Array | None,
    options: LossOptions,
    softcap: float | None,
    chunk: int | None,
    mode: Mode,
    precision: Precision,
) -> chunks.Settings:
    """With the mode and the chunk that "auto" and None stand for."""
    operands = (x, w) if b is None else (x, w, b)
    if mode == "auto":
        wide = jnp.result_type(*operands) == accumulator(*operands)
        # samples of an unknown number (in jax.export) cannot be cut into chunks
        wide = wide and all(isinstance(n, int) for n in x.shape)
        mode = "forward" if wide and options.reduction != "none" else "recompute"
    if chunk is None:
        other = w.shape[1] if mode == "forward" else math.prod(x.shape[:-1])
        chunk = chunks.size_beside(other)
    return chunks.Settings(options, softcap, int(chunk), mode == "forward", precision)


def _forward(
    x: jax.Array,
    w: jax.Array,
    labels: jax.Array,
    b: jax.Array | None,
    weights: jax.Array | None,
    class_weights: jax.Array | None,
    *,
    settings: chunks.Settings,
) -> jax.Array:
    problem = chunks.Problem.of(x, w, labels, b, settings)
    e, _ = problem.losses()
    return _loss(problem, e.reshape(labels.shape), labels, Weights(weights, class_weights))


def _loss(problem: chunks.Problem, e: jax.Array, labels: jax.Array, given: Weights) -> jax.Array:
    options = problem.settings.loss
    return reduced(e, weighted(e, labels, given, options), options).astype(problem.dtype)


def _fwd(
    x: jax.Array,
    w: jax.Array,
    labels: jax.Array,
    b: jax.Array | None,
    weights: jax.Array | None,
    class_weights: jax.Array | None,
    *,
    settings: chunks.Settings,
) -> tuple[jax.Array, Recomputed | Ready]:
    problem, given = chunks.Problem.of(x, w, labels, b, settings), Weights(weights, class_weights)
    if not settings.in_forward:
        flat, of = problem.losses(again=True)
        e = flat.reshape(labels.shape)
        kept = e if given.any else None
        return _loss(problem, e, labels, given), Recomputed(
            x, w, b, labels, given, of, kept, settings
        )
    one = jnp.ones((), problem.wide)
    flat, dx, dw, db = problem.losses_and_cotangents(_shares(one, problem, labels, given))
    e = flat.reshape(labels.shape)
    dweights = of_weights(one, e, labels, given, settings.loss)
    return _loss(problem, e, labels, given), Ready(dx.reshape(x.shape), dw, db, dweights)


def linear_cross_entropy_fwd(
    x: jax.Array,
    w: jax.Array,
    labels: jax.Array,
    b: jax.Array | None = None,
    *,
    smoothing: float = 0.0,
    z_loss: float = 0.0,
    weights: jax.Array | None = None,
    class_weights: jax.Array | None = None,
    ignore_index: int | None = None,
    reduction: Reduction = "mean",
    softcap: float | None = None,
    chunk: int | None = None,
    mode: Mode = "auto",
    precision: Precision = None,
) -> tuple[jax.Array, Recomputed | Ready]:
    """x, w, labels, b, weights -> loss, residuals."""
    options = LossOptions(smoothing, z_loss, ignore_index, reduction)
    settings = _settings(x, w, b, options, softcap, chunk, mode, precision)
    return _fwd(x, w, as_labels(labels), b, weights, class_weights, settings=settings)


def linear_cross_entropy_bwd(
    res: Recomputed | Ready, g: jax.Array
) -> tuple[jax.Array, jax.Array, None, jax.Array | None, jax.Array | None, jax.Array | None]:
    """residuals, CT loss -> CT x, CT w, None for the labels, CT b, CT of both weights."""
    if isinstance(res, Ready):
        dx, dw, db, (du, dv) = jax.tree.map(lambda d: g.astype(d.dtype) * d, res)
        return dx, dw, None, db, du, dv
    x, w, b, labels, given, of, e, settings = res
    problem = chunks.Problem.of(x, w, labels, b, settings)
    dx, dw, db = problem.cotangents(_shares(g, problem, labels, given), of)
    du, dv = (None, None) if e is None else of_weights(g, e, labels, given, settings.loss)
    return dx.reshape(x.shape), dw, None, db, du, dv


def _tangent(
    res: Recomputed | Ready,
    dx: jax.Array | None,
    dw: jax.Array | None,
    dlabels: None,
    db: jax.Array | None,
    du: jax.Array | None,
    dv: jax.Array | None,
) -> jax.Array:
    """residuals, T x, T w, None for the labels, T b, T of both weights, None for zero -> T loss."""
    if isinstance(res, Ready):
        cotangents = (res.dx, res.dw, res.db, *res.dweights)
        pairs = list(zip(cotangents, (dx, dw, db, du, dv), strict=True))
        moving = [(c, t) for c, t in pairs if c is not None and t is not None]
        wide = accumulator(*(c for c, _ in moving))
        out = sum(
            (jnp.sum(c.astype(wide) * t.astype(wide)) for c, t in moving), jnp.zeros((), wide)
        )
        return out.astype(jnp.result_type(*(x for x in cotangents[:3] if x is not None)))
    x, w, b, labels, given, of, e, settings = res
    problem, options = chunks.Problem.of(x, w, labels, b, settings), settings.loss
    out = jnp.zeros((), problem.wide)
    if any(t is not None for t in (dx, dw, db)):
        rows = None if dx is None else chunks.Problem.of(dx, w, labels, b, settings).x
        e_dot = problem.tangents(of, rows, dw, db).reshape(labels.shape)
        out = (
            out
            + _shares(jnp.ones((), problem.wide), problem, labels, given).reshape(labels.shape)
            * e_dot
        )
        out = out if options.reduction == "none" else jnp.sum(out)
    if e is not None:
        out = out + tangent_of_weights(e, labels, given, Weights(du, dv), options)
    return jnp.broadcast_to(out, labels.shape if options.reduction == "none" else ()).astype(
        problem.dtype
    )


_linear_cross_entropy = register(
    _forward,
    _fwd,
    linear_cross_entropy_bwd,
    name="linear_cross_entropy",
    automatic_axes=True,
    tangent=_tangent,
)


def _shares(g: jax.Array, problem: chunks.Problem, labels: jax.Array, given: Weights) -> jax.Array:
    """A of each sample, on one axis."""
    options = problem.settings.loss
    w = weighted(jnp.zeros(labels.shape, problem.wide), labels, given, options)
    return shares(g, labels, w, problem.w.shape[1], options).reshape(problem.labels.shape)


def _require(
    x: tuple[int, ...], w: tuple[int, ...], b: tuple[int, ...] | None, labels: Any
) -> None:
    op = "linear_cross_entropy"
    if len(w) != 2:
        raise ValueError(f"{op}: w must have shape (d, c); got shape {w}")
    if not x or x[-1] != w[0]:
        remedy = "w seems transposed: pass w.T" if x and x[-1] == w[1] else "x is (..., d)"
        raise ValueError(
            f"{op}: the last axis of x must have the size d = {w[0]} of w's first axis; got x of "
            f"shape {x} and w of shape {w}. {remedy}"
        )
    if b is not None and b != w[1:]:
        raise ValueError(f"{op}: b must have shape (c,) = {w[1:]}; got shape {b}")
    if hasattr(labels, "dtype") and jnp.issubdtype(labels.dtype, jnp.floating):
        raise TypeError(
            f"{op}: labels must be integer classes; got {describe(labels)}. Distributions are as "
            "large as the logits: use cross_entropy(lin(x, w, b), labels)"
        )


def _require_mode(mode: Mode, reduction: Reduction) -> None:
    op = "linear_cross_entropy"
    if mode == "forward" and reduction == "none":
        raise ValueError(
            f'{op}: mode "forward" is for a loss of one number; with reduction "none" each sample '
            'has a cotangent of its own. Take mode "recompute"'
        )
