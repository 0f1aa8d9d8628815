"""Smooth activations and the gated block made of them: gelu, silu, glu_mlp."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .dense import lin, lin_vjp, relu, relu_vjp
from .elementary import Array, absolute, erfc, exp, greater, pi, sqrt, tanh


def gelu(x: Array, *, approximate: bool = False) -> Array:
    """Gelu, x Phi(x), with Phi the normal distribution function; or its approximation by tanh.

    Phi(x) = erfc(-x / sqrt 2) / 2. The approximation is x (1 + tanh u) / 2 with
    u = sqrt(2 / pi) (x + 0.044715 x^3) (Hendrycks, Gimpel 2016, arXiv:1606.08415).

    >>> gelu(np.array([-1.0, 0.0, 1.0])).round(4)
    array([-0.1587,  0.    ,  0.8413])
    """
    if approximate:
        return np.asarray(x * (1 + tanh(_u(x))) / 2)
    return np.asarray(x * erfc(-x / sqrt(2)) / 2)


def gelu_vjp(x: Array, g: Array, *, approximate: bool = False) -> tuple[Array]:
    """Cotangent (dx,): the product rule, times g.

    Exact: Phi(x) + x phi(x), as Phi' = phi = exp(-x^2 / 2) / sqrt(2 pi), the normal density.
    Approximate: (1 + tanh u) / 2 + x (1 - tanh^2 u) u' / 2, u' = sqrt(2 / pi) (1 + 3 0.044715 x^2).
    """
    if approximate:
        t = tanh(_u(x))
        du = sqrt(2 / pi()) * (1 + 3 * 44715 * x**2 / 10**6)
        return (g * (1 + t + x * (1 - t**2) * du) / 2,)
    density = exp(-(x**2) / 2) / sqrt(2 * pi())
    return (g * (erfc(-x / sqrt(2)) / 2 + x * density),)


def _u(x: Array) -> Array:
    return np.asarray(sqrt(2 / pi()) * (x + 44715 * x**3 / 10**6))


def gelu_tanh(x: Array) -> Array:
    """Gelu in its approximate form: a name for glu_mlp's `activation`."""
    return gelu(x, approximate=True)


def gelu_tanh_vjp(x: Array, g: Array) -> tuple[Array]:
    """Cotangent (dx,) of the approximate gelu."""
    return gelu_vjp(x, g, approximate=True)


def silu(x: Array) -> Array:
    """Silu or swish, x sigmoid(x), with sigmoid(x) = 1 / (1 + exp(-x)).

    >>> silu(np.array([-1.0, 0.0, 1.0])).round(4)
    array([-0.2689,  0.    ,  0.7311])
    """
    return np.asarray(x * _sigmoid(x))


def silu_vjp(x: Array, g: Array) -> tuple[Array]:
    """Cotangent (dx,): g s (1 + x (1 - s)), with s = sigmoid(x).

    s' = exp(-x) / (1 + exp(-x))^2 = s (1 - s); then the product rule, (x s)' = s + x s (1 - s).
    """
    s = _sigmoid(x)
    return (g * s * (1 + x * (1 - s)),)


def _sigmoid(x: Array) -> Array:
    e = exp(-absolute(x))  # never overflows
    return np.asarray(np.where(greater(x, 0), 1, e) / (1 + e))


_ACTIVATIONS: dict[str, tuple[Callable[[Array], Array], Callable[[Array, Array], tuple[Array]]]] = {
    "silu": (silu, silu_vjp),
    "gelu": (gelu, gelu_vjp),
    "gelu_tanh": (gelu_tanh, gelu_tanh_vjp),
    "relu": (relu, relu_vjp),
}


def glu_mlp(
    x: Array, w_gate: Array, w_up: Array, w_down: Array, *, activation: str = "silu"
) -> Array:
    """The gated block of transformers: (act(x w_gate) * (x w_up)) w_down.

    Shapes: x (..., d), w_gate and w_up (d, f), w_down (f, d_out) -> (..., d_out) (Shazeer 2020,
    arXiv:2002.05202). activation: silu, gelu, gelu_tanh or relu.

    >>> one = np.ones((1, 1))
    >>> glu_mlp(np.array([[2.0]]), one, 3 * one, one, activation="relu")
    array([[12.]])
    """
    act, _ = _ACTIVATIONS[activation]
    return lin(act(lin(x, w_gate)) * lin(x, w_up), w_down)


def glu_mlp_vjp(
    x: Array, w_gate: Array, w_up: Array, w_down: Array, g: Array, *, activation: str = "silu"
) -> tuple[Array, Array, Array, Array]:
    """Cotangents (dx, dw_gate, dw_up, dw_down).

    Backwards through h = act(a) * u, a = x w_gate, u = x w_up: lin's rule gives dh; the product
    rule da = dh u act'(a) and du = dh act(a); lin's rule twice more. x is used twice: its
    cotangents add.
    """
    act, act_vjp = _ACTIVATIONS[activation]
    a, u = lin(x, w_gate), lin(x, w_up)
    dh, dw_down, _ = lin_vjp(act(a) * u, w_down, None, g)
    (da,) = act_vjp(a, dh * u)
    dx_gate, dw_gate, _ = lin_vjp(x, w_gate, None, da)
    dx_up, dw_up, _ = lin_vjp(x, w_up, None, dh * act(a))
    return dx_gate + dx_up, dw_gate, dw_up, dw_down
