"""Rows of the table: softmax, log_softmax, cross_entropy, linear_cross_entropy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

import fnnet
from fnnet.proof import reference as twin
from tests.call import Call


def _softmax(z: Any, axis: int = -1) -> Any:
    e = jnp.exp(z - jax.lax.stop_gradient(z.max(axis, keepdims=True)))
    return e / e.sum(axis, keepdims=True)


def _log_softmax(z: Any, axis: int = -1) -> Any:
    d = z - jax.lax.stop_gradient(z.max(axis, keepdims=True))
    return d - jnp.log(jnp.exp(d).sum(axis, keepdims=True))


def _classes(z: Any) -> Any:
    """Integer labels that depend on nothing but the logits, and have no derivative."""
    return jnp.argmin(z, -1)


def _labelled(f: Callable[..., Any]) -> Callable[..., Any]:
    """`f` of logits and integer labels as a function of logits (and weights) alone."""
    return lambda z, weights=None, **options: f(z, _classes(z), weights=weights, **options)


def _cross_entropy(
    z: Any,
    labels: Any,
    *,
    smoothing: Any = 0,
    z_loss: Any = 0,
    weights: Any = None,
    ignore_index: Any = None,
    reduction: str = "mean",
) -> Any:
    """By log_softmax and a one-hot, as one writes it first."""
    c = z.shape[-1]
    keep = jnp.ones(z.shape[:-1], z.dtype)
    if labels.ndim < z.ndim:
        if ignore_index is not None:
            keep = (labels != ignore_index).astype(z.dtype)
        labels = jax.nn.one_hot(labels, c, dtype=z.dtype)
    t = (1 - smoothing) * labels + smoothing / c
    e = -(t * _log_softmax(z)).sum(-1) + z_loss * jax.nn.logsumexp(z, axis=-1) ** 2
    w = keep if weights is None else keep * weights
    if reduction == "none":
        return w * e
    return (w * e).sum() / (w.sum() if reduction == "mean" else 1)


def _linear_cross_entropy(
    x: Any,
    w: Any,
    labels: Any,
    b: Any = None,
    *,
    softcap: Any = None,
    chunk: Any = None,
    mode: Any = None,
    **options: Any,
) -> Any:
    """With all the logits."""
    z = jnp.einsum("...i,ik->...k", x, w)
    z = z if b is None else z + jnp.broadcast_to(b, z.shape)
    z = z if softcap is None else softcap * jnp.tanh(z / softcap)
    return _cross_entropy(z, labels, **options)


def _classes_of(x: Any, c: int) -> Any:
    """Integer labels that depend on nothing but the arguments, and have no derivative."""
    return (jnp.argmin(x, -1) * 5 + 1) % c


def _of_arrays(f: Callable[..., Any]) -> Callable[..., Any]:
    """`f` of x, w, labels, b, weights as a function of all but the labels."""

    def adapted(x: Any, w: Any, b: Any = None, weights: Any = None, **options: Any) -> Any:
        return f(x, w, _classes_of(x, w.shape[1]), b, weights=weights, **options)

    return adapted


def _linear_twin(*arrays: Any, g: Any, **options: Any) -> Any:
    x, w, b, weights = (*arrays, None, None)[:4]
    labels = np.asarray(_classes_of(x, w.shape[1]))
    dx, dw, _, db, *dweights = twin.linear_cross_entropy_vjp(
        x, w, labels, b, g, weights=weights, **options
    )
    return [d for d in (dx, dw, db, *dweights) if d is not None]


_LOST = "inf - inf or 0 inf on the way"
_SQUARES = "the plain form squares the log-sum-exp, for a z-loss of 0 too"

ROWS = [
    Call(
        "softmax",
        fnnet.softmax,
        _softmax,
        shapes=[(8, 6)],
        batch=[0],
        layouts=[(P("d"),), (P("d", "m"),)],
        big=[(512, 256)],
        terms=64,
        twin=twin.softmax_vjp,
    ),
    Call(
        "softmax along the first axis",
        fnnet.softmax,
        _softmax,
        shapes=[(6, 8)],
        batch=[1],
        big=[(256, 512)],
        terms=64,
        options={"axis": 0},
        twin=lambda z, g: twin.softmax_vjp(z, g, 0),
        variant=True,
    ),
    Call(
        "log_softmax",
        fnnet.log_softmax,
        _log_softmax,
        shapes=[(8, 6)],
        batch=[0],
        layouts=[(P("d"),), (P("d", "m"),)],
        big=[(512, 256)],
        terms=64,
        twin=twin.log_softmax_vjp,
    ),
    Call(
        "log_softmax along the middle axis",
        fnnet.log_softmax,
        _log_softmax,
        shapes=[(8, 6, 2)],
        batch=[0],
        big=[(64, 256, 8)],
        terms=64,
        options={"axis": 1},
        twin=lambda z, g: twin.log_softmax_vjp(z, g, 1),
        variant=True,
    ),
    Call(
        "cross_entropy of classes",
        fnnet.cross_entropy,
        _cross_entropy,
        adapt=_labelled,
        shapes=[(8, 6)],
        batch=[0],
        layouts=[(P("d"),), (P("d", "m"),)],
        big=[(512, 256)],
        terms=64,
        scalar=True,
        twin=lambda z, g: twin.cross_entropy_vjp(z, np.argmin(z, -1), g)[:1],
    ),
    Call(
        "cross_entropy of distributions, smoothed, with z-loss",
        fnnet.cross_entropy,
        _cross_entropy,
        shapes=[(8, 6), (8, 6)],
        batch=[0, 0],
        layouts=[(P("d"), P("d"))],
        big=[(512, 256), (512, 256)],
        terms=256,
        scalar=True,
        options={"smoothing": 0.1, "z_loss": 0.01},
        twin=lambda z, t, g: twin.cross_entropy_vjp(z, t, g, smoothing=0.1, z_loss=0.01),
        variant=True,
        excuses={
            "test_nan_and_inf: inf": "of an infinite share the two forms have inf - inf and inf "
            "times 0 at other classes",
        },
    ),
    Call(
        "cross_entropy, weighted, one class ignored",
        fnnet.cross_entropy,
        _cross_entropy,
        adapt=_labelled,
        shapes=[(8, 2, 6), (8, 2)],
        batch=[0, 0],
        big=[(64, 8, 256), (64, 8)],
        terms=256,
        scalar=True,
        options={"ignore_index": 1, "smoothing": 0.1},
        twin=lambda z, w, g: twin.cross_entropy_vjp(
            z, np.argmin(z, -1), g, weights=w, ignore_index=1, smoothing=0.1
        )[::2],
        variant=True,
        excuses={
            "test_nan_and_inf": "what is ignored hides NaN: see test_edges",
            "test_huge_and_tiny": "dw is the difference of each loss and the mean",
        },
    ),
    Call(
        "cross_entropy of each sample",
        fnnet.cross_entropy,
        _cross_entropy,
        adapt=_labelled,
        shapes=[(8, 6), (8,)],
        batch=[0, 0],
        layouts=[(P("d"), P("d"))],
        big=[(512, 256), (512,)],
        terms=64,
        options={"reduction": "none", "z_loss": 0.01},
        twin=lambda z, w, g: twin.cross_entropy_vjp(
            z, np.argmin(z, -1), g, weights=w, reduction="none", z_loss=0.01
        )[::2],
        variant=True,
        excuses={
            "test_nan_and_inf": "the plain form makes NaN of a probability 0: see test_edges",
        },
    ),
    Call(
        "linear_cross_entropy",
        fnnet.linear_cross_entropy,
        _linear_cross_entropy,
        adapt=_of_arrays,
        shapes=[(8, 3), (3, 6), (6,)],
        batch=[0, None, None],
        layouts=[(P("d"), P(), P()), (P("d"), P(None, "m"), P("m"))],
        big=[(512, 64), (64, 2048), (2048,)],
        terms=256,
        excuses={
            "test_huge_and_tiny": _SQUARES,
            "test_nan_and_inf: inf": _LOST,
        },
        rounded=1,
        scalar=True,
        twin=lambda x, w, b, g: _linear_twin(x, w, b, g=g),
    ),
    Call(
        "linear_cross_entropy, recomputed, by chunks of classes",
        fnnet.linear_cross_entropy,
        _linear_cross_entropy,
        adapt=_of_arrays,
        shapes=[(8, 3), (3, 7), (7,)],
        batch=[0, None, None],
        layouts=[(P("d"), P(), P()), (P("d"), P(None), P(None))],
        big=[(512, 64), (64, 2048), (2048,)],
        terms=256,
        recomputed=5,  # the logits; and each product once more, for the chunk that is left over
        excuses={
            "test_huge_and_tiny": _SQUARES,
            "test_nan_and_inf: inf": _LOST,
        },
        rounded=1,
        scalar=True,
        options={"mode": "recompute", "chunk": 3, "smoothing": 0.1, "z_loss": 0.01},
        twin=lambda x, w, b, g: _linear_twin(x, w, b, g=g, smoothing=0.1, z_loss=0.01),
        variant=True,
    ),
    Call(
        "linear_cross_entropy, weighted, by chunks of samples",
        fnnet.linear_cross_entropy,
        _linear_cross_entropy,
        adapt=_of_arrays,
        shapes=[(8, 2, 3), (3, 6), (6,), (8, 2)],
        batch=[0, None, None, 0],
        big=[(128, 4, 64), (64, 2048), (2048,), (128, 4)],
        terms=256,
        rounded=1,
        scalar=True,
        options={"chunk": 3, "ignore_index": 1, "smoothing": 0.1, "softcap": 2.0},
        twin=lambda x, w, b, s, g: _linear_twin(
            x, w, b, s, g=g, ignore_index=1, smoothing=0.1, softcap=2.0
        ),
        variant=True,
        excuses={
            "test_nan_and_inf": "what is ignored hides NaN: see test_linear_cross_entropy",
            "test_huge_and_tiny": "dweights is the difference of each loss and the mean",
        },
    ),
    Call(
        "linear_cross_entropy of each sample",
        fnnet.linear_cross_entropy,
        _linear_cross_entropy,
        adapt=_of_arrays,
        shapes=[(8, 3), (3, 6)],
        batch=[0, None],
        big=[(512, 64), (64, 2048)],
        terms=256,
        recomputed=5,  # the logits; and each product once more, for the chunk that is left over
        rounded=1,
        options={"reduction": "none", "chunk": 4, "softcap": 2.0},
        twin=lambda x, w, g: _linear_twin(x, w, g=g, reduction="none", softcap=2.0),
        variant=True,
        excuses={
            "test_nan_and_inf": "what is ignored hides NaN",
        },
    ),
]
